//! HTTP/1.1 framing, strict, on httparse.
//!
//! Own framing instead of a library's, because the moments at which `send` ends and `wait` begins and ends must be
//! seen, and because one piece of code is to serve the client of this crate and the gateway. It knows nothing of
//! clients, pools or limits, and nothing here reads or writes a socket.
//!
//! What two parsers could read differently is refused, never repaired: see [`request`] and [`fields`].

pub mod chunked;
pub mod fields;
pub(crate) mod head;
pub mod request;
pub mod response;

/// A head that is longer is refused.
pub const HEAD_MAX: usize = 64 * 1024;
/// A head with more fields is refused.
pub const FIELDS_MAX: usize = 128;

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the peer closes.
    UntilClose,
}
