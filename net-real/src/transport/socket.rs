//! The endpoint's socket: opened with room for bursts, and released when the endpoint says so.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};

use super::tuning::UDP_PAYLOAD_LEN_MAX;

/// Segments of the longest payload that the kernel can have joined into one message, which holds less than
/// 64 KiB. Quinn allots its receive buffers by this number, and would take 64.
const RECEIVE_SEGMENTS_MAX: usize = (65_535_usize).div_ceil(UDP_PAYLOAD_LEN_MAX as usize);

/// Opens a UDP socket at `address`. An unspecified IPv6 address takes IPv4 too.
///
/// The operating system may grant less than `buffer_len` bytes of buffer; that is no error.
pub(crate) fn bind(address: SocketAddr, buffer_len: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    for granted in [
        socket.set_recv_buffer_size(buffer_len),
        socket.set_send_buffer_size(buffer_len),
    ] {
        if let Err(error) = granted {
            tracing::debug!(%error, buffer_len, "the socket buffers stay as they are");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket that can be let go while connections still hold it.
///
/// Quinn's connections each keep the socket until their last handle goes, which is in the application's
/// hands. The port must be free once the endpoint is closed, so what they keep is this.
pub(super) struct SharedSocket {
    inner: RwLock<Option<Arc<dyn AsyncUdpSocket>>>,
    local_address: SocketAddr,
    may_fragment: bool,
    max_transmit_segments: usize,
    max_receive_segments: usize,
}

impl SharedSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            local_address: inner.local_addr()?,
            may_fragment: inner.may_fragment(),
            max_transmit_segments: inner.max_transmit_segments(),
            max_receive_segments: inner.max_receive_segments().min(RECEIVE_SEGMENTS_MAX),
            inner: RwLock::new(Some(inner)),
        }))
    }

    /// Lets the socket go: from now on nothing is sent and nothing received.
    pub(super) fn release(&self) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn current(&self) -> RwLockReadGuard<'_, Option<Arc<dyn AsyncUdpSocket>>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSocket({})", self.local_address)
    }
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(SharedPoller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match &*self.current() {
            Some(socket) => socket.try_send(transmit),
            // As good as lost on the way.
            None => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        match &*self.current() {
            Some(socket) => socket.poll_recv(cx, buffers, meta),
            None => Poll::Pending,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local_address)
    }

    fn max_transmit_segments(&self) -> usize {
        // Falls to 1 for good where the network card turns out not to segment.
        match &*self.current() {
            Some(socket) => socket.max_transmit_segments(),
            None => self.max_transmit_segments,
        }
    }

    fn max_receive_segments(&self) -> usize {
        self.max_receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.may_fragment
    }
}

/// Waits until a [`SharedSocket`] can send; holds the real socket only while it waits.
#[derive(Debug)]
struct SharedPoller {
    socket: Arc<SharedSocket>,
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for SharedPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            let current = self.socket.current().clone();
            self.waiting = current.map(AsyncUdpSocket::create_io_poller);
        }
        let Some(poller) = &mut self.waiting else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(poller.as_mut().poll_writable(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_joined_by_the_kernel_fits_one_receive_buffer() {
        assert!(RECEIVE_SEGMENTS_MAX * usize::from(UDP_PAYLOAD_LEN_MAX) >= 65_535);
    }

    #[test]
    fn a_bound_port_is_not_given_again() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 1 << 16).unwrap();
        let again = bind(first.local_addr().unwrap(), 1 << 16);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
