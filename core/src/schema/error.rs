//! How a pass over a type ends early.

use std::fmt;

use serde::de;

/// Why a pass failed.
#[derive(Debug)]
pub(super) enum Error {
    /// The type did not take a value.
    Refused,
    /// Something will be tried differently in the next pass.
    Retry,
    /// Nothing more can be tried here, or a bound was met.
    Stuck,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "a sample was refused",
            Self::Retry => "something else is to be tried",
            Self::Stuck => "nothing more can be traced here",
        })
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Refused
    }
}
