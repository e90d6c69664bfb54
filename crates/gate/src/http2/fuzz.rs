//! The way between HTTP/2 and HTTP/1.1, as a whole, for the fuzzer.

#![expect(clippy::panic, reason = "it is what the fuzzer looks for")]

use std::{net::SocketAddr, pin::pin, rc::Rc};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Uri};
use overdue::h1::{
    Framing,
    chunked::{Chunked, Part},
    request, response,
};
use overdue_core::facts::SocketFacts;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::LocalSet,
};

use super::inbound::{Beneath, Inbound};

struct Nothing;

impl Beneath for Nothing {
    fn cut_off(&self) -> Option<String> {
        None
    }

    fn answered(&self) {}

    fn scheme(&self) -> &'static str {
        "http"
    }

    fn observe(&self, _: SocketAddr) -> SocketFacts {
        SocketFacts::default()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}

/// A request of HTTP/2 is one request of HTTP/1.1, with the same body, or none; and whatever is written as its answer,
/// its client gets an end. The input is, between bytes of 0xff: method, path, authority, fields in lines, the body, and
/// the answer in the pieces in which it is written.
pub(crate) fn exchange(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0xff);
    let mut next = || parts.next().unwrap_or_default();
    let (method, path, authority, fields, body) = (next(), next(), next(), next(), next());
    let Ok(uri) = Uri::builder().scheme("http").authority(authority).path_and_query(path).build() else { return };
    let mut asked = Request::builder().method(method).uri(uri);
    for line in fields.split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            asked = asked.header(name, value);
        }
    }
    let Ok(asked) = asked.body(()) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap_or_else(|err| panic!("{err}"));
    let answer: Vec<&[u8]> = parts.collect();
    LocalSet::new().block_on(&runtime, run(asked, Bytes::copy_from_slice(body), answer));
}

async fn run(asked: Request<()>, body: Bytes, answer: Vec<&[u8]>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
    let (Ok((mut send, driver)), Ok(mut server)) = (client, server) else { return };
    tokio::task::spawn_local(driver);
    let Ok((mut expected, mut stream)) = send.send_request(asked, body.is_empty()) else { return };
    if !body.is_empty() && stream.send_data(body.clone(), true).is_err() {
        return;
    }
    let accepted = tokio::select! {
        accepted = server.accept() => accepted,
        // It was refused before anybody saw it.
        _ = &mut expected => return,
    };
    let Some(Ok((request, respond))) = accepted else { return };
    tokio::task::spawn_local(async move { while let Some(Ok(_)) = server.accept().await {} });
    let mut inbound = pin!(Inbound::new(request, None, respond, Rc::new(Nothing)));
    let mut came = BytesMut::new();
    // Read it as a server would.
    let mut head = None;
    while head.is_none() {
        if !matches!(inbound.read_buf(&mut came).await, Ok(1..)) {
            return;
        }
        let mut room = response::room();
        match request::parse(&came, &mut room) {
            Ok(Some(read)) => head = Some((read.length, read.framing)),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    if let Some((length, framing)) = head {
        let mut read = came.split_off(length);
        let mut got = Vec::new();
        let mut decoder = Chunked::default();
        loop {
            let done = match framing {
                Framing::Empty | Framing::UntilClose => true,
                Framing::Length(length) => {
                    got.extend_from_slice(&read.split());
                    got.len() as u64 >= length
                }
                Framing::Chunked => {
                    let (used, part) = decoder.next(&read).unwrap_or_else(|why| panic!("{why}"));
                    let bytes = read.split_to(used);
                    match part {
                        Some(Part::Data(at)) => {
                            got.extend_from_slice(bytes.get(at).unwrap_or_default());
                            continue;
                        }
                        Some(Part::End(_)) => true,
                        None => false,
                    }
                }
            };
            if done {
                break;
            }
            if !matches!(inbound.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        assert!(read.is_empty(), "something is behind the request");
        assert_eq!(got, body, "the body is another");
    }
    let reading = tokio::task::spawn_local(async move {
        let Ok(answer) = expected.await else { return };
        let mut body = answer.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        let _ = body.trailers().await;
    });
    for piece in answer {
        if inbound.write_all(piece).await.is_err() {
            crate::http1::Client::abort(&mut *inbound);
            break;
        }
    }
    let _ = inbound.flush().await;
    crate::http1::Client::abort(&mut *inbound);
    let _ = reading.await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(parts: &[&[u8]]) -> Vec<u8> {
        parts.join(&[0xff][..])
    }

    #[test]
    fn exchanges_of_every_kind() {
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
        for answer in [
            &chunks[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nabc",
            b"no answer\r\n\r\n",
        ] {
            for (method, fields, body) in [
                (&b"GET"[..], &b"x: y"[..], &b""[..]),
                (b"POST", b"content-length:5\nte:trailers", b"hello"),
                (b"POST", b"content-length:4", b"hello"),
                (b"PUT", b"cookie:a=1\ncookie:b=2\nhost:b", b"hello"),
                (b"HEAD", b"", b""),
                (b"POST", b"content-length:five", b"hello"),
            ] {
                let (begin, end) = answer.split_at(answer.len() / 2);
                exchange(&joined(&[method, b"/x?y", b"a.test", fields, body, begin, end]));
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_added_on_the_way(
            path in "/[ -~\r\n]{0,12}",
            authority in "[ -~\r\n]{1,9}",
            fields in "([a-z_:-]{1,12}:[ -~\r]{0,9}\n){0,3}",
            body in prop::collection::vec(0_u8..0xff, 0..9),
            answer in "HTTP/1.1 200 OK\r\n(content-length: [0-9]\r\n)?\r\n[ -~]{0,9}",
        ) {
            let parts: [&[u8]; 6] =
                [b"POST", path.as_bytes(), authority.as_bytes(), fields.as_bytes(), &body, answer.as_bytes()];
            exchange(&joined(&parts));
        }
    }
}
