//! What was found out about a type, and its digest.

use super::UNFOLD_DEPTH;
use crate::id::Digest;

/// The shape of one place in a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not reached: the explicit mark of what could not be traced.
    #[default]
    Opaque,
    /// A primitive, by the name of its kind.
    Primitive(&'static str),
    Option(Box<Shape>),
    Sequence(Box<Shape>),
    Map(Box<Shape>, Box<Shape>),
    /// A tuple of so many parts, of which the first were reached.
    Tuple(usize, Vec<Shape>),
    /// The named fields of a struct or of a struct variant, of which the first were reached.
    Fields(&'static [&'static str], Vec<Shape>),
    Newtype(Box<Shape>),
    /// A named type: its place in the list of nodes.
    Node(usize),
    /// The place has had several shapes, for example as an earlier field says.
    Either(Vec<Shape>),
}

/// A named type.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    /// The names of the variants; `None` for a struct, which has one body.
    pub(super) variants: Option<&'static [&'static str]>,
    pub(super) bodies: Vec<Shape>,
}

impl Shape {
    /// Adds what `seen` tells about the same place.
    pub(super) fn merge(&mut self, seen: Self) {
        if let Some(other) = self.unify(seen) {
            match self {
                Self::Either(shapes) => shapes.push(other),
                _ => *self = Self::Either(vec![std::mem::take(self), other]),
            }
        }
    }

    /// Merges `seen` where it is of the same kind; gives it back where it is not.
    fn unify(&mut self, seen: Self) -> Option<Self> {
        match (self, seen) {
            (_, Self::Opaque) => None,
            (this @ Self::Opaque, seen) => {
                *this = seen;
                None
            }
            (Self::Option(this), Self::Option(seen))
            | (Self::Sequence(this), Self::Sequence(seen))
            | (Self::Newtype(this), Self::Newtype(seen)) => {
                this.merge(*seen);
                None
            }
            (Self::Map(key, value), Self::Map(seen_key, seen_value)) => {
                key.merge(*seen_key);
                value.merge(*seen_value);
                None
            }
            (Self::Tuple(len, this), Self::Tuple(seen_len, seen)) if *len == seen_len => {
                merge_all(this, seen);
                None
            }
            (Self::Fields(names, this), Self::Fields(seen_names, seen)) if *names == seen_names => {
                merge_all(this, seen);
                None
            }
            (Self::Either(shapes), Self::Either(seen)) => {
                for shape in seen {
                    let rest = shapes
                        .iter_mut()
                        .try_fold(shape, |shape, this| this.unify(shape));
                    shapes.extend(rest);
                }
                None
            }
            (Self::Either(shapes), seen) => shapes
                .iter_mut()
                .try_fold(seen, |seen, this| this.unify(seen)),
            (this, seen) => (*this != seen).then_some(seen),
        }
    }

    /// Whether `holds` is true of any named type in this place itself.
    pub(super) fn any_node(&self, holds: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Opaque | Self::Primitive(_) => false,
            Self::Node(node) => holds(*node),
            Self::Option(inner) | Self::Sequence(inner) | Self::Newtype(inner) => {
                inner.any_node(holds)
            }
            Self::Map(key, value) => key.any_node(holds) || value.any_node(holds),
            Self::Tuple(_, shapes) | Self::Fields(_, shapes) | Self::Either(shapes) => {
                shapes.iter().any(|shape| shape.any_node(holds))
            }
        }
    }

    /// Appends an injective encoding, with a node written as its digest in `nodes`.
    fn write(&self, nodes: &[Digest], out: &mut Vec<u8>) {
        match self {
            Self::Opaque => out.push(0),
            Self::Primitive(kind) => {
                out.push(1);
                write_text(kind, out);
            }
            Self::Option(inner) => {
                out.push(2);
                inner.write(nodes, out);
            }
            Self::Sequence(inner) => {
                out.push(3);
                inner.write(nodes, out);
            }
            Self::Map(key, value) => {
                out.push(4);
                key.write(nodes, out);
                value.write(nodes, out);
            }
            Self::Tuple(len, shapes) => {
                out.push(5);
                write_len(*len, out);
                write_all(shapes, nodes, out);
            }
            Self::Fields(names, shapes) => {
                out.push(6);
                write_len(names.len(), out);
                names.iter().for_each(|name| write_text(name, out));
                write_all(shapes, nodes, out);
            }
            Self::Newtype(inner) => {
                out.push(7);
                inner.write(nodes, out);
            }
            Self::Node(node) => {
                out.push(8);
                out.extend_from_slice(nodes[*node].as_bytes());
            }
            Self::Either(shapes) => {
                out.push(9);
                write_all(shapes, nodes, out);
            }
        }
    }
}

/// Part by part; a pass that failed has reached fewer of them.
fn merge_all(this: &mut Vec<Shape>, seen: Vec<Shape>) {
    for (i, seen) in seen.into_iter().enumerate() {
        match this.get_mut(i) {
            Some(this) => this.merge(seen),
            None => this.push(seen),
        }
    }
}

fn write_all(shapes: &[Shape], nodes: &[Digest], out: &mut Vec<u8>) {
    write_len(shapes.len(), out);
    shapes.iter().for_each(|shape| shape.write(nodes, out));
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_len(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn write_len(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// The digest of `root`, unfolded to [`UNFOLD_DEPTH`] nested nodes.
///
/// Round by round, each node's digest is made of those that the nodes inside it had in the round before.
/// So it depends on what the shape unfolds to alone, not on how many nodes tell it.
pub(super) fn digest(root: &Shape, nodes: &[Node]) -> Digest {
    let mut digests = vec![Digest::of("unfolded no further", &[]); nodes.len()];
    let mut text = Vec::new();
    for _ in 0..UNFOLD_DEPTH {
        digests = nodes
            .iter()
            .map(|node| {
                text.clear();
                node.write(&digests, &mut text);
                Digest::of("type", &[&text])
            })
            .collect();
    }
    text.clear();
    root.write(&digests, &mut text);
    Digest::of("schema", &[&text])
}

impl Node {
    fn write(&self, nodes: &[Digest], out: &mut Vec<u8>) {
        write_text(self.name, out);
        match self.variants {
            None => out.push(0),
            Some(names) => {
                out.push(1);
                write_len(names.len(), out);
                names.iter().for_each(|name| write_text(name, out));
            }
        }
        write_all(&self.bodies, nodes, out);
    }
}
