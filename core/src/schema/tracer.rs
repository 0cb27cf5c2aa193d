//! The deserializer that invents a value and notes what it is asked for.
//!
//! It has two moods. *Exploring*, it shows as much as it can: an option is there, a sequence has an
//! element, an enum takes a variant not seen yet. *Finishing*, it makes the smallest value it knows how to
//! make: it does so inside a type that is known already, and where a type meets itself.
//!
//! A type that cannot be given a value makes the whole pass fail, so nothing is decided in the middle
//! of one: a failed pass leaves a mark (the next sample at that place, one more attempt at that variant) and the next
//! pass comes out differently. The trace ends when passes leave no more marks.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::error::Error;
use super::samples;
use super::shape::{Node, Shape};

/// The most passes over one type: each shows a variant or refuses a sample.
const PASSES_MAX: usize = 8_192;
/// The most passes in a row that may tell nothing new before the trace ends.
const PASSES_STALLED_MAX: usize = 24;
/// The most values invented over all passes.
const STEPS_MAX: usize = 1 << 20;
/// The deepest nesting at which something is still explored.
const EXPLORE_DEPTH_MAX: usize = 64;
/// The deepest nesting at which a value is still made.
const DEPTH_MAX: usize = 112;
/// The most samples tried anew over the whole trace.
const REFUSALS_MAX: usize = 1_024;
/// The most failures of a type or variant for reasons other than a refused sample.
const ATTEMPTS_MAX: u8 = 3;

/// The shape of `T`, and the named types in it.
pub(super) fn trace<T: DeserializeOwned>() -> (Shape, Vec<Node>) {
    let mut tracer = Tracer::default();
    let mut root = Shape::Opaque;
    let mut stalled = 0;
    for pass in 0..PASSES_MAX {
        let marks = tracer.marks;
        tracer.begin(pass);
        let mut seen = Shape::Opaque;
        let result = T::deserialize(At {
            tracer: &mut tracer,
            slot: &mut seen,
            place: Place::default(),
            exploring: true,
            depth: 0,
        });
        root.merge(seen);
        let failed = result.map_err(|error| tracer.settle(error, 0)).is_err();
        stalled = if tracer.marks > marks { 0 } else { stalled + 1 };
        let complete = !failed && stalled > 0 && !root.any_node(&|node| tracer.leads_on(node));
        if complete || stalled > PASSES_STALLED_MAX || tracer.steps > STEPS_MAX {
            break;
        }
    }
    (root, tracer.nodes)
}

/// A place in a value: a named type, and the way from there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    node: Option<usize>,
    steps: Vec<usize>,
}

impl Place {
    fn within(&self, step: usize) -> Self {
        let mut place = self.clone();
        place.steps.push(step);
        place
    }
}

/// Tells named types apart while they are traced, generic ones by what they are made of.
///
/// `type_name` serves as an identity here and is part of no digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: &'static str,
    names: Option<&'static [&'static str]>,
    visitor: &'static str,
}

/// How far one body of a named type (a struct has one, an enum one for each variant) is known.
#[derive(Clone, Default)]
struct Progress {
    /// A value was made of it while exploring.
    explored: bool,
    /// Failures while exploring.
    attempts: u8,
    /// No value could be made of it while finishing.
    dead_end: bool,
    /// How many times it is being made right now.
    active: usize,
}

#[derive(Default)]
struct Tracer {
    pass: usize,
    steps: usize,
    refusals: usize,
    /// Counts everything that makes a later pass come out differently.
    marks: usize,
    nodes: Vec<Node>,
    progress: Vec<Vec<Progress>>,
    /// For each node, the first body of which a value was made. Making it took only nodes that had such a
    /// body before, so going by these alone always ends.
    known_body: Vec<Option<usize>>,
    keys: BTreeMap<Key, usize>,
    /// The sample chosen at a place, where it is not the first.
    choices: BTreeMap<Place, usize>,
    /// The samples handed out in this pass, in order, with the number of samples there are.
    recent: Vec<(Place, usize)>,
    /// The nodes that this pass should go through: something behind them is not explored yet.
    leading_on: BTreeSet<usize>,
    /// How many nodes there were when the pass began; all later ones are new.
    known: usize,
}

