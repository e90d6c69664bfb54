//! A message on a stream of HTTP/2, and the bytes that it is in HTTP/1.1.

use std::{
    collections::VecDeque,
    fmt, io,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use overdue::{
    client::h2_failure,
    h1::{
        Framing,
        chunked::{Chunked, Part, trailer_room, trailers},
    },
    tls::io_failure,
};
use overdue_core::facts::Failure;
use tokio::io::ReadBuf;

use crate::http1::put_field;

/// What comes on a stream, to be read.
pub(super) struct Reading {
    /// Goes before `data`.
    out: BytesMut,
    data: Bytes,
    /// `None` once all of it came.
    stream: Option<RecvStream>,
    chunks: bool,
    /// What came behind a body for which what is read has no place.
    trailers: Option<HeaderMap>,
}

impl Reading {
    /// A head that is written out already, and the body behind it.
    pub(super) fn new(head: BytesMut, stream: RecvStream, framing: Framing) -> Self {
        let stream = (framing != Framing::Empty).then_some(stream);
        Self { out: head, data: Bytes::new(), stream, chunks: framing == Framing::Chunked, trailers: None }
    }

    /// Ready with false when all of it was read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<bool, h2::Error>> {
        let before = buf.filled().len();
        loop {
            let count = self.out.len().min(buf.remaining());
            buf.put_slice(&self.out.split_to(count));
            if self.out.is_empty() && !self.data.is_empty() {
                let count = self.data.len().min(buf.remaining());
                buf.put_slice(&self.data.split_to(count));
                if let Some(stream) = &mut self.stream {
                    // Only now may its sender send more.
                    stream.flow_control().release_capacity(count)?;
                }
                if self.chunks && self.data.is_empty() {
                    self.out.put_slice(b"\r\n");
                }
            }
            let some = buf.filled().len() > before;
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(some));
            }
            if !self.out.is_empty() || !self.data.is_empty() {
                continue;
            }
            match self.poll_more(cx)? {
                Poll::Ready(true) => {}
                Poll::Pending if !some => return Poll::Pending,
                Poll::Ready(false) | Poll::Pending => return Poll::Ready(Ok(some)),
            }
        }
    }

    /// Whether trailers may come, or came, for which what is read has no place.
    pub(super) const fn may_have_trailers(&self) -> bool {
        self.stream.is_some() && !self.chunks || self.trailers.is_some()
    }

    /// These, once all of the body was read.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(self.trailers.take())) };
        while let Some(data) = ready!(stream.poll_data(cx)) {
            // h2 holds the data against the length, so that there is no more than that.
            if !data?.is_empty() {
                return Poll::Ready(Err(h2::Reason::PROTOCOL_ERROR.into()));
            }
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        self.stream = None;
        Poll::Ready(Ok(trailers))
    }

    /// With which error the stream ended, if one is known. What came before that is of no use any more.
    pub(super) fn broke(&mut self, cx: &mut Context<'_>) -> Option<h2::Error> {
        let stream = self.stream.as_mut()?;
        loop {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(err))) => return Some(err),
                Poll::Ready(None) | Poll::Pending => return None,
            }
        }
    }

    /// Ready with false when there is no more.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Result<Poll<bool>, h2::Error> {
        let Some(stream) = &mut self.stream else { return Ok(Poll::Ready(false)) };
        match stream.poll_data(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(data)) => {
                self.data = data?;
                if self.chunks && !self.data.is_empty() {
                    self.out.put_slice(format!("{:x}\r\n", self.data.len()).as_bytes());
                }
                return Ok(Poll::Ready(true));
            }
            Poll::Ready(None) => {}
        }
        let Poll::Ready(trailers) = stream.poll_trailers(cx)? else { return Ok(Poll::Pending) };
        self.stream = None;
        if self.chunks {
            self.out.put_slice(b"0\r\n");
            put_fields(&mut self.out, trailers.iter().flatten());
            self.out.put_slice(b"\r\n");
        } else {
            self.trailers = trailers;
        }
        Ok(Poll::Ready(self.chunks))
    }
}

