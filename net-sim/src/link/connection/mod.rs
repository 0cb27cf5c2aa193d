//! One connection: its streams, and what goes into packets and comes out of them.

mod recovery;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smalti_core::id::{Digest, PeerId};
use smalti_core::runtime::{ConnectionError, SendDatagramError, Side, StreamError};
use smalti_core::time::Instant;
use smalti_core::wire::CloseCode;

use self::recovery::REORDERING_PACKETS;
use super::packet::{
    ACK_RANGES_MAX, CONTROL_FRAME_LEN, ConnectionId, DATAGRAM_LEN_MAX, Frame, PACKET_LEN_MAX,
    REASON_LEN_MAX, STREAM_FRAME_OVERHEAD,
};
use super::ranges::Ranges;
use super::stream::{RecvHalf, SendHalf};
use super::{CONNECTION_WINDOW, DATAGRAMS_MAX, IN_FLIGHT_MAX, STREAMS_MAX};

/// What a packet's own numbers take, at most.
const HEADER_LEN: usize = 48;

/// What concerns the user of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) enum Notice {
    Opened,
    Readable(u64),
    Writable(u64),
    StreamsAllowed,
    Datagram,
    Closed,
}

/// What a packet carried that must be sent again if it is lost.
#[derive(Clone, Debug)]
enum Sent {
    Stream(u64, Range<u64>, bool),
    MaxData,
    MaxStreamData(u64),
    MaxStreams,
    Reset(u64, CloseCode, u64),
    Stop(u64, CloseCode),
}

#[derive(Debug)]
struct SentPacket {
    at: Instant,
    len: usize,
    contents: Vec<Sent>,
}

#[derive(Debug)]
struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

pub(in crate::link) struct Connection {
    pub(in crate::link) side: Side,
    pub(in crate::link) peer: PeerId,
    pub(in crate::link) protocol: Arc<str>,
    pub(in crate::link) remote: SocketAddr,
    pub(in crate::link) remote_id: ConnectionId,
    pub(in crate::link) secret: [u8; 32],
    pub(in crate::link) closed: Option<ConnectionError>,
    pub(in crate::link) notices: VecDeque<Notice>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    peer_max_streams: u64,
    max_streams: u64,
    opened_by_peer: u64,
    incoming: VecDeque<u64>,
    /// Bytes sent of all streams, and how many the peer allows.
    sent_bytes: u64,
    peer_max_data: u64,
    /// Bytes received of all streams, how many of them are read or given up, and how many are allowed.
    received_bytes: u64,
    consumed_bytes: u64,
    max_data: u64,
    /// Control frames that wait to be sent.
    control: VecDeque<Frame>,
    datagrams_out: VecDeque<Bytes>,
    datagrams_in: VecDeque<Bytes>,
    /// The stream that the next packet begins with, so that all have their turn.
    turn: u64,
    next_number: u64,
    sent: BTreeMap<u64, SentPacket>,
    /// The contents of packets that were taken for lost last.
    lost: BTreeMap<u64, Vec<Sent>>,
    /// By how many packets one may be late before it is taken for lost.
    reordering: u64,
    in_flight: usize,
    largest_acknowledged: Option<u64>,
    received: Ranges,
    acknowledge: bool,
    ping: bool,
    rtt: Option<(Duration, Duration)>,
    probes: u32,
    last_heard: Instant,
    last_said: Instant,
}

impl Connection {
    pub(in crate::link) fn new(
        side: Side,
        peer: PeerId,
        protocol: Arc<str>,
        remote: (SocketAddr, ConnectionId),
        secret: [u8; 32],
        now: Instant,
    ) -> Self {
        Self {
            side,
            peer,
            protocol,
            remote: remote.0,
            remote_id: remote.1,
            secret,
            closed: None,
            notices: VecDeque::new(),
            streams: BTreeMap::new(),
            next_stream: match side {
                Side::Dialer => 0,
                Side::Acceptor => 1,
            },
            peer_max_streams: STREAMS_MAX,
            max_streams: STREAMS_MAX,
            opened_by_peer: 0,
            incoming: VecDeque::new(),
            sent_bytes: 0,
            peer_max_data: CONNECTION_WINDOW,
            received_bytes: 0,
            consumed_bytes: 0,
            max_data: CONNECTION_WINDOW,
            control: VecDeque::new(),
            datagrams_out: VecDeque::new(),
            datagrams_in: VecDeque::new(),
            turn: 0,
            next_number: 0,
            sent: BTreeMap::new(),
            lost: BTreeMap::new(),
            reordering: REORDERING_PACKETS,
            in_flight: 0,
            largest_acknowledged: None,
            received: Ranges::default(),
            acknowledge: false,
            ping: side == Side::Dialer,
            rtt: None,
            probes: 0,
            last_heard: now,
            last_said: now,
        }
    }

