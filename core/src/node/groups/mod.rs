//! Groups on a node: members that agree on one history of commands.
//!
//! | file | what it does |
//! | --- | --- |
//! | `registry` | the node's groups, what the catalog says of them, how they end |
//! | `builder` | how one is joined |
//! | `handle` | what applications do with one: commands, queries, leaving |
//! | `view` | where the node stands in one, and conditions on that |
//! | `machine` | applications' state machines, and how consensus runs them |
//! | `passages` | from one life of a group to another, for whoever looks for it |
//! | `worker`, `inbox`, `calls` | the task that runs one group's consensus |
//! | `level` | whether the node has what its leader had when it was first heard |
//! | `switchboard`, `links`, `peers` | bonds with the members of all groups |

mod builder;
mod calls;
mod error;
mod handle;
mod inbox;
mod level;
mod links;
mod machine;
mod passages;
mod peers;
mod registry;
mod switchboard;
#[cfg(test)]
mod tests;
mod view;
mod worker;

pub(crate) use builder::COMMAND_TIMEOUT;
pub use builder::{GroupBuilder, Storage};
pub use error::{CommandError, JoinError, QueryError, Stopped};
pub use handle::{
    Bond, Bonds, Consistency, Executed, Group, GroupEvent, Pending, PendingMany, Queried, Reformed,
    Superseded,
};
pub(crate) use links::Groups as BondLinks;
pub use machine::{NoOp, Serialized, Snapshot, StateMachine};
pub use passages::Passage;
pub use registry::Groups;
pub(crate) use registry::{Foundation, start};
pub use view::{Committed, Condition, GroupStatus, IndexRange, When};
