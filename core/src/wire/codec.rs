//! Values to bytes and back.

use bytes::{BufMut, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value cannot be encoded, because its `Serialize` fails or uses what postcard lacks (a sequence of
/// unknown length, say).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value cannot be encoded: {0}")]
pub struct EncodeError(postcard::Error);

/// Bytes are not an encoded value of the expected type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They end early, or some part is not what it must be.
    #[error("the bytes are not a value of the expected type: {0}")]
    Malformed(postcard::Error),
    /// More follows the value.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
    /// They nest deeper than 256 levels, or stand for a million elements more than there are bytes. Only where a type is not ours:
    /// see [`decode_bounded`](super::decode_bounded).
    #[error("the value nests too deeply, or has far more elements than bytes")]
    Unbounded,
}

/// The encoding of `value`.
///
/// # Errors
/// [`EncodeError`] where the type cannot be encoded; our own messages always can.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    postcard::to_stdvec(value).map_err(EncodeError)
}

/// Appends the encoding of `value` to `out`.
///
/// # Errors
/// [`EncodeError`]; `out` then ends with a part of the encoding, which the caller cuts off.
pub fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    postcard::serialize_with_flavor(value, Appender(out)).map_err(EncodeError)
}

/// How many bytes the encoding of `value` has.
///
/// # Errors
/// [`EncodeError`] where the type cannot be encoded.
pub fn encoded_len<T: Serialize + ?Sized>(value: &T) -> Result<usize, EncodeError> {
    postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default())
        .map_err(EncodeError)
}

/// Appends slices whole, where postcard's own flavor for growing buffers goes byte by byte. Inlined into the types of
/// other crates, for which it is called for each field.
struct Appender<'a>(&'a mut BytesMut);

impl Flavor for Appender<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The value that `bytes` encode, all of them.
///
/// # Errors
/// [`DecodeError`] for any other bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::Malformed)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::TrailingBytes(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        Tuple(u8, i64),
        Named {
            text: String,
            list: Vec<Option<u32>>,
            map: BTreeMap<u16, Box<Shape>>,
        },
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let leaf = prop_oneof![
            Just(Shape::Unit),
            any::<(u8, i64)>().prop_map(|(a, b)| Shape::Tuple(a, b)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            (
                any::<String>(),
                any::<Vec<Option<u32>>>(),
                prop::collection::btree_map(any::<u16>(), inner.prop_map(Box::new), 0..4),
            )
                .prop_map(|(text, list, map)| Shape::Named { text, list, map })
        })
    }

    proptest! {
        #[test]
        fn values_round_trip(shape in shapes()) {
            let bytes = encode(&shape).unwrap();
            prop_assert_eq!(decode::<Shape>(&bytes).unwrap(), shape.clone());
            let mut appended = BytesMut::from(&[7][..]);
            encode_into(&shape, &mut appended).unwrap();
            prop_assert_eq!(&appended[1..], &bytes[..]);
            prop_assert_eq!(encoded_len(&shape).unwrap(), bytes.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<Shape>(&bytes);
        }

        #[test]
        fn what_follows_a_value_is_refused(shape in shapes(), extra in 1..5usize) {
            let mut bytes = encode(&shape).unwrap();
            bytes.extend(vec![0; extra]);
            prop_assert_eq!(decode::<Shape>(&bytes), Err(DecodeError::TrailingBytes(extra)));
        }
    }
}