    // ------------------------------------------------------------------ the user's side

    pub(in crate::link) fn open(&mut self) -> Option<u64> {
        if self.next_stream / 2 >= self.peer_max_streams {
            return None;
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.streams.insert(id, Stream::new());
        Some(id)
    }

    pub(in crate::link) fn accept(&mut self) -> Option<u64> {
        self.incoming.pop_front()
    }

    pub(in crate::link) fn write(
        &mut self,
        id: u64,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamError> {
        self.streams
            .get_mut(&id)
            .ok_or(StreamError::Closed)?
            .send
            .write(chunks)
    }

    pub(in crate::link) fn finish(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.finish();
        }
    }

    pub(in crate::link) fn reset(&mut self, id: u64, code: CloseCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(len) = stream.send.reset() {
            self.control.push_back(Frame::Reset { id, code, len });
        }
        self.remove_if_done(id);
    }

    /// What became of what was sent: stopped with a code, delivered (`Some(None)`), or open.
    pub(in crate::link) fn stopped(
        &self,
        id: u64,
    ) -> Result<Option<Option<CloseCode>>, StreamError> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(Some(None));
        };
        if stream.send.is_delivered() {
            return Ok(Some(None));
        }
        if let Some(code) = stream.send.stopped {
            return Ok(Some(Some(code)));
        }
        if stream.send.is_reset() {
            Err(StreamError::Closed)
        } else {
            Ok(None)
        }
    }

    pub(in crate::link) fn read(
        &mut self,
        id: u64,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Result<Option<Option<usize>>, StreamError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(StreamError::Closed);
        };
        let result = stream.recv.read(chunks, limit);
        if let Ok(Some(Some(taken))) = result {
            if let Some(max) = stream.recv.new_max() {
                self.control.push_back(Frame::MaxStreamData { id, max });
            }
            self.consume(taken as u64);
        }
        self.remove_if_done(id);
        result
    }

    pub(in crate::link) fn stop(&mut self, id: u64, code: CloseCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.recv.stopped || stream.recv.is_done() {
            return;
        }
        let unread = stream.recv.stop();
        self.control.push_back(Frame::Stop { id, code });
        self.consume(unread);
        self.remove_if_done(id);
    }

    pub(in crate::link) fn send_datagram(
        &mut self,
        datagram: Bytes,
    ) -> Result<(), SendDatagramError> {
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(SendDatagramError::TooLarge {
                len: datagram.len(),
                max: DATAGRAM_LEN_MAX,
            });
        }
        if self.datagrams_out.len() == DATAGRAMS_MAX {
            self.datagrams_out.pop_front();
        }
        self.datagrams_out.push_back(datagram);
        Ok(())
    }

    pub(in crate::link) fn read_datagram(&mut self) -> Option<Bytes> {
        self.datagrams_in.pop_front()
    }

    /// 32 bytes for `label` and `context` that both ends derive alike.
    pub(in crate::link) fn export(&self, label: &[u8], context: &[u8]) -> [u8; 32] {
        *Digest::of("simulated keying material", &[&self.secret, label, context]).as_bytes()
    }

    /// What tells the peer that the connection is closed.
    pub(in crate::link) fn close_frames(
        &mut self,
        code: CloseCode,
        reason: &str,
    ) -> (u64, Vec<Frame>) {
        let end = (0..=REASON_LEN_MAX.min(reason.len()))
            .rev()
            .find(|end| reason.is_char_boundary(*end));
        let reason = reason[..end.unwrap_or(0)].to_owned();
        self.next_number += 1;
        (self.next_number - 1, vec![Frame::Close { code, reason }])
    }

    pub(in crate::link) fn close(&mut self, error: ConnectionError) {
        if self.closed.is_none() {
            self.closed = Some(error);
            self.notices.push_back(Notice::Closed);
            self.streams.clear();
            self.sent.clear();
            self.control.clear();
            self.datagrams_out.clear();
        }
    }

    // ------------------------------------------------------------------ the network's side

    /// Takes the frames of a packet.
    ///
    /// # Errors
    /// What the peer has broken: the connection is to be closed.
    pub(in crate::link) fn receive(
        &mut self,
        now: Instant,
        number: u64,
        frames: Vec<Frame>,
    ) -> Result<(), &'static str> {
        self.last_heard = now;
        if self.received.contains(number) {
            // A duplicate: say again what has arrived, and nothing else.
            self.acknowledge = true;
            return Ok(());
        }
        self.received.insert(number..number + 1);
        while self.received.len() > ACK_RANGES_MAX * 4 {
            self.received.pop_first();
        }
        for frame in frames {
            self.acknowledge |= !matches!(frame, Frame::Ack(_) | Frame::Close { .. });
            self.receive_frame(now, frame)?;
        }
        Ok(())
    }

    fn receive_frame(&mut self, now: Instant, frame: Frame) -> Result<(), &'static str> {
        match frame {
            Frame::Ack(ranges) => self.receive_ack(now, &ranges),
            Frame::Ping => {}
            Frame::Stream {
                id,
                offset,
                fin,
                data,
            } => {
                let Some(stream) = self.peer_stream(id)? else {
                    return Ok(());
                };
                let new = stream.recv.receive(offset, data, fin)?;
                let (stopped, readable) = (stream.recv.stopped, stream.recv.is_readable());
                self.received_bytes += new;
                if self.received_bytes > self.max_data {
                    return Err("more data than was allowed");
                }
                if stopped {
                    self.consume(new);
                } else if readable {
                    self.notices.push_back(Notice::Readable(id));
                }
                self.remove_if_done(id);
            }
            Frame::MaxData(max) => self.peer_max_data = self.peer_max_data.max(max),
            Frame::MaxStreamData { id, max } => {
                if let Some(stream) = self.peer_stream(id)? {
                    stream.send.peer_max = stream.send.peer_max.max(max);
                }
            }
            Frame::MaxStreams(max) => {
                if max > self.peer_max_streams {
                    self.peer_max_streams = max;
                    self.notices.push_back(Notice::StreamsAllowed);
                }
            }
            Frame::Reset { id, code, len } => {
                if let Some(stream) = self.peer_stream(id)? {
                    let (new, unread) = stream.recv.receive_reset(code, len)?;
                    self.received_bytes += new;
                    self.consume(unread);
                    self.notices.push_back(Notice::Readable(id));
                    self.remove_if_done(id);
                }
            }
            Frame::Stop { id, code } => {
                if let Some(stream) = self.peer_stream(id)? {
                    stream.send.stopped.get_or_insert(code);
                    self.notices.push_back(Notice::Writable(id));
                    self.reset(id, code);
                }
            }
            Frame::Datagram(datagram) => {
                if self.datagrams_in.len() == DATAGRAMS_MAX {
                    self.datagrams_in.pop_front();
                }
                self.datagrams_in.push_back(datagram);
                self.notices.push_back(Notice::Datagram);
            }
            Frame::Close { code, reason } => {
                let reason = reason.get(..REASON_LEN_MAX).unwrap_or(&reason).into();
                self.close(ConnectionError::ClosedByPeer { code, reason });
            }
        }
        Ok(())
    }

    /// The stream that the peer speaks of: nothing where it is over, a new one where the peer opens it.
    fn peer_stream(&mut self, id: u64) -> Result<Option<&mut Stream>, &'static str> {
        let opened_here = id % 2 == self.next_stream % 2;
        if opened_here {
            if id >= self.next_stream {
                return Err("a stream that was never opened");
            }
            return Ok(self.streams.get_mut(&id));
        }
        let number = id / 2;
        if number >= self.max_streams {
            return Err("more streams than were allowed");
        }
        // A stream opens all below it.
        while self.opened_by_peer <= number {
            let opened = self.opened_by_peer * 2 + id % 2;
            self.opened_by_peer += 1;
            self.streams.insert(opened, Stream::new());
            self.incoming.push_back(opened);
            self.notices.push_back(Notice::Opened);
        }
        Ok(self.streams.get_mut(&id))
    }

    /// The next packet to send, if there is one.
    pub(in crate::link) fn poll_frames(&mut self, now: Instant) -> Option<(u64, Vec<Frame>)> {
        if self.closed.is_some() {
            return None;
        }
        let (mut frames, mut contents) = (Vec::new(), Vec::new());
        let mut room = PACKET_LEN_MAX - HEADER_LEN;
        if std::mem::take(&mut self.acknowledge) {
            let ranges: Vec<_> = self
                .received
                .descending()
                .take(ACK_RANGES_MAX)
                .map(|range| (range.start, range.end - 1))
                .collect();
            room -= 8 + ranges.len() * 20;
            frames.push(Frame::Ack(ranges));
        }
        let acks = frames.len();
        if self.in_flight < IN_FLIGHT_MAX {
            self.fill(&mut frames, &mut contents, &mut room);
        }
        if std::mem::take(&mut self.ping) && frames.len() == acks {
            frames.push(Frame::Ping);
        }
        if frames.is_empty() {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        if frames.len() > acks {
            let len = PACKET_LEN_MAX - room;
            self.in_flight += len;
            self.sent.insert(
                number,
                SentPacket {
                    at: now,
                    len,
                    contents,
                },
            );
            self.last_said = now;
        }
        Some((number, frames))
    }

    fn fill(&mut self, frames: &mut Vec<Frame>, contents: &mut Vec<Sent>, room: &mut usize) {
        while *room >= CONTROL_FRAME_LEN
            && let Some(frame) = self.control.pop_front()
        {
            *room -= CONTROL_FRAME_LEN;
            match &frame {
                Frame::MaxData(_) => contents.push(Sent::MaxData),
                Frame::MaxStreamData { id, .. } => contents.push(Sent::MaxStreamData(*id)),
                Frame::MaxStreams(_) => contents.push(Sent::MaxStreams),
                Frame::Reset { id, code, len } => contents.push(Sent::Reset(*id, *code, *len)),
                Frame::Stop { id, code } => contents.push(Sent::Stop(*id, *code)),
                Frame::Ack(_)
                | Frame::Ping
                | Frame::Stream { .. }
                | Frame::Datagram(_)
                | Frame::Close { .. } => {}
            }
            frames.push(frame);
        }
        while let Some(datagram) = self.datagrams_out.front() {
            let len = datagram.len() + 8;
            if len > *room {
                break;
            }
            *room -= len;
            frames.extend(self.datagrams_out.pop_front().map(Frame::Datagram));
        }
        // From where the last packet ended, once around.
        let after = self.streams.range(self.turn..).map(|(id, _)| *id);
        let before = self.streams.range(..self.turn).map(|(id, _)| *id);
        let order: Vec<u64> = after.chain(before).collect();
        for id in order {
            if *room <= STREAM_FRAME_OVERHEAD {
                self.turn = id;
                return;
            }
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let new_max = self.peer_max_data - self.sent_bytes;
            while let Some((offset, data, fin, new)) = stream
                .send
                .next_piece(room.saturating_sub(STREAM_FRAME_OVERHEAD), new_max)
            {
                self.sent_bytes += new;
                *room -= STREAM_FRAME_OVERHEAD + data.len();
                contents.push(Sent::Stream(id, offset..offset + data.len() as u64, fin));
                frames.push(Frame::Stream {
                    id,
                    offset,
                    fin,
                    data,
                });
                if *room <= STREAM_FRAME_OVERHEAD || new > 0 {
                    break;
                }
            }
            self.turn = id + 1;
        }
    }

    /// `len` more bytes have been read, or never will be.
    fn consume(&mut self, len: u64) {
        self.consumed_bytes += len;
        let max = self.consumed_bytes + CONNECTION_WINDOW;
        if max >= self.max_data + CONNECTION_WINDOW / 2 {
            self.max_data = max;
            self.control.push_back(Frame::MaxData(max));
        }
    }

    fn remove_if_done(&mut self, id: u64) {
        let done = |stream: &Stream| stream.send.is_done() && stream.recv.is_done();
        if !self.streams.get(&id).is_some_and(done) {
            return;
        }
        self.streams.remove(&id);
        if id % 2 != self.next_stream % 2 {
            self.max_streams += 1;
            // Told in halves, as credit is.
            if self.max_streams.is_multiple_of(STREAMS_MAX / 2) {
                self.control.push_back(Frame::MaxStreams(self.max_streams));
            }
        }
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            send: SendHalf::new(),
            recv: RecvHalf::new(),
        }
    }
}
