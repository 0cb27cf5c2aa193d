//! Hexadecimal text of 32-byte values.

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is written as 64 hexadecimal digits; this text has {chars} characters{}",
    if *chars == 64 { ", and not all of them are such digits" } else { "" })]
pub struct ParseIdError {
    pub(crate) what: &'static str,
    pub(crate) chars: usize,
}

/// The 32 bytes that 64 hex digits stand for; `None` for any other text.
pub(crate) const fn decode(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    let mut i = 0;
    while i < 32 {
        match (digit(text[2 * i]), digit(text[2 * i + 1])) {
            (Some(high), Some(low)) => bytes[i] = high << 4 | low,
            _ => return None,
        }
        i += 1;
    }
    Some(bytes)
}

const fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

/// The text of `bytes`, lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// `Display`, `Debug`, `FromStr`, `short()` and serde of a type with `as_bytes` and `from_bytes`: hex in
/// text formats, raw bytes in binary ones.
macro_rules! text_and_serde {
    (impl [$($generic:ident)?] for $type:ty, $what:literal) => {
        impl $(<$generic>)? $type {
            /// The first ten hex digits: enough to tell apart by eye, not to identify.
            #[must_use]
            pub fn short(&self) -> String {
                $crate::id::hex::encode(&self.as_bytes()[..5])
            }
        }

        impl $(<$generic>)? std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&$crate::id::hex::encode(self.as_bytes()))
            }
        }

        impl $(<$generic>)? std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl $(<$generic>)? std::str::FromStr for $type {
            type Err = $crate::id::ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::id::hex::decode(text.as_bytes()).map(Self::from_bytes).ok_or(
                    $crate::id::ParseIdError { what: $what, chars: text.chars().count() },
                )
            }
        }

        impl $(<$generic>)? serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.as_bytes().serialize(serializer)
                }
            }
        }

        impl<'de $(, $generic)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self::from_bytes)
                }
            }
        }
    };
}

pub(crate) use text_and_serde;
