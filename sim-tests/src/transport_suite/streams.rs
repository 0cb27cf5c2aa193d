//! Streams: order, ends, and how the two ends hold each other back.

use std::future::poll_fn;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use smalti_core::runtime::{Connection, StreamError};
use smalti_core::wire::CloseCode;

use super::{Pair, World, pattern, read, read_to_end, takes, try_read_to_end, try_write, write};

const CODE: CloseCode = CloseCode::TOO_MANY;

/// Several times every window, in pieces of odd lengths.
pub async fn bytes_arrive_in_order_and_end(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    let sent = pattern(3_000_001);
    let writer = async {
        let mut rest = sent.clone();
        let mut len = 1;
        while !rest.is_empty() {
            write(&mut *send, rest.split_to(len.min(rest.len()))).await;
            len = len * 3 % 100_003;
        }
        send.finish();
        send.finish();
        poll_fn(|cx| send.poll_stopped(cx)).await
    };
    let both = join(writer, read_to_end(&mut *recv));
    let (ended, received) = pair.a.within("the transfer", both).await;
    assert!(received == sent, "{} bytes differ", received.len());
    assert_eq!(ended, Ok(None));
}

/// Chunks that were taken are empty, and what is left of the others follows on.
pub async fn writes_take_from_the_front_and_leave_the_rest(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    let sent = pattern(300_000);
    let mut chunks: Vec<Bytes> = sent.chunks(70_000).map(Bytes::copy_from_slice).collect();
    chunks.insert(1, Bytes::new());
    let writer = async {
        loop {
            let left: usize = chunks.iter().map(Bytes::len).sum();
            if left == 0 {
                break send.finish();
            }
            let taken = poll_fn(|cx| send.poll_write(cx, &mut chunks))
                .await
                .unwrap();
            assert!(taken > 0);
            assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), left - taken);
            let first = chunks.iter().position(|chunk| !chunk.is_empty());
            let rest = first.map_or(&[][..], |first| &chunks[first..]);
            assert!(rest.concat() == sent[sent.len() - (left - taken)..]);
        }
    };
    let both = join(writer, read_to_end(&mut *recv));
    let ((), received) = pair.a.within("the transfer", both).await;
    assert!(received == sent);
}

/// A small limit is kept to the byte.
pub async fn a_read_gives_no_more_than_its_limit(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    write(&mut *send, pattern(1_000)).await;
    send.finish();
    let mut received = Vec::new();
    loop {
        let mut chunks = vec![Bytes::from_static(b"kept")];
        let reading = poll_fn(|cx| recv.poll_read(cx, &mut chunks, 7));
        let Some(len) = pair.a.within("a read", reading).await.unwrap() else {
            break;
        };
        assert_eq!(chunks[0], "kept");
        let read = chunks[1..].concat();
        assert!((1..=7).contains(&read.len()));
        assert_eq!(read.len(), len);
        received.extend(read);
    }
    assert_eq!(received, pattern(1_000));
}

/// Finishing is a promise that dropping does not break.
pub async fn a_finished_stream_is_delivered_after_its_sender_is_dropped(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, recv), (_send, mut reader)) = pair.stream().await;
    write(&mut *send, pattern(100_000)).await;
    send.finish();
    drop((send, recv));
    let received = pair.a.within("the rest", read_to_end(&mut *reader)).await;
    assert!(received == pattern(100_000));
}

/// A reset carries its code, and is not mistaken for the end later on.
pub async fn a_reset_is_seen_by_the_reader(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    send.reset(CODE);
    for _ in 0..2 {
        let reading = pair.a.within("the reset", try_read_to_end(&mut *recv));
        assert_eq!(reading.await, Err(StreamError::Reset(CODE)));
    }
}

/// A stop carries its code to writes and to whoever waits for it.
pub async fn a_stop_is_seen_by_the_writer(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    recv.stop(CODE);
    let stopped = poll_fn(|cx| send.poll_stopped(cx));
    assert_eq!(pair.a.within("the stop", stopped).await, Ok(Some(CODE)));
    let writing = try_write(&mut *send, pattern(1));
    assert_eq!(
        pair.a.within("a write", writing).await,
        Err(StreamError::Stopped(CODE))
    );
}

/// What was cut off must not look complete.
pub async fn a_sender_dropped_unfinished_resets_the_stream(world: World) {
    let pair = Pair::start(&world).await;
    let ((send, _recv), (_send, mut recv)) = pair.stream().await;
    drop(send);
    let reading = pair.a.within("the reset", try_read_to_end(&mut *recv));
    assert_eq!(reading.await, Err(StreamError::Reset(CloseCode::NONE)));
}

