//! The hot path of `penstock bench`: one thread that sends requests when they are due and stamps every piece of text
//! that comes back, and a stub server whose delays are known, to hold it against.
//!
//! | module | what it does |
//! |---|---|
//! | [`generator`], [`shared`] | the handle on it (submit, wait, take), and what it shares with the thread |
//! | `turns` | the thread: due times, slots, timeouts; `turns::wires`: its connections |
//! | [`connection`], [`tls`], [`limits`] | one socket, how it is secured, and how many there may be |
//! | [`job`], `heard` | the request on it, and what was answered when |
//! | [`http`], [`sse`], [`answer`] | bytes to body, body to events, events to text and usage |
//! | [`outcomes`] | what was observed, in columns |
//! | [`clock`], [`alarm`], [`sched`] | the monotonic clock, and waking at a nanosecond of it |
//! | [`stub`] | a server that answers as late, as badly and as often as it is told to |

pub mod alarm;
pub mod answer;
pub mod clock;
pub mod connection;
pub mod generator;
mod heard;
pub mod http;
pub mod job;
pub mod lag;
pub mod limits;
pub mod outcomes;
pub mod sched;
pub mod shared;
pub mod slots;
pub mod sse;
pub mod stub;
mod timed;
pub mod tls;
mod turns;
