//! One collection on one host, for one life of it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use rand_chacha::ChaCha8Rng;
use smalti_core::Network;
use smalti_core::collections::{Executed, Reader, View, WriteError, Writer};
use smalti_core::groups::{GroupEvent, Index, QueryError, Version};
use smalti_sim::history::ClientId;
use smalti_sim::rng::{below, between, chance};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::follower::Follower;
use super::items::{End, Fate, Items};
use super::kinds::Kind;
use super::record::{Record, is_fresh};
use super::slots::{Act, Seen, Slot};
use super::world::{LAGGED, LAGGED_LIVE, Phase, REFORMED, SNAPSHOT, SUPERSEDED, World, reaches};

/// How long is waited before what did not get through is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(50);

pub(super) struct Handle<C: Kind> {
    world: World,
    record: Rc<RefCell<Record<C>>>,
    host: usize,
    client: ClientId,
    reader: Reader<C>,
    /// `None`: this host only reads.
    writer: Option<Writer<C>>,
    /// Contents that were read some time ago.
    kept: RefCell<Option<(Version, C::Plain)>>,
    /// How often this host was told that the life of the collection that it belonged to was given up.
    given_up: watch::Sender<u64>,
}

impl<C: Kind> Handle<C> {
    pub(super) async fn open(
        world: World,
        record: Rc<RefCell<Record<C>>>,
        host: usize,
        client: ClientId,
        network: &Network,
    ) -> Result<Self, String> {
        let writes = host < world.setting().writers;
        let config = world.setting().collection_config(writes);
        let (reader, writer) = if writes {
            let writer = C::open_writer(network, config).await;
            let writer = writer.map_err(|error| error.to_string())?;
            (writer.reader(), Some(writer))
        } else {
            let reader = C::open_reader(network, config).await;
            (reader.map_err(|error| error.to_string())?, None)
        };
        {
            let mut record = record.borrow_mut();
            record.settled.remove(&host);
            record.shown.remove(&host);
        }
        Ok(Self {
            world,
            record,
            host,
            client,
            reader,
            writer,
            kept: RefCell::default(),
            given_up: watch::Sender::new(0),
        })
    }

    /// Uses the collection, follows it, and hears of it, until something is wrong.
    pub(super) async fn live(&self) -> Result<(), String> {
        let name = format!("{} of {}", C::NAME, self.client);
        let streams = self.world.streams();
        let (mut working, mut following) = (
            streams.stream(&name),
            streams.stream(&format!("{name}, followed")),
        );
        let (hear, work, follow) = (
            self.hear(),
            self.work(&mut working),
            self.follow(&mut following),
        );
        let ended = tokio::select! {
            biased;
            ended = hear => ended,
            ended = work => ended,
            ended = follow => ended,
        };
        let error = ended
            .map(|never| match never {})
            .unwrap_or_else(|error| error);
        Err(format!("{} of host {}: {error}", C::NAME, self.host))
    }

    // ---- What is done ----

    async fn work(&self, rng: &mut ChaCha8Rng) -> Result<Infallible, String> {
        let mut phase = self.world.phase();
        if chance(rng, 500_000) {
            self.come_online().await?;
        }
        let pace = self.world.setting().pace;
        while *phase.borrow_and_update() == Phase::Work {
            let pause = between(rng, Duration::ZERO, pace * 2);
            // A phase that has changed in the meantime is looked at next.
            let _ = timeout(pause, phase.changed()).await;
            match &self.writer {
                // What became of it is on record.
                Some(writer) if chance(rng, 700_000) => drop(C::write(self, writer, rng).await),
                // Fails where no majority can be reached.
                _ => drop(self.read().await?),
            }
        }
        let mut given_up = self.given_up.subscribe();
        loop {
            given_up.borrow_and_update();
            let version = self.settle(rng).await?;
            self.record.borrow_mut().settled.insert(self.host, version);
            let ended = tokio::select! {
                biased;
                changed = given_up.changed() => changed.map_err(|error| error.to_string()),
                error = self.show() => Err(error),
            };
            // What was got through in a life that is given up does not count.
            ended?;
            self.record.borrow_mut().settled.remove(&self.host);
        }
    }

    /// Waits until the collection is online, which must have all then that was acknowledged before.
    async fn come_online(&self) -> Result<(), String> {
        let before = self.record.borrow().acknowledged_before.clone();
        let online = match &self.writer {
            Some(writer) => writer.online().await,
            None => self.reader.online().await,
        };
        online.map_err(|error| error.to_string())?;
        let Some(life) = self.reader.status().incarnation else {
            return Err("it is online and belongs to no life".to_owned());
        };
        // A view has no version where nothing was written.
        let nothing = Version {
            incarnation: life,
            index: Index::ZERO,
        };
        is_fresh(self.reader.version().unwrap_or(nothing), &before)
    }