/// Nobody writes to where nobody reads.
pub async fn a_dropped_receiver_stops_the_stream(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, recv)) = pair.stream().await;
    drop(recv);
    let stopped = poll_fn(|cx| send.poll_stopped(cx));
    let code = pair.a.within("the stop", stopped).await;
    assert_eq!(code, Ok(Some(CloseCode::NONE)));
}

/// What this side has ended is an error of its own, at once.
pub async fn a_closed_half_takes_and_gives_nothing(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut finished, mut stopped), _kept) = pair.stream().await;
    finished.finish();
    stopped.stop(CODE);
    let ((mut reset, _recv), _kept_too) = pair.stream().await;
    reset.reset(CODE);
    assert_eq!(
        try_write(&mut *finished, pattern(1)).await,
        Err(StreamError::Closed)
    );
    assert_eq!(
        try_write(&mut *reset, pattern(1)).await,
        Err(StreamError::Closed)
    );
    assert_eq!(
        try_read_to_end(&mut *stopped).await,
        Err(StreamError::Closed)
    );
    let after_reset = poll_fn(|cx| reset.poll_stopped(cx)).await;
    assert_eq!(after_reset, Err(StreamError::Closed));
}

/// A stream whose reader does not read takes a bounded number of bytes, then none, while its neighbours on
/// the connection go on; once it is read, all comes.
pub async fn a_reader_that_does_not_read_holds_back_its_writer_alone(world: World) {
    const BOUND: usize = 64 << 20;
    /// Round trips without a byte taken after which the writer counts as held back.
    const QUIET_ROUNDS: usize = 20;
    let pair = Pair::start(&world).await;
    let ((mut send, _recv), (_send, mut recv)) = pair.stream().await;
    let ((mut ping, mut pong), (mut back, mut echo)) = pair.stream().await;
    let piece = pattern(1 << 20);
    let (mut written, mut quiet) = (0, 0);
    let mut rest = piece.clone();
    while quiet < QUIET_ROUNDS {
        let before = rest.len();
        let taken = takes(&mut *send, &mut rest).await;
        written += before - rest.len();
        assert!(written < BOUND, "the writer is never held back");
        if rest.is_empty() {
            rest = piece.clone();
        }
        if taken {
            quiet = 0;
            continue;
        }
        let round = async {
            write(&mut *ping, Bytes::from_static(b"?")).await;
            assert_eq!(read(&mut *echo, 1).await, b"?");
            write(&mut *back, Bytes::from_static(b"!")).await;
            assert_eq!(read(&mut *pong, 1).await, b"!");
        };
        pair.a.within("a neighbour", round).await;
        quiet += 1;
    }
    let writer = async {
        write(&mut *send, rest.clone()).await;
        send.finish();
    };
    let both = join(writer, read_to_end(&mut *recv));
    let ((), received) = pair.a.within("the rest", both).await;
    assert_eq!(received.len(), written + rest.len());
    assert!(
        received
            .chunks(piece.len())
            .all(|part| part == &piece[..part.len()])
    );
}

/// Streams opened from both ends, all at once, do not mix.
pub async fn many_streams_run_side_by_side_in_both_directions(world: World) {
    const COUNT: usize = 32;
    let pair = Pair::start(&world).await;
    let ask = |connection: &std::sync::Arc<dyn Connection>, n: usize| {
        let connection = connection.clone();
        async move {
            let (mut send, mut recv) = connection.open().await.unwrap();
            write(&mut *send, pattern(1_000 + n)).await;
            send.finish();
            let answer = read_to_end(&mut *recv).await;
            assert!(answer == pattern(1_000 + n));
        }
    };
    let answer = |connection: std::sync::Arc<dyn Connection>| async move {
        for _ in 0..COUNT {
            let (mut send, mut recv) = connection.accept().await.unwrap();
            let question = read_to_end(&mut *recv).await;
            write(&mut *send, question.into()).await;
            send.finish();
        }
    };
    let asked = join(
        join_all((0..COUNT).map(|n| ask(&pair.a_to_b, n))),
        join_all((0..COUNT).map(|n| ask(&pair.b_to_a, n))),
    );
    let answered = join(answer(pair.a_to_b.clone()), answer(pair.b_to_a.clone()));
    pair.a.within("the streams", join(asked, answered)).await;
}

/// As many as there can well be subscriptions between two nodes.
pub async fn a_hundred_streams_may_be_open_at_once(world: World) {
    const COUNT: usize = 100;
    let pair = Pair::start(&world).await;
    let open = async {
        let mut streams = Vec::new();
        for _ in 0..COUNT {
            streams.push(pair.stream().await);
        }
        streams
    };
    let streams = pair.a.within("the streams", open).await;
    assert_eq!(streams.len(), COUNT);
}
