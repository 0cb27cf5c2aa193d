//! One who follows the changes of a collection, and knows at each moment what the contents must be.

use smalti_core::collections::{Changed, Lagged};
use smalti_core::groups::Version;

use super::contents::{Contents, Moved};

/// Contents that are kept up to date by changes alone.
pub(super) struct Follower<C: Contents> {
    /// How far it has come.
    at: Option<Version>,
    /// More may come of that version: what one write has changed is told one by one.
    may_go_on: bool,
    contents: C::Plain,
}

impl<C: Contents> Follower<C> {
    /// One who is told what comes after `at`, where the contents were these.
    pub(super) const fn new(at: Option<Version>, contents: C::Plain) -> Self {
        Self {
            at,
            may_go_on: false,
            contents,
        }
    }

    /// Takes a change.
    ///
    /// # Errors
    /// Where it cannot be the next.
    pub(super) fn take(&mut self, changed: Changed<C::Change>) -> Result<Moved, String> {
        let Changed { version, change } = changed;
        if let Some(at) = self.at {
            let goes_on = self.may_go_on && at == version;
            if !goes_on && !is_after(version, at)? {
                return Err(format!("a change of {version:?} is told after {at:?}"));
            }
        }
        (self.at, self.may_go_on) = (Some(version), true);
        C::follow(&mut self.contents, change).map_err(|cause| {
            format!(
                "at {version:?}: {cause}, where there is {:?}",
                self.contents
            )
        })
    }

    /// Takes contents in place of changes.
    ///
    /// # Errors
    /// Where nothing was missed.
    pub(super) fn lag(&mut self, lagged: &Lagged<C>) -> Result<(), String> {
        self.replace(lagged.view.version(), lagged.view.plain())
    }

    fn replace(&mut self, version: Option<Version>, contents: C::Plain) -> Result<(), String> {
        let version = version.ok_or("contents without a version were missed")?;
        if let Some(at) = self.at
            && at.incarnation == version.incarnation
            && !is_after(version, at)?
        {
            return Err(format!("{version:?} was missed after {at:?}"));
        }
        (self.at, self.may_go_on) = (Some(version), false);
        self.contents = contents;
        Ok(())
    }

    /// There is nothing to be told now: reads must see just this.
    ///
    /// # Errors
    /// Where they do not.
    pub(super) fn is_level(&self, contents: &C::Plain) -> Result<(), String> {
        if self.contents == *contents {
            return Ok(());
        }
        Err(format!(
            "who has followed the changes to {:?} has {:?}, and the contents are {contents:?}",
            self.at, self.contents
        ))
    }
}

/// Whether a version comes after another one.
///
/// # Errors
/// Where that is of another life, of which nobody has told.
fn is_after(version: Version, at: Version) -> Result<bool, String> {
    if version.incarnation == at.incarnation {
        return Ok(version.index > at.index);
    }
    Err(format!(
        "a change of {version:?} is told after {at:?}, as if they were of one life"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use smalti_core::collections::SetChange;

    use super::*;
    use crate::collections::contents::Members;
    use crate::collections::record::version;

    fn insert(version: Version, item: u64) -> Changed<SetChange<u64>> {
        Changed {
            version,
            change: SetChange::Inserted(item),
        }
    }

    fn new(at: Option<Version>) -> Follower<Members> {
        Follower::new(at, BTreeSet::new())
    }

    #[test]
    fn versions_rise_but_within_one_write() {
        let mut follower = new(None);
        for (index, item) in [(4, 1), (4, 2), (6, 3)] {
            follower.take(insert(version(1, index), item)).unwrap();
        }
        follower.is_level(&BTreeSet::from([1, 2, 3])).unwrap();
        follower.take(insert(version(1, 5), 4)).unwrap_err();
        let mut follower = new(Some(version(1, 4)));
        follower.take(insert(version(1, 4), 1)).unwrap_err();
    }

    #[test]
    fn another_life_is_told_of() {
        let mut follower = new(None);
        follower.take(insert(version(1, 4), 1)).unwrap();
        follower.take(insert(version(2, 5), 2)).unwrap_err();
        let mut follower = new(Some(version(1, 4)));
        follower
            .replace(Some(version(2, 3)), BTreeSet::new())
            .unwrap();
        follower.take(insert(version(2, 4), 2)).unwrap();
    }

    #[test]
    fn nothing_is_missed_that_was_told() {
        let mut follower = new(None);
        follower.take(insert(version(1, 4), 1)).unwrap();
        let contents = BTreeSet::from([1]);
        follower
            .replace(Some(version(1, 4)), contents.clone())
            .unwrap_err();
        follower.replace(None, contents.clone()).unwrap_err();
        follower.replace(Some(version(1, 5)), contents).unwrap();
        follower.take(insert(version(1, 5), 2)).unwrap_err();
    }

    #[test]
    fn contents_that_the_changes_do_not_lead_to_are_noticed() {
        let mut follower = new(None);
        follower.take(insert(version(1, 4), 1)).unwrap();
        follower.is_level(&BTreeSet::new()).unwrap_err();
        follower.take(insert(version(1, 5), 1)).unwrap_err();
    }
}
