//! The one shape of every protocol.

use crate::time::Instant;

/// A protocol as a value: it owns its state and performs no I/O, never blocks, and reads neither clock
/// nor randomness on its own.
///
/// The driver's contract, for the executor, the simulator and the fuzzers alike:
///
/// 1. call [`handle`](Self::handle) with something that happened, or
///    [`handle_timeout`](Self::handle_timeout) once the deadline has come;
/// 2. drain [`poll_output`](Self::poll_output) until it gives `None`, carrying out each output in order;
/// 3. ask [`poll_timeout`](Self::poll_timeout) how long it may wait, and wait for that or an input.
///
/// Nothing may be handled between two outputs of one drain, except that a crash may fall there: a
/// machine that needs something durable before something is sent emits the first and keeps back the
/// second until it is told that the first is done.
///
/// ```
/// use smalti_core::protocol::Machine;
/// use smalti_core::time::{Duration, Instant};
///
/// /// Answers every ping, and says so when there was none for a second.
/// struct Echo { deadline: Instant, output: Option<&'static str> }
///
/// impl Machine for Echo {
///     type Input = ();
///     type Output = &'static str;
///     fn handle(&mut self, now: Instant, (): ()) {
///         self.deadline = now + Duration::from_secs(1);
///         self.output = Some("pong");
///     }
///     fn handle_timeout(&mut self, now: Instant) {
///         if now >= self.deadline {
///             self.deadline = Instant::FAR_FUTURE;
///             self.output = Some("silence");
///         }
///     }
///     fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
///         (self.deadline < Instant::FAR_FUTURE).then_some((self.deadline, "silence"))
///     }
///     fn poll_output(&mut self) -> Option<&'static str> { self.output.take() }
///     fn check_invariants(&self) {}
/// }
///
/// let mut echo = Echo { deadline: Instant::FAR_FUTURE, output: None };
/// echo.handle(Instant::ZERO, ());
/// assert_eq!(echo.poll_output(), Some("pong"));
/// assert_eq!(echo.poll_output(), None);
/// let (deadline, _reason) = echo.poll_timeout().unwrap();
/// echo.handle_timeout(deadline);
/// assert_eq!(echo.poll_output(), Some("silence"));
/// ```
pub trait Machine {
    /// All that can happen to it: a message, a request, a reply of the disk.
    type Input;
    /// All that it wants done: send, persist, apply, report.
    type Output;

    /// Takes note of `input`, which happened at `now`. `now` never decreases from call to call.
    fn handle(&mut self, now: Instant, input: Self::Input);

    /// Does what has become due at `now`; a call before the deadline does nothing.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, and why (for logs and traces).
    #[must_use]
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;

    /// The next thing to do. Drained after every call that takes `&mut self`.
    #[must_use]
    fn poll_output(&mut self) -> Option<Self::Output>;

    /// Panics where an invariant of the machine does not hold.
    ///
    /// Called by the simulator after each step: its cost is bounded by what the step touched, and full
    /// scans run only now and then.
    fn check_invariants(&self);
}
