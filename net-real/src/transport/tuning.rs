//! How the transport is tuned, and why.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};

use super::congestion::YieldingCubicConfig;

/// The longest UDP payload taken, in bytes: what MTU discovery may find, and room for it to overshoot.
pub(super) const UDP_PAYLOAD_LEN_MAX: u16 = 6_600;

/// The longest UDP payload sent, in bytes. On loopback and with jumbo frames it carries 2.6 times the rate of
/// 1,452 bytes; ten of them still fit into one segmentation-offload message of 65,507.
const MTU_MAX: u16 = 6_500;

/// The search for the MTU ends where less than this could be gained. Each probe is a full packet of padding,
/// which its receiver takes apart byte by byte: a search to the last byte is the greater part of what a
/// short connection costs. Small enough that more than the first 1,200 bytes are found on Ethernet.
const MTU_CHANGE_MIN: u16 = 300;

/// Datagrams that wait for the application, in bytes: some hundred small ones. The oldest give way.
const DATAGRAM_BUFFER_LEN: usize = 256 * 1_024;

/// The limits and timeouts of an endpoint.
///
/// The defaults suit nodes on one machine, in one data centre or across a continent. Each says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A dial, over all addresses of the peer, and an accepted handshake end after this long. Default 5 s:
    /// three losses of the first packet in a row fit into it.
    pub handshake_timeout: Duration,
    /// How long a dial waits for one address before it also tries the next. Default 100 ms, the least that
    /// RFC 8305, section 8 advises: peers are near as a rule, and an attempt too many costs one packet.
    pub dial_stagger: Duration,
    /// A connection on which nothing was heard for this long is lost. Default 10 s: three keep-alives. Where
    /// the ends differ, the smaller value holds.
    pub idle_timeout: Duration,
    /// Silence after which a connection is probed. Default 3 s: a crashed peer is noticed within the idle
    /// timeout, and the mappings of home routers and clouds (30 s and up) stay. An idle connection costs one
    /// packet each way for each interval.
    pub keep_alive_interval: Duration,
    /// The round-trip time assumed before one is measured. Default 100 ms: a first packet that is lost is
    /// sent again after three times this, where the RFC's 333 ms would make every such join wait for a second.
    pub initial_rtt: Duration,
    /// Open streams that the peer may have begun, on one connection. Default 1,024, far above the number of
    /// subscriptions between two nodes: at the limit opening waits without a word. Permitted streams cost
    /// memory whether they exist or not, so at first 16 are, and more as those are used.
    pub streams_max: u32,
    /// Bytes that may be sent on a stream before the application reads them. Default 1 MiB.
    pub stream_window: u32,
    /// The same over all streams of a connection. Default 16 MiB: fifteen readers that have stopped do not
    /// hold back a sixteenth. It bounds what one connection can make this node hold.
    pub connection_window: u32,
    /// Bytes sent on a connection and not acknowledged yet. Default 1 MiB: it keeps latency bounded and lets
    /// small writes gather into full packets; a path of 100 ms carries 10 MB/s with it.
    pub send_window: u32,
    /// Bytes that may be in flight before the path has shown what it carries. Default 64 KiB: ten packets
    /// of the longest length, as RFC 9002, section 7.2 advises, so that probes of the MTU do not fill it.
    pub initial_window: u32,
    /// What the operating system may hold for the socket, in bytes, each way, where it permits as much.
    /// Default 4 MiB: a burst from several peers is then not lost.
    pub socket_buffer_len: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            dial_stagger: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(3),
            initial_rtt: Duration::from_millis(100),
            streams_max: 1_024,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            send_window: 1 << 20,
            initial_window: 64 << 10,
            socket_buffer_len: 4 << 20,
        }
    }
}

impl Tuning {
    /// Open streams permitted on a new connection.
    pub(super) fn streams_at_first(&self) -> u32 {
        self.streams_max.min(16)
    }

    /// The settings of a connection.
    ///
    /// `endpoint_closes` is to be set when the endpoint closes them all.
    pub(super) fn transport(
        &self,
        endpoint_closes: Arc<AtomicBool>,
    ) -> Result<Arc<TransportConfig>, quinn::VarIntBoundsExceeded> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(MTU_MAX)
            .minimum_change(MTU_CHANGE_MIN);
        let mut congestion = CubicConfig::default();
        congestion.initial_window(self.initial_window.into());
        let congestion = YieldingCubicConfig {
            cubic: Arc::new(congestion),
            endpoint_closes,
        };
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(self.idle_timeout.try_into()?))
            .keep_alive_interval(Some(self.keep_alive_interval))
            .initial_rtt(self.initial_rtt)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_at_first()))
            // All our streams are bidirectional.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(self.send_window.into())
            .congestion_controller_factory(Arc::new(congestion))
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_LEN))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN)
            .enable_segmentation_offload(true)
            // Discovery grows the MTU from the 1,200 bytes that every path carries.
            .mtu_discovery_config(Some(discovery));
        Ok(Arc::new(transport))
    }
}
