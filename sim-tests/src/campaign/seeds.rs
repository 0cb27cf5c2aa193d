//! Ranges of seeds.

use std::ops::Range;
use std::str::FromStr;

/// Seeds to run, never none: written `FIRST..END`, `FIRST..=LAST`, or as a single number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(Range<u64>);

impl Seeds {
    /// From 0 on so many, one at least.
    #[cfg(smalti_mutants)]
    pub(super) fn first_ones(count: u64) -> Self {
        Self(0..count.max(1))
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0.end - self.0.start
    }

    /// The smallest.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.0.start
    }
}

impl FromStr for Seeds {
    type Err = ParseSeedsError;

    fn from_str(text: &str) -> Result<Self, ParseSeedsError> {
        if !text.contains("..") {
            let seed = number(text)?;
            let end = seed.checked_add(1).ok_or(ParseSeedsError::TooLarge(seed))?;
            return Ok(Self(seed..end));
        }
        parse_range(text).map(Self)
    }
}

/// Reads `FIRST..END` or `FIRST..=LAST`.
pub(super) fn parse_range(text: &str) -> Result<Range<u64>, ParseSeedsError> {
    let Some((first, end)) = text.split_once("..") else {
        return Err(ParseSeedsError::NoRange(text.to_owned()));
    };
    let first = number(first)?;
    let end = match end.strip_prefix('=') {
        Some(last) => {
            let last = number(last)?;
            last.checked_add(1).ok_or(ParseSeedsError::TooLarge(last))?
        }
        None => number(end)?,
    };
    if first >= end {
        return Err(ParseSeedsError::Empty(text.to_owned()));
    }
    Ok(first..end)
}

fn number(text: &str) -> Result<u64, ParseSeedsError> {
    text.parse()
        .map_err(|_| ParseSeedsError::Number(text.to_owned()))
}

/// The text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSeedsError {
    /// There are no dots in it.
    #[error("'{0}' is no range; write it like 0..1000")]
    NoRange(String),
    /// One of its ends is no number.
    #[error("'{0}' is no number from 0 to 18446744073709551615; write a range like 0..1000")]
    Number(String),
    /// It ends before it begins.
    #[error("the range {0} is empty: its end must be above its beginning")]
    Empty(String),
    /// The greatest number is never within a range.
    #[error("{0} is too large to be a seed")]
    TooLarge(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rust_writes_them() {
        for (text, range) in [
            ("0..1000", 0..1000),
            ("7", 7..8),
            ("3..=5", 3..6),
            ("18446744073709551614", u64::MAX - 1..u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Seeds(range)), "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "'' is no number"),
            ("x..3", "'x' is no number"),
            ("3..", "'' is no number"),
            ("-1..3", "'-1' is no number"),
            ("5..5", "5..5 is empty"),
            ("9..3", "9..3 is empty"),
            ("18446744073709551615", "too large"),
            ("0..=18446744073709551615", "too large"),
        ] {
            let error = text.parse::<Seeds>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error} lacks {reason}");
        }
        assert!(parse_range("7").is_err());
    }
}
