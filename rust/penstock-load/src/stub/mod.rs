//! A server with known delays. It computes nothing: each request's answer, and when each piece of it is due, follow
//! from the [`behaviour::Behaviour`] and the request's number alone.

pub mod behaviour;
mod client;
pub mod random;
pub mod request;
pub mod server;
pub mod truth;
pub mod wire;
