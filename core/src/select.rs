//! `tokio::select!` in a fixed order.

/// Waits for several futures and runs the branch of the first that completes, polling them in the order
/// written: the order in which events are taken is then a function of the program alone.
///
/// The syntax is that of [`tokio::select!`]. A branch that is always ready starves those below it, so put
/// cancellation first and the busiest last.
#[macro_export]
macro_rules! select {
    ($($branches:tt)*) => {
        match () {
            #[allow(clippy::disallowed_macros, reason = "biased here, once for all")]
            () => $crate::select::tokio_select! { biased; $($branches)* },
        }
    };
}

#[doc(hidden)]
pub use tokio::select as tokio_select;

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt;

    #[test]
    fn the_first_ready_branch_in_source_order_is_taken() {
        for _ in 0..64 {
            let taken = async {
                crate::select! {
                    () = ready(()) => "first",
                    () = ready(()) => "second",
                }
            };
            assert_eq!(taken.now_or_never(), Some("first"));
        }
    }
}
