//! Groups of consensus machines: what they agree on, whatever goes wrong.

mod chaos;
mod clients;
mod cluster;
mod digests;
mod disk;
mod driven;
mod evidence;
mod history;
mod image;
mod ledger;
mod meetings;
mod network;
mod peers;
mod plan;
mod rare;
mod reforms;
mod registers;
mod set_backs;
mod settle;
mod trials;
mod watch;

pub use chaos::{Chaos, Meetings, SetBack};
pub(crate) use plan::hasten_catching_up;
