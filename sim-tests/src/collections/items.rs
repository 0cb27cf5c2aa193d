//! Items that are put into a collection and taken out of it again: each is there once, and goes to one taker.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::groups::{Incarnation, Index, Version};
use smalti_sim::history::ClientId;

use super::contents::Moved;

/// What is known of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate<T> {
    /// Nobody knows, yet or ever.
    Unknown,
    /// It has had no effect, and never will.
    Refused,
    /// It took effect.
    Done(Version, T),
}

impl<T> Fate<T> {
    /// The same of what `map` makes of it.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Fate<U> {
        match self {
            Self::Unknown => Fate::Unknown,
            Self::Refused => Fate::Refused,
            Self::Done(version, what) => Fate::Done(version, map(what)),
        }
    }
}

/// From where an item is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    First,
    Last,
    /// Wherever it is.
    Any,
}

struct Put {
    handle: ClientId,
    /// Whether it was put behind all others.
    is_behind: bool,
    fate: Fate<()>,
}

struct Take {
    from: End,
    fate: Fate<Option<u64>>,
}

/// Items that went without their taker being told which.
struct Sweep {
    /// Whether those who follow the changes are told of all at once.
    is_one_change: bool,
    /// How many they were.
    fate: Fate<u64>,
}

/// An exchange of the items at two places.
struct Swap {
    places: [u64; 2],
    fate: Fate<()>,
}

/// What those have seen of an item who follow the changes.
#[derive(Clone, Copy, Default)]
struct Sighting {
    came: Option<Index>,
    went: Option<Went>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Went {
    at: Index,
    is_first: bool,
    is_last: bool,
    /// It went with others, by one change.
    is_swept: bool,
}

/// All that was put into one collection and taken out of it. Items are numbered as they are put.
#[derive(Default)]
pub(super) struct Items {
    puts: BTreeMap<u64, Put>,
    takes: Vec<Take>,
    sweeps: Vec<Sweep>,
    swaps: Vec<Swap>,
    sightings: BTreeMap<(Incarnation, u64), Sighting>,
    /// Which places were seen to exchange their items.
    swapped: BTreeSet<(Incarnation, Index, [u64; 2])>,
}

impl Items {
    pub(super) fn putting(&mut self, item: u64, handle: ClientId, is_behind: bool) {
        let put = Put {
            handle,
            is_behind,
            fate: Fate::Unknown,
        };
        self.puts.insert(item, put);
    }

    pub(super) fn put(&mut self, item: u64, fate: Fate<()>) {
        if let Some(put) = self.puts.get_mut(&item) {
            put.fate = fate;
        }
    }

    /// Gives the place of the operation on record.
    pub(super) fn taking(&mut self, from: End) -> usize {
        self.takes.push(Take {
            from,
            fate: Fate::Unknown,
        });
        self.takes.len() - 1
    }

    pub(super) fn taken(&mut self, place: usize, fate: Fate<Option<u64>>) {
        self.takes[place].fate = fate;
    }

    /// Notes that items are removed, however many. Gives the place of the operation on record.
    pub(super) fn sweeping(&mut self, is_one_change: bool) -> usize {
        self.sweeps.push(Sweep {
            is_one_change,
            fate: Fate::Unknown,
        });
        self.sweeps.len() - 1
    }

    pub(super) fn swept(&mut self, place: usize, fate: Fate<u64>) {
        self.sweeps[place].fate = fate;
    }

    /// Notes that the items at two places are exchanged. Gives the place of the operation on record.
    pub(super) fn swapping(&mut self, places: [u64; 2]) -> usize {
        self.swaps.push(Swap {
            places,
            fate: Fate::Unknown,
        });
        self.swaps.len() - 1
    }

    pub(super) fn swapped(&mut self, place: usize, fate: Fate<()>) {
        self.swaps[place].fate = fate;
    }

    /// How many takes nobody knows the fate of.
    pub(super) fn unknown_takes(&self) -> usize {
        let takes = self.takes.iter();
        takes.filter(|take| take.fate == Fate::Unknown).count()
    }