/// What is written, to be sent on a stream.
pub(super) struct Writing {
    /// What was written and is not understood yet.
    carry: BytesMut,
    state: State,
    /// The body, as far as the other side has not made room for it.
    waiting: VecDeque<Bytes>,
    stream: Option<SendStream<Bytes>>,
    /// What follows a body of known length; `None` while that is not known.
    behind: Option<Option<HeaderMap>>,
}

enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    Tunnel,
    /// All of it was written, and its end is not known.
    Held,
    /// Its end is not sent yet, nor are these trailers.
    Ending(Option<HeaderMap>),
    Ended,
}

/// What became of a head.
pub(super) enum Sent {
    /// One that comes before the head of the answer.
    Interim,
    /// The message begins: its body goes here.
    Message(SendStream<Bytes>, Framing),
    /// From now on whatever is written goes here.
    Tunnel(SendStream<Bytes>),
}

impl Writing {
    pub(super) fn new() -> Self {
        Self { carry: BytesMut::new(), state: State::Head, waiting: VecDeque::new(), stream: None, behind: Some(None) }
    }

    /// Takes all of `input`, once what it took before is sent. `head` reads a head at the front of what it gets, and sends
    /// it; it gives the length of that.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        head: impl FnMut(&[u8]) -> io::Result<Option<(usize, Sent)>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        self.carry.put_slice(input);
        self.read(head)?;
        // Pending is no matter of who wrote this: it is taken.
        let _ = self.poll_flush(cx)?;
        Poll::Ready(Ok(input.len()))
    }

    fn read(&mut self, mut head: impl FnMut(&[u8]) -> io::Result<Option<(usize, Sent)>>) -> io::Result<()> {
        loop {
            match &mut self.state {
                State::Head => match head(&self.carry)? {
                    None => return Ok(()),
                    Some((length, sent)) => {
                        self.carry.advance(length);
                        let (stream, state) = match sent {
                            Sent::Interim => continue,
                            Sent::Tunnel(stream) => (stream, State::Tunnel),
                            Sent::Message(stream, framing) => {
                                let state = match framing {
                                    Framing::Empty => State::Ended,
                                    Framing::Length(length) => State::Length(length),
                                    Framing::Chunked => State::Chunked(Chunked::default()),
                                    Framing::UntilClose => return Err(io::ErrorKind::InvalidData.into()),
                                };
                                (stream, state)
                            }
                        };
                        (self.stream, self.state) = (Some(stream), state);
                    }
                },
                State::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.carry.len());
                    *left -= count as u64;
                    let ended = *left == 0;
                    if count > 0 {
                        self.waiting.push_back(self.carry.split_to(count).freeze());
                    }
                    if !ended {
                        return Ok(());
                    }
                    self.state = self.behind.take().map_or(State::Held, State::Ending);
                }
                State::Chunked(decoder) => {
                    let (used, part) = decoder.next(&self.carry).map_err(io::Error::other)?;
                    let mut bytes = self.carry.split_to(used);
                    match part {
                        None => return Ok(()),
                        Some(Part::Data(at)) => {
                            bytes.truncate(at.end);
                            bytes.advance(at.start);
                            self.waiting.push_back(bytes.freeze());
                        }
                        Some(Part::End(at)) => {
                            let trailers = to_map(trailers(bytes.get(at).unwrap_or_default(), &mut trailer_room()))?;
                            self.state = State::Ending((!trailers.is_empty()).then_some(trailers));
                        }
                    }
                }
                State::Tunnel => {
                    if !self.carry.is_empty() {
                        self.waiting.push_back(self.carry.split().freeze());
                    }
                    return Ok(());
                }
                State::Held | State::Ending(_) | State::Ended if self.carry.is_empty() => return Ok(()),
                // Nobody writes more than one message.
                State::Held | State::Ending(_) | State::Ended => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Ready once the other side has made room for all that was written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        while let Some(first) = self.waiting.front_mut() {
            stream.reserve_capacity(first.len());
            let room = match stream.capacity() {
                0 => match ready!(stream.poll_capacity(cx)) {
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Some(room) => room.map_err(into_io)?,
                },
                room => room,
            };
            let count = room.min(first.len());
            if count == 0 {
                continue;
            }
            let piece = first.split_to(count);
            if first.is_empty() {
                self.waiting.pop_front();
            }
            let last = self.waiting.is_empty() && matches!(self.state, State::Ending(None));
            stream.send_data(piece, last).map_err(into_io)?;
            if last {
                self.state = State::Ended;
            }
        }
        if let State::Ending(trailers) = &mut self.state {
            match trailers.take() {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(into_io)?;
            self.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// A body of known length ends with [`end_with`](Self::end_with) from now on.
    pub(super) fn await_trailers(&mut self) {
        self.behind = None;
    }

    pub(super) fn end_with(&mut self, trailers: Option<HeaderMap>) {
        let trailers = trailers.filter(|trailers| !trailers.is_empty());
        match self.state {
            State::Held => self.state = State::Ending(trailers),
            _ => self.behind = Some(trailers),
        }
    }

    pub(super) const fn is_tunnel(&self) -> bool {
        matches!(self.state, State::Tunnel)
    }

    /// Nothing more is written into the tunnel, if it is one.
    pub(super) fn end_tunnel(&mut self) {
        if self.is_tunnel() {
            self.state = State::Ending(None);
        }
    }

    /// Bytes that the other side has made no room for.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.iter().map(Bytes::len).sum()
    }

    /// Whether all of a message is sent.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The stream, once the head is sent.
    pub(super) const fn stream(&mut self) -> Option<&mut SendStream<Bytes>> {
        self.stream.as_mut()
    }
}

/// Fields that belong to one connection of HTTP/1.1. A stream has none of them, and none is let through.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

/// The fields of a head, but for those that are about one connection.
pub(super) fn to_map(fields: &[overdue::h1::fields::Field<'_>]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        if !is_hop_by_hop(field.name) {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(io::Error::other)?;
            map.append(name, HeaderValue::from_bytes(field.value).map_err(io::Error::other)?);
        }
    }
    Ok(map)
}

