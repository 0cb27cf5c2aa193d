//! What travels in streams.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{Digest, StreamId};
use crate::protocol::streams::Criteria;
use crate::schema;
use crate::wire;

/// One item of a stream.
///
/// Any type with serde's `Serialize` and `DeserializeOwned` is a datum and travels as postcard;
/// [`Raw`] travels as it is. Other types may be encoded by hand:
///
/// ```
/// use smalti_core::datum::{Datum, DecodeError, EncodeError};
/// use smalti_core::id::Digest;
/// use bytes::{BufMut, Bytes, BytesMut};
///
/// #[derive(Debug, PartialEq)]
/// struct Celsius(i16);
///
/// impl Datum for Celsius {
///     fn schema() -> Digest {
///         Digest::of("my schema", &[b"celsius, big endian"])
///     }
///
///     fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
///         out.put_i16(self.0);
///         Ok(())
///     }
///
///     fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
///         let bytes = <[u8; 2]>::try_from(&bytes[..])
///             .map_err(|_| DecodeError::custom("a temperature has two bytes"))?;
///         Ok(Self(i16::from_be_bytes(bytes)))
///     }
/// }
///
/// let mut out = BytesMut::new();
/// Celsius(-40).encode(&mut out).unwrap();
/// assert_eq!(Celsius::decode(out.freeze()).unwrap(), Celsius(-40));
/// ```
///
/// A type with serde must not nest deeper than 256 levels, each sequence, map, tuple, struct, enum, option and newtype being one: what
/// does breaks the protocol, since a recursive type could otherwise lead a consumer beyond its stack.
pub trait Datum: Send + Sized + 'static {
    /// The fingerprint of the encoding. Producer and consumer must have the same.
    fn schema() -> Digest;

    /// The stream that datums of this type travel in unless another is given.
    ///
    /// By default it follows from the [`schema`](Self::schema) alone, so that it is the same in every build.
    #[must_use]
    fn stream_id() -> StreamId {
        Digest::of("stream of a schema", &[Self::schema().as_bytes()]).into()
    }

    /// Appends the encoding to `out`, and nothing else.
    ///
    /// # Errors
    /// [`EncodeError`] where this value has no encoding; whatever was appended is then cut off.
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// The datum that `bytes` encode. The bytes come from another node: no assumption holds of them.
    ///
    /// # Errors
    /// [`DecodeError`] where they encode none.
    fn decode(bytes: Bytes) -> Result<Self, DecodeError>;

    /// Whether a consumer with these criteria wants this datum. It is asked on the producer's node, for each datum and
    /// each different criteria.
    ///
    /// By default nothing is known of a datum that is encoded by hand, so that no comparison is satisfied;
    /// [`Criteria::selects`] and [`Criteria::selects_bytes`] help to do better.
    #[must_use]
    fn is_wanted(&self, criteria: &Criteria) -> bool {
        criteria.selects_unknown()
    }

    /// The encoding, where it is at hand as bytes already: long ones are then sent without a copy. It must be what
    /// [`encode`](Self::encode) appends. By default it is not.
    #[must_use]
    fn encoded(&self) -> Option<&Bytes> {
        None
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Datum for T {
    fn schema() -> Digest {
        schema::fingerprint::<T>()
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        wire::encode_into(self, out).map_err(EncodeError::Codec)
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        wire::decode_bounded(&bytes).map_err(DecodeError::Codec)
    }

    fn is_wanted(&self, criteria: &Criteria) -> bool {
        criteria.selects(self)
    }
}

/// Bytes that travel as they are: what a consumer gets is a view of what was received, not a copy, and what is long is
/// sent without one.
///
/// [Criteria](Criteria::field) know it by the empty name, as bytes.
///
/// It holds on to the segment that it arrived in (up to some 64 KiB for small datums): copy a datum that is to be
/// kept for long.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Raw(pub Bytes);

impl Datum for Raw {
    fn schema() -> Digest {
        Digest::of("raw bytes", &[])
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(Self(bytes))
    }

    fn is_wanted(&self, criteria: &Criteria) -> bool {
        criteria.selects_bytes(&self.0)
    }

    fn encoded(&self) -> Option<&Bytes> {
        Some(&self.0)
    }
}

impl Deref for Raw {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl<T: Into<Bytes>> From<T> for Raw {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

/// A datum has no encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Its `Serialize` fails, or asks for what the wire format lacks.
    #[error(transparent)]
    Codec(wire::EncodeError),
    /// A hand-written encoding refuses it.
    #[error("the datum cannot be encoded: {0}")]
    Custom(Box<str>),
}

impl EncodeError {
    /// The error of a hand-written encoding.
    #[must_use]
    pub fn custom(reason: impl Into<Box<str>>) -> Self {
        Self::Custom(reason.into())
    }
}

/// Bytes that were received are no datum of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They are not what the type's `Deserialize` reads.
    #[error(transparent)]
    Codec(wire::DecodeError),
    /// A hand-written encoding refuses them.
    #[error("the bytes are no datum of the type: {0}")]
    Custom(Box<str>),
}

impl DecodeError {
    /// The error of a hand-written encoding.
    #[must_use]
    pub fn custom(reason: impl Into<Box<str>>) -> Self {
        Self::Custom(reason.into())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        price: u64,
        note: Option<String>,
    }

    fn encoded(datum: &impl Datum) -> Bytes {
        let mut out = BytesMut::new();
        datum.encode(&mut out).unwrap();
        out.freeze()
    }

    #[test]
    fn serde_types_round_trip() {
        let order = Order {
            price: 7,
            note: Some("now".into()),
        };
        assert_eq!(Order::decode(encoded(&order)).unwrap(), order);
        assert!(Order::decode(Bytes::from_static(&[7])).is_err());
        assert!(Order::decode(Bytes::from_static(&[7, 0, 0])).is_err());
    }

    #[test]
    fn what_nests_without_end_is_no_datum() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Chain(Option<Box<Chain>>);

        let short = Chain(Some(Box::new(Chain(None))));
        assert!(Chain::decode(encoded(&short)).is_ok());
        let endless = Chain::decode(vec![1; 1 << 20].into());
        assert_eq!(
            endless.unwrap_err(),
            DecodeError::Codec(wire::DecodeError::Unbounded)
        );
    }

    #[test]
    fn raw_bytes_are_received_without_a_copy() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        let raw = Raw::decode(bytes.clone()).unwrap();
        assert_eq!(raw.as_ptr(), bytes.as_ptr());
        assert_eq!(encoded(&Raw::from(bytes.clone())), bytes);
    }

    #[test]
    fn a_stream_is_named_by_the_shape_of_its_datums() {
        mod elsewhere {
            #[derive(serde::Serialize, serde::Deserialize)]
            pub(super) struct Order {
                price: u64,
                note: Option<String>,
            }
        }
        assert_eq!(Order::stream_id(), elsewhere::Order::stream_id());
        assert_ne!(Order::stream_id(), u64::stream_id());
        assert_ne!(Raw::stream_id(), Bytes::stream_id());
    }
}