    /// Notes what who follows the changes was told at `version`.
    ///
    /// # Errors
    /// Where an item comes or goes twice.
    pub(super) fn moved(&mut self, version: Version, moved: &Moved) -> Result<(), String> {
        let at = version.index;
        let is_same = match moved {
            Moved::Nothing => true,
            Moved::Came(item) => {
                let sighting = self.sighting(version, *item);
                *sighting.came.get_or_insert(at) == at
            }
            Moved::Went {
                item,
                is_first,
                is_last,
            } => {
                let went = Went {
                    at,
                    is_first: *is_first,
                    is_last: *is_last,
                    is_swept: false,
                };
                self.goes(version, *item, went)
            }
            Moved::Swept(items) => {
                let went = Went {
                    at,
                    is_first: false,
                    is_last: false,
                    is_swept: true,
                };
                items.iter().all(|item| self.goes(version, *item, went))
            }
            Moved::Swapped(places) => {
                self.swapped.insert((version.incarnation, at, *places));
                true
            }
        };
        if is_same {
            return Ok(());
        }
        Err(format!(
            "an item comes or goes once more at {version:?}: {moved:?}"
        ))
    }

    /// Notes that an item goes. Gives whether nobody has seen it go otherwise.
    fn goes(&mut self, version: Version, item: u64, went: Went) -> bool {
        *self.sighting(version, item).went.get_or_insert(went) == went
    }

    fn sighting(&mut self, version: Version, item: u64) -> &mut Sighting {
        let place = (version.incarnation, item);
        self.sightings.entry(place).or_default()
    }

    /// Whether all that was done, told and seen fits the contents in the end.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn fit(&self, version: Version, contents: &[u64]) -> Result<(), String> {
        self.are_there(version, contents)?;
        self.are_in_order(version, contents)?;
        let lives = self.sightings.keys().map(|(life, _)| *life);
        let taken_in = self.takes.iter().filter_map(|take| match take.fate {
            Fate::Done(version, _) => Some(version.incarnation),
            Fate::Unknown | Fate::Refused => None,
        });
        for life in lives.chain(taken_in).collect::<BTreeSet<_>>() {
            self.were_taken_once(life)?;
            self.were_seen_so(life)?;
            self.were_swept_so(life)?;
        }
        self.were_swapped_so()
    }

    /// Each item that was put is there, or was taken.
    fn are_there(&self, version: Version, contents: &[u64]) -> Result<(), String> {
        let life = version.incarnation;
        let present: BTreeSet<u64> = contents.iter().copied().collect();
        if present.len() < contents.len() {
            return Err(format!("an item is there twice: {contents:?}"));
        }
        for item in &present {
            let put = self.puts.get(item);
            let put = put.ok_or_else(|| format!("item {item} is there and was put by nobody"))?;
            match put.fate {
                Fate::Refused => return Err(format!("item {item} is there and was refused")),
                Fate::Done(at, ()) if at.incarnation != life => {
                    return Err(format!(
                        "item {item} is there and was put in a life that was given up"
                    ));
                }
                Fate::Unknown | Fate::Done(..) => {}
            }
        }
        let taken: BTreeSet<u64> = self.taken_in(life).map(|(_, item, _)| item).collect();
        if let Some(item) = taken.intersection(&present).next() {
            return Err(format!("item {item} was taken and is there"));
        }
        let seen_to_go = self
            .sightings
            .iter()
            .filter(|((of, _), sighting)| *of == life && sighting.went.is_some());
        let mut gone: BTreeSet<u64> = seen_to_go.map(|((_, item), _)| *item).collect();
        for (item, put) in &self.puts {
            if let Fate::Done(at, ()) = put.fate
                && at.incarnation == life
                && at.index <= version.index
                && !present.contains(item)
            {
                gone.insert(*item);
            }
        }
        self.are_accounted_for(life, &gone.difference(&taken).copied().collect::<Vec<_>>())
    }

