//! Consensus: a group of members that agree on one log of commands.
//!
//! Raft (Ongaro and Ousterhout 2014; Ongaro 2014), with founding, membership, catch-up and sessions of our
//! own. The book's page on consensus says which rule guards against what, and which tests hold it.

mod asking;
mod catch_up;
mod client;
mod config;
mod configuration;
mod core;
mod disk;
mod election;
mod entry;
mod founding;
mod hello;
mod io;
mod leading;
mod log;
mod machine;
mod meeting;
mod membership;
mod memory;
mod messages;
mod outline;
mod outputs;
mod progress;
mod readers;
mod reads;
mod reforming;
mod remains;
mod replica;
mod replication;
mod saving;
mod sessions;
mod set_back;
mod standing;
mod state;
mod status;
mod store;
mod superseding;
#[cfg(test)]
mod test_samples;
mod types;

pub use config::{
    Config, ConfigError, FoundingRule, LeadershipPreference, StorageClass, VOTERS_MAX,
};
pub use configuration::Configuration;
pub use entry::{
    Batch, COMMAND_LEN_MAX, Commands, CommandsBuilder, CommandsIter, Entry, Owner, Payload,
    SessionId,
};
pub use io::{
    CallId, CallOutcome, Event, Input, Output, ReadError, ReadId, Reformed, Rejection, StopReason,
    Superseded, Surroundings, WriteId,
};
pub use machine::{Identity, Raft};
pub use memory::{InMemoryStorage, StoreImage};
pub use messages::{
    Append, AppendOutcome, AppendReply, Candidacy, Envelope, Hello, Meeting, Message, Pledge,
    Reform, Verdict,
};
pub use outline::Outline;
pub use outputs::{Ending, Outputs, OutputsBuilder};
pub use reforming::Stalled;
pub use remains::{Part, Remains};
pub use standing::{Ancestor, Offer, Phase, Seal, Weight};
pub use state::{ApplyContext, FrozenState, RestoreError, StateMachine};
pub use status::{Role, Status};
pub use store::{
    HardState, Manifest, Recovered, Snapshot, StagedChunk, Storage, StorageError, Write,
};
pub use types::{
    Charter, Incarnation, Index, Member, Position, Run, Runs, Sequence, Term, Version,
};

#[cfg(test)]
mod tests;
