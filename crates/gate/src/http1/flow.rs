//! One direction of an exchange: a head, and the body behind it as it comes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, BytesMut};
use http::HeaderMap;
use overdue::h1::{
    Framing,
    chunked::{Chunked, Part, trailer_room, trailers},
    fields::Field,
};

use super::{
    head::{is_of_proxies, is_taken_for, put_field},
    side::{Buffers, Side, Trailing},
};

/// A body up to this size is copied behind its head: cheaper than to tell the kernel of two places.
const COPY_MAX: usize = 4 * 1024;
/// Up to this size a message may be held back until it is whole.
const PIECE_MAX: usize = 8 * 1024;

/// Bytes on their way from one side to the other.
pub(crate) struct Flow {
    /// Goes first: a head, or a chunk as it is told to the other side.
    out: BytesMut,
    /// So much of it was written. It is not cut off: a head may have to be sent again.
    sent: usize,
    body: Body,
    /// Whether the other side gets chunks.
    chunks: bool,
    /// Bytes of the body that were taken from its sender, without their framing.
    pub(crate) moved: u64,
    /// What its trailers say of a gRPC call.
    pub(crate) grpc: Option<u8>,
    ended: bool,
    behind: Behind,
    /// Nothing is written before all of it is there, as long as that is no more than [`PIECE_MAX`].
    in_one_piece: bool,
}

/// Whether there are trailers behind a body of known length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Nobody has asked the two sides yet.
    Unasked,
    /// The receiver waits to be told.
    Awaited,
    Settled,
}

enum Body {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// Whatever comes, both ways: the connection is no longer one of HTTP.
    Tunnel,
}

/// Why a flow does not go on by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flowing {
    /// All of it was written.
    Done,
    /// Its sender has no more yet.
    NeedsSender,
    /// Its receiver takes no more yet.
    NeedsReceiver,
}

/// What ended a flow before its time.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The sender closed where more was due.
    SenderClosed,
    /// Reading from the sender failed.
    Sender(io::Error),
    /// The sender's framing is wrong.
    Framing(String),
    /// Writing to the receiver failed.
    Receiver(io::Error),
    /// The body is longer than it may be.
    TooLong,
}