    /// Items that are gone, and nobody knows to have taken, went with others, or with an operation that nobody knows the fate
    /// of: one with a take at most, any number with a sweep, at one place of the log.
    fn are_accounted_for(&self, life: Incarnation, gone: &[u64]) -> Result<(), String> {
        let mut swept: BTreeMap<Index, u64> = BTreeMap::new();
        for (_, count, at) in self.swept_in(life) {
            *swept.entry(at).or_default() += count;
        }
        let mut seen: BTreeMap<Index, u64> = BTreeMap::new();
        let mut unseen: u64 = 0;
        for item in gone {
            let sighting = self.sightings.get(&(life, *item));
            match sighting.and_then(|sighting| sighting.went) {
                Some(went) => *seen.entry(went.at).or_default() += 1,
                None => unseen += 1,
            }
        }
        let mut left_at: Vec<u64> = Vec::new();
        for (at, count) in seen {
            let known = swept.entry(at).or_default();
            let explained = count.min(*known);
            *known -= explained;
            left_at.extend(Some(count - explained).filter(|left| *left > 0));
        }
        left_at.sort_unstable_by(|one, other| other.cmp(one));
        let unknown = self.sweeps.iter().filter(|it| it.fate == Fate::Unknown);
        let unknown_sweeps = unknown.count();
        let mut unexplained: u64 = left_at.iter().skip(unknown_sweeps).sum();
        if left_at.len() >= unknown_sweeps {
            unexplained += unseen.saturating_sub(swept.values().sum());
        }
        if unexplained <= self.unknown_takes() as u64 {
            return Ok(());
        }
        Err(format!(
            "items {gone:?} are gone, of which {unexplained} went with nothing that is known, and of {} takes alone it is not known \
             what they took",
            self.unknown_takes()
        ))
    }

    /// What one handle has put behind all others is in the order in which it was put, where nothing was exchanged, and was
    /// acknowledged in it.
    fn are_in_order(&self, version: Version, contents: &[u64]) -> Result<(), String> {
        let mut last_of: BTreeMap<ClientId, u64> = BTreeMap::new();
        let is_exchanged = self.swaps.iter().any(|swap| swap.fate != Fate::Refused);
        for item in contents.iter().filter(|_| !is_exchanged) {
            let Some(put) = self.puts.get(item).filter(|put| put.is_behind) else {
                continue;
            };
            if let Some(last) = last_of.insert(put.handle, *item)
                && last > *item
            {
                return Err(format!("{} has put {item} before {last}", put.handle));
            }
        }
        let mut last_of: BTreeMap<ClientId, Index> = BTreeMap::new();
        for (item, put) in &self.puts {
            if let Fate::Done(at, ()) = put.fate
                && at.incarnation == version.incarnation
                && let Some(last) = last_of.insert(put.handle, at.index)
                && last > at.index
            {
                return Err(format!(
                    "{} has put {item} after another, which was acknowledged at {last}, and it at {}",
                    put.handle, at.index
                ));
            }
        }
        Ok(())
    }

    /// What was taken in a life: the operation, the item, and where.
    fn taken_in(&self, life: Incarnation) -> impl Iterator<Item = (&Take, u64, Index)> {
        self.takes.iter().filter_map(move |take| match take.fate {
            Fate::Done(version, Some(item)) if version.incarnation == life => {
                Some((take, item, version.index))
            }
            _ => None,
        })
    }

    /// What was swept in a life: the operation, how many items, and where.
    fn swept_in(&self, life: Incarnation) -> impl Iterator<Item = (&Sweep, u64, Index)> {
        let sweeps = self.sweeps.iter();
        sweeps.filter_map(move |sweep| match sweep.fate {
            Fate::Done(version, count) if version.incarnation == life => {
                Some((sweep, count, version.index))
            }
            _ => None,
        })
    }