    /// Reads all by a strong view.
    async fn read(&self) -> Result<Option<Version>, String> {
        let acts: Vec<_> = C::slots().iter().map(|slot| (*slot, Act::Read)).collect();
        let places = self.begin(&acts);
        let before = self.record.borrow().acknowledged_before.clone();
        let result = self.reader.strong().await;
        let mut record = self.record.borrow_mut();
        let view = match result {
            Ok(view) => view,
            Err(QueryError::Stopped(why)) => return Err(why.to_string()),
            Err(_) => {
                // A read that failed has shown nothing.
                places
                    .into_iter()
                    .for_each(|place| record.slots.failed(place));
                return Ok(None);
            }
        };
        self.world.has_read();
        let version = view.version().ok_or("a strong view has no version")?;
        is_fresh(version, &before)?;
        record.look(&view)?;
        if let Some(local) = self.reader.version()
            && !reaches(local, version)
        {
            return Err(format!("{local:?} is shown after {version:?} was read"));
        }
        for (place, slot) in places.into_iter().zip(C::slots()) {
            let seen = Seen::held(C::held(&view, *slot));
            let (life, now) = (version.incarnation, self.world.now());
            record.slots.returned(place, seen, life, now);
        }
        Ok(Some(version))
    }

    /// Gets a write and a read through, whatever it takes.
    async fn settle(&self, rng: &mut ChaCha8Rng) -> Result<Version, String> {
        if let Some(writer) = &self.writer {
            while C::write(self, writer, rng).await.is_none() {
                sleep(TRY_AGAIN).await;
            }
        }
        loop {
            if let Some(version) = self.read().await? {
                return Ok(version);
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// Shows what this host has, until that makes no sense.
    async fn show(&self) -> String {
        let mut updated = self.reader.when().updated();
        loop {
            let view = self.reader.view();
            if let Err(error) = self.shows(&view) {
                return error;
            }
            (&mut updated).await;
        }
    }

    fn shows(&self, view: &View<C>) -> Result<(), String> {
        let mut record = self.record.borrow_mut();
        record.look(view)?;
        if let Some(version) = view.version() {
            record.shown.insert(self.host, (version, view.plain()));
        }
        Ok(())
    }

    // ---- What is on record of writes ----

    pub(super) const fn world(&self) -> &World {
        &self.world
    }

    /// Notes that places are written, and gives where that is on record.
    pub(super) fn begin(&self, acts: &[(Slot, Act)]) -> Vec<usize> {
        let slots = &mut self.record.borrow_mut().slots;
        let now = self.world.now();
        acts.iter()
            .map(|access| slots.called(self.client, *access, now))
            .collect()
    }

    /// Notes what became of it, and what was seen of each place.
    pub(super) fn end<T>(
        &self,
        places: &[usize],
        result: &Result<Executed<T>, WriteError<C>>,
        seen: impl FnOnce(&T) -> Vec<Seen>,
    ) -> Option<Version> {
        let fate = self.world.fate(result);
        let record = &mut *self.record.borrow_mut();
        if fate == Fate::Refused {
            places.iter().for_each(|place| record.slots.failed(*place));
        }
        let Executed { version, output } = result.as_ref().ok()?;
        record.acknowledge(*version);
        for (place, seen) in places.iter().zip(seen(output)) {
            let (life, now) = (version.incarnation, self.world.now());
            record.slots.returned(*place, seen, life, now);
        }
        Some(*version)
    }

    /// Notes that an item is put that there was not before, and gives it.
    pub(super) fn putting(&self, is_behind: bool) -> u64 {
        let item = self.world.number();
        let items = &mut self.record.borrow_mut().items;
        items.putting(item, self.client, is_behind);
        item
    }

    /// Notes what became of it, as of all `items` of one write.
    pub(super) fn put<T>(
        &self,
        items: &[u64],
        result: &Result<Executed<T>, WriteError<C>>,
    ) -> Option<Version> {
        self.note(result, |record, fate| {
            let fate = fate.map(|_| ());
            items.iter().for_each(|item| record.put(*item, fate));
        })
    }

    /// Notes that an item is taken, and gives where that is on record.
    pub(super) fn taking(&self, from: End) -> usize {
        self.record.borrow_mut().items.taking(from)
    }

    /// Notes what became of it, and which item it was.
    pub(super) fn taken<T>(
        &self,
        place: usize,
        result: &Result<Executed<T>, WriteError<C>>,
        item: impl FnOnce(&T) -> Option<u64>,
    ) -> Option<Version> {
        self.note(result, |items, fate| items.taken(place, fate.map(item)))
    }

    /// Notes that items are removed, however many, and gives where that is on record. `is_one_change`: who follows is told
    /// of all at once.
    pub(super) fn sweeping(&self, is_one_change: bool) -> usize {
        self.record.borrow_mut().items.sweeping(is_one_change)
    }

    /// Notes what became of it, and how many they were.
    pub(super) fn swept(
        &self,
        place: usize,
        result: &Result<Executed<u64>, WriteError<C>>,
    ) -> Option<Version> {
        self.note(result, |items, fate| {
            items.swept(place, fate.map(|count| *count));
        })
    }

    /// Notes that the items at two places are exchanged, and gives where that is on record.
    pub(super) fn swapping(&self, places: [u64; 2]) -> usize {
        self.record.borrow_mut().items.swapping(places)
    }

    /// Notes what became of it.
    pub(super) fn swapped(
        &self,
        place: usize,
        result: &Result<Executed<()>, WriteError<C>>,
    ) -> Option<Version> {
        self.note(result, |items, fate| {
            items.swapped(place, fate.map(|()| ()));
        })
    }

    /// Notes what became of a write of items.
    pub(super) fn note<T>(
        &self,
        result: &Result<Executed<T>, WriteError<C>>,
        note: impl FnOnce(&mut Items, Fate<&T>),
    ) -> Option<Version> {
        let fate = match (self.world.fate(result), result) {
            (_, Ok(executed)) => Fate::Done(executed.version, &executed.output),
            (Fate::Refused, Err(_)) => Fate::Refused,
            (Fate::Unknown | Fate::Done(..), Err(_)) => Fate::Unknown,
        };
        let record = &mut *self.record.borrow_mut();
        note(&mut record.items, fate);
        let version = result.as_ref().ok()?.version;
        record.acknowledge(version);
        Some(version)
    }

    /// What the host has now.
    pub(super) fn view(&self) -> View<C> {
        self.reader.view()
    }

    // ---- What is told ----

    async fn hear(&self) -> Result<Infallible, String> {
        let mut events = self.reader.events();
        loop {
            let event = match events.recv().await {
                Ok(Some(event)) => event,
                Ok(None) => return Err("it has ended".to_owned()),
                // What comes next is not missed.
                Err(_) => continue,
            };
            match event {
                GroupEvent::Superseded(superseded) => {
                    self.world.reach(SUPERSEDED);
                    let given_up = self.reader.given_up(&superseded);
                    let given_up = given_up.map_err(|error| error.to_string())?;
                    let mut record = self.record.borrow_mut();
                    record.views.note(superseded.version, &given_up.plain())?;
                    self.given_up.send_modify(|times| *times += 1);
                }
                GroupEvent::Reformed(_) => self.world.reach(REFORMED),
                GroupEvent::Restored(_) => self.world.reach(SNAPSHOT),
                GroupEvent::Stopped(why) => return Err(why.to_string()),
                _ => {}
            }
        }
    }

    /// Follows the changes, beginning anew now and then.
    async fn follow(&self, rng: &mut ChaCha8Rng) -> Result<Infallible, String> {
        loop {
            let (at, contents) = self.begin_at(rng);
            let follower = Follower::new(at, contents);
            let changes = 1 + below(rng, 300);
            self.follow_for(follower, at, changes).await?;
        }
    }

    /// The beginning, what is there now, or what was there some time ago.
    fn begin_at(&self, rng: &mut ChaCha8Rng) -> (Option<Version>, C::Plain) {
        let kept = self.kept.borrow().clone();
        match (below(rng, 3), kept) {
            (0, _) => (None, C::Plain::default()),
            (1, Some((version, contents))) => (Some(version), contents),
            _ => {
                let view = self.reader.view();
                (view.version(), view.plain())
            }
        }
    }

    async fn follow_for(
        &self,
        mut follower: Follower<C>,
        since: Option<Version>,
        changes: u64,
    ) -> Result<(), String> {
        let mut followed = self.reader.changes(since);
        let mut was_level = false;
        for _ in 0..changes {
            let told = match followed.next().now_or_never() {
                Some(told) => told,
                None => {
                    self.is_level(&follower)?;
                    was_level = true;
                    followed.next().await
                }
            };
            match told {
                Some(Ok(changed)) => {
                    let version = changed.version;
                    let moved = follower.take(changed)?;
                    self.record.borrow_mut().items.moved(version, &moved)?;
                }
                Some(Err(lagged)) => {
                    self.world
                        .reach(if was_level { LAGGED_LIVE } else { LAGGED });
                    follower.lag(&lagged)?;
                    self.record.borrow_mut().look(&lagged.view)?;
                }
                None => return Err("its changes have ended".to_owned()),
            }
        }
        Ok(())
    }

    /// Nothing is to be told: what was told leads to what is read, just now.
    fn is_level(&self, follower: &Follower<C>) -> Result<(), String> {
        let view = self.reader.view();
        follower.is_level(&view.plain())?;
        self.record.borrow_mut().look(&view)?;
        if let Some(version) = view.version() {
            *self.kept.borrow_mut() = Some((version, view.plain()));
        }
        Ok(())
    }
}
