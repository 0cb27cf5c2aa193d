//! What writers ask for, and what comes of it.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::collection::{Collection, OutOfBounds, Reply};
use super::fingerprint::Fingerprint;
use crate::protocol::raft::COMMAND_LEN_MAX;
use crate::wire::{self, DecodeError, EncodeError, Values};

/// What several operations give together has so many bytes at most, when encoded. Without a limit a short command could ask for a long
/// value so often that no member has room for the answer.
pub const RESULTS_LEN_MAX: usize = COMMAND_LEN_MAX;

/// A command of a collection's group: operations that are applied as one, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The element types of who has written it.
    pub(super) schema: Fingerprint,
    /// How many operations there are.
    pub(super) count: u32,
    /// The operations, one after the other. They are decoded only where the element types are the same.
    pub(super) operations: Bytes,
}

/// What came of a [`Command`], on every member alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All was applied; what each operation gives.
    Applied(Vec<Reply>),
    /// There is no such place. Nothing was applied.
    OutOfBounds(OutOfBounds),
    /// The collection holds other element types, these. Nothing was applied.
    Foreign(Fingerprint),
    /// The operations cannot be read. Nothing was applied.
    Malformed,
    /// There are several, and what they give is longer than [`RESULTS_LEN_MAX`] together. Nothing was applied.
    ResultsTooLong,
}

/// Operations of one collection that are applied as one: all of them, with nothing of others between, or none.
///
/// Each method gives a [`Ticket`] for what that operation gives, which [`Results`] are asked with.
///
/// ```
/// use smalti_core::collections::{Batch, Map};
///
/// let mut batch: Batch<Map<String, u64>> = Batch::new();
/// let former = batch.insert("a".to_owned(), 1);
/// let added = batch.extend([("b".to_owned(), 2), ("c".to_owned(), 3)]);
/// assert_eq!(batch.len(), 2);
/// # let _ = (former, added);
/// ```
pub struct Batch<C> {
    operations: BytesMut,
    count: u32,
    /// Why one of them is missing.
    error: Option<EncodeError>,
    collection: PhantomData<fn(C)>,
}

/// Stands for what one operation of a batch gives.
#[derive(Clone, Copy, Debug)]
pub struct Ticket<R> {
    place: u32,
    result: PhantomData<fn() -> R>,
}

/// What the operations of a batch gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Results(Vec<Reply>);

impl<C: Collection> Batch<C> {
    /// One without operations.
    #[must_use]
    pub fn new() -> Self {
        Self {
            operations: BytesMut::new(),
            count: 0,
            error: None,
            collection: PhantomData,
        }
    }

    /// How many operations there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an operation that gives an `R`.
    pub(crate) fn push<R>(&mut self, operation: &C::Operation) -> Ticket<R> {
        let len = self.operations.len();
        if let Err(error) = wire::encode_into(operation, &mut self.operations) {
            self.operations.truncate(len);
            self.error.get_or_insert(error);
        }
        let place = self.count;
        self.count = self.count.saturating_add(1);
        Ticket {
            place,
            result: PhantomData,
        }
    }

    /// Why one of the operations could not be encoded, if that is so.
    pub(crate) const fn error(&self) -> Option<&EncodeError> {
        self.error.as_ref()
    }

    /// The command that applies all that could be encoded.
    pub(crate) fn into_command(self, schema: Fingerprint) -> Command {
        Command {
            schema,
            count: self.count,
            operations: self.operations.freeze(),
        }
    }

    /// The batch that `command` was made of.
    pub(crate) fn of_command(command: Command) -> Self {
        Self {
            operations: command.operations.into(),
            count: command.count,
            error: None,
            collection: PhantomData,
        }
    }
}

impl<C: Collection> Default for Batch<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> Clone for Batch<C> {
    fn clone(&self) -> Self {
        Self {
            operations: self.operations.clone(),
            count: self.count,
            error: self.error.clone(),
            collection: PhantomData,
        }
    }
}

impl<C> PartialEq for Batch<C> {
    fn eq(&self, other: &Self) -> bool {
        (self.count, &self.operations, &self.error)
            == (other.count, &other.operations, &other.error)
    }
}

impl<C> fmt::Debug for Batch<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Batch({} operations, {} bytes)",
            self.count,
            self.operations.len()
        )
    }
}

impl Results {
    pub(crate) const fn new(replies: Vec<Reply>) -> Self {
        Self(replies)
    }

    /// What the operation gave that `ticket` stands for.
    ///
    /// # Errors
    /// Where it is not what that operation gives: the ticket is of another batch, or the members run another build.
    pub fn get<R: DeserializeOwned>(&self, ticket: &Ticket<R>) -> Result<R, DecodeError> {
        let reply = self.0.get(ticket.place as usize);
        // What is not there is no encoding of anything but of nothing.
        wire::decode(reply.map_or(&[], |reply| &reply.0))
    }
}

impl Command {
    /// The bytes of the operations.
    pub(crate) const fn len(&self) -> usize {
        self.operations.len()
    }

    /// The operations.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn operations<O: DeserializeOwned>(&self) -> Result<Vec<O>, DecodeError> {
        let mut values = Values::new(&self.operations);
        // An operation takes a byte at least, so no count makes this run for long.
        let mut operations = Vec::new();
        while !values.is_empty() {
            operations.push(values.next()?);
        }
        Ok(operations)
    }
}
