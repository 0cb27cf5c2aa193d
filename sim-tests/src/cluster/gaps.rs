//! Whether what a consumer is told of missing readings of one producer is what it misses.
//!
//! What is missing is told before the reading after the gap, but possibly in the same instant in
//! which readings before the gap are still to be taken. What was told by the time that the consumer
//! had taken all there was belongs to the next gap, to the last reading; what was told since may
//! belong to a later one.
//!
//! Of the readings that a new life of the producer has sent before the first that arrives, and of
//! those that the former life has sent last, any number may be told.

/// What one consumer has received of one producer, and what it was told of it. `L` names a life of
/// the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gaps<L> {
    at: Option<At<L>>,
    /// Told by the time that all was taken, and not seen to be missing yet.
    due: u64,
    /// Told since then.
    fresh: u64,
    /// Told since then too, but before a new life began to arrive: it may belong to that beginning.
    doubtful: u64,
}

/// How far a life has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At<L> {
    life: L,
    /// The number that is due.
    next: u64,
    /// All from this number on have been received.
    unbroken_from: u64,
}

/// How many readings have been sent in lives before `life` that are not received where all has been up to
/// `next`, a life and the number due in it. `lives` has each with its next number, from the first life on.
pub(super) fn unreceived<L: Copy + PartialEq>(
    lives: &[(L, u64)],
    next: Option<(L, u64)>,
    life: L,
) -> u64 {
    let place = |life| lives.iter().position(|(known, _)| *known == life);
    let end = place(life).unwrap_or(lives.len());
    let (start, received) = match next.and_then(|(life, next)| Some((place(life)?, next))) {
        Some((start, next)) => (start, next),
        None => (0, 0),
    };
    let lives = lives.get(start..end).unwrap_or_default();
    let sent: u64 = lives.iter().map(|(_, next)| next).sum();
    sent.saturating_sub(received)
}

/// What a reading has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing is missing before it.
    Next,
    /// So many are missing before it, which were told.
    Missing(u64),
    /// It is the first of its producer.
    First,
    /// It is the first of another life than the one before.
    NextLife,
}

impl<L> Default for Gaps<L> {
    fn default() -> Self {
        Self {
            at: None,
            due: 0,
            fresh: 0,
            doubtful: 0,
        }
    }
}

impl<L: Copy + PartialEq> Gaps<L> {
    /// The consumer is told that so many are missing.
    pub(super) fn told(&mut self, datums: u64) {
        self.fresh += datums;
    }

    /// The consumer has taken all that there is.
    pub(super) fn all_taken(&mut self) {
        self.due += self.fresh;
        self.fresh = 0;
        self.doubtful = 0;
    }

    /// The life that is received and the number that is due.
    pub(super) fn next(&self) -> Option<(L, u64)> {
        self.at.map(|at| (at.life, at.next))
    }

    /// From which number on all readings of this life have been received, where one has.
    pub(super) fn unbroken_from(&self, life: L) -> Option<u64> {
        let at = self.at.filter(|at| at.life == life)?;
        Some(at.unbroken_from)
    }

    /// How many are said to be missing that no reading has shown to be.
    pub(super) const fn unaccounted(&self) -> u64 {
        self.due + self.fresh
    }

    /// Takes a reading. `unreceived` readings of earlier lives, at most, have not been received.
    pub(super) fn take(&mut self, life: L, number: u64, unreceived: u64) -> Result<Shown, String> {
        let Some(at) = self.at.as_mut().filter(|at| at.life == life) else {
            let shown = if self.at.is_none() {
                Shown::First
            } else {
                Shown::NextLife
            };
            self.begin(life, number, unreceived)?;
            return Ok(shown);
        };
        let Some(missing) = number.checked_sub(at.next) else {
            return Err(format!("number {} was due", at.next));
        };
        at.next = number + 1;
        if missing > 0 {
            at.unbroken_from = number;
        }
        let Some(rest) = missing.checked_sub(self.due) else {
            return Err(format!(
                "{} were said to be missing, not {missing}",
                self.due
            ));
        };
        if rest > self.fresh + self.doubtful {
            let told = self.due + self.fresh + self.doubtful;
            return Err(format!("{missing} are missing, and it was told of {told}"));
        }
        self.due = 0;
        let of_doubtful = rest.saturating_sub(self.fresh);
        self.fresh = self.fresh.saturating_sub(rest);
        self.doubtful -= of_doubtful;
        Ok(if missing == 0 {
            Shown::Next
        } else {
            Shown::Missing(missing)
        })
    }

    fn begin(&mut self, life: L, number: u64, unreceived: u64) -> Result<(), String> {
        if self.due > unreceived + number {
            return Err(format!(
                "{} were said to be missing, but there were only {unreceived} of earlier lives and \
                 {number} of this one",
                self.due
            ));
        }
        *self = Self {
            at: Some(At {
                life,
                next: number + 1,
                unbroken_from: number,
            }),
            due: 0,
            fresh: 0,
            doubtful: self.fresh,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has received numbers 0 and 1 of the life 'a'.
    fn begun() -> Gaps<char> {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.take('a', 0, 0), Ok(Shown::First));
        assert_eq!(gaps.take('a', 1, 0), Ok(Shown::Next));
        gaps.all_taken();
        gaps
    }

    #[test]
    fn a_gap_must_be_told_of_exactly() {
        for (told, passes) in [(2, false), (3, true), (4, false)] {
            let mut gaps = begun();
            gaps.told(told);
            gaps.all_taken();
            assert_eq!(gaps.take('a', 5, 0).is_ok(), passes, "{told}");
        }
        let mut gaps = begun();
        gaps.told(1);
        gaps.all_taken();
        assert!(gaps.take('a', 2, 0).is_err(), "nothing is missing");
        assert!(begun().take('a', 1, 0).is_err(), "it came again");
    }

    #[test]
    fn a_surplus_hides_no_later_loss() {
        let mut gaps = begun();
        gaps.told(5);
        assert_eq!(gaps.take('a', 4, 0), Ok(Shown::Missing(2)));
        gaps.all_taken();
        assert_eq!(gaps.unaccounted(), 3);
        let mut later = gaps;
        assert!(later.take('a', 5, 0).is_err());
        assert_eq!(gaps.take('a', 8, 0), Ok(Shown::Missing(3)));
        assert_eq!(gaps.unaccounted(), 0);
        assert_eq!(gaps.unbroken_from('a'), Some(8));
        assert_eq!(gaps.unbroken_from('b'), None);
    }

    #[test]
    fn what_a_new_life_sent_before_may_be_told_or_not_but_not_more() {
        for (told, passes) in [(0, true), (4, true), (6, true), (7, false)] {
            let mut gaps = begun();
            gaps.told(told);
            gaps.all_taken();
            let taken = gaps.take('b', 4, 2);
            assert_eq!(taken.is_ok(), passes, "{told}: {taken:?}");
            if passes {
                assert_eq!((taken, gaps.next()), (Ok(Shown::NextLife), Some(('b', 5))));
                assert!(gaps.take('b', 6, 0).is_err(), "{told}: a silent loss");
            }
        }
    }

    #[test]
    fn what_is_told_just_before_a_new_life_may_belong_to_either_side_of_its_beginning() {
        let mut gaps = begun();
        gaps.told(3);
        gaps.take('b', 0, 9).unwrap();
        let mut shown = gaps;
        assert_eq!(shown.take('b', 4, 0), Ok(Shown::Missing(3)));
        gaps.all_taken();
        assert_eq!(gaps.take('b', 1, 0), Ok(Shown::Next));
        assert!(gaps.take('b', 5, 0).is_err());
    }
}
