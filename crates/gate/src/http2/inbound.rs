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
use http::{Method, Request, Response, StatusCode, header};
use overdue::h1::{Framing, response};
use overdue_core::facts::SocketFacts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::message::{Reading, Sent, Writing, into_io, is_hop_by_hop, put_fields, to_map};
use crate::http1::{Client, put_field};

/// The connection that a stream is one of.
pub(super) trait Beneath {
    fn scheme(&self) -> &'static str;
    fn observe(&self, peer: SocketAddr) -> SocketFacts;
    fn local_addr(&self) -> Option<SocketAddr>;
}

impl<S: Client> Beneath for RefCell<S> {
    fn scheme(&self) -> &'static str {
        self.borrow().scheme()
    }

    fn observe(&self, peer: SocketAddr) -> SocketFacts {
        self.borrow().observe(peer)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.borrow().local_addr()
    }
}

/// One request, and its answer.
pub(super) struct Inbound {
    reading: Reading,
    writing: Writing,
    respond: SendResponse<Bytes>,
    is_head: bool,
    connection: Rc<dyn Beneath>,
}

impl Inbound {
    pub(super) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, connection: Rc<dyn Beneath>) -> Self {
        let (parts, stream) = request.into_parts();
        let framing = framing(&parts.headers, &stream);
        let mut head = BytesMut::with_capacity(512);
        write_head(&mut head, &parts, framing);
        let is_head = parts.method == Method::HEAD;
        Self { reading: Reading::new(head, stream, framing), writing: Writing::new(), respond, is_head, connection }
    }
}

/// How HTTP/1.1 tells the end of this body.
fn framing(fields: &http::HeaderMap, stream: &RecvStream) -> Framing {
    if stream.is_end_stream() {
        return Framing::Empty;
    }
    // h2 holds the data against the length. What is no number is left for the one parser to refuse.
    let length = fields.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.map_or(Framing::Chunked, Framing::Length)
}

/// The head as HTTP/1.1 has it. What is strange in it is written as it is, and is refused by the parser that refuses it in
/// HTTP/1.1: two hosts, a path that climbs, a length that is none.
fn write_head(out: &mut BytesMut, parts: &http::request::Parts, framing: Framing) {
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    out.put_slice(path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
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
    put_fields(
        out,
        parts.headers.iter().filter(|(name, value)| {
            !(is_hop_by_hop(name.as_str())
                || *name == header::COOKIE
                || *name == header::HOST && same_host(value.as_bytes())
                || *name == header::CONTENT_LENGTH && framing == Framing::Empty && value.as_bytes() == b"0")
        }),
    );
    if framing == Framing::Chunked {
        put_field(out, "transfer-encoding", b"chunked");
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
        if ready!(this.reading.poll(cx, buf)).map_err(into_io)? || this.writing.has_ended() {
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

    /// The end of the answer is the end of the stream.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
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

    /// A stream may be reset at any time, also while nobody reads its body.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.writing.has_ended() {
            return Poll::Pending;
        }
        let reset = match self.writing.stream() {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        Poll::Ready(match ready!(reset) {
            Ok(reason) => {
                let text = format!("it reset the stream with {reason:?}");
                io::Error::new(io::ErrorKind::ConnectionReset, text)
            }
            Err(err) => into_io(err),
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
        write_head(&mut out, &parts, framing);
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
