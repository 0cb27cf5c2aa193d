//! What is done with each kind of collection.

use futures_util::future::join_all;
use rand_chacha::ChaCha8Rng;
use smalti_core::Network;
use smalti_core::collections::{
    Batch, CollectionConfig, Inserted, OpenError, Reader, Results, Ticket, Writer, Written,
};
use smalti_core::groups::Version;
use smalti_sim::rng::{below, chance};

use super::contents::{Contents, Decision, List, Members, Numbers, Queue, TWINS, Value};
use super::handle::Handle;
use super::items::End;
use super::slots::{Act, Seen, Slot, Slots};
use super::world::{EVICTED, LOST_RACE};

/// Keys of the map, and items of the set, that are written one by one.
const KEYS: u64 = 3;
/// Items above which more is taken than put.
const ITEMS: u64 = 20;
/// Items that are removed at once, at most, where it is not all of them.
const SWEPT: u64 = 3;
/// How many entries a queue has at most, where there is a limit.
const CAPACITY: u64 = 8;
/// Different priorities.
const PRIORITIES: u64 = 5;

/// A kind of collection, as the applications use it.
pub(super) trait Kind: Contents {
    const NAME: &'static str;

    async fn open_writer(
        network: &Network,
        config: CollectionConfig,
    ) -> Result<Writer<Self>, OpenError>;

    async fn open_reader(
        network: &Network,
        config: CollectionConfig,
    ) -> Result<Reader<Self>, OpenError>;

    /// Writes something, puts it on record, and gives its version where it was acknowledged.
    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version>;

    /// The places that it has.
    fn slots() -> &'static [Slot] {
        &[]
    }

    /// What a place holds.
    fn held(&self, slot: Slot) -> Option<u64> {
        let _ = slot;
        None
    }

    /// Whether what was done with the places can be.
    ///
    /// # Errors
    /// What cannot.
    fn judge(slots: &Slots) -> Result<(), String> {
        slots.are_linearizable()
    }
}

/// What a kind is called, in its id too, and how it is opened.
macro_rules! named {
    ($name:literal) => {
        const NAME: &'static str = $name;

        async fn open_writer(
            network: &Network,
            config: CollectionConfig,
        ) -> Result<Writer<Self>, OpenError> {
            Self::writer_with_config(network, $name, config).await
        }

        async fn open_reader(
            network: &Network,
            config: CollectionConfig,
        ) -> Result<Reader<Self>, OpenError> {
            Self::reader_with_config(network, $name, config).await
        }
    };
}

/// A value, or none.
fn draw_value(rng: &mut ChaCha8Rng) -> Option<u64> {
    below(rng, 4).checked_sub(1)
}

/// Two keys or more of those that are written one by one, each once.
fn draw_keys(rng: &mut ChaCha8Rng) -> impl Iterator<Item = u64> + use<> {
    let without = below(rng, KEYS + 1);
    (0..KEYS).filter(move |key| *key != without)
}

/// What the operation gave that a ticket of a batch stands for.
fn of_ticket<R: serde::de::DeserializeOwned>(results: &Results, ticket: &Ticket<R>) -> R {
    let result = results.get(ticket);
    result.expect("a ticket is for an operation of its batch")
}

/// Finds what is seen of one operation in what a batch gave.
type Sees = Box<dyn Fn(&Results) -> Seen>;

/// Operations of a batch on places, each with what is seen of it.
struct Together<C: Contents> {
    batch: Batch<C>,
    acts: Vec<(Slot, Act)>,
    seen: Vec<Sees>,
}

impl<C: Kind> Together<C> {
    fn new(batch: Batch<C>) -> Self {
        Self {
            batch,
            acts: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn add<R: serde::de::DeserializeOwned + 'static>(
        &mut self,
        access: (Slot, Act),
        ticket: Ticket<R>,
        seen: impl Fn(R) -> Seen + 'static,
    ) {
        self.acts.push(access);
        let seen = move |results: &Results| seen(of_ticket(results, &ticket));
        self.seen.push(Box::new(seen));
    }

    async fn commit(self, handle: &Handle<C>, writer: &Writer<C>) -> Option<Version> {
        let places = handle.begin(&self.acts);
        let result = writer.commit(self.batch).await;
        handle.end(&places, &result, |results| {
            self.seen.iter().map(|seen| seen(results)).collect()
        })
    }
}

/// Notes what became of an operation on places that tells only how many of them it has changed.
fn end_blindly<C: Kind>(
    handle: &Handle<C>,
    places: &[usize],
    result: &Written<C, u64>,
) -> Option<Version> {
    handle.end(places, result, |count| {
        if *count > places.len() as u64 {
            let cause = format!("of {} places {count} were changed", places.len());
            handle.world().fail(cause);
        }
        vec![Seen::BLIND; places.len()]
    })
}

impl Kind for Numbers {
    named!("map");

