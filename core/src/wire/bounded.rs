//! Values of types that are not ours, from bytes that are not to be believed.
//!
//! The codec bounds what is allocated by the bytes that are there, which is enough for our own messages. An application's types may
//! be recursive, so that a byte for each level leads deeper than the stack goes, which ends the process. Or they may have sequences
//! of what takes no bytes, so that a few bytes stand for elements without end. Here both are counted.
//!
//! All of it is inlined whatever the compiler thinks of that: it stands around each field of each value that is received, and
//! costs less than a field does then.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::codec::DecodeError;

/// So deep values nest: sequences, maps, tuples, structs, enums, options that are there and newtypes each count as one. A stack of
/// 2 MiB has room for several times as many, also without optimisation.
pub const DEPTH_MAX: u32 = 256;

/// So many elements of sequences and maps may be there beyond the number of bytes.
pub const FREE_ELEMENTS: usize = 1 << 20;

/// The value that `bytes` encode, all of them. Unlike [`decode`](super::decode) it bears any type and any bytes.
///
/// # Errors
/// [`DecodeError`] for any other bytes, and for values beyond the bounds.
pub fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut values = Values::new(bytes);
    let value = values.next()?;
    match values.rest.len() {
        0 => Ok(value),
        len => Err(DecodeError::TrailingBytes(len)),
    }
}

/// Values one after the other. The bounds are those of all of them together.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    rest: &'a [u8],
    bounds: Bounds,
}

impl<'a> Values<'a> {
    /// Those that `bytes` encode.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            bounds: Bounds {
                elements: Cell::new(bytes.len().saturating_add(FREE_ELEMENTS)),
                are_exceeded: Cell::new(false),
            },
        }
    }

    /// Whether no bytes are left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value.
    ///
    /// # Errors
    /// Where the next bytes are none. They stay.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T, DecodeError> {
        let mut deserializer = postcard::Deserializer::from_bytes(self.rest);
        let seed = Guard {
            inner: PhantomData,
            depth: 0,
            counts: false,
            bounds: &self.bounds,
        };
        let decoded = seed.deserialize(&mut deserializer);
        let value = decoded.map_err(|error| match self.bounds.are_exceeded.get() {
            true => DecodeError::Unbounded,
            false => DecodeError::Malformed(error),
        })?;
        self.rest = deserializer.finalize().map_err(DecodeError::Malformed)?;
        Ok(value)
    }
}

/// What is left.
#[derive(Debug)]
struct Bounds {
    elements: Cell<usize>,
    are_exceeded: Cell<bool>,
}

impl Bounds {
    #[cold]
    fn exceeded<E: Error>(&self) -> E {
        self.are_exceeded.set(true);
        E::custom("beyond the bounds")
    }
}

/// Stands around all that serde hands to and fro, and knows how deep it is.
struct Guard<'b, X> {
    inner: X,
    depth: u32,
    /// The elements are as many as the bytes say, and not as the type says.
    counts: bool,
    bounds: &'b Bounds,
}

impl<'b, X> Guard<'b, X> {
    /// The same around something else.
    #[inline(always)]
    const fn around<Y>(&self, inner: Y) -> Guard<'b, Y> {
        Guard {
            inner,
            depth: self.depth,
            counts: false,
            bounds: self.bounds,
        }
    }

    /// The same around something else that is inside.
    #[inline(always)]
    fn inside<Y, E: Error>(&self, inner: Y) -> Result<Guard<'b, Y>, E> {
        if self.depth >= DEPTH_MAX {
            return Err(self.bounds.exceeded());
        }
        let depth = self.depth + 1;
        Ok(Guard {
            depth,
            ..self.around(inner)
        })
    }

    /// Counts an element, if there is one.
    #[inline(always)]
    fn count<V, E: Error>(&self, element: &Option<V>) -> Result<(), E> {
        if self.counts && element.is_some() {
            let left = self.bounds.elements.get().checked_sub(1);
            let left = left.ok_or_else(|| self.bounds.exceeded())?;
            self.bounds.elements.set(left);
        }
        Ok(())
    }
}

