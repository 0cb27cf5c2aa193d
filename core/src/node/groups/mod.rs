//! Groups on a node: the bonds that its members speak over.
//!
//! | part | file | what it does |
//! | --- | --- | --- |
//! | bonds | `switchboard.rs` | runs the machine of all bonds, tells each group what is its own |
//! | links | `links.rs` | the tasks of one link, and how it ends |
//! | peers | `peers.rs` | what the catalog says of peers' groups, as far as it has changed |

mod links;
mod peers;
#[expect(dead_code, reason = "the workers of groups are its users")]
mod switchboard;

pub(crate) use links::Groups;
pub(crate) use switchboard::Switchboard;
