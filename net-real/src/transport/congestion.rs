//! Congestion control (CUBIC, RFC 9438) that steps aside when a connection is closed.
//!
//! Quinn holds back even the frame that closes a connection while the congestion window is full and data
//! waits behind it, and once a connection is closed no acknowledgement opens the window any more. A sender at
//! full speed could then never tell its peer that it goes, or why. Closing therefore opens the window first:
//! one packet is all that still leaves.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// The window of a connection that closes, in bytes: beyond all that can be in flight, and so great that
/// quinn does not pace.
const OPEN_WINDOW: u64 = 1 << 40;

/// Makes the controllers of an endpoint's connections.
#[derive(Debug)]
pub(super) struct YieldingCubicConfig {
    pub(super) cubic: Arc<CubicConfig>,
    /// Set when the endpoint closes all its connections.
    pub(super) endpoint_closes: Arc<AtomicBool>,
}

impl ControllerFactory for YieldingCubicConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(YieldingCubic {
            cubic: self.cubic.clone().build(now, current_mtu),
            closes: Arc::default(),
            endpoint_closes: self.endpoint_closes.clone(),
        })
    }
}

/// The controller of one path of a connection. A clone yields together with it.
struct YieldingCubic {
    cubic: Box<dyn Controller>,
    closes: Arc<AtomicBool>,
    endpoint_closes: Arc<AtomicBool>,
}

/// Opens the congestion window of `connection`, which is about to be closed.
pub(super) fn yield_to_close(connection: &quinn::Connection) {
    if let Ok(controller) = connection
        .congestion_state()
        .into_any()
        .downcast::<YieldingCubic>()
    {
        controller.closes.store(true, Ordering::Relaxed);
    }
}

impl Controller for YieldingCubic {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.closes.load(Ordering::Relaxed) || self.endpoint_closes.load(Ordering::Relaxed) {
            OPEN_WINDOW
        } else {
            self.cubic.window()
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            closes: self.closes.clone(),
            endpoint_closes: self.endpoint_closes.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
