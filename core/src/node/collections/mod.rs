//! Replicated collections on a node: each a group whose state is the collection.
//!
//! | file | what it does |
//! | --- | --- |
//! | `config` | what the nodes of a collection agree on |
//! | `member` | makes a collection the state machine of a group |
//! | `handle` | readers and writers, and how they are opened |
//! | `showcase` | where the member and the handles meet |
//! | `view` | contents at one moment |
//! | `when` | conditions to wait for |
//! | `changes` | change after change |
//! | `roles` | what is written for all kinds alike |
//! | `map`, `set`, `vec`, `queue`, `cells` | reads and writes of the kinds |
//! | `declare` | collections and streams that are declared once |

mod cells;
mod changes;
mod config;
pub mod declare;
mod error;
mod handle;
mod map;
mod member;
mod queue;
mod roles;
mod set;
mod showcase;
mod vec;
mod view;
mod when;

pub use cells::{CellReader, CellWriter, OnceReader, OnceWriter};
pub use changes::{Changed, Changes, Lagged};
pub use config::{CollectionConfig, SyncConfig};
pub use error::{OpenError, WriteError};
pub use handle::{Reader, Writer, Written};
pub use map::{MapReader, MapWriter};
pub use queue::{PriorityQueueReader, PriorityQueueWriter};
pub use set::{SetReader, SetWriter};
pub use vec::{VecReader, VecWriter};
pub use view::View;
pub use when::{Updated, When};
