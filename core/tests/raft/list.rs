//! The state machine of the scripts.

use bytes::Bytes;
use smalti_core::protocol::raft::{ApplyContext, FrozenState, Raft, RestoreError, StateMachine};

use crate::show::text;

/// Remembers all commands; the output of each is their number.
#[derive(Default)]
pub(crate) struct List(pub(crate) Vec<Bytes>);

/// The commands up to some moment.
pub(crate) struct FrozenList(Vec<Bytes>);

impl StateMachine for List {
    type Frozen = FrozenList;

    fn apply(&mut self, _: ApplyContext, command: &[u8]) -> Bytes {
        self.0.push(Bytes::copy_from_slice(command));
        Bytes::from(self.0.len().to_string())
    }

    fn freeze(&self) -> FrozenList {
        FrozenList(self.0.clone())
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        self.0 = chunks.to_vec();
        Ok(())
    }

    fn is_canonical(&self) -> bool {
        true
    }
}

impl FrozenState for FrozenList {
    fn chunks(&self, _: usize) -> Vec<Bytes> {
        self.0.clone()
    }
}

/// What a member has applied.
pub(crate) fn list(raft: &Raft<List>) -> String {
    const SHOWN: usize = 12;
    let commands: Vec<_> = raft.state().0.iter().map(|command| text(command)).collect();
    match &commands[..] {
        [] => "nothing".to_owned(),
        [first, .., last] if commands.len() > SHOWN => {
            format!("{first} .. {last} ({})", commands.len())
        }
        _ => commands.join(" "),
    }
}
