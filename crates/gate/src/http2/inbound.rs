//! A stream that a client opened, as the connection of HTTP/1.1 that the rest of the gateway takes it for.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use overdue::h1::{Framing, fields::Field, response};
use overdue_core::facts::SocketFacts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::Frames,
    message::{Reading, Sent, Writing, into_io, is_hop_by_hop, put_fields, to_map},
    websocket::WebSocket,
};
use crate::http1::{Client, Trailing, put_field};

/// The connection that streams are on.
pub(super) struct Ground<S> {
    pub(super) io: RefCell<S>,
    pub(super) frames: RefCell<Frames>,
    /// Why this side ended it.
    pub(super) cut: RefCell<Option<String>>,
}

/// What a stream sees of it.
pub(super) trait Beneath {
    fn scheme(&self) -> &'static str;
    fn observe(&self, peer: SocketAddr) -> SocketFacts;
    fn local_addr(&self) -> Option<SocketAddr>;
    fn cut_off(&self) -> Option<String>;
    /// One of its answers went out to its end.
    fn answered(&self);
}

impl<S: Client> Beneath for Ground<S> {
    fn scheme(&self) -> &'static str {
        self.io.borrow().scheme()
    }

    fn observe(&self, peer: SocketAddr) -> SocketFacts {
        self.io.borrow().observe(peer)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.io.borrow().local_addr()
    }

    fn cut_off(&self) -> Option<String> {
        self.cut.borrow().clone()
    }

    fn answered(&self) {
        self.frames.borrow_mut().answered();
    }
}

/// One request, and its answer.
pub(super) struct Inbound {
    reading: Reading,
    writing: Writing,
    respond: SendResponse<Bytes>,
    is_head: bool,
    websocket: Option<WebSocket>,
    connection: Rc<dyn Beneath>,
}

impl Inbound {
    pub(super) fn new(
        request: Request<RecvStream>,
        websocket: Option<WebSocket>,
        respond: SendResponse<Bytes>,
        connection: Rc<dyn Beneath>,
    ) -> Self {
        let (parts, stream) = request.into_parts();
        let mut head = BytesMut::with_capacity(512);
        let reading = match &websocket {
            Some(websocket) => {
                write_head(&mut head, &parts, Asking::Upgrade(websocket));
                // Whatever comes, up to the end.
                Reading::new(head, stream, Framing::UntilClose)
            }
            None => {
                let framing = framing(&parts.headers, &stream);
                write_head(&mut head, &parts, Asking::Request(framing));
                Reading::new(head, stream, framing)
            }
        };
        let is_head = parts.method == Method::HEAD;
        Self { reading, writing: Writing::new(), respond, is_head, websocket, connection }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if self.writing.has_ended() {
            self.connection.answered();
        }
    }
}

/// How HTTP/1.1 tells the end of this body.
fn framing(fields: &HeaderMap, stream: &RecvStream) -> Framing {
    if stream.is_end_stream() {
        return Framing::Empty;
    }
    if gives_up_length(fields) {
        return Framing::Chunked;
    }
    // h2 holds the data against the length. What is no number is left for the one parser to refuse.
    let length = fields.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.map_or(Framing::Chunked, Framing::Length)
}

/// Trailers that are announced are to come through to servers of HTTP/1.1, too, which has them only behind chunks.
fn gives_up_length(fields: &HeaderMap) -> bool {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next().and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    fields.contains_key(header::TRAILER) && length.is_some() && lengths.next().is_none()
}

/// What a head of HTTP/2 is in HTTP/1.1.
#[derive(Clone, Copy)]
enum Asking<'w> {
    Request(Framing),
    Upgrade(&'w WebSocket),
}