impl Tracer {
    fn begin(&mut self, pass: usize) {
        self.pass = pass;
        self.recent.clear();
        self.known = self.nodes.len();
        self.leading_on = (0..self.known)
            .filter(|&node| self.progress[node].iter().any(Progress::is_open))
            .collect();
        // At most one round for each node on the longest way; each adds a node or is the last.
        for _ in 0..self.known {
            let more: Vec<usize> = (0..self.known)
                .filter(|node| !self.leading_on.contains(node))
                .filter(|&node| {
                    self.nodes[node]
                        .bodies
                        .iter()
                        .any(|body| body.any_node(&|n| self.leads_on(n)))
                })
                .collect();
            if more.is_empty() {
                break;
            }
            self.leading_on.extend(more);
        }
    }

    fn leads_on(&self, node: usize) -> bool {
        node >= self.known || self.leading_on.contains(&node)
    }

    fn node(&mut self, key: Key) -> usize {
        if let Some(&node) = self.keys.get(&key) {
            return node;
        }
        let node = self.nodes.len();
        let bodies = key.names.map_or(1, <[_]>::len);
        self.nodes.push(Node {
            name: key.name,
            variants: key.names,
            bodies: vec![Shape::Opaque; bodies],
        });
        self.progress.push(vec![Progress::default(); bodies]);
        self.known_body.push(None);
        self.keys.insert(key, node);
        self.marks += 1;
        node
    }

    /// Which of `count` samples to hand out at `place`.
    fn choose(&mut self, place: &Place, count: usize) -> usize {
        self.recent.push((place.clone(), count));
        self.choices.get(place).copied().unwrap_or(0)
    }

    /// Goes on to the next sample at `place`, if there is one.
    fn next_choice(&mut self, place: &Place, count: usize) -> bool {
        let choice = self.choices.get(place).copied().unwrap_or(0) + 1;
        if choice >= count || self.refusals >= REFUSALS_MAX {
            return false;
        }
        self.choices.insert(place.clone(), choice);
        self.refusals += 1;
        self.marks += 1;
        true
    }

    /// Turns a refusal into what to do about it: another combination of the samples handed out since
    /// `start`, of which one must be to blame.
    fn settle(&mut self, error: Error, start: usize) -> Error {
        match error {
            Error::Retry | Error::Stuck => error,
            Error::Refused => {
                let blamed = self.recent.split_off(start);
                for (i, (place, count)) in blamed.iter().enumerate().rev() {
                    if self.next_choice(place, *count) {
                        for (later, _) in &blamed[i + 1..] {
                            self.choices.remove(later);
                        }
                        return Error::Retry;
                    }
                }
                Error::Stuck
            }
        }
    }

    /// Chooses the body of `node` to make a value of.
    fn body(&self, node: usize, exploring: bool) -> Option<usize> {
        let progress = &self.progress[node];
        if exploring {
            let unexplored = progress.iter().position(Progress::is_open);
            let leading_on = || {
                self.nodes[node]
                    .bodies
                    .iter()
                    .position(|body| body.any_node(&|inner| inner != node && self.leads_on(inner)))
            };
            // What an enum was may decide what comes after it, so that all variants take turns.
            let in_turn = || {
                let explored: Vec<usize> = (0..progress.len())
                    .filter(|&body| progress[body].explored)
                    .collect();
                (!explored.is_empty()).then(|| explored[self.pass % explored.len()])
            };
            if let Some(body) = unexplored.or_else(leading_on).or_else(in_turn) {
                return Some(body);
            }
        }
        self.known_body[node].or_else(|| {
            progress
                .iter()
                .position(|body| body.active == 0 && !body.dead_end)
        })
    }