    fn slots() -> &'static [Slot] {
        const { &[0, 1, 2, TWINS[0], TWINS[1]] }
    }

    fn held(&self, slot: Slot) -> Option<u64> {
        self.get(&slot).copied()
    }

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        let key = below(rng, KEYS);
        match below(rng, 9) {
            0 => {
                let value = below(rng, 4);
                let places = handle.begin(&[(key, Act::Write(Some(value)))]);
                let result = writer.insert(key, value).await;
                handle.end(&places, &result, |former| vec![Seen::held(*former)])
            }
            1 => {
                let places = handle.begin(&[(key, Act::Write(None))]);
                let result = writer.remove(key).await;
                handle.end(&places, &result, |former| vec![Seen::held(*former)])
            }
            2 | 3 => {
                let (expected, new) = (draw_value(rng), draw_value(rng));
                let places = handle.begin(&[(key, Act::Exchange(expected, new))]);
                let result = writer.compare_exchange(key, expected, new).await;
                handle.end(&places, &result, |result| vec![Seen::exchanged(*result)])
            }
            4 => {
                let acts = Self::slots().iter().map(|key| (*key, Act::Put(None)));
                let places = handle.begin(&acts.collect::<Vec<_>>());
                let result = writer.clear().await;
                end_blindly(handle, &places, &result)
            }
            5 => {
                let entries: Vec<_> = draw_keys(rng).map(|key| (key, below(rng, 4))).collect();
                let acts = entries.iter().map(|(key, it)| (*key, Act::Put(Some(*it))));
                let places = handle.begin(&acts.collect::<Vec<_>>());
                let result = writer.extend(entries).await;
                end_blindly(handle, &places, &result)
            }
            6 => {
                let keys: Vec<_> = draw_keys(rng).collect();
                let acts = keys.iter().map(|key| (*key, Act::Put(None)));
                let places = handle.begin(&acts.collect::<Vec<_>>());
                let result = writer.remove_many(keys).await;
                end_blindly(handle, &places, &result)
            }
            7 => {
                let value = handle.world().number();
                let mut together = Together::new(writer.batch());
                for key in TWINS {
                    let ticket = together.batch.insert(key, value);
                    together.add((key, Act::Write(Some(value))), ticket, Seen::held);
                }
                together.commit(handle, writer).await
            }
            _ => {
                let mut together = Together::new(writer.batch());
                for _ in 0..2 + below(rng, 3) {
                    let (key, expected, new) = (below(rng, KEYS), draw_value(rng), draw_value(rng));
                    let batch = &mut together.batch;
                    match (chance(rng, 500_000), new) {
                        (true, _) => {
                            let ticket = batch.compare_exchange(key, expected, new);
                            let act = Act::Exchange(expected, new);
                            together.add((key, act), ticket, Seen::exchanged);
                        }
                        (false, Some(value)) => {
                            let ticket = batch.insert(key, value);
                            together.add((key, Act::Write(new)), ticket, Seen::held);
                        }
                        (false, None) => {
                            let ticket = batch.remove(key);
                            together.add((key, Act::Write(None)), ticket, Seen::held);
                        }
                    }
                }
                together.commit(handle, writer).await
            }
        }
    }
}

/// What a set held of an item.
const fn was_there(was_there: bool) -> Seen {
    Seen::held(if was_there { Some(0) } else { None })
}

impl Kind for Members {
    named!("set");

