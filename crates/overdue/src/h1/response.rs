//! Response heads, as they lie in the buffer: what a proxy needs to send them on.

use std::mem::MaybeUninit;

use super::{
    FIELDS_MAX, Framing, HEAD_MAX,
    fields::{Field, Said},
};

/// A response head in the buffer that it came in.
#[derive(Debug)]
pub struct Head<'b, 'f> {
    /// 100 to 999.
    pub status: u16,
    /// As it came; it may be empty.
    pub reason: &'b str,
    /// Of HTTP/1.1; otherwise HTTP/1.0.
    pub is_1_1: bool,
    /// In the order in which they came.
    pub fields: &'f [Field<'b>],
    /// What they say together.
    pub said: Said,
    /// Bytes of the head in the buffer.
    pub length: usize,
    /// How the end of the body is known.
    pub framing: Framing,
    /// Whether the peer means to go on with this connection.
    pub keep_alive: bool,
}

/// Room for the fields of one head.
pub type Room<'b> = [MaybeUninit<Field<'b>>; FIELDS_MAX];

/// Room for the fields of one head, for [`parse`] and [`request::parse`](super::request::parse).
#[must_use]
pub const fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// Reads a response head at the front of `buf`; `None` when it is not all there yet. `to_head` says that it answers a
/// HEAD request, and so has no body whatever its fields say.
///
/// # Errors
/// Words for what is wrong with it. Framing that two parsers could read differently is refused: a length beside
/// `Transfer-Encoding`, two lengths that differ, a coding other than `chunked`. Whoever sends the head on looks at what it
/// [said](Head::said), too: of two lengths that agree, the next may take neither.
pub fn parse<'b, 'f>(buf: &'b [u8], to_head: bool, room: &'f mut Room<'b>) -> Result<Option<Head<'b, 'f>>, String> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buf, room);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if buf.len() < HEAD_MAX => return Ok(None),
        Ok(_) => return Err(format!("its response head is longer than {} KiB", HEAD_MAX / 1024)),
        Err(httparse::Error::TooManyHeaders) => return Err(format!("it sent more than {FIELDS_MAX} header fields")),
        Err(err) => return Err(format!("its response head is malformed: {err}{}", beginning(buf))),
    };
    let is_1_1 = response.version != Some(0);
    let status = response
        .code
        .filter(|code| (100..1000).contains(code))
        .ok_or_else(|| format!("its status code is out of range{}", beginning(buf)))?;
    let said = Said::of(response.headers.iter().copied())?;
    if said.chunked && !is_1_1 {
        return Err("it sent Transfer-Encoding in an HTTP/1.0 response".to_owned());
    }
    // Wrong framing is wrong even where no body follows.
    let framing = match (said.chunked, said.length) {
        _ if to_head || status < 200 || matches!(status, 204 | 304) => Framing::Empty,
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    let keep_alive = (is_1_1 || said.keep_alive) && !said.close && framing != Framing::UntilClose && status != 101;
    Ok(Some(Head {
        status,
        reason: response.reason.unwrap_or_default(),
        is_1_1,
        fields: response.headers,
        said,
        length,
        framing,
        keep_alive,
    }))
}

/// The beginning of what came, safe to print.
pub(super) fn beginning(buf: &[u8]) -> String {
    let line = buf.get(..buf.len().min(40)).unwrap_or_default();
    format!(" ({:?})", line.split(|byte| *byte == b'\n').next().unwrap_or_default().escape_ascii().to_string())
}