    /// Nothing is taken twice, nor anything that was not put before.
    fn were_taken_once(&self, life: Incarnation) -> Result<(), String> {
        let mut taken = BTreeSet::new();
        for (_, item, at) in self.taken_in(life) {
            if !taken.insert(item) {
                return Err(format!("item {item} was taken twice"));
            }
            let put_before = match self.puts.get(&item).map(|put| put.fate) {
                None | Some(Fate::Refused) => false,
                Some(Fate::Unknown) => true,
                Some(Fate::Done(version, ())) => version.incarnation == life && version.index <= at,
            };
            if !put_before {
                return Err(format!(
                    "item {item} was taken at {at} and was not put before"
                ));
            }
        }
        Ok(())
    }

    /// Who follows the changes sees what was acknowledged, at its version, and that it was taken from the right end.
    fn were_seen_so(&self, life: Incarnation) -> Result<(), String> {
        let sighting = |item: u64| self.sightings.get(&(life, item));
        for (item, put) in &self.puts {
            let Some(came) = sighting(*item).and_then(|sighting| sighting.came) else {
                continue;
            };
            let is_right = match put.fate {
                Fate::Unknown => true,
                Fate::Refused => false,
                Fate::Done(version, ()) => version.incarnation == life && version.index == came,
            };
            if !is_right {
                return Err(format!(
                    "item {item} was seen to come at {came}: {:?}",
                    put.fate
                ));
            }
        }
        for (take, item, at) in self.taken_in(life) {
            let Some(went) = sighting(item).and_then(|sighting| sighting.went) else {
                continue;
            };
            let is_from_there = match take.from {
                End::First => went.is_first,
                End::Last => went.is_last,
                End::Any => true,
            };
            if went.at != at || !is_from_there {
                return Err(format!(
                    "item {item} was taken at {at} as {:?} and seen to go at {}, as the first: {}, as the last: {}",
                    take.from, went.at, went.is_first, went.is_last
                ));
            }
        }
        Ok(())
    }

    /// Who sweeps is told how many items those see to go who follow the changes.
    fn were_swept_so(&self, life: Incarnation) -> Result<(), String> {
        // What is done at one place of the log cannot be told apart.
        if self.sweeps.iter().any(|it| it.fate == Fate::Unknown) {
            return Ok(());
        }
        let mut told: BTreeMap<Index, Option<u64>> = BTreeMap::new();
        for (sweep, count, at) in self.swept_in(life) {
            let is_alone = sweep.is_one_change && !told.contains_key(&at);
            told.insert(at, is_alone.then_some(count));
        }
        let mut seen: BTreeMap<Index, u64> = BTreeMap::new();
        for ((of, _), sighting) in &self.sightings {
            if let Some(went) = sighting.went.filter(|went| *of == life && went.is_swept) {
                *seen.entry(went.at).or_default() += 1;
            }
        }
        for (at, seen) in seen {
            match told.get(&at) {
                Some(Some(told)) if *told != seen => {
                    return Err(format!(
                        "{told} items went at {at}, and {seen} were seen to go"
                    ));
                }
                Some(_) => {}
                None => return Err(format!("{seen} items were seen to go at {at}, by nobody")),
            }
        }
        Ok(())
    }

    /// Who follows the changes sees those exchanges that were asked for.
    fn were_swapped_so(&self) -> Result<(), String> {
        let mut by_nobody = self.swapped.clone();
        let mut unknown = 0;
        for Swap { places, fate } in &self.swaps {
            match fate {
                Fate::Unknown => unknown += 1,
                Fate::Refused => {}
                Fate::Done(at, ()) => {
                    by_nobody.remove(&(at.incarnation, at.index, *places));
                }
            }
        }
        if by_nobody.len() <= unknown {
            return Ok(());
        }
        Err(format!(
            "{by_nobody:?} were seen to be exchanged by nobody, where of {unknown} it is not known whether they were"
        ))
    }

    /// How many items were seen to go with others.
    pub(super) fn seen_to_be_swept(&self) -> usize {
        let swept = |it: &&Sighting| it.went.is_some_and(|went| went.is_swept);
        self.sightings.values().filter(swept).count()
    }

    /// How many exchanges were seen.
    pub(super) fn seen_to_be_swapped(&self) -> usize {
        self.swapped.len()
    }

