//! Finds the fields that criteria ask for, by letting the datum serialize itself into a probe.
//!
//! At each value the probe knows which comparisons lie there or below. What none asks for is passed over unseen.

use std::cmp::Ordering;
use std::fmt;

use serde::ser::{self, Serialize};

use super::{Comparison, Kind, STEPS_MAX, Step, Value};

/// Which steps are comparisons that are satisfied, as bits, by what `visit` shows to the probe.
pub(super) fn satisfied(steps: &[Step], visit: impl FnOnce(&mut Probe<'_>)) -> u64 {
    let mut found = 0;
    let active = steps
        .iter()
        .enumerate()
        .take(STEPS_MAX)
        .filter(|(_, step)| matches!(step, Step::Compare { .. }))
        .fold(0, |active, (n, _)| active | 1 << n);
    visit(&mut Probe {
        steps,
        active,
        depth: 0,
        found: &mut found,
    });
    found
}

/// Stands at one value of a datum.
pub(super) struct Probe<'a> {
    steps: &'a [Step],
    /// The comparisons, as bits, whose paths lead to this value or through it.
    active: u64,
    /// The length of the path to this value.
    depth: usize,
    found: &'a mut u64,
}

/// The value as it is compared.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A structure: it is there, and has no value of its own.
    Whole,
}

impl Probe<'_> {
    /// What a datum fails to serialize satisfies nothing; the encoding reports it.
    pub(super) fn serialize<T: Serialize + ?Sized>(&mut self, value: &T) {
        let _ = value.serialize(self);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.see(Seen::Bytes(bytes));
    }

    fn comparisons(&self) -> impl Iterator<Item = (usize, &[Box<str>], &Comparison)> {
        let active = self.active;
        self.steps.iter().enumerate().filter_map(move |(n, step)| {
            let Step::Compare { path, comparison } = step else {
                return None;
            };
            (n < STEPS_MAX && active >> n & 1 == 1).then_some((n, &path[..], comparison))
        })
    }

    /// Compares this value with what is asked of it.
    fn see(&mut self, value: Seen<'_>) {
        let satisfied = self
            .comparisons()
            .filter(|(_, path, comparison)| path.len() == self.depth && holds(comparison, value))
            .fold(0, |found, (n, ..)| found | 1 << n);
        *self.found |= satisfied;
    }

    /// The comparisons that lie below the part of this value that `is_named` knows by name.
    fn below(&self, is_named: impl Fn(&str) -> bool) -> u64 {
        self.comparisons()
            .filter(|(_, path, _)| path.get(self.depth).is_some_and(|part| is_named(part)))
            .fold(0, |active, (n, ..)| active | 1 << n)
    }

    /// Goes into a part of this value, where anything lies below it.
    fn enter<T: Serialize + ?Sized>(&mut self, active: u64, value: &T) {
        if active != 0 {
            let mut part = Probe {
                steps: self.steps,
                active,
                depth: self.depth + 1,
                found: self.found,
            };
            part.serialize(value);
        }
    }

    fn enter_named<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.enter(self.below(|part| part == name), value);
    }

    fn enter_numbered<T: Serialize + ?Sized>(&mut self, number: usize, value: &T) {
        self.enter(self.below(|part| part.parse() == Ok(number)), value);
    }

    /// The probe for what lies in a variant, which is itself at hand by its name.
    fn variant(&mut self, name: &'static str) -> Probe<'_> {
        self.see(Seen::Text(name));
        let active = self.below(|part| part == name);
        let mut inside = Probe {
            steps: self.steps,
            active,
            depth: self.depth + 1,
            found: self.found,
        };
        inside.see(Seen::Whole);
        inside
    }
}

fn holds(comparison: &Comparison, seen: Seen<'_>) -> bool {
    match comparison {
        Comparison::Is(value) => compare(seen, value) == Some(Ordering::Equal),
        Comparison::Below(value) => compare(seen, value) == Some(Ordering::Less),
        Comparison::Above(value) => compare(seen, value) == Some(Ordering::Greater),
        Comparison::StartsWith(Value(prefix)) => match (seen, prefix) {
            (Seen::Text(text), Kind::Text(prefix)) => text.starts_with(&**prefix),
            (Seen::Bytes(bytes), Kind::Bytes(prefix)) => bytes.starts_with(prefix),
            (Seen::Bytes(bytes), Kind::Text(prefix)) => bytes.starts_with(prefix.as_bytes()),
            _ => false,
        },
        Comparison::IsThere => true,
    }
}

/// `None` where they are of different kinds, or have no order.
fn compare(seen: Seen<'_>, Value(value): &Value) -> Option<Ordering> {
    match (seen, value) {
        (Seen::Bool(seen), Kind::Bool(value)) => Some(seen.cmp(value)),
        (Seen::Integer(seen), Kind::Integer(value)) => Some(seen.cmp(value)),
        (Seen::Integer(seen), Kind::Float(value)) => {
            (seen as f64).partial_cmp(&f64::from_bits(*value))
        }
        (Seen::Float(seen), Kind::Integer(value)) => seen.partial_cmp(&(*value as f64)),
        (Seen::Float(seen), Kind::Float(value)) => seen.partial_cmp(&f64::from_bits(*value)),
        (Seen::Text(seen), Kind::Text(value)) => Some(seen.cmp(value)),
        (Seen::Bytes(seen), Kind::Bytes(value)) => Some(seen.cmp(value)),
        (Seen::Bytes(seen), Kind::Text(value)) => Some(seen.cmp(value.as_bytes())),
        _ => None,
    }
}

/// The datum cannot be serialized.
#[derive(Debug)]
pub(super) struct Unserializable;

impl fmt::Display for Unserializable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the datum cannot be serialized")
    }
}

