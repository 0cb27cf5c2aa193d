//! Contents as chunks of bytes, and back.
//!
//! The first chunk says what the element types are. Each further one holds items of the collection, in their order:
//! how many, and then one after the other. Where one chunk ends and the next begins follows from the contents and the
//! length that is asked for, so that members with equal contents have equal chunks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::collection::Collection;
use super::fingerprint::Fingerprint;
use crate::protocol::raft::{COMMAND_LEN_MAX, RestoreError};
use crate::wire::{self, Values};

/// Items in one chunk, at most: those that take no bytes must end somewhere.
const ITEMS_MAX: u32 = 65_536;

/// The contents of a collection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen<C> {
    pub(super) schema: Option<Fingerprint>,
    pub(super) contents: C,
}

/// What the first chunk says.
#[derive(Serialize, Deserialize)]
struct Header {
    schema: Option<Fingerprint>,
}

impl<C: Collection> Frozen<C> {
    /// The contents.
    #[must_use]
    pub fn into_contents(self) -> C {
        self.contents
    }

    /// All as chunks of about `len` bytes, each longer by one item at most. What is longer than a command, as an entry of a queue can
    /// be that has come by two, is in a chunk of its own: two commands are as much as members take for one.
    #[must_use]
    pub fn chunks(&self, len: usize) -> Vec<Bytes> {
        let header = Header {
            schema: self.schema,
        };
        let mut chunks = vec![encoded(&header)];
        let mut chunk = Vec::new();
        let mut count = 0;
        for item in self.contents.items() {
            // What is in the collection was decoded before: that it cannot be encoded is a defect of its type's.
            let before = chunk.len();
            chunk = postcard::to_extend(&item, chunk).expect("what was decoded must be encodable");
            if count > 0 && chunk.len() - before > COMMAND_LEN_MAX {
                let long = chunk.split_off(before);
                chunks.push(closed(count, &chunk));
                (chunk, count) = (long, 0);
            }
            count += 1;
            if chunk.len() >= len || count == ITEMS_MAX {
                chunks.push(closed(count, &chunk));
                chunk.clear();
                count = 0;
            }
        }
        if count > 0 {
            chunks.push(closed(count, &chunk));
        }
        chunks
    }

    /// The contents that the chunks hold. Those of other element types than ours are not looked into.
    ///
    /// # Errors
    /// Where they hold none.
    pub fn from_chunks(chunks: &[Bytes]) -> Result<Self, RestoreError> {
        let (header, chunks) = chunks
            .split_first()
            .ok_or_else(|| malformed("it is empty"))?;
        let Header { schema } = wire::decode(header).map_err(|error| malformed(&error))?;
        let mut contents = C::default();
        if schema == Some(C::fingerprint()) {
            for chunk in chunks {
                put_all(&mut contents, chunk)?;
            }
        } else if schema.is_none() && !chunks.is_empty() {
            return Err(malformed("it holds items of no type"));
        }
        Ok(Self { schema, contents })
    }
}

fn put_all<C: Collection>(contents: &mut C, chunk: &Bytes) -> Result<(), RestoreError> {
    let mut values = Values::new(chunk);
    let count: u32 = values.next().map_err(|error| malformed(&error))?;
    if count == 0 || count > ITEMS_MAX {
        return Err(malformed("a chunk holds no items, or too many"));
    }
    for _ in 0..count {
        let item = values.next().map_err(|error| malformed(&error))?;
        contents.put(item)?;
    }
    if values.is_empty() {
        Ok(())
    } else {
        Err(malformed("something follows the items of a chunk"))
    }
}

fn closed(count: u32, items: &[u8]) -> Bytes {
    let mut chunk = wire::encode(&count).expect("a number can be encoded");
    chunk.extend_from_slice(items);
    Bytes::from(chunk)
}

fn encoded(header: &Header) -> Bytes {
    Bytes::from(wire::encode(header).expect("a header can be encoded"))
}

/// Why chunks are refused.
pub(super) fn malformed(why: &(impl ToString + ?Sized)) -> RestoreError {
    RestoreError(why.to_string())
}