/// Writes fields as lines. Their bytes were checked when they came: no line can be hidden in one.
pub(super) fn put_fields<'h>(out: &mut BytesMut, fields: impl IntoIterator<Item = (&'h HeaderName, &'h HeaderValue)>) {
    fields.into_iter().for_each(|(name, value)| put_field(out, name.as_str(), value.as_bytes()));
}

/// How a stream ended that should not have, on its way through what takes it for a connection.
#[derive(Debug)]
struct Ended(Failure);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Failure::Os { text, .. } | Failure::Protocol(text) => f.write_str(text),
            _ => f.write_str("the stream ended"),
        }
    }
}

impl std::error::Error for Ended {}

/// What of a request has no place in HTTP/2: nothing of it was sent, and it is its client's.
#[derive(Debug)]
pub(super) struct Unsayable(pub(super) String);

impl fmt::Display for Unsayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what it asks for cannot be said in HTTP/2: {}", self.0)
    }
}

impl std::error::Error for Unsayable {}

/// Why a request could not be sent that its client has to put otherwise.
pub(crate) fn unsayable(err: &io::Error) -> Option<String> {
    Some(err.get_ref()?.downcast_ref::<Unsayable>()?.to_string())
}

/// An end of HTTP/2, for who reads and writes.
pub(super) fn into_io(err: h2::Error) -> io::Error {
    if err.is_io() {
        return err.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, Ended(h2_failure(&err)))
}

/// What it means that a connection, or what is taken for one, failed.
pub(crate) fn failure(operation: &'static str, err: io::Error) -> Failure {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<Ended>()) {
        Some(Ended(failure)) => failure.clone(),
        None => io_failure(operation, err).0,
    }
}
