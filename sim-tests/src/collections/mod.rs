//! Whole nodes that share collections, under turmoil: what each kind promises to writers, readers and those who follow
//! changes.
//!
//! | file | what it does |
//! | --- | --- |
//! | `chaos` | the scenario: who takes part, what goes wrong, and how it ends |
//! | `world` | what all of a run have in common: its time, its phase, what it finds |
//! | `part` | one collection of a run, on all of its hosts |
//! | `handle` | one collection on one host: what it does, follows and is told |
//! | `kinds` | what is done with each kind of collection |
//! | `contents` | contents as plain values, and what changes make of them |
//! | `record` | what all hosts did with one collection, and saw of it |
//! | `views`, `slots`, `items`, `follower` | kinds of things that are seen, and whether they can be |

mod chaos;
mod contents;
mod follower;
mod handle;
mod items;
mod kinds;
mod part;
mod record;
mod slots;
mod views;
mod world;

pub use chaos::Chaos;
