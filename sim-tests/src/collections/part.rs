//! One collection of a run, on all of its hosts.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use smalti_core::Network;
use smalti_sim::history::ClientId;

use super::contents::Contents;
use super::handle::Handle;
use super::kinds::Kind;
use super::record::{Record, is_fresh};
use super::world::{SEEN_TO_GO, SWAPPED, SWEPT, TOOK_UNTOLD, World};

/// A collection, whatever its kind.
pub(super) trait Part {
    /// Takes part on a host, until something is wrong.
    fn live(
        &self,
        host: usize,
        client: ClientId,
        network: Network,
    ) -> LocalBoxFuture<'static, Result<(), String>>;

    /// A step of the simulation is over.
    fn tick(&self);

    /// Whether all hosts have got something through and show the same.
    ///
    /// # Errors
    /// Why not, or not yet.
    fn is_settled(&self, hosts: usize) -> Result<(), String>;

    /// Whether all that was seen can be, after the hosts have settled.
    ///
    /// # Errors
    /// What cannot.
    fn judge(&self) -> Result<(), String>;

    /// What was seen, for who reads about the run.
    fn totals(&self) -> String;
}

struct PartOf<C: Contents> {
    world: World,
    record: Rc<RefCell<Record<C>>>,
}

/// A collection of the kind `C`.
pub(super) fn part<C: Kind>(world: &World) -> Rc<dyn Part> {
    Rc::new(PartOf::<C> {
        world: world.clone(),
        record: Rc::default(),
    })
}

impl<C: Kind> Part for PartOf<C> {
    fn live(
        &self,
        host: usize,
        client: ClientId,
        network: Network,
    ) -> LocalBoxFuture<'static, Result<(), String>> {
        let (world, record) = (self.world.clone(), self.record.clone());
        Box::pin(async move {
            let handle = Handle::<C>::open(world, record, host, client, &network).await?;
            handle.live().await
        })
    }

    fn tick(&self) {
        self.record.borrow_mut().tick();
    }

    fn is_settled(&self, hosts: usize) -> Result<(), String> {
        is_settled(&self.record.borrow(), hosts).map_err(|cause| format!("{}: {cause}", C::NAME))
    }

    fn judge(&self) -> Result<(), String> {
        let record = self.record.borrow();
        if record.items.unknown_takes() > 0 {
            self.world.reach(TOOK_UNTOLD);
        }
        if record.items.seen_to_go() > 0 {
            self.world.reach(SEEN_TO_GO);
        }
        if record.items.seen_to_be_swept() > 0 {
            self.world.reach(SWEPT);
        }
        if record.items.seen_to_be_swapped() > 0 {
            self.world.reach(SWAPPED);
        }
        let of_items = record
            .shown
            .values()
            .try_for_each(|(version, contents)| record.items.fit(*version, &C::items_in(contents)));
        let judged = of_items.and_then(|()| C::judge(&record.slots));
        judged.map_err(|cause| format!("{}: {cause}", C::NAME))
    }

    fn totals(&self) -> String {
        let record = self.record.borrow();
        let (versions, gone) = (record.views.len(), record.items.seen_to_go());
        format!(
            "{}: {versions} versions seen, {gone} items seen to go",
            C::NAME
        )
    }
}

fn is_settled<C: Contents>(record: &Record<C>, hosts: usize) -> Result<(), String> {
    if record.settled.len() < hosts {
        let settled: Vec<_> = record.settled.keys().collect();
        return Err(format!(
            "only hosts {settled:?} of {hosts} got a write and a read through"
        ));
    }
    let mut first = None;
    for (host, settled) in &record.settled {
        let Some((version, contents)) = record.shown.get(host) else {
            return Err(format!("host {host} shows nothing"));
        };
        let (of, life, all) = *first.get_or_insert((*host, settled.incarnation, contents));
        if settled.incarnation != life || version.incarnation != life {
            return Err(format!("hosts {of} and {host} are in different lives"));
        }
        is_fresh(*version, &record.acknowledged)
            .map_err(|error| format!("host {host}: {error}"))?;
        if contents != all {
            return Err(format!(
                "hosts {of} and {host} show {all:?} and {contents:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::collections::contents::Members;
    use crate::collections::record::version;

    #[test]
    fn hosts_are_settled_when_all_got_through_and_show_the_same() {
        let mut record = Record::<Members>::default();
        let contents = BTreeSet::from([1]);
        record.acknowledge(version(1, 5));
        record.settled.insert(0, version(1, 4));
        record.shown.insert(0, (version(1, 5), contents.clone()));
        is_settled(&record, 1).unwrap();
        is_settled(&record, 2).unwrap_err();
        // It was read through behind an entry without a command, of which nobody is told.
        record.settled.insert(1, version(1, 7));
        is_settled(&record, 2).unwrap_err();
        for (shown, contents, is_right) in [
            (version(1, 4), &contents, false),
            (version(1, 5), &BTreeSet::new(), false),
            (version(2, 5), &contents, false),
            (version(1, 6), &contents, true),
        ] {
            record.shown.insert(1, (shown, contents.clone()));
            assert_eq!(is_settled(&record, 2).is_ok(), is_right, "{shown:?}");
        }
        record.settled.insert(1, version(2, 5));
        is_settled(&record, 2).unwrap_err();
    }
}