    /// How many items were seen to go by somebody who follows the changes, and so checked for the end that they went from.
    pub(super) fn seen_to_go(&self) -> usize {
        let went = |sighting: &&Sighting| sighting.went.is_some();
        self.sightings.values().filter(went).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collections::record::version;

    fn done<T>(index: u64, what: T) -> Fate<T> {
        Fate::Done(version(1, index), what)
    }

    /// Items 1 to 3 of one handle, put at the indexes of their numbers.
    fn three() -> Items {
        let mut items = Items::default();
        for item in 1..=3 {
            items.putting(item, ClientId(1), true);
            items.put(item, done(item, ()));
        }
        items
    }

    fn take(items: &mut Items, from: End, fate: Fate<Option<u64>>) {
        let place = items.taking(from);
        items.taken(place, fate);
    }

    fn went(item: u64, is_first: bool, is_last: bool) -> Moved {
        Moved::Went {
            item,
            is_first,
            is_last,
        }
    }

    #[test]
    fn what_was_put_is_there_or_was_taken() {
        let mut items = three();
        items.fit(version(1, 9), &[1, 2, 3]).unwrap();
        items.fit(version(1, 2), &[1, 2]).unwrap();
        items.fit(version(1, 9), &[1, 3]).unwrap_err();
        take(&mut items, End::Any, Fate::Refused);
        items.fit(version(1, 9), &[1, 3]).unwrap_err();
        take(&mut items, End::Any, Fate::Unknown);
        items.fit(version(1, 9), &[1, 3]).unwrap();
        items.fit(version(1, 9), &[1]).unwrap_err();
        take(&mut items, End::Any, done(4, Some(3)));
        items.fit(version(1, 9), &[1]).unwrap();
        items.fit(version(1, 9), &[1, 2, 3]).unwrap_err();
        take(&mut items, End::Any, done(5, None));
        items.fit(version(1, 9), &[1]).unwrap();
    }

    #[test]
    fn nothing_is_there_twice_or_by_nobody_or_against_what_was_said() {
        let mut items = three();
        items.fit(version(1, 9), &[1, 2, 3, 3]).unwrap_err();
        items.fit(version(1, 9), &[1, 2, 3, 4]).unwrap_err();
        items.putting(4, ClientId(2), true);
        items.fit(version(1, 9), &[1, 4, 2, 3]).unwrap();
        items.put(4, Fate::Refused);
        items.fit(version(1, 9), &[1, 4, 2, 3]).unwrap_err();
        items.put(4, Fate::Done(version(2, 1), ()));
        items.fit(version(1, 9), &[1, 4, 2, 3]).unwrap_err();
        items.fit(version(1, 9), &[1, 2, 3]).unwrap();
    }

    #[test]
    fn items_of_a_handle_are_in_its_order() {
        let mut items = three();
        items.fit(version(1, 9), &[2, 1, 3]).unwrap_err();
        items.putting(4, ClientId(1), false);
        items.fit(version(1, 9), &[4, 1, 2, 3]).unwrap();
        items.put(2, done(4, ()));
        items.fit(version(1, 9), &[1, 2, 3]).unwrap_err();
    }

    #[test]
    fn nothing_is_taken_twice_or_before_it_was_put() {
        for bad in [[(4, 2), (5, 2)], [(1, 2), (5, 3)], [(4, 2), (5, 7)]] {
            let mut items = three();
            for (at, item) in bad {
                take(&mut items, End::Any, done(at, Some(item)));
            }
            let left: Vec<u64> = (1..=3)
                .filter(|item| bad.iter().all(|(_, taken)| taken != item))
                .collect();
            items.fit(version(1, 9), &left).unwrap_err();
        }
    }

    #[test]
    fn who_follows_sees_each_item_come_and_go_once() {
        let mut items = three();
        for _ in 0..2 {
            items.moved(version(1, 2), &Moved::Came(2)).unwrap();
            items.moved(version(1, 4), &went(2, false, false)).unwrap();
        }
        items.moved(version(2, 3), &Moved::Came(2)).unwrap();
        items.moved(version(1, 5), &Moved::Came(2)).unwrap_err();
        items
            .moved(version(1, 5), &went(2, false, false))
            .unwrap_err();
        items
            .moved(version(1, 4), &went(2, true, false))
            .unwrap_err();
        assert_eq!(items.seen_to_go(), 1);
    }

    #[test]
    fn what_is_seen_is_what_was_acknowledged() {
        let mut items = three();
        items.moved(version(1, 3), &Moved::Came(2)).unwrap();
        items.fit(version(1, 9), &[1, 2, 3]).unwrap_err();
        for (from, at, moved, is_right) in [
            (End::First, 4, went(1, true, false), true),
            (End::First, 4, went(1, false, true), false),
            (End::Last, 4, went(1, true, false), false),
            (End::First, 5, went(1, true, false), false),
            (End::Any, 4, went(1, false, false), true),
        ] {
            let mut items = three();
            take(&mut items, from, done(at, Some(1)));
            items.moved(version(1, 4), &moved).unwrap();
            let fits = items.fit(version(1, 9), &[2, 3]);
            assert_eq!(fits.is_ok(), is_right, "{from:?} {at} {moved:?}");
        }
        // Somebody was seen to take it, and nobody has.
        let mut items = three();
        items.moved(version(1, 4), &went(1, true, false)).unwrap();
        items.fit(version(1, 9), &[2, 3]).unwrap_err();
    }

    fn sweep(items: &mut Items, fate: Fate<u64>) {
        let place = items.sweeping(true);
        items.swept(place, fate);
    }

    fn sweeps() -> [Moved; 2] {
        [Moved::Swept(vec![2, 3]), Moved::Swept(vec![2])]
    }

    #[test]
    fn what_is_swept_is_as_much_as_was_said() {
        let [both, one] = sweeps();
        for (told, moved, left, is_right) in [
            (2, Some(&both), vec![1], true),
            (1, Some(&both), vec![1], false),
            (2, Some(&one), vec![1, 3], false),
            (2, None, vec![1], true),
            (1, None, vec![1], false),
        ] {
            let mut items = three();
            sweep(&mut items, done(4, told));
            if let Some(moved) = moved {
                items.moved(version(1, 4), moved).unwrap();
            }
            let fits = items.fit(version(1, 9), &left);
            assert_eq!(fits.is_ok(), is_right, "{told} {moved:?} {left:?}");
        }
    }

    #[test]
    fn nothing_is_swept_by_nobody() {
        let [both, one] = sweeps();
        let mut items = three();
        items.moved(version(1, 4), &both).unwrap();
        items.moved(version(1, 5), &one).unwrap_err();
        items.fit(version(1, 9), &[1]).unwrap_err();
        take(&mut items, End::Any, Fate::Unknown);
        items.fit(version(1, 9), &[1]).unwrap_err();
        sweep(&mut items, Fate::Refused);
        items.fit(version(1, 9), &[1]).unwrap_err();
        sweep(&mut items, Fate::Unknown);
        items.fit(version(1, 9), &[1]).unwrap();
        // One more went elsewhere, as with the take, and not a second one.
        items.moved(version(1, 5), &went(1, true, true)).unwrap();
        items.fit(version(1, 9), &[]).unwrap();
        items.putting(4, ClientId(1), true);
        items.put(4, done(4, ()));
        items.fit(version(1, 9), &[]).unwrap_err();
    }

    #[test]
    fn exchanges_that_are_seen_were_asked_for() {
        let mut items = three();
        let seen = Moved::Swapped([0, 2]);
        items.moved(version(1, 4), &seen).unwrap();
        items.fit(version(1, 9), &[3, 2, 1]).unwrap_err();
        for (places, fate, is_right) in [
            ([0, 2], Fate::Refused, false),
            ([0, 2], Fate::Unknown, true),
            ([0, 1], done(4, ()), false),
            ([0, 2], done(4, ()), true),
        ] {
            let place = items.swapping(places);
            items.swapped(place, fate);
            assert_eq!(items.fit(version(1, 9), &[3, 2, 1]).is_ok(), is_right);
            items.swaps.clear();
        }
    }
}
