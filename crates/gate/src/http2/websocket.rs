//! A WebSocket on a stream of HTTP/2 (RFC 8441), before a server that knows it as an upgrade of HTTP/1.1.
//!
//! The client asks with `CONNECT` and the protocol's name, has no key, and is told by a 200 that it may begin; the server
//! wants a `GET` with a key and proves with a 101 that it has understood. So the key is the gateway's, and the proof is
//! for the gateway to check.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use h2::{RecvStream, ext::Protocol};
use http::{Method, Request};
use overdue::h1::fields::Field;
use ring::digest;

/// What is hashed behind a key (RFC 6455, 4.2.2).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// One that is asked for.
pub(super) struct WebSocket {
    pub(super) key: String,
    accept: String,
}

impl WebSocket {
    /// Whether this request asks for one. The number is for the key, and nobody may foresee it.
    pub(super) fn asked(request: &Request<RecvStream>, number: impl FnOnce() -> u128) -> Option<Self> {
        let protocol = request.extensions().get::<Protocol>().filter(|_| request.method() == Method::CONNECT)?;
        (protocol.as_str() == "websocket").then(|| Self::with_key(BASE64_STANDARD.encode(number().to_be_bytes())))
    }

    fn with_key(key: String) -> Self {
        let proof = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
        Self { accept: BASE64_STANDARD.encode(proof), key }
    }

    /// Whether this answer may go to the client: after a 200 it would take whatever comes for its WebSocket.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, status: u16, fields: &[Field<'_>]) -> Result<(), String> {
        let is_its_own = |field: &Field<'_>| {
            field.name.eq_ignore_ascii_case("sec-websocket-accept") && field.value == self.accept.as_bytes()
        };
        match status {
            101 if fields.iter().any(is_its_own) => Ok(()),
            101 => Err("its Sec-WebSocket-Accept is none, or not that of our key".to_owned()),
            200..300 => {
                Err(format!("it answered {status} to a WebSocket's handshake, which is neither a 101 nor a refusal"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_specification() {
        let asked = WebSocket::with_key("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        let answer = |status, value| asked.check(status, &[Field { name: "Sec-WebSocket-Accept", value }]);
        assert_eq!(answer(101, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), Ok(()));
        assert!(answer(101, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOO=").is_err() && asked.check(101, &[]).is_err());
        assert!(answer(200, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").is_err());
        assert_eq!((asked.check(403, &[]), asked.check(302, &[])), (Ok(()), Ok(())));
    }
}
