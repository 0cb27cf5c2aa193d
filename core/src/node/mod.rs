//! Workers and handles: the thin async layer that carries inputs to the machines and carries out what
//! they want. No protocol decision is taken here.

#[cfg(test)]
mod alone;
mod builder;
pub mod collections;
mod connections;
pub mod discovery;
mod driver;
mod events;
mod framed;
pub mod groups;
mod link;
mod network;
mod store;
pub mod streams;
mod tasks;
mod watched;

pub use builder::NetworkBuilder;
pub use connections::LinkError;
pub use link::{Link, LinkReceiver, LinkSender, Protocol};
pub use network::{Error, Local, Network};