/// The head as HTTP/1.1 has it. What is strange in it is written as it is, and is refused by the parser that refuses it in
/// HTTP/1.1: two hosts, a path that climbs, a length that is none.
fn write_head(out: &mut BytesMut, parts: &http::request::Parts, asking: Asking<'_>) {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let (method, target) = match asking {
        Asking::Upgrade(_) => ("GET", path),
        // A tunnel to wherever, or of whatever else: it is refused in this form.
        Asking::Request(_) if parts.method == Method::CONNECT => ("CONNECT", authority.unwrap_or_default()),
        Asking::Request(_) => (parts.method.as_str(), path),
    };
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = authority {
        put_field(out, "host", authority.as_bytes());
    }
    let mut cookies = parts.headers.get_all(header::COOKIE).iter().peekable();
    if cookies.peek().is_some() {
        // HTTP/2 sends each by itself (RFC 9113, 8.2.3).
        out.put_slice(b"cookie: ");
        for (place, cookie) in cookies.enumerate() {
            out.put_slice(if place > 0 { b"; " } else { b"" });
            out.put_slice(cookie.as_bytes());
        }
        out.put_slice(b"\r\n");
    }
    let same_host = |value: &[u8]| authority.is_some_and(|authority| value.eq_ignore_ascii_case(authority.as_bytes()));
    let is_needless_length = |value: &[u8]| match asking {
        Asking::Request(Framing::Empty) => value == b"0",
        Asking::Request(Framing::Chunked) => gives_up_length(&parts.headers),
        Asking::Request(Framing::Length(_) | Framing::UntilClose) => false,
        // Of a tunnel it says nothing.
        Asking::Upgrade(_) => true,
    };
    put_fields(
        out,
        parts.headers.iter().filter(|(name, value)| {
            !(is_hop_by_hop(name.as_str())
                || matches!(asking, Asking::Upgrade(_)) && *name == header::SEC_WEBSOCKET_KEY
                || *name == header::COOKIE
                || *name == header::HOST && same_host(value.as_bytes())
                || *name == header::CONTENT_LENGTH && is_needless_length(value.as_bytes()))
        }),
    );
    match asking {
        Asking::Request(Framing::Chunked) => put_field(out, "transfer-encoding", b"chunked"),
        Asking::Request(_) => {}
        Asking::Upgrade(websocket) => {
            put_field(out, "connection", b"upgrade");
            put_field(out, "upgrade", b"websocket");
            put_field(out, "sec-websocket-key", websocket.key.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

/// Sends the head at the front of `bytes`, if it is there.
fn send_head(respond: &mut SendResponse<Bytes>, is_head: bool, bytes: &[u8]) -> io::Result<Option<(usize, Sent)>> {
    let mut room = response::room();
    let Some(head) = response::parse(bytes, is_head, &mut room).map_err(io::Error::other)? else { return Ok(None) };
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(head.status).map_err(io::Error::other)?;
    *answer.headers_mut() = to_map(head.fields)?;
    if head.status == 101 {
        // It is there only where a WebSocket was asked for, and then this is what says so.
        *answer.status_mut() = StatusCode::OK;
        answer.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        let stream = respond.send_response(answer, false).map_err(into_io)?;
        return Ok(Some((head.length, Sent::Tunnel(stream))));
    }
    if head.status < 200 {
        respond.send_informational(answer).map_err(into_io)?;
        return Ok(Some((head.length, Sent::Interim)));
    }
    let stream = respond.send_response(answer, head.framing == Framing::Empty).map_err(into_io)?;
    Ok(Some((head.length, Sent::Message(stream, head.framing))))
}

impl AsyncRead for Inbound {
    /// The end comes once the answer is sent, and the request is read. Until then a client that has no more to say waits
    /// for its answer, or resets.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let more = ready!(this.reading.poll(cx, buf)).map_err(into_io)?;
        if more || this.writing.has_ended() || this.writing.is_tunnel() {
            return Poll::Ready(Ok(()));
        }
        this.poll_gone(cx).map(Err)
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { writing, respond, is_head, .. } = self.get_mut();
        writing.poll_write(cx, buf, |bytes| send_head(respond, *is_head, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().writing.poll_flush(cx)
    }

    /// The end of the answer is the end of the stream; that of a tunnel is said here.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing.end_tunnel();
        self.poll_flush(cx)
    }
}

impl Trailing for Inbound {
    fn may_have_trailers(&self) -> bool {
        self.reading.may_have_trailers()
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        self.reading.poll_trailers(cx).map_err(into_io)
    }

    fn awaits_trailers(&mut self) -> bool {
        self.writing.await_trailers();
        true
    }

    fn end_with(&mut self, trailers: Option<HeaderMap>) {
        self.writing.end_with(trailers);
    }
}

impl Client for Inbound {
    fn scheme(&self) -> &'static str {
        self.connection.scheme()
    }

    fn observe(&self, peer: SocketAddr) -> SocketFacts {
        self.connection.observe(peer)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.connection.local_addr()
    }

    fn cut_off(&self) -> Option<String> {
        self.connection.cut_off()
    }

    fn check_answer(&self, status: u16, fields: &[Field<'_>]) -> Result<(), String> {
        self.websocket.as_ref().map_or(Ok(()), |websocket| websocket.check(status, fields))
    }

    /// A stream may be reset at any time, also while nobody reads its body.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.writing.has_ended() {
            return Poll::Pending;
        }
        let reset = match self.writing.stream() {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        let reset = ready!(reset);
        // Who reset it, only reading tells.
        let broke = self.reading.broke(cx).filter(h2::Error::is_library);
        Poll::Ready(match (broke, reset) {
            (Some(err), _) | (None, Err(err)) => into_io(err),
            (None, Ok(reason)) => {
                let text = format!("it reset the stream with {reason:?}");
                io::Error::new(io::ErrorKind::ConnectionReset, text)
            }
        })
    }

    fn abort(&mut self) {
        match self.writing.stream() {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: http::request::Builder, framing: Framing) -> String {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = BytesMut::new();
        write_head(&mut out, &parts, Asking::Request(framing));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_head_is_that_of_http_1_1() {
        let request = Request::post("https://a.test/x?y=1")
            .header("Cookie", "a=1")
            .header("te", "trailers")
            .header("host", "A.test")
            .header("cookie", "b=2")
            .header("x-one", "1");
        let head = written(request, Framing::Chunked);
        assert_eq!(
            head,
            "POST /x?y=1 HTTP/1.1\r\nhost: a.test\r\ncookie: a=1; b=2\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn what_is_strange_is_left_for_the_parser_to_refuse() {
        let mut room = response::room();
        let two_hosts = written(Request::get("https://a.test/").header("host", "b.test"), Framing::Empty);
        assert!(overdue::h1::request::parse(two_hosts.as_bytes(), &mut room).is_err(), "{two_hosts}");
        let mut room = response::room();
        let length = Request::post("https://a.test/").header("content-length", "+5");
        let length = written(length, Framing::Chunked);
        assert!(overdue::h1::request::parse(length.as_bytes(), &mut room).is_err(), "{length}");
    }
}