    fn slots() -> &'static [Slot] {
        &[0, 1, 2]
    }

    fn held(&self, slot: Slot) -> Option<u64> {
        self.contains(&slot).then_some(0)
    }

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        let (put, removed) = (Act::Write(Some(0)), Act::Write(None));
        let item = below(rng, KEYS);
        match below(rng, 6) {
            0 => {
                let places = handle.begin(&[(item, put)]);
                let result = writer.insert(item).await;
                handle.end(&places, &result, |is_new| vec![was_there(!is_new)])
            }
            1 => {
                let places = handle.begin(&[(item, removed)]);
                let result = writer.remove(item).await;
                handle.end(&places, &result, |was| vec![was_there(*was)])
            }
            2 => {
                let places = handle.begin(&[0, 1, 2].map(|item| (item, Act::Put(None))));
                let result = writer.clear().await;
                end_blindly(handle, &places, &result)
            }
            3 => {
                let items: Vec<_> = draw_keys(rng).collect();
                let acts = items.iter().map(|item| (*item, Act::Put(Some(0))));
                let places = handle.begin(&acts.collect::<Vec<_>>());
                let result = writer.extend(items).await;
                end_blindly(handle, &places, &result)
            }
            4 => {
                let items: Vec<_> = draw_keys(rng).collect();
                let acts = items.iter().map(|item| (*item, Act::Put(None)));
                let places = handle.begin(&acts.collect::<Vec<_>>());
                let result = writer.remove_many(items).await;
                end_blindly(handle, &places, &result)
            }
            _ => {
                let mut together = Together::new(writer.batch());
                for item in 0..KEYS {
                    if chance(rng, 500_000) {
                        let ticket = together.batch.insert(item);
                        together.add((item, put), ticket, |is_new: bool| was_there(!is_new));
                    } else {
                        let ticket = together.batch.remove(item);
                        together.add((item, removed), ticket, was_there);
                    }
                }
                together.commit(handle, writer).await
            }
        }
    }
}

impl Kind for Value {
    named!("cell");

    fn slots() -> &'static [Slot] {
        &[0]
    }

    fn held(&self, _slot: Slot) -> Option<u64> {
        self.read().copied()
    }

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        match (below(rng, 2), draw_value(rng)) {
            (0, Some(value)) => {
                let places = handle.begin(&[(0, Act::Write(Some(value)))]);
                let result = writer.write(value).await;
                handle.end(&places, &result, |former| vec![Seen::held(*former)])
            }
            (0, None) => {
                let places = handle.begin(&[(0, Act::Write(None))]);
                let result = writer.clear().await;
                handle.end(&places, &result, |former| vec![Seen::held(*former)])
            }
            (_, new) => {
                let expected = draw_value(rng);
                let places = handle.begin(&[(0, Act::Exchange(expected, new))]);
                let result = writer.compare_exchange(expected, new).await;
                handle.end(&places, &result, |result| vec![Seen::exchanged(*result)])
            }
        }
    }
}

impl Kind for Decision {
    named!("once");

    fn slots() -> &'static [Slot] {
        &[0]
    }

    fn held(&self, _slot: Slot) -> Option<u64> {
        self.read().copied()
    }

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        _rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        let value = handle.world().number();
        let places = handle.begin(&[(0, Act::Exchange(None, Some(value)))]);
        let result = writer.write(value).await;
        handle.end(&places, &result, |result| {
            let seen = match *result {
                Ok(()) => Seen::held(None),
                Err(winner) => {
                    handle.world().reach(LOST_RACE);
                    Seen::exchanged(Err(Some(winner)))
                }
            };
            vec![seen]
        })
    }

    fn judge(slots: &Slots) -> Result<(), String> {
        slots.are_decided_once()?;
        slots.are_linearizable()
    }
}

impl Kind for List {
    named!("vec");

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        let len = handle.view().len() as u64;
        if len > ITEMS || chance(rng, 400_000) {
            return match below(rng, 8) {
                0 => {
                    let place = handle.sweeping(true);
                    let result = writer.clear().await;
                    handle.swept(place, &result)
                }
                1 => {
                    let place = handle.sweeping(true);
                    let left = len.saturating_sub(1 + below(rng, SWEPT));
                    let result = writer.truncate(left).await;
                    handle.swept(place, &result)
                }
                2 | 3 => {
                    let place = handle.taking(End::First);
                    let result = writer.pop_front().await;
                    handle.taken(place, &result, |item| *item)
                }
                4 | 5 => {
                    let place = handle.taking(End::Last);
                    let result = writer.pop_back().await;
                    handle.taken(place, &result, |item| *item)
                }
                _ => {
                    let place = handle.taking(End::Any);
                    let result = writer.remove(below(rng, len + 1)).await;
                    handle.taken(place, &result, |item| Some(*item))
                }
            };
        }
        if handle.world().setting().swaps && chance(rng, 200_000) {
            let places = [(); 2].map(|()| below(rng, len + 1));
            let place = handle.swapping(places);
            let result = writer.swap(places[0], places[1]).await;
            return handle.swapped(place, &result);
        }
        match below(rng, 5) {
            0 => {
                let item = handle.putting(false);
                let result = writer.push_front(item).await;
                handle.put(&[item], &result)
            }
            1 => {
                let item = handle.putting(false);
                let result = writer.insert(below(rng, len + 2), item).await;
                handle.put(&[item], &result)
            }
            2 => {
                let items = [true; 3].map(|is_behind| handle.putting(is_behind));
                let result = writer.extend(items).await;
                handle.put(&items, &result)
            }
            3 => {
                // At once, in the order in which they were called.
                let pushes = (0..3).map(|_| async {
                    let item = handle.putting(true);
                    let result = writer.push_back(item).await;
                    handle.put(&[item], &result)
                });
                join_all(pushes).await.into_iter().flatten().last()
            }
            _ => {
                let item = handle.putting(true);
                let result = writer.push_back(item).await;
                handle.put(&[item], &result)
            }
        }
    }
}

