//! HTTP/1.1 framing, strict, on httparse.
//!
//! Own framing instead of a library's, because the moments at which `send` ends and `wait` begins and ends must be
//! seen, and because the gateway serves the same bytes. It knows nothing of clients, pools or limits.

pub(crate) mod chunked;
pub(crate) mod head;

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// There is no body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the peer closes.
    UntilClose,
}
