//! The hot path of `penstock bench`: one thread that sends requests when they are due and stamps every piece of text
//! that comes back, and a stub server whose delays are known, to hold it against.
//!
//! | module | what it does |
//! |---|---|
//! | [`generator`] | the handle on it: submit, wait, take |
//! | `turns` | the thread: due times, slots, connections, timeouts |
//! | [`connection`], [`tls`] | one socket and the request on it, and how it is secured |
//! | [`http`], [`sse`], [`answer`] | bytes to body, body to events, events to text and usage |
//! | [`outcomes`] | what was observed, in columns |
//! | [`clock`], [`alarm`] | the monotonic clock, and waking at a nanosecond of it |
//! | [`stub`] | a server that answers as late, as badly and as often as it is told to |

pub mod alarm;
pub mod answer;
pub mod clock;
pub mod connection;
pub mod generator;
pub mod http;
pub mod lag;
pub mod outcomes;
pub mod slots;
pub mod sse;
pub mod stub;
pub mod tls;
mod turns;