impl std::error::Error for Unserializable {}

impl ser::Error for Unserializable {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Done = Result<(), Unserializable>;

macro_rules! see {
    ($($method:ident($type:ty) => $seen:ident as $as:ty;)*) => {
        $(fn $method(self, value: $type) -> Done {
            self.see(Seen::$seen(<$as>::from(value)));
            Ok(())
        })*
    };
}

impl<'p, 'a> ser::Serializer for &'p mut Probe<'a> {
    type Ok = ();
    type Error = Unserializable;
    type SerializeSeq = &'p mut Probe<'a>;
    type SerializeTuple = Parts<'p>;
    type SerializeTupleStruct = Parts<'p>;
    type SerializeTupleVariant = Parts<'p>;
    type SerializeMap = Entries<'p>;
    type SerializeStruct = Parts<'p>;
    type SerializeStructVariant = Parts<'p>;

    see! {
        serialize_bool(bool) => Bool as bool;
        serialize_i8(i8) => Integer as i128;
        serialize_i16(i16) => Integer as i128;
        serialize_i32(i32) => Integer as i128;
        serialize_i64(i64) => Integer as i128;
        serialize_i128(i128) => Integer as i128;
        serialize_u8(u8) => Integer as i128;
        serialize_u16(u16) => Integer as i128;
        serialize_u32(u32) => Integer as i128;
        serialize_u64(u64) => Integer as i128;
        serialize_f32(f32) => Float as f64;
        serialize_f64(f64) => Float as f64;
    }

    fn serialize_u128(self, value: u128) -> Done {
        match i128::try_from(value) {
            Ok(value) => self.see(Seen::Integer(value)),
            Err(_) => self.see(Seen::Float(value as f64)),
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Done {
        self.see(Seen::Text(value.encode_utf8(&mut [0; 4])));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Done {
        self.see(Seen::Text(value));
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Done {
        self.see(Seen::Bytes(value));
        Ok(())
    }

    fn serialize_none(self) -> Done {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        self.see(Seen::Whole);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        self.see(Seen::Whole);
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Done {
        self.variant(variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        let mut inside = self.variant(variant);
        if inside.active != 0 {
            inside.serialize(value);
        }
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unserializable> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'p>, Unserializable> {
        self.see(Seen::Whole);
        Ok(Parts::of(self))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Parts<'p>, Unserializable> {
        self.see(Seen::Whole);
        Ok(Parts::of(self))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'p>, Unserializable> {
        Ok(Parts {
            whole: self.variant(variant),
            next: 0,
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'p>, Unserializable> {
        self.see(Seen::Whole);
        Ok(Entries {
            whole: Parts::of(self).whole,
            active: 0,
        })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'p>, Unserializable> {
        self.see(Seen::Whole);
        Ok(Parts::of(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'p>, Unserializable> {
        Ok(Parts {
            whole: self.variant(variant),
            next: 0,
        })
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Done {
        self.see(Seen::Text(&value.to_string()));
        Ok(())
    }

    fn is_human_readable(&self) -> bool {
        // As the wire's codec, so that types show themselves as they are sent.
        false
    }
}

/// The elements of a list: any may satisfy what is asked of the list.
impl ser::SerializeSeq for &mut Probe<'_> {
    type Ok = ();
    type Error = Unserializable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        Ok(())
    }
}

/// The fields of a structure, or the parts of a tuple.
pub(super) struct Parts<'a> {
    whole: Probe<'a>,
    next: usize,
}

impl<'p> Parts<'p> {
    fn of(probe: &'p mut Probe<'_>) -> Self {
        let whole = Probe {
            steps: probe.steps,
            active: probe.active,
            depth: probe.depth,
            found: probe.found,
        };
        Self { whole, next: 0 }
    }

    fn part<T: Serialize + ?Sized>(&mut self, value: &T) {
        self.whole.enter_numbered(self.next, value);
        self.next += 1;
    }
}

macro_rules! numbered_parts {
    ($($trait:ident::$method:ident)*) => {
        $(impl ser::$trait for Parts<'_> {
            type Ok = ();
            type Error = Unserializable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                self.part(value);
                Ok(())
            }

            fn end(self) -> Done {
                Ok(())
            }
        })*
    };
}

numbered_parts!(
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
);

macro_rules! named_parts {
    ($($trait:ident)*) => {
        $(impl ser::$trait for Parts<'_> {
            type Ok = ();
            type Error = Unserializable;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
                self.whole.enter_named(key, value);
                Ok(())
            }

            fn end(self) -> Done {
                Ok(())
            }
        })*
    };
}

named_parts!(SerializeStruct SerializeStructVariant);

/// The entries of a map.
pub(super) struct Entries<'a> {
    whole: Probe<'a>,
    /// The comparisons that lie below the key that was seen last.
    active: u64,
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Unserializable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        // The key is compared with each part of a path that leads through here, as text or as a number.
        let depth = self.whole.depth;
        let named = |part: &str| {
            let number = part.parse::<i128>().ok();
            let values = [Some(Kind::Text(part.into())), number.map(Kind::Integer)];
            values.into_iter().flatten().any(|kind| {
                let steps = [Step::Compare {
                    path: Vec::new(),
                    comparison: Comparison::Is(Value(kind)),
                }];
                satisfied(&steps, |probe| probe.serialize(key)) != 0
            })
        };
        self.active = self
            .whole
            .comparisons()
            .filter(|(_, path, _)| path.get(depth).is_some_and(|part| named(part)))
            .fold(0, |active, (n, ..)| active | 1 << n);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        let active = self.active;
        self.whole.enter(active, value);
        Ok(())
    }

    fn end(self) -> Done {
        Ok(())
    }
}