/// Hands over what has nothing inside.
macro_rules! plain {
    ($($name:ident)*) => {$(
        #[inline(always)]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$name(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guard<'_, D> {
    type Error = D::Error;

    plain! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier
    }

    // What is not described by its type the codec refuses.
    plain! { deserialize_any deserialize_ignored_any }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    #[inline(always)]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_option(visitor)
    }

    #[inline(always)]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    #[inline(always)]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = Guard {
            counts: true,
            ..self.around(visitor)
        };
        self.inner.deserialize_seq(visitor)
    }

    #[inline(always)]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = Guard {
            counts: true,
            ..self.around(visitor)
        };
        self.inner.deserialize_map(visitor)
    }

    #[inline(always)]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_tuple(len, visitor)
    }

    #[inline(always)]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    #[inline(always)]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    #[inline(always)]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_enum(name, variants, visitor)
    }

    #[inline(always)]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Only what the codec gives to those who ask for something with something inside.
impl<'de, V: Visitor<'de>> Visitor<'de> for Guard<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline(always)]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline(always)]
    fn visit_some<D: Deserializer<'de>>(self, inside: D) -> Result<V::Value, D::Error> {
        let inside = self.inside(inside)?;
        self.inner.visit_some(inside)
    }

    #[inline(always)]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inside: D) -> Result<V::Value, D::Error> {
        let inside = self.inside(inside)?;
        self.inner.visit_newtype_struct(inside)
    }

    #[inline(always)]
    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        let counts = self.counts;
        let elements = self.inside(elements)?;
        self.inner.visit_seq(Guard { counts, ..elements })
    }

    #[inline(always)]
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        let counts = self.counts;
        let entries = self.inside(entries)?;
        self.inner.visit_map(Guard { counts, ..entries })
    }

    #[inline(always)]
    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        let variant = self.inside(variant)?;
        self.inner.visit_enum(variant)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guard<'_, S> {
    type Value = S::Value;

    #[inline(always)]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.deserialize(deserializer)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Guard<'_, A> {
    type Error = A::Error;

    #[inline(always)]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let seed = self.around(seed);
        let element = self.inner.next_element_seed(seed)?;
        self.count(&element)?;
        Ok(element)
    }

    #[inline(always)]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Guard<'_, A> {
    type Error = A::Error;

    #[inline(always)]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let seed = self.around(seed);
        let key = self.inner.next_key_seed(seed)?;
        self.count(&key)?;
        Ok(key)
    }

    #[inline(always)]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.around(seed);
        self.inner.next_value_seed(seed)
    }

    #[inline(always)]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Guard<'b, A> {
    type Error = A::Error;
    type Variant = Guard<'b, A::Variant>;

    #[inline(always)]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let around = self.around(());
        let (name, variant) = self.inner.variant_seed(seed)?;
        Ok((name, around.around(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guard<'_, A> {
    type Error = A::Error;

    #[inline(always)]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline(always)]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.around(seed);
        self.inner.newtype_variant_seed(seed)
    }

    #[inline(always)]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let visitor = self.around(visitor);
        self.inner.tuple_variant(len, visitor)
    }

    #[inline(always)]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.around(visitor);
        self.inner.struct_variant(fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::wire::{decode, encode};

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Unit;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Newtype(Option<i64>);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u8, String);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        Newtype(Newtype),
        Tuple(u128, Pair, char, Unit),
        Named {
            bytes: bytes::Bytes,
            list: Vec<Option<f64>>,
            map: BTreeMap<u16, Shape>,
            boxed: Option<Box<Shape>>,
            address: std::net::IpAddr,
        },
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let leaf = prop_oneof![
            Just(Shape::Unit),
            any::<Option<i64>>().prop_map(|n| Shape::Newtype(Newtype(n))),
            any::<(u128, u8, String, char)>().prop_map(|(a, b, c, d)| Shape::Tuple(
                a,
                Pair(b, c),
                d,
                Unit
            )),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            (
                any::<Vec<u8>>(),
                prop::collection::vec(prop::option::of(-1e9..1e9), 0..4),
                prop::collection::btree_map(any::<u16>(), inner.clone(), 0..4),
                prop::option::of(inner.prop_map(Box::new)),
                any::<std::net::IpAddr>(),
            )
                .prop_map(|(bytes, list, map, boxed, address)| Shape::Named {
                    bytes: bytes.into(),
                    list,
                    map,
                    boxed,
                    address,
                })
        })
    }

    proptest! {
        #[test]
        fn within_the_bounds_values_are_what_they_are(
            shapes in prop::collection::vec(shapes(), 0..4),
            extra in 0..3_usize,
        ) {
            let mut bytes = encode(&shapes).unwrap();
            prop_assert_eq!(decode_bounded::<Vec<Shape>>(&bytes).unwrap(), shapes);
            bytes.extend(vec![0; extra]);
            prop_assert_eq!(
                decode_bounded::<Vec<Shape>>(&bytes),
                decode::<Vec<Shape>>(&bytes)
            );
        }

        #[test]
        fn other_bytes_are_refused_alike(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let (bounded, plain) = (decode_bounded::<Shape>(&bytes), decode::<Shape>(&bytes));
            // Numbers that are none are not equal to themselves.
            prop_assert_eq!(format!("{bounded:?}"), format!("{plain:?}"));
        }
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Nested {
        Leaf,
        Newtype(Box<Nested>),
        Tuple(u8, Vec<Nested>),
        Named { map: BTreeMap<u8, Nested> },
        Option(Option<Box<Nested>>),
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Chain {
        next: Option<Box<Chain>>,
    }

    /// The levels that so many times `branch` and then `leaf` may have.
    fn deepest<T: DeserializeOwned>(branch: &[u8], leaf: u8) -> usize {
        let decoded = |times: usize| {
            let bytes = [branch.repeat(times), vec![leaf]].concat();
            let decoded = decode_bounded::<T>(&bytes);
            assert!(matches!(decoded, Ok(_) | Err(DecodeError::Unbounded)));
            decoded.is_ok()
        };
        assert!(!decoded(1 << 20));
        (1..).take_while(|times| decoded(*times)).count()
    }

    #[test]
    fn no_value_nests_deeper_than_the_bound() {
        // One level is the leaf's.
        let most = DEPTH_MAX as usize - 1;
        assert_eq!(deepest::<Nested>(&[1], 0), most);
        // The fields of the variant, and the elements of what is in one.
        assert_eq!(deepest::<Nested>(&[2, 9, 1], 0), most / 3);
        assert_eq!(deepest::<Nested>(&[3, 1, 9], 0), most / 3);
        assert_eq!(deepest::<Nested>(&[4, 1], 0), most / 2);
        assert_eq!(deepest::<Chain>(&[1], 0), most / 2);
    }

    #[test]
    fn elements_without_bytes_have_an_end() {
        let units = |count: usize| encode(&count).unwrap();
        for count in [0, 1, 70_000, FREE_ELEMENTS] {
            let decoded = decode_bounded::<Vec<Unit>>(&units(count)).unwrap();
            assert_eq!(decoded.len(), count);
        }
        let too_many = units(FREE_ELEMENTS + 10);
        let refused = decode_bounded::<Vec<Unit>>(&too_many);
        assert_eq!(refused, Err(DecodeError::Unbounded));
        let refused = decode_bounded::<BTreeMap<Unit, ()>>(&units(usize::MAX));
        assert_eq!(refused, Err(DecodeError::Unbounded));
        // Those of all values are counted.
        let twice = units(FREE_ELEMENTS / 2 + 10).repeat(2);
        let mut values = Values::new(&twice);
        values.next::<Vec<Unit>>().unwrap();
        assert_eq!(values.next::<Vec<Unit>>(), Err(DecodeError::Unbounded));
        assert!(!values.is_empty());
    }
}