    /// Makes a value of `body` of `node`, noting how that goes.
    fn make<T>(
        &mut self,
        node: usize,
        body: usize,
        exploring: bool,
        make: impl FnOnce(&mut Self, &mut Shape) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let start = self.recent.len();
        let mut shape = Shape::Opaque;
        self.progress[node][body].active += 1;
        let result = make(self, &mut shape).map_err(|error| self.settle(error, start));
        self.nodes[node].bodies[body].merge(shape);
        let progress = &mut self.progress[node][body];
        progress.active -= 1;
        match result {
            Ok(value) => {
                if exploring && !progress.explored {
                    progress.explored = true;
                    self.marks += 1;
                }
                if self.known_body[node].is_none() {
                    self.known_body[node] = Some(body);
                    self.forgive();
                }
                Ok(value)
            }
            // The innermost is blamed first; those around it get their blame once it has had all of its.
            Err(Error::Stuck) if progress.blame(exploring) => {
                self.marks += 1;
                Err(Error::Retry)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives what has failed another chance: there is one more type of which a value can be made.
    fn forgive(&mut self) {
        self.marks += 1;
        for progress in self.progress.iter_mut().flatten() {
            progress.attempts = 0;
            progress.dead_end = false;
        }
    }
}

impl Progress {
    fn is_open(&self) -> bool {
        !self.explored && self.attempts < ATTEMPTS_MAX
    }

    /// Notes a failure; `false` where as many as count have been noted.
    fn blame(&mut self, exploring: bool) -> bool {
        if exploring {
            let counts = self.attempts < ATTEMPTS_MAX;
            self.attempts += u8::from(counts);
            counts
        } else {
            !std::mem::replace(&mut self.dead_end, true)
        }
    }
}

/// The deserializer of one place.
struct At<'t> {
    tracer: &'t mut Tracer,
    slot: &'t mut Shape,
    place: Place,
    exploring: bool,
    depth: usize,
}

impl<'t> At<'t> {
    /// The same place, seen from where it is used: for the parts of what is here.
    fn part<'a>(&'a mut self, step: usize, slot: &'a mut Shape) -> At<'a> {
        At {
            tracer: self.tracer,
            slot,
            place: self.place.within(step),
            exploring: self.exploring,
            depth: self.depth + 1,
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        self.tracer.steps += 1;
        if self.depth > DEPTH_MAX || self.tracer.steps > STEPS_MAX {
            return Err(Error::Stuck);
        }
        Ok(())
    }

    /// Hands out the sample whose turn it is.
    fn sample<S: Copy>(&mut self, kind: &'static str, samples: &[S]) -> Result<S, Error> {
        self.step()?;
        *self.slot = Shape::Primitive(kind);
        Ok(samples[self.tracer.choose(&self.place, samples.len())])
    }

    /// Hands out a number of elements, then makes them.
    fn elements<T>(
        mut self,
        make: impl FnOnce(&mut Self, usize) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.step()?;
        let lens = if self.exploring {
            samples::LENS_EXPLORING
        } else {
            samples::LENS_FINISHING
        };
        let place = self.place.within(usize::from(self.exploring));
        let len = lens[self.tracer.choose(&place, lens.len())];
        let exploring = self.exploring;
        let result = make(&mut self, len);
        // Of what cannot be made there may still be none.
        match result {
            Err(Error::Stuck) if exploring && len == 1 && self.tracer.next_choice(&place, 2) => {
                Err(Error::Retry)
            }
            result => result,
        }
    }

    /// Makes a value of a struct.
    fn structure<V, T>(
        mut self,
        name: &'static str,
        make: impl FnOnce(At<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.step()?;
        let (node, exploring) = self.enter(name, None, std::any::type_name::<V>());
        let depth = self.depth;
        self.tracer.make(node, 0, exploring, |tracer, slot| {
            let place = Place {
                node: Some(node),
                steps: Vec::new(),
            };
            make(At {
                tracer,
                slot,
                place,
                exploring,
                depth: depth + 1,
            })
        })
    }

    /// Notes a named type here, and tells whether to explore it.
    fn enter(
        &mut self,
        name: &'static str,
        names: Option<&'static [&'static str]>,
        visitor: &'static str,
    ) -> (usize, bool) {
        let node = self.tracer.node(Key {
            name,
            names,
            visitor,
        });
        *self.slot = Shape::Node(node);
        let exploring = self.exploring
            && self.depth <= EXPLORE_DEPTH_MAX
            && self.tracer.progress[node]
                .iter()
                .all(|body| body.active == 0)
            && self.tracer.leads_on(node);
        (node, exploring)
    }

    /// Makes the parts of a tuple or struct, which follow each other with nothing between.
    fn parts<'de, V: Visitor<'de>>(
        mut self,
        len: usize,
        wrap: impl FnOnce(Vec<Shape>) -> Shape,
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Not reserved: the length is the type's word, and each part is one step of the budget.
        let mut shapes = Vec::new();
        let result = visitor.visit_seq(Parts {
            at: &mut self,
            shapes: &mut shapes,
            len,
        });
        *self.slot = wrap(shapes);
        result
    }
}

/// Elements that each have a shape of their own.
struct Parts<'a, 't> {
    at: &'a mut At<'t>,
    shapes: &'a mut Vec<Shape>,
    len: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if self.shapes.len() == self.len {
            return Ok(None);
        }
        let start = self.at.tracer.recent.len();
        let mut shape = Shape::Opaque;
        let result = seed.deserialize(self.at.part(self.shapes.len(), &mut shape));
        self.shapes.push(shape);
        result
            .map(Some)
            .map_err(|error| self.at.tracer.settle(error, start))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.len - self.shapes.len())
    }
}

/// Elements or entries that share one shape.
struct Elements<'a, 't> {
    at: &'a mut At<'t>,
    key: &'a mut Shape,
    value: &'a mut Shape,
    left: usize,
}

impl Elements<'_, '_> {
    fn make<'de, S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
        is_key: bool,
    ) -> Result<S::Value, Error> {
        let start = self.at.tracer.recent.len();
        let mut shape = Shape::Opaque;
        // Keys of a map are told apart by their place, so that they may take different samples.
        let step = 2 + 2 * self.left + usize::from(is_key);
        let result = seed.deserialize(self.at.part(step, &mut shape));
        if is_key {
            &mut *self.key
        } else {
            &mut *self.value
        }
        .merge(shape);
        result.map_err(|error| self.at.tracer.settle(error, start))
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.make(seed, false).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Elements<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.make(seed, true).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.make(seed, false)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// One variant of an enum.
struct Chosen<'t> {
    at: At<'t>,
    variant: usize,
}

impl<'de, 't> EnumAccess<'de> for Chosen<'t> {
    type Error = Error;
    type Variant = At<'t>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, At<'t>), Error> {
        let index = u32::try_from(self.variant).map_err(|_| Error::Stuck)?;
        let index: U32Deserializer<Error> = index.into_deserializer();
        Ok((seed.deserialize(index)?, self.at))
    }
}

