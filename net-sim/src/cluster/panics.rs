//! Panics: each fails its own run, wherever in it they happen, and no other run.
//!
//! A task that panics ends, and only who awaits its handle would learn of it. So a hook, installed once
//! for the process and chained before the one that was there, notes every panic of a thread on which a run
//! is under way, for that run.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

/// A panic in a run.
#[derive(Clone, Debug)]
pub(super) struct PanicReport {
    pub(super) message: String,
    pub(super) location: String,
    /// The executor on which it happened, which tells the host.
    pub(super) executor: Option<tokio::runtime::Id>,
}

thread_local! {
    /// The first panic of the run that is under way on this thread; `None` outside of all runs.
    static WATCHED: RefCell<Option<Option<PanicReport>>> = const { RefCell::new(None) };
}

/// Notes the panics of this thread for as long as it exists.
pub(super) struct PanicWatch {
    /// What was watched before: a run within a run.
    outer: Option<Option<PanicReport>>,
}

impl PanicWatch {
    pub(super) fn begin() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                note(info);
                previous(info);
            }));
        });
        Self {
            outer: WATCHED.with(|watched| watched.replace(Some(None))),
        }
    }

    /// The first panic since the last call.
    #[expect(
        clippy::unused_self,
        reason = "only a watch that exists has noted anything"
    )]
    pub(super) fn take(&self) -> Option<PanicReport> {
        WATCHED.with(|watched| watched.borrow_mut().as_mut().and_then(Option::take))
    }
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        let outer = self.outer.take();
        WATCHED.with(|watched| *watched.borrow_mut() = outer);
    }
}

fn note(info: &PanicHookInfo<'_>) {
    // A panic within this function, or while the cell is gone, must not become an abort.
    let _ = WATCHED.try_with(|watched| {
        let Ok(mut watched) = watched.try_borrow_mut() else {
            return;
        };
        if let Some(first) = watched.as_mut().filter(|first| first.is_none()) {
            let payload = info.payload();
            let words = payload.downcast_ref::<&str>().copied();
            let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let message = words.unwrap_or("a panic without words").to_owned();
            let location = info
                .location()
                .map_or_else(String::new, ToString::to_string);
            let executor = tokio::runtime::Handle::try_current()
                .ok()
                .map(|handle| handle.id());
            *first = Some(PanicReport {
                message,
                location,
                executor,
            });
        }
    });
}
