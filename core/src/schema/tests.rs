use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::fingerprint;
use super::shape::Shape;
use super::tracer::trace;

/// A type of its own module, so that names can repeat.
macro_rules! types {
    ($($module:ident { $($item:item)* })*) => {$(
        #[allow(dead_code, unreachable_pub)]
        mod $module {
            use super::*;
            $(#[derive(Deserialize)] $item)*
        }
    )*};
}

fn has_opaque(shape: &Shape) -> bool {
    match shape {
        Shape::Opaque => true,
        Shape::Primitive(_) | Shape::Node(_) => false,
        Shape::Option(inner) | Shape::Sequence(inner) | Shape::Newtype(inner) => has_opaque(inner),
        Shape::Map(key, value) => has_opaque(key) || has_opaque(value),
        Shape::Tuple(len, shapes) => shapes.len() < *len || shapes.iter().any(has_opaque),
        Shape::Fields(names, shapes) => shapes.len() < names.len() || shapes.iter().any(has_opaque),
        Shape::Either(shapes) => shapes.iter().any(has_opaque),
    }
}

/// Whether all of `T` could be traced.
fn is_whole<T: serde::de::DeserializeOwned>() -> bool {
    let (root, nodes) = trace::<T>();
    !has_opaque(&root) && !nodes.iter().any(|node| node.bodies.iter().any(has_opaque))
}

types! {
    base {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    base_again {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    field_renamed {
        pub struct T { a: u8, b: Vec<Kind>, d: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    fields_swapped {
        pub struct T { a: u8, c: Option<String>, b: Vec<Kind> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    field_retyped {
        pub struct T { a: u16, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    inner_renamed {
        pub struct T { a: u8, b: Vec<Sort>, c: Option<String> }
        pub enum Sort { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    outer_renamed {
        pub struct U { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    variant_added {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char }, More }
    }
    variants_swapped {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, Tuple(u8, bool), New(u16), Struct { x: f32, y: char } }
    }
    variant_retyped {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, u8), Struct { x: f32, y: char } }
    }
    variant_field_renamed {
        pub struct T { a: u8, b: Vec<Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, z: char } }
    }
    option_dropped {
        pub struct T { a: u8, b: Vec<Kind>, c: String }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
    sequence_to_map {
        pub struct T { a: u8, b: BTreeMap<u8, Kind>, c: Option<String> }
        pub enum Kind { Unit, New(u16), Tuple(u8, bool), Struct { x: f32, y: char } }
    }
}

#[test]
fn equal_shapes_agree_and_every_change_of_the_shape_shows() {
    let same = [fingerprint::<base::T>(), fingerprint::<base_again::T>()];
    assert_eq!(same[0], same[1]);
    let changed = [
        ("field renamed", fingerprint::<field_renamed::T>()),
        ("fields swapped", fingerprint::<fields_swapped::T>()),
        ("field retyped", fingerprint::<field_retyped::T>()),
        ("inner type renamed", fingerprint::<inner_renamed::T>()),
        ("outer type renamed", fingerprint::<outer_renamed::U>()),
        ("variant added", fingerprint::<variant_added::T>()),
        ("variants swapped", fingerprint::<variants_swapped::T>()),
        ("variant retyped", fingerprint::<variant_retyped::T>()),
        (
            "field of a variant renamed",
            fingerprint::<variant_field_renamed::T>(),
        ),
        ("option dropped", fingerprint::<option_dropped::T>()),
        ("sequence to map", fingerprint::<sequence_to_map::T>()),
    ];
    let distinct: BTreeSet<_> = changed.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(distinct.len(), changed.len());
    for (what, digest) in changed {
        assert_ne!(digest, same[0], "{what}");
    }
}

#[test]
fn the_fingerprint_is_the_same_in_every_build() {
    assert_eq!(
        fingerprint::<base::T>().to_string(),
        "2fc706527e41d14fe1612cbef577fcfec35c73068309c727ed8e206b02704d3a"
    );
}

#[test]
fn primitives_and_their_containers_differ() {
    let digests = [
        fingerprint::<()>(),
        fingerprint::<bool>(),
        fingerprint::<u8>(),
        fingerprint::<i8>(),
        fingerprint::<u64>(),
        fingerprint::<i64>(),
        fingerprint::<u128>(),
        fingerprint::<f32>(),
        fingerprint::<f64>(),
        fingerprint::<char>(),
        fingerprint::<String>(),
        fingerprint::<bytes::Bytes>(),
        fingerprint::<Option<u8>>(),
        fingerprint::<Option<Option<u8>>>(),
        fingerprint::<Vec<u8>>(),
        fingerprint::<Vec<Vec<u8>>>(),
        fingerprint::<(u8,)>(),
        fingerprint::<(u8, u8)>(),
        fingerprint::<[u8; 3]>(),
        fingerprint::<[u8; 32]>(),
        fingerprint::<BTreeMap<u8, u16>>(),
        fingerprint::<BTreeMap<u16, u8>>(),
        fingerprint::<Result<u8, u16>>(),
        fingerprint::<Result<u8, u8>>(),
    ];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
}

#[test]
fn owned_and_shared_forms_of_one_shape_agree() {
    assert_eq!(fingerprint::<Box<u8>>(), fingerprint::<u8>());
    assert_eq!(fingerprint::<VecDeque<u8>>(), fingerprint::<Vec<u8>>());
    assert_eq!(fingerprint::<Box<str>>(), fingerprint::<String>());
}

types! {
    generic {
        pub struct Wrapper<T> { inner: T }
        pub struct Pair { a: Wrapper<u8>, b: Wrapper<u16> }
        pub struct Nested { a: Wrapper<Wrapper<u8>> }
        pub struct Marked<T> { a: u8, #[serde(skip)] b: std::marker::PhantomData<T> }
    }
    generic_changed {
        pub struct Wrapper<T> { inner: T }
        pub struct Pair { a: Wrapper<u8>, b: Wrapper<u32> }
        pub struct Nested { a: Wrapper<Wrapper<u16>> }
    }
}

#[test]
fn generic_types_are_told_apart_by_what_they_hold() {
    assert_ne!(
        fingerprint::<generic::Pair>(),
        fingerprint::<generic_changed::Pair>()
    );
    assert_ne!(
        fingerprint::<generic::Nested>(),
        fingerprint::<generic_changed::Nested>()
    );
    assert!(is_whole::<generic::Nested>());
    // A parameter that no data belongs to is no part of the shape.
    assert_eq!(
        fingerprint::<generic::Marked<u8>>(),
        fingerprint::<generic::Marked<u16>>()
    );
}

types! {
    recursive {
        pub struct List { value: u8, next: Option<Box<List>> }
        pub struct Tree { children: Vec<Tree>, after: u16 }
        pub enum Expression {
            Add(Box<Expression>, Box<Expression>),
            Negate(Box<Expression>),
            Call { function: Box<Function>, arguments: Vec<Expression> },
            Literal(i64),
        }
        pub enum Function { Lambda(Box<Expression>), Compose(Box<Function>, Box<Function>), Named(String) }
        pub struct Endless(Box<Endless>);
        pub struct Before { a: u8, b: Endless, c: u8 }
        pub enum Ping { Pong(Box<Pong>) }
        pub enum Pong { Ping(Box<Ping>) }
        pub enum Never {}
        pub struct MaybeNever { a: Option<Never>, b: Vec<Never>, c: u32 }
    }
    recursive_changed {
        pub enum Expression {
            Add(Box<Expression>, Box<Expression>),
            Negate(Box<Expression>),
            Call { function: Box<Function>, arguments: Vec<Expression> },
            Literal(i64),
        }
        pub enum Function { Lambda(Box<Expression>), Compose(Box<Function>, Box<Function>), Named(u8) }
    }
}

#[test]
fn recursive_types_are_traced_whole() {
    assert!(is_whole::<recursive::List>());
    assert!(is_whole::<recursive::Tree>());
    assert!(is_whole::<recursive::Expression>());
    assert!(is_whole::<recursive::Function>());
    assert_ne!(
        fingerprint::<recursive::Expression>(),
        fingerprint::<recursive_changed::Expression>()
    );
}

#[test]
fn types_without_values_end_and_are_opaque() {
    assert!(is_whole::<recursive::Endless>());
    assert!(is_whole::<recursive::Ping>());
    assert!(!is_whole::<recursive::Before>());
    // What follows the type without values is still found where the type may be absent.
    let (_, nodes) = trace::<recursive::MaybeNever>();
    let node = nodes.iter().find(|node| node.name == "MaybeNever").unwrap();
    let Shape::Fields(_, shapes) = &node.bodies[0] else {
        panic!("{node:?}")
    };
    assert_eq!(shapes[2], Shape::Primitive("u32"));
}

#[derive(Debug)]
struct Email(#[allow(dead_code)] String);

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('@') {
            Ok(Self(text))
        } else {
            Err(Error::custom("no @"))
        }
    }
}

/// Refuses all that a tracer may think of.
struct Picky;

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            0x5ec2e7 => Ok(Self),
            _ => Err(Error::custom("no")),
        }
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    SocketAddr::from_str(&String::deserialize(deserializer)?).map_err(Error::custom)
}

types! {
    refusing {
        pub struct Contact { name: String, email: Email, age: u8 }
        pub struct With { #[serde(with = "super::address_text")] at: SocketAddr, after: bool }
        pub struct Behind { before: u8, picky: Picky, after: u8 }
        pub struct Optional { picky: Option<Picky>, after: u8 }
        #[serde(try_from = "Range")]
        pub struct Ordered { pub low: u8, pub high: u8 }
        pub struct Range { pub low: u8, pub high: u8 }
        pub struct Holder { ordered: Ordered, after: u64 }
        pub enum Choice { Picky(Picky), Other(u8), Holder(Holder) }
    }
}

mod address_text {
    pub(super) use super::address as deserialize;
}

impl TryFrom<refusing::Range> for refusing::Ordered {
    type Error = &'static str;

    fn try_from(range: refusing::Range) -> Result<Self, Self::Error> {
        let refusing::Range { low, high } = range;
        if low < high {
            Ok(Self { low, high })
        } else {
            Err("low must be below high")
        }
    }
}

#[test]
fn types_that_refuse_the_first_samples_are_given_others() {
    assert!(is_whole::<Email>());
    assert!(is_whole::<refusing::Contact>());
    assert!(is_whole::<refusing::With>());
    assert!(is_whole::<refusing::Holder>());
    assert!(is_whole::<NonZeroU64>());
    assert!(is_whole::<(IpAddr, SocketAddr, Duration)>());
}

#[test]
fn what_lies_behind_a_type_that_refuses_all_samples_is_opaque() {
    let (_, nodes) = trace::<refusing::Behind>();
    let Shape::Fields(_, shapes) = &nodes[0].bodies[0] else {
        panic!("{:?}", nodes[0])
    };
    assert_eq!(
        shapes[..],
        [Shape::Primitive("u8"), Shape::Primitive("u64")]
    );
    assert_eq!(
        fingerprint::<refusing::Behind>(),
        fingerprint::<refusing::Behind>()
    );
    // Not so where it may be absent, or is one variant of several.
    assert!(is_whole::<refusing::Optional>());
    assert!(is_whole::<refusing::Choice>());
}

types! {
    self_describing {
        pub struct Flat { a: u8, #[serde(flatten)] rest: Rest }
        pub struct Rest { b: u16, c: Vec<Flat> }
        #[serde(untagged)]
        pub enum Untagged { Number(u64), Text(String), Deep { inner: Box<Untagged> } }
        #[serde(tag = "type")]
        pub enum Tagged { A { x: u8 }, B { y: u8 } }
        #[serde(tag = "type", content = "content")]
        pub enum Adjacent { A(u8), B(String), C { z: Vec<Adjacent> } }
        pub struct Holder { flat: Vec<Flat>, untagged: Option<Untagged>, tagged: Option<Tagged>, z: u8 }
    }
}

#[test]
fn types_that_the_data_must_describe_end_the_same_way_each_time() {
    assert_eq!(
        fingerprint::<self_describing::Holder>(),
        fingerprint::<self_describing::Holder>()
    );
    let _ = fingerprint::<self_describing::Flat>();
    let _ = fingerprint::<self_describing::Untagged>();
    let _ = fingerprint::<self_describing::Tagged>();
    let _ = fingerprint::<self_describing::Adjacent>();
    let _ = fingerprint::<serde_json::Value>();
}

types! {
    wide {
        pub enum Wide {
            A0(W0), A1(W0, W1), A2(W2), A3(Vec<W3>), A4 { a: W0, b: W1, c: W2, d: W3 }, A5, A6, A7,
        }
        pub enum W0 { A(Option<Box<W1>>), B(Vec<W2>), C, D(u8), E, F, G, H }
        pub enum W1 { A(Option<Box<W2>>), B(Vec<W3>), C, D(u16), E, F, G, H }
        pub enum W2 { A(Option<Box<W3>>), B(Vec<W0>), C, D(u32), E, F, G, H }
        pub enum W3 { A(Option<Box<W0>>), B(Vec<Wide>), C, D(u64), E, F, G, H }
    }
    // The only variant with a value is the last of all.
    late {
        pub enum E {
            A(Box<E>), B(Box<E>), C(Box<F>), D(Box<F>), G(Box<E>, Box<F>), H(Box<F>, Box<E>), Z,
        }
        pub enum F { A(Box<E>), B(Box<F>), C(Box<E>, Box<E>) }
    }
}

#[test]
fn every_variant_of_types_that_hold_each_other_is_reached() {
    assert!(is_whole::<wide::Wide>());
    assert!(is_whole::<late::E>());
    assert!(is_whole::<Vec<late::F>>());
}