impl Kind for Queue {
    named!("priority queue");

    async fn write(
        handle: &Handle<Self>,
        writer: &Writer<Self>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Version> {
        let (view, priority) = (handle.view(), below(rng, PRIORITIES));
        if view.len() as u64 > ITEMS || chance(rng, 400_000) {
            return take_from_queue(handle, writer, rng).await;
        }
        let is_limited = handle.world().setting().capacities;
        match (below(rng, 6), view.get_max()) {
            (0, Some((_, key, _))) => {
                let result = writer.update_priority(*key, priority).await;
                handle.put(&[], &result)
            }
            (1, Some((_, key, _))) => {
                let result = writer.update_value(*key, priority).await;
                handle.put(&[], &result)
            }
            (2, _) => {
                let keys = [false; 3].map(|is_behind| handle.putting(is_behind));
                let given_up = is_limited.then(|| handle.sweeping(false));
                let result = writer.extend(keys.map(|key| (priority, key, 0))).await;
                handle.note(&result, |items, fate| {
                    keys.iter()
                        .for_each(|key| items.put(*key, fate.map(|_| ())));
                    if let Some(place) = given_up {
                        items.swept(place, fate.map(|count| *count));
                    }
                })
            }
            (3, _) if is_limited => {
                let capacity = chance(rng, 500_000).then_some(CAPACITY);
                let given_up = handle.sweeping(false);
                let result = writer.set_capacity(capacity).await;
                handle.swept(given_up, &result)
            }
            _ => {
                // Where there are too many the first goes, which may be this one.
                let key = handle.putting(false);
                let given_up = is_limited.then(|| handle.taking(End::First));
                let result = writer.insert(priority, key, 0).await;
                handle.note(&result, |items, fate| {
                    items.put(key, fate.map(|_| ()));
                    let evicted = |inserted: &Inserted<u64, u64, u64>| {
                        let (_, key, _) = inserted.evicted?;
                        handle.world().reach(EVICTED);
                        Some(key)
                    };
                    if let Some(place) = given_up {
                        items.taken(place, fate.map(evicted));
                    }
                })
            }
        }
    }
}

async fn take_from_queue(
    handle: &Handle<Queue>,
    writer: &Writer<Queue>,
    rng: &mut ChaCha8Rng,
) -> Option<Version> {
    let view = handle.view();
    match (below(rng, 10), view.get_min()) {
        (0, Some((_, key, _))) => {
            let place = handle.taking(End::Any);
            let result = writer.remove(*key).await;
            handle.taken(place, &result, |entry| entry.map(|_| *key))
        }
        (1, Some((_, key, value))) => {
            let place = handle.taking(End::Any);
            let result = writer.compare_exchange_value(*key, *value, None).await;
            handle.taken(place, &result, |result| result.is_ok().then_some(*key))
        }
        (2, Some(_)) => {
            let place = handle.sweeping(false);
            let keys: Vec<u64> = view.iter_desc().map(|(_, key, _)| *key).take(2).collect();
            let result = writer.remove_keys(keys).await;
            handle.swept(place, &result)
        }
        (3, _) => {
            let place = handle.sweeping(false);
            let result = writer.remove_range(..=below(rng, PRIORITIES / 2)).await;
            handle.swept(place, &result)
        }
        (4, _) if chance(rng, 500_000) => {
            let place = handle.sweeping(true);
            let result = writer.clear().await;
            handle.swept(place, &result)
        }
        (5 | 6, _) => {
            let place = handle.taking(End::Last);
            let result = writer.pop_max().await;
            handle.taken(place, &result, |entry| entry.map(|(_, key, _)| key))
        }
        _ => {
            let place = handle.taking(End::First);
            let result = writer.pop_min().await;
            handle.taken(place, &result, |entry| entry.map(|(_, key, _)| key))
        }
    }
}
