//! What speaks against a producer, where there are more than a consumer wants.

use std::cmp::Ordering;

use crate::time::Duration;

/// A round-trip time counts as lower only where it is lower by this part of itself,
const RTT_MARGIN_PART: u32 = 4;
/// and by no less than this: what lies below varies by itself.
const RTT_MARGIN_MIN: Duration = Duration::from_millis(2);

/// What speaks against a producer, the most important first. A producer of lower cost is preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost(pub Vec<Part>);

/// One of the things that speak against a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A number that is what it is.
    Exact(u64),
    /// A round-trip time, which varies. One that is not known counts as the highest.
    Rtt(Option<Duration>),
}

impl Part {
    fn order(self) -> (u64, Duration) {
        match self {
            Self::Exact(number) => (number, Duration::ZERO),
            Self::Rtt(rtt) => (0, rtt.unwrap_or(Duration::MAX)),
        }
    }

    /// Whether it is below `other` by so much that it is worth a switch.
    fn is_clearly_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Rtt(Some(rtt)), Self::Rtt(Some(other))) => {
                rtt.saturating_add((rtt / RTT_MARGIN_PART).max(RTT_MARGIN_MIN)) < other
            }
            (one, other) => one.order() < other.order(),
        }
    }
}

impl Cost {
    /// Which of two is preferred, where it costs nothing to choose.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        let order = |cost: &Self| cost.0.iter().map(|part| part.order()).collect::<Vec<_>>();
        order(self).cmp(&order(other))
    }

    /// Whether it is below `other` by so much that it is worth a switch.
    #[must_use]
    pub fn is_clearly_below(&self, other: &Self) -> bool {
        for (&one, &other) in self.0.iter().zip(&other.0) {
            if one.is_clearly_below(other) {
                return true;
            }
            if other.is_clearly_below(one) {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtt(millis: u64) -> Part {
        Part::Rtt(Some(Duration::from_millis(millis)))
    }

    #[test]
    fn the_first_part_that_differs_clearly_decides() {
        let exact = Part::Exact;
        let table = [
            (vec![exact(1)], vec![exact(2)], true),
            (vec![exact(2)], vec![exact(2)], false),
            (vec![exact(1), rtt(90)], vec![exact(2), rtt(1)], true),
            (vec![exact(1), rtt(10)], vec![exact(1), rtt(90)], true),
            (vec![rtt(100)], vec![rtt(126)], true),
            (vec![rtt(100)], vec![rtt(125)], false),
            (vec![rtt(1)], vec![rtt(3)], false),
            (vec![rtt(1)], vec![rtt(4)], true),
            (vec![rtt(100), exact(0)], vec![rtt(110), exact(1)], true),
            (vec![rtt(110), exact(0)], vec![rtt(100), exact(1)], true),
            (vec![rtt(900)], vec![Part::Rtt(None)], true),
            (vec![Part::Rtt(None)], vec![Part::Rtt(None)], false),
            (vec![], vec![], false),
        ];
        for (one, other, expected) in table {
            let (one, other) = (Cost(one), Cost(other));
            assert_eq!(one.is_clearly_below(&other), expected, "{one:?} {other:?}");
            assert!(!(expected && other.is_clearly_below(&one)));
        }
    }

    #[test]
    fn choosing_needs_no_margin() {
        let (near, far) = (Cost(vec![rtt(100)]), Cost(vec![rtt(101)]));
        assert_eq!(near.compare(&far), Ordering::Less);
        assert_eq!(far.compare(&Cost(vec![Part::Rtt(None)])), Ordering::Less);
    }
}
