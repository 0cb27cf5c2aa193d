//! Groups: what a group is, beside the protocols that its members speak.

mod key;
mod terms;

pub use key::GroupKey;
pub use terms::Terms;
