//! Fingerprints of the shape of a type, as its `Deserialize` shows it.
//!
//! Producer and consumer agree on a stream only where they agree on its datums. What they compare is a
//! digest of the *shape*: the names of structs, enums, fields and variants, the kinds of primitives, and how
//! sequences, maps, options and tuples nest. Nothing of it depends on the compiler: where a type lives and
//! what `type_name` says of it play no part, so two builds of one source agree.
//!
//! The shape is found by letting the type deserialize itself from a tracer, a
//! deserializer that invents a value and notes what it is asked for. One value shows one variant of each
//! enum, so the type is deserialized again and again, each time by way of a variant not seen yet.
//! Recursion is cut where a type meets itself. A type may refuse the invented values (a text that must be an
//! address, say): then other samples are tried, and if all are refused, what lies behind it stays *opaque*,
//! which is part of the shape like anything else. Passes, depth and work are bounded; what lies beyond the
//! bounds is opaque too. The digest is that of the shape unfolded to [`UNFOLD_DEPTH`] nested types.

mod error;
mod samples;
mod shape;
mod tracer;

#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;

use crate::id::Digest;

/// How many types deep a recursive shape is unfolded for its digest.
pub const UNFOLD_DEPTH: usize = 64;

/// The fingerprint of `T`: equal for types that read the same data under the same names.
///
/// It changes when a name, the order of fields or variants, or a type anywhere inside changes. It is a pure
/// function of `T`'s `Deserialize`, never fails, and takes some microseconds for each variant of an enum:
/// ask once and keep it.
///
/// ```
/// use smalti_core::schema::fingerprint;
///
/// mod v1 { #[derive(serde::Deserialize)] pub struct Price { pub bid: u64, pub ask: u64 } }
/// mod v2 { #[derive(serde::Deserialize)] pub struct Price { pub ask: u64, pub bid: u64 } }
/// mod copy { #[derive(serde::Deserialize)] pub struct Price { pub bid: u64, pub ask: u64 } }
///
/// assert_ne!(fingerprint::<v1::Price>(), fingerprint::<v2::Price>());
/// assert_eq!(fingerprint::<v1::Price>(), fingerprint::<copy::Price>());
/// ```
#[must_use]
pub fn fingerprint<T: DeserializeOwned>() -> Digest {
    let (root, nodes) = tracer::trace::<T>();
    shape::digest(&root, &nodes)
}
