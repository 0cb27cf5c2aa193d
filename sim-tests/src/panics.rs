//! Panics as findings: each fails its own seed, and says where it was.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// While this thread catches panics: what the last one said and where it was.
    static CAUGHT: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Runs `body`; a panic in it becomes an error that says what and where, and is not printed.
///
/// Whatever `body` borrows may be left half changed by a panic: look at it, but do not go on with
/// it.
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    let outer = CAUGHT.replace(Some(None));
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    let caught = CAUGHT.replace(outer).flatten();
    result.map_err(|payload| caught.unwrap_or_else(|| text_of(&*payload)))
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_caught = CAUGHT.with_borrow_mut(|caught| {
                let Some(place) = caught else { return false };
                let text = text_of(info.payload());
                *place = Some(match info.location() {
                    Some(at) => format!("panic at {}:{}: {text}", at.file(), at.line()),
                    None => format!("panic: {text}"),
                });
                true
            });
            if !is_caught {
                previous(info);
            }
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "something that is no text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_says_what_and_where() {
        assert_eq!(catch(|| 7), Ok(7));
        let error = catch(|| panic!("no {}", "way")).unwrap_err();
        assert!(
            error.ends_with(": no way") && error.contains("panics.rs:"),
            "{error}"
        );
        let inner = catch(|| {
            assert!(catch(|| panic!("within")).is_err());
            panic!("without")
        });
        assert!(inner.unwrap_err().ends_with(": without"));
    }
}