impl Flow {
    /// A head that waits in `out`, and a body of this framing behind it, which is told to the receiver in chunks or as it
    /// is.
    pub(crate) fn new(out: BytesMut, framing: Framing, chunks: bool) -> Self {
        let body = match framing {
            Framing::Empty => Body::Length(0),
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunked::default()),
            Framing::UntilClose => Body::UntilClose,
        };
        Self {
            out,
            sent: 0,
            body,
            chunks,
            moved: 0,
            grpc: None,
            ended: framing == Framing::Empty,
            behind: Behind::Unasked,
            in_one_piece: false,
        }
    }

    pub(crate) fn tunnel(out: BytesMut) -> Self {
        Self {
            out,
            sent: 0,
            body: Body::Tunnel,
            chunks: false,
            moved: 0,
            grpc: None,
            ended: false,
            behind: Behind::Settled,
            in_one_piece: false,
        }
    }

    /// The same, in one piece if it is short.
    pub(crate) fn in_one_piece(self) -> Self {
        Self { in_one_piece: true, ..self }
    }

    /// Nothing of it was written: it waits until it is whole.
    pub(crate) const fn is_held_back(&self) -> bool {
        self.in_one_piece
    }

    /// From now on it is written as it comes.
    pub(crate) const fn let_go(&mut self) {
        self.in_one_piece = false;
    }

    /// Whether all of it has been taken from the sender.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended && self.behind != Behind::Awaited
    }

    /// Bytes that are still to come from its sender, where a length says so.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left @ 1..) => Some(left),
            _ => None,
        }
    }

    /// Whether all that its length told was written, and only trailers may follow, of which its receiver need not know.
    pub(crate) fn lacks_trailers_only(&self) -> bool {
        self.ended && self.behind == Behind::Awaited && self.sent == self.out.len()
    }

    /// Whether its sender waits for a word before the first byte of the body: `Expect`, the only one that is let through.
    pub(crate) fn expects_a_word(&self) -> bool {
        let is_expect = |line: &[u8]| line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"expect:"));
        self.moved == 0 && !self.ended && self.out[..].split(|byte| *byte == b'\n').any(is_expect)
    }

    /// Where what is to be sent is put, behind what waits.
    fn out(&mut self) -> &mut BytesMut {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        &mut self.out
    }

    pub(crate) fn into_buffer(self) -> BytesMut {
        self.out
    }

    /// Moves what can be moved now.
    pub(crate) fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<A>,
        to: &mut Side<B>,
        buffers: &Buffers,
        most: u64,
    ) -> Result<Flowing, Broken>
    where
        A: Trailing,
        B: Trailing,
    {
        if self.behind == Behind::Unasked {
            let has_length = matches!(self.body, Body::Length(1..));
            let awaited = has_length && from.io.may_have_trailers() && to.io.awaits_trailers();
            self.behind = if awaited { Behind::Awaited } else { Behind::Settled };
        }
        loop {
            let mut direct = self.direct(from.bytes().len());
            // Asked before the last of the body is written: mostly it is the end of it all.
            if self.behind == Behind::Awaited
                && matches!(self.body, Body::Length(left) if left == direct as u64)
                && let Poll::Ready(trailers) = from.io.poll_trailers(cx)
            {
                let trailers = trailers.map_err(Broken::Sender)?.map(only_allowed);
                self.grpc = trailers.as_ref().and_then(|trailers| grpc_code(trailers.get("grpc-status")?.as_bytes()));
                to.io.end_with(trailers);
                self.behind = Behind::Settled;
            }
            let copy_max = if self.in_one_piece { PIECE_MAX } else { COPY_MAX };
            if (1..=copy_max).contains(&direct) && self.sent < self.out.len() {
                // Behind the head, so that both leave in one plain write.
                self.out.put_slice(from.bytes().get(..direct).unwrap_or_default());
                self.took(from, direct, most)?;
                direct = 0;
            }
            self.in_one_piece &= !self.ended && direct == 0 && self.out.len() <= PIECE_MAX;
            let first = self.out.get(self.sent..).unwrap_or_default();
            if !self.in_one_piece && (!first.is_empty() || direct > 0) {
                let then = from.bytes().get(..direct).unwrap_or_default();
                match to.poll_write(cx, first, then) {
                    Poll::Pending => return Ok(Flowing::NeedsReceiver),
                    Poll::Ready(Err(err)) => return Err(Broken::Receiver(err)),
                    Poll::Ready(Ok(written)) => {
                        let own = written.min(first.len());
                        self.sent += own;
                        self.took(from, written - own, most)?;
                        continue;
                    }
                }
            }
            if self.ended {
                let then = if self.behind == Behind::Awaited { Flowing::NeedsSender } else { Flowing::Done };
                return Self::poll_flush(cx, to, then);
            }
            if self.decode(from, most)? {
                continue;
            }
            match from.poll_fill(cx, buffers) {
                Poll::Pending => return Self::poll_flush(cx, to, Flowing::NeedsSender),
                Poll::Ready(Err(err)) => return Err(Broken::Sender(err)),
                Poll::Ready(Ok(0)) => self.sender_ended(cx, to)?,
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Bytes of what was read that go on as they are.
    fn direct(&self, there: usize) -> usize {
        match self.body {
            Body::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(there),
            Body::Tunnel => there,
            Body::UntilClose if !self.chunks => there,
            Body::UntilClose | Body::Chunked(_) => 0,
        }
    }

    fn took<A: Trailing>(&mut self, from: &mut Side<A>, bytes: usize, most: u64) -> Result<(), Broken> {
        from.used(bytes);
        if let Body::Length(left) = &mut self.body {
            *left -= bytes as u64;
            self.ended |= *left == 0;
        }
        self.count(bytes, most)
    }

    fn count(&mut self, bytes: usize, most: u64) -> Result<(), Broken> {
        self.moved += bytes as u64;
        if self.moved > most { Err(Broken::TooLong) } else { Ok(()) }
    }

    /// Puts what was read into `out`, as the receiver is to see it. False when there is nothing to put there.
    fn decode<A: Trailing>(&mut self, from: &mut Side<A>, most: u64) -> Result<bool, Broken> {
        match &mut self.body {
            Body::UntilClose if self.chunks && !from.bytes().is_empty() => {
                put_chunk(self.out(), from.bytes());
                let bytes = from.bytes().len();
                from.used(bytes);
                self.count(bytes, most)?;
                Ok(true)
            }
            Body::Chunked(decoder) => {
                if self.sent == self.out.len() && !from.bytes().is_empty() {
                    // A head stays where it is until then: it may have to be sent again.
                    self.out.clear();
                    self.sent = 0;
                }
                let mut moved = 0;
                // What came together goes on together.
                let ended = loop {
                    let (used, part) = decoder.next(from.bytes()).map_err(Broken::Framing)?;
                    let ended = part.map(|part| match part {
                        Part::Data(at) => {
                            let data = from.bytes().get(at).unwrap_or_default();
                            if self.chunks {
                                put_chunk(&mut self.out, data)
                            } else {
                                self.out.put_slice(data)
                            }
                            moved += data.len();
                            false
                        }
                        Part::End(at) => {
                            if self.chunks {
                                self.grpc = put_end(&mut self.out, from.bytes().get(at).unwrap_or_default());
                            }
                            true
                        }
                    });
                    from.used(used);
                    match ended {
                        Some(false) => {}
                        Some(true) => break true,
                        None => break false,
                    }
                };
                self.ended |= ended;
                self.count(moved, most)?;
                Ok(ended || moved > 0)
            }
            Body::Length(_) | Body::UntilClose | Body::Tunnel => Ok(false),
        }
    }

    fn sender_ended<B: Trailing>(&mut self, cx: &mut Context<'_>, to: &mut Side<B>) -> Result<(), Broken> {
        match self.body {
            Body::UntilClose => {
                if self.chunks {
                    self.out().put_slice(b"0\r\n\r\n");
                }
            }
            Body::Tunnel => {
                // The other direction goes on. That the receiver cannot be told is for that one to find out.
                let _ = Pin::new(&mut to.io).poll_shutdown(cx);
            }
            Body::Length(_) | Body::Chunked(_) => return Err(Broken::SenderClosed),
        }
        self.ended = true;
        Ok(())
    }

    /// What was written must not lie in a buffer of TLS while everybody waits.
    fn poll_flush<B: Trailing>(cx: &mut Context<'_>, to: &mut Side<B>, then: Flowing) -> Result<Flowing, Broken> {
        match Pin::new(&mut to.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(then),
            Poll::Ready(Err(err)) => Err(Broken::Receiver(err)),
            Poll::Pending => Ok(Flowing::NeedsReceiver),
        }
    }
}

fn put_chunk(out: &mut BytesMut, data: &[u8]) {
    out.reserve(data.len() + 20);
    out.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

/// Fields that have no place among trailers: they would say how to read, where to send, or for whom, what has been read,
/// sent and allowed; what the gateway itself says in a head, nobody else may say behind it.
const NO_TRAILERS: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "grpc-timeout",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-envoy-expected-rq-timeout-ms",
    "x-real-ip",
    "x-request-id",
];

/// The code of gRPC, if this field has it. One that is beyond all codes is 255.
pub(super) fn grpc_status(field: &Field<'_>) -> Option<u8> {
    field.name.eq_ignore_ascii_case("grpc-status").then(|| grpc_code(field.value))?
}

fn grpc_code(value: &[u8]) -> Option<u8> {
    let number = str::from_utf8(value).ok()?.parse::<u32>().ok()?;
    Some(u8::try_from(number).unwrap_or(u8::MAX))
}

/// Whether it has no place there, also for those who take an underscore for a hyphen.
fn is_no_trailer(name: &str) -> bool {
    is_of_proxies(name) || NO_TRAILERS.iter().any(|other| is_taken_for(name, other))
}

fn only_allowed(mut trailers: HeaderMap) -> HeaderMap {
    let others: Vec<_> = trailers.keys().filter(|name| is_no_trailer(name.as_str())).cloned().collect();
    for name in others {
        trailers.remove(name);
    }
    trailers
}

/// Gives the code of gRPC, if there is one.
fn put_end(out: &mut BytesMut, bytes: &[u8]) -> Option<u8> {
    let mut grpc = None;
    out.put_slice(b"0\r\n");
    for field in trailers(bytes, &mut trailer_room()) {
        if !is_no_trailer(field.name) {
            put_field(out, field.name, field.value);
            grpc = grpc.or_else(|| grpc_status(field));
        }
    }
    out.put_slice(b"\r\n");
    grpc
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What the receiver gets of this body, which comes in pieces of `step` bytes and is closed then.
    async fn moved(sent: &[u8], framing: Framing, chunks: bool, step: usize) -> (Result<Flowing, Broken>, Vec<u8>) {
        let (mut client, from) = duplex(1 << 16);
        let (to, mut server) = duplex(7);
        let (mut from, mut to) = (Side::new(from), Side::new(to));
        let buffers = Buffers::default();
        let mut flow = Flow::new(BytesMut::from("HEAD "), framing, chunks);
        let relay = async move {
            poll_fn(|cx| match flow.poll(cx, &mut from, &mut to, &buffers, 1000) {
                Ok(Flowing::Done) => Poll::Ready(Ok(Flowing::Done)),
                Ok(_) => Poll::Pending,
                Err(err) => Poll::Ready(Err(err)),
            })
            .await
        };
        let send = async move {
            for piece in sent.chunks(step) {
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        };
        let mut got = Vec::new();
        let (result, (), _) = tokio::join!(relay, send, server.read_to_end(&mut got));
        (result, got)
    }

    #[tokio::test]
    async fn bodies_of_every_framing_arrive_as_told() {
        for step in [1, 3, 1000] {
            for (sent, framing, chunks, got) in [
                (&b"hello"[..], Framing::Length(5), false, &b"HEAD hello"[..]),
                (b"hello, next", Framing::Length(5), false, b"HEAD hello"),
                (b"", Framing::Empty, false, b"HEAD "),
                (b"5;x=y\r\nhello\r\n0\r\nSum: 1\r\nHost: x\r\n\r\n", Framing::Chunked, false, b"HEAD hello"),
                (b"hello", Framing::UntilClose, false, b"HEAD hello"),
            ] {
                let (result, seen) = moved(sent, framing, chunks, step).await;
                assert!(matches!(result, Ok(Flowing::Done)), "{framing:?}: {result:?}");
                assert_eq!(seen, got, "{framing:?} by {step}");
            }
        }
        let (_, seen) = moved(b"5;x=y\r\nhello\r\n0\r\nSum: 1\r\nHost: x\r\n\r\n", Framing::Chunked, true, 1000).await;
        assert_eq!(seen, b"HEAD 5\r\nhello\r\n0\r\nSum: 1\r\n\r\n");
        let odd = b"0\r\ncontent_length: 1\r\nX-Forwarded_For: a\r\nx-forwarded-port: 1\r\nSum_1: 1\r\n\r\n";
        let (_, seen) = moved(odd, Framing::Chunked, true, 1000).await;
        assert_eq!(seen, b"HEAD 0\r\nSum_1: 1\r\n\r\n");
        let (_, seen) = moved(b"hello", Framing::UntilClose, true, 1000).await;
        assert_eq!(seen, b"HEAD 5\r\nhello\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn a_body_that_ends_too_soon_or_too_late_is_no_body() {
        for (sent, framing) in [(&b"hell"[..], Framing::Length(5)), (b"5\r\nhello\r\n", Framing::Chunked)] {
            let (result, _) = moved(sent, framing, true, 2).await;
            assert!(matches!(result, Err(Broken::SenderClosed)), "{result:?}");
        }
        let (result, seen) = moved(b"5\r\nhelloX", Framing::Chunked, true, 100).await;
        assert!(matches!(result, Err(Broken::Framing(_))), "{result:?}");
        // The end was never told.
        assert!(!seen.ends_with(b"0\r\n\r\n"));
        let long = [b'x'; 1001];
        let (result, _) = moved(&long, Framing::Length(1001), false, 1001).await;
        assert!(matches!(result, Err(Broken::TooLong)), "{result:?}");
    }
}
