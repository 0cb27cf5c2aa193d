//! Waiting for the first of several futures, in a fixed order.
//!
//! `tokio::select!` starts polling at a random branch unless told otherwise, which no simulation can replay.
//! The lints of this crate ban it, and [`select!`](crate::select) takes its place.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Waits for several futures and runs the branch of the first that completes, polling them in the order
/// written: the order in which events are taken is then a function of the program alone.
///
/// Two to six branches `pattern = future => expression`, separated by commas. Patterns are irrefutable.
/// The other futures are dropped before the branch runs, so use only futures that lose nothing then. A
/// branch that is always ready starves those below it: put cancellation first and the busiest last.
///
/// ```
/// # use std::future::{pending, ready};
/// # futures_util::FutureExt::now_or_never(async {
/// let winner = smalti_core::select! {
///     () = pending::<()>() => "never",
///     n = ready(3) => if n == 3 { "three" } else { "other" },
/// };
/// assert_eq!(winner, "three");
/// # }).unwrap();
/// ```
#[macro_export]
macro_rules! select {
    ($p0:pat = $f0:expr => $b0:expr, $p1:pat = $f1:expr => $b1:expr $(,)?) => {{
        let first = $crate::select::of2(::std::pin::pin!($f0), ::std::pin::pin!($f1)).await;
        match first {
            $crate::select::Of2::A($p0) => $b0,
            $crate::select::Of2::B($p1) => $b1,
        }
    }};
    ($p0:pat = $f0:expr => $b0:expr, $p1:pat = $f1:expr => $b1:expr, $p2:pat = $f2:expr => $b2:expr $(,)?) => {{
        let first = $crate::select::of3(
            ::std::pin::pin!($f0),
            ::std::pin::pin!($f1),
            ::std::pin::pin!($f2),
        )
        .await;
        match first {
            $crate::select::Of3::A($p0) => $b0,
            $crate::select::Of3::B($p1) => $b1,
            $crate::select::Of3::C($p2) => $b2,
        }
    }};
    ($p0:pat = $f0:expr => $b0:expr, $p1:pat = $f1:expr => $b1:expr, $p2:pat = $f2:expr => $b2:expr, $p3:pat = $f3:expr => $b3:expr $(,)?) => {{
        let first = $crate::select::of4(
            ::std::pin::pin!($f0),
            ::std::pin::pin!($f1),
            ::std::pin::pin!($f2),
            ::std::pin::pin!($f3),
        )
        .await;
        match first {
            $crate::select::Of4::A($p0) => $b0,
            $crate::select::Of4::B($p1) => $b1,
            $crate::select::Of4::C($p2) => $b2,
            $crate::select::Of4::D($p3) => $b3,
        }
    }};
    ($p0:pat = $f0:expr => $b0:expr, $p1:pat = $f1:expr => $b1:expr, $p2:pat = $f2:expr => $b2:expr, $p3:pat = $f3:expr => $b3:expr, $p4:pat = $f4:expr => $b4:expr $(,)?) => {{
        let first = $crate::select::of5(
            ::std::pin::pin!($f0),
            ::std::pin::pin!($f1),
            ::std::pin::pin!($f2),
            ::std::pin::pin!($f3),
            ::std::pin::pin!($f4),
        )
        .await;
        match first {
            $crate::select::Of5::A($p0) => $b0,
            $crate::select::Of5::B($p1) => $b1,
            $crate::select::Of5::C($p2) => $b2,
            $crate::select::Of5::D($p3) => $b3,
            $crate::select::Of5::E($p4) => $b4,
        }
    }};
    ($p0:pat = $f0:expr => $b0:expr, $p1:pat = $f1:expr => $b1:expr, $p2:pat = $f2:expr => $b2:expr, $p3:pat = $f3:expr => $b3:expr, $p4:pat = $f4:expr => $b4:expr, $p5:pat = $f5:expr => $b5:expr $(,)?) => {{
        let first = $crate::select::of6(
            ::std::pin::pin!($f0),
            ::std::pin::pin!($f1),
            ::std::pin::pin!($f2),
            ::std::pin::pin!($f3),
            ::std::pin::pin!($f4),
            ::std::pin::pin!($f5),
        )
        .await;
        match first {
            $crate::select::Of6::A($p0) => $b0,
            $crate::select::Of6::B($p1) => $b1,
            $crate::select::Of6::C($p2) => $b2,
            $crate::select::Of6::D($p3) => $b3,
            $crate::select::Of6::E($p4) => $b4,
            $crate::select::Of6::F($p5) => $b5,
        }
    }};
}

/// The result type and the function for one number of branches.
macro_rules! first_of {
    ($of:ident, $function:ident: $($variant:ident $future:ident),+) => {
        /// Which of the futures was first, and its output.
        #[derive(Debug)]
        pub enum $of<$($variant),+> {
            $(
                /// The branch at this place.
                $variant($variant),
            )+
        }

        /// The first of the futures to complete, polled in order.
        pub async fn $function<$($variant: Future),+>(
            $(mut $future: Pin<&mut $variant>),+
        ) -> $of<$($variant::Output),+> {
            poll_fn(|cx| {
                $(
                    if let Poll::Ready(output) = $future.as_mut().poll(cx) {
                        return Poll::Ready($of::$variant(output));
                    }
                )+
                Poll::Pending
            })
            .await
        }
    };
}

first_of!(Of2, of2: A a, B b);
first_of!(Of3, of3: A a, B b, C c);
first_of!(Of4, of4: A a, B b, C c, D d);
first_of!(Of5, of5: A a, B b, C c, D d, E e);
first_of!(Of6, of6: A a, B b, C c, D d, E e, F f);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    #[test]
    fn the_first_ready_branch_in_source_order_is_taken() {
        let taken = async {
            crate::select! {
                () = pending::<()>() => "never",
                () = ready(()) => "first",
                () = ready(()) => "second",
            }
        };
        assert_eq!(taken.now_or_never(), Some("first"));
    }

    #[test]
    fn branches_may_leave_the_loop_around_them_and_use_what_other_branches_borrowed() {
        let mut numbers = vec![1, 2, 3];
        let sum = async {
            let mut sum = 0;
            loop {
                let next = async { numbers.pop() };
                crate::select! {
                    number = next => match number {
                        Some(number) => sum += number,
                        None => break sum + numbers.len(),
                    },
                    () = pending::<()>() => return 0,
                }
            }
        };
        assert_eq!(sum.now_or_never(), Some(6));
    }
}
