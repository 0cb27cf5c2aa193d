//! Workers and handles: the thin async layer that carries inputs to the machines and carries out what
//! they want. No protocol decision is taken here.

mod connections;
mod framed;
mod link;
mod tasks;

pub use connections::LinkError;
pub use link::{Link, LinkReceiver, LinkSender, Protocol};
