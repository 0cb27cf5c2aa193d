//! `campaign mutants`: whether the simulator would notice the loss of a rule.
//!
//! Each mutant is the protocol with one of its rules broken on purpose. They exist only in a build of their
//! own, which the command makes; a scenario that passes where a rule is broken has no teeth for it.

#[cfg(smalti_mutants)]
mod hunt;
#[cfg(not(smalti_mutants))]
mod launch;

#[cfg(smalti_mutants)]
pub(super) use hunt::mutants;
#[cfg(not(smalti_mutants))]
pub(super) use launch::mutants;
