//! Groups: what a group is, beside the protocols that its members speak.

mod key;
mod terms;
mod write_key;

pub use key::GroupKey;
pub use terms::Terms;
pub use write_key::{WriteAccess, WriteKey, WriteKeyMismatch, WriteVerifier};
