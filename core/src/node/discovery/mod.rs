//! Discovery on a node: the worker that runs the machine, and the handle.

mod handle;
mod links;
mod sessions;
mod worker;

pub use handle::{CatalogWatch, Discovery, Error, Events, EventsLagged};
pub(crate) use links::Gossip;
pub(crate) use sessions::CatalogSync;
pub(crate) use worker::{Listeners, start};
