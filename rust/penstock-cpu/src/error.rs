//! What can go wrong, as sentences for people.

use std::fmt;

/// An error of the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The model's tensors don't fit its sizes, or are of a type that can't be computed.
    Model(String),
    /// What the caller asked for can't be done on this machine.
    Config(String),
    /// A promise inside the runner was broken.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(text) | Error::Config(text) | Error::Internal(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
