//! What the members of a group must agree on.

use std::collections::BTreeSet;

use super::{GroupKey, WriteVerifier};
use crate::id::{Digest, GroupId, UniqueId};
use crate::protocol::raft::Config;
use crate::wire;

/// What the value that stands for a key in its group's id is derived for. It proves nothing: that takes another
/// value of the key.
const PUBLIC: &str = "smalti 1 public value of a group key";

/// All that the members of a group must agree on, beside the key. Nodes whose terms differ are in different
/// groups, and never meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How consensus is run, storage class included.
    pub consensus: Config,
    /// Names the state machine: what commands mean, what they do, and how they are encoded.
    pub machine: UniqueId,
    /// Names the way in which members that are behind catch up.
    pub sync: UniqueId,
    /// The names of those who judge tickets, without their keys: these may change in a group's life.
    pub ticket_validators: BTreeSet<UniqueId>,
    /// What writers are checked by; `None` where whoever knows the key may write.
    pub write_verifier: Option<WriteVerifier>,
}

impl Terms {
    /// The id of the group of those who know `key` and agree on these terms. It is public, and two groups of one
    /// key cannot be told to have it in common.
    #[must_use]
    pub fn group_id(&self, key: &GroupKey) -> GroupId {
        let public = key.derive(PUBLIC);
        let consensus = wire::encode(&self.consensus).expect("numbers and choices can be encoded");
        let mut parts: Vec<&[u8]> = vec![
            &public[..],
            &consensus,
            self.machine.as_bytes(),
            self.sync.as_bytes(),
        ];
        parts.extend(
            self.ticket_validators
                .iter()
                .map(|name| &name.as_bytes()[..]),
        );
        if let Some(verifier) = &self.write_verifier {
            // No name of a validator is so short: neither is taken for the other.
            parts.extend([&b"write verifier"[..], verifier.as_bytes()]);
        }
        Digest::of("group id 1", &parts).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::raft::StorageClass;
    use crate::unique_id;

    fn terms() -> Terms {
        Terms {
            consensus: Config::default(),
            machine: unique_id!("counter"),
            sync: unique_id!("log"),
            ticket_validators: BTreeSet::from([unique_id!("jwt")]),
            write_verifier: None,
        }
    }

    #[test]
    fn a_group_is_its_key_and_all_that_its_members_agree_on() {
        let key = GroupKey::from_bytes([1; 32]);
        let mut durable = terms();
        durable.consensus.storage = StorageClass::Durable;
        let mut slower = terms();
        slower.consensus.election_timeout *= 2;
        let mut machine = terms();
        machine.machine = unique_id!("register");
        let mut sync = terms();
        sync.sync = unique_id!("snapshots");
        let mut stricter = terms();
        stricter.ticket_validators.insert(unique_id!("tdx"));
        let mut open = terms();
        open.ticket_validators.clear();
        let verifier = WriteVerifier::from_bytes([3; 32]);
        let mut guarded = terms();
        guarded.write_verifier = Some(verifier);
        let mut named_alike = terms();
        let name = UniqueId::from_bytes(*verifier.as_bytes());
        named_alike.ticket_validators.insert(name);
        let others = [
            durable,
            slower,
            machine,
            sync,
            stricter,
            open,
            guarded,
            named_alike,
        ];
        let mut ids: BTreeSet<GroupId> = others.iter().map(|terms| terms.group_id(&key)).collect();
        ids.insert(terms().group_id(&key));
        ids.insert(terms().group_id(&GroupKey::from_bytes([2; 32])));
        assert_eq!(ids.len(), 10);
        assert_eq!(terms().group_id(&key), terms().group_id(&key.clone()));
    }

    #[test]
    fn the_id_shows_neither_the_key_nor_its_public_value() {
        let key = GroupKey::from_bytes([1; 32]);
        let id = terms().group_id(&key);
        assert_ne!(id.as_bytes(), key.as_bytes());
        assert_ne!(*id.as_bytes(), *key.derive(PUBLIC));
    }
}
