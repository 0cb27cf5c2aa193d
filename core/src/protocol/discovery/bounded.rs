//! Decoding of lists whose length comes from the network.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Elements for which room is made before any was decoded.
const PREALLOCATED_MAX: usize = 16;

/// Decodes a list of at most `MAX` elements. Memory grows with the elements that are there, never with
/// the length that is claimed.
pub(super) fn vec<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let claimed = elements.size_hint().unwrap_or(0);
        if claimed > MAX {
            return Err(A::Error::invalid_length(claimed, &self));
        }
        let mut list = Vec::with_capacity(claimed.min(PREALLOCATED_MAX));
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Sent(Vec<u8>);

    #[derive(serde::Deserialize)]
    struct Three(#[serde(deserialize_with = "vec::<_, _, 3>")] Vec<u8>);

    #[test]
    fn a_longer_list_is_refused() {
        for len in 0..8 {
            let wire = postcard::to_stdvec(&Sent(vec![7; len])).unwrap();
            let decoded = postcard::from_bytes::<Three>(&wire);
            assert_eq!(
                decoded.map(|list| list.0.len()).ok(),
                (len <= 3).then_some(len)
            );
        }
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        let claim = postcard::to_stdvec(&u32::MAX).unwrap();
        assert!(postcard::from_bytes::<Three>(&claim).is_err());
    }
}