impl<'de> VariantAccess<'de> for At<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        *self.slot = Shape::Primitive("unit");
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, Error> {
        let mut inner = Shape::Opaque;
        let result = seed.deserialize(self.part(0, &mut inner));
        *self.slot = Shape::Newtype(Box::new(inner));
        result
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.parts(len, |shapes| Shape::Tuple(len, shapes), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.parts(
            fields.len(),
            |shapes| Shape::Fields(fields, shapes),
            visitor,
        )
    }
}

/// A method that hands out a primitive.
macro_rules! primitive {
    ($($method:ident => $visit:ident($kind:literal, $samples:expr $(, $convert:expr)?);)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            let sample = self.sample($kind, $samples)?;
            $(let sample = $convert(sample);)?
            visitor.$visit(sample)
        }
    )*};
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    primitive! {
        deserialize_bool => visit_bool("bool", samples::BOOLS);
        deserialize_i8 => visit_i8("i8", samples::SIGNED);
        deserialize_i16 => visit_i16("i16", samples::SIGNED, i16::from);
        deserialize_i32 => visit_i32("i32", samples::SIGNED, i32::from);
        deserialize_i64 => visit_i64("i64", samples::SIGNED, i64::from);
        deserialize_i128 => visit_i128("i128", samples::SIGNED, i128::from);
        deserialize_u8 => visit_u8("u8", samples::UNSIGNED);
        deserialize_u16 => visit_u16("u16", samples::UNSIGNED, u16::from);
        deserialize_u32 => visit_u32("u32", samples::UNSIGNED, u32::from);
        deserialize_u64 => visit_u64("u64", samples::UNSIGNED, u64::from);
        deserialize_u128 => visit_u128("u128", samples::UNSIGNED, u128::from);
        deserialize_f32 => visit_f32("f32", samples::FLOATS);
        deserialize_f64 => visit_f64("f64", samples::FLOATS, f64::from);
        deserialize_char => visit_char("char", samples::CHARS);
        deserialize_str => visit_str("text", samples::TEXTS);
        deserialize_string => visit_string("text", samples::TEXTS, String::from);
        deserialize_identifier => visit_str("identifier", samples::TEXTS);
    }

    fn deserialize_bytes<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let len = self.sample("bytes", samples::BYTES_LENS)?;
        visitor.visit_bytes(&samples::ZEROES[..len])
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let len = self.sample("bytes", samples::BYTES_LENS)?;
        visitor.visit_byte_buf(samples::ZEROES[..len].to_vec())
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.sample("unit", &[()])?;
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.sample("ignored", &[()])?;
        visitor.visit_unit()
    }

    /// A type that lets the data say what it is cannot be carried by a format that does not say it: its
    /// shape is that it is one.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        match self.sample("any", &[0u8, 1, 2, 3])? {
            0 => visitor.visit_unit(),
            1 => visitor.visit_u64(1),
            2 => visitor.visit_str(""),
            _ => visitor.visit_bool(false),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.elements(|at, len| {
            let mut inner = Shape::Opaque;
            let result = if len == 0 {
                visitor.visit_none()
            } else {
                let start = at.tracer.recent.len();
                let result = visitor.visit_some(at.part(2, &mut inner));
                result.map_err(|error| at.tracer.settle(error, start))
            };
            *at.slot = Shape::Option(Box::new(inner));
            result
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.elements(|at, left| {
            let (mut key, mut value) = (Shape::Opaque, Shape::Opaque);
            let result = visitor.visit_seq(Elements {
                at,
                key: &mut key,
                value: &mut value,
                left,
            });
            *at.slot = Shape::Sequence(Box::new(value));
            result
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.elements(|at, left| {
            let (mut key, mut value) = (Shape::Opaque, Shape::Opaque);
            let result = visitor.visit_map(Elements {
                at,
                key: &mut key,
                value: &mut value,
                left,
            });
            *at.slot = Shape::Map(Box::new(key), Box::new(value));
            result
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        mut self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.step()?;
        self.parts(len, |shapes| Shape::Tuple(len, shapes), visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.structure::<V, _>(name, |at| {
            *at.slot = Shape::Primitive("unit");
            visitor.visit_unit()
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.structure::<V, _>(name, |mut at| {
            let mut inner = Shape::Opaque;
            let result = visitor.visit_newtype_struct(at.part(0, &mut inner));
            *at.slot = Shape::Newtype(Box::new(inner));
            result
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.structure::<V, _>(name, |at| {
            at.parts(len, |shapes| Shape::Tuple(len, shapes), visitor)
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.structure::<V, _>(name, |at| {
            at.parts(
                fields.len(),
                |shapes| Shape::Fields(fields, shapes),
                visitor,
            )
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.step()?;
        let (node, exploring) = self.enter(name, Some(variants), std::any::type_name::<V>());
        let variant = self.tracer.body(node, exploring).ok_or(Error::Stuck)?;
        let depth = self.depth + 1;
        self.tracer.make(node, variant, exploring, |tracer, slot| {
            let place = Place {
                node: Some(node),
                steps: vec![variant],
            };
            visitor.visit_enum(Chosen {
                at: At {
                    tracer,
                    slot,
                    place,
                    exploring,
                    depth,
                },
                variant,
            })
        })
    }
}
