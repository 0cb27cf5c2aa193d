//! Contents by version: whoever has come equally far has the same.

use std::collections::BTreeMap;
use std::fmt::Debug;

use smalti_core::groups::{Incarnation, Index, Version};

/// The contents that anybody has shown.
pub(super) struct Views<T>(BTreeMap<(Incarnation, Index), T>);

impl<T> Default for Views<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone + PartialEq + Debug> Views<T> {
    /// Notes what somebody has at a version.
    ///
    /// # Errors
    /// Where somebody else has had other contents there.
    pub(super) fn note(&mut self, version: Version, contents: &T) -> Result<(), String> {
        let place = (version.incarnation, version.index);
        let first = self.0.entry(place).or_insert_with(|| contents.clone());
        if first == contents {
            return Ok(());
        }
        Err(format!(
            "at {version:?} one has {first:?} and another {contents:?}"
        ))
    }

    /// How many versions were seen.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use smalti_core::Digest;

    use super::*;

    #[test]
    fn different_contents_at_one_version_are_noticed() {
        let version = |life, index| Version {
            incarnation: Incarnation(Digest::from_bytes([life; 32])),
            index: Index(index),
        };
        let mut views = Views::default();
        views.note(version(1, 5), &"a").unwrap();
        views.note(version(1, 5), &"a").unwrap();
        views.note(version(1, 6), &"b").unwrap();
        views.note(version(2, 5), &"c").unwrap();
        assert_eq!(views.len(), 3);
        let error = views.note(version(1, 5), &"b").unwrap_err();
        assert!(
            error.contains("\"a\"") && error.contains("\"b\""),
            "{error}"
        );
    }
}
