//! What the gateway says itself: one table from what happened to what the client is told.

use bytes::{BufMut as _, BytesMut};
use overdue_core::{
    Cause, Stage,
    facts::{Failure, OsFailure},
};

use super::{
    exchange::{Party, TUNNEL, Trouble},
    head::put_field,
};
use crate::trace::REQUEST_ID;

/// What others call the same thing, for people who know their logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    /// The status of the answer; 0 where there is nobody to answer.
    pub(crate) status: u16,
    /// HAProxy's termination state, without its cookie flags.
    pub(crate) state: [u8; 2],
    /// Envoy's response flag.
    pub(crate) flag: &'static str,
}

impl Known {
    /// A request that was answered by its server.
    pub(crate) const SERVED: Self = Self { status: 0, state: *b"--", flag: "-" };

    /// A handshake that did not end in time.
    pub(crate) const LATE_HANDSHAKE: Self = Self { status: 0, state: *b"cR", flag: "SI" };
    /// A client that closed in the middle of a head.
    pub(crate) const LEFT_EARLY: Self = Self { status: 0, state: *b"CR", flag: "DC" };
    /// A handshake that failed.
    pub(crate) const FAILED_HANDSHAKE: Self = Self { status: 0, state: *b"CR", flag: "DPE" };

    /// A request that was cut by the end of the gateway, and whose client hears nothing of it.
    pub(crate) fn cut(stage: Stage) -> Self {
        Self { status: 0, state: [b'K', phase(stage)], flag: "-" }
    }

    pub(crate) const fn is_cut(&self) -> bool {
        matches!(self.state, [b'K', _])
    }

    /// A request that the gateway refuses with this status.
    pub(crate) const fn refused(status: u16) -> Self {
        let flag = match status {
            404 => "NR",
            503 => "UO",
            _ => "DPE",
        };
        Self { status, state: *b"PR", flag }
    }

    /// What became of a request that failed.
    ///
    /// | what | status | HAProxy | Envoy |
    /// |---|---|---|---|
    /// | the client left | none | `C` | `DC` |
    /// | the client did not send, or take, in time | 408 | `c` | `SI` |
    /// | the client broke the protocol; its body is too long | 400; 413 | `P` | `DPE` |
    /// | its connection, or stream, of HTTP/2 was cut off | none: there is nobody to answer | `P` | `DPE` |
    /// | all connections to the server are in use | 503 | `sQ` | `UO` |
    /// | no server has an address: its name does not resolve | 503 | `SC` | `UH` |
    /// | no descriptor, no local port is left | 503 | `R` | `LR` |
    /// | the server could not be connected to; not in time | 502; 504 | `SC`; `sC` | `UF` |
    /// | its TLS handshake failed; not in time | 502; 504 | `SC`; `sC` | `UF` |
    /// | the server did not take the request, or answer, in time | 504 | `s` | `UT` |
    /// | the server closed or reset the connection | 502 | `S` | `UC` |
    /// | the server broke the protocol | 502 | `P` | `UPE` |
    /// | nothing was left of the time | 504 | `sQ` | `DT` |
    /// | the end of the gateway cut it ([`cut`](Self::cut)) | 503 | `K` | `-` |
    pub(crate) fn of(trouble: &Trouble) -> Self {
        let known = |status, who, flag| Self { status, state: [who, phase(trouble.stage)], flag };
        match (&trouble.failure, trouble.party) {
            (Failure::Cancelled { .. }, Party::Gate) => Self { status: 503, ..Self::cut(trouble.stage) },
            (Failure::Cancelled { .. }, _) => known(0, b'C', "DC"),
            (Failure::DeadlinePast(_), _) => known(504, b's', "DT"),
            (Failure::DeadlinePassed(_), Party::Client) => known(408, b'c', "SI"),
            (Failure::DeadlinePassed(_), _) => match trouble.stage {
                Stage::Queue => known(503, b's', "UO"),
                Stage::Connect | Stage::Tls => known(504, b's', "UF"),
                _ => known(504, b's', "UT"),
            },
            (Failure::Dns { .. }, _) => known(503, b'S', "UH"),
            (Failure::RequestBody(_), _) => known(413, b'P', "DPE"),
            (Failure::Protocol(_), Party::Client) => known(400, b'P', "DPE"),
            (Failure::Protocol(_), _) => known(502, b'P', "UPE"),
            (Failure::Os { kind: OsFailure::NoDescriptors | OsFailure::AddressNotAvailable, .. }, _) => {
                known(503, b'R', "LR")
            }
            (Failure::Os { kind: OsFailure::KernelTimeout, .. }, _) => known(504, b's', "UF"),
            (_, _) if matches!(trouble.stage, Stage::Connect | Stage::Tls) => known(502, b'S', "UF"),
            (_, _) => known(502, b'S', "UC"),
        }
    }
}

/// The second letter of HAProxy's termination state.
fn phase(stage: Stage) -> u8 {
    match stage {
        Stage::Queue => b'Q',
        Stage::Resolve | Stage::Connect | Stage::Tls => b'C',
        Stage::Send | Stage::Wait => b'H',
        Stage::Receive | TUNNEL => b'D',
        _ => b'R',
    }
}

/// What the client may know of a failure.
pub(crate) struct Told<'a> {
    pub(crate) cause: Option<Cause>,
    pub(crate) stage: &'a str,
    /// For peers that are trusted alone.
    pub(crate) detail: Option<&'a str>,
    /// The client speaks gRPC, and looks for the outcome elsewhere.
    pub(crate) grpc: bool,
}

/// What a status is among the codes of gRPC.
///
/// | status | gRPC |
/// |---|---|
/// | 408, 504 | 4 `DEADLINE_EXCEEDED` |
/// | 413, 431 | 8 `RESOURCE_EXHAUSTED` |
/// | 404 | 12 `UNIMPLEMENTED` |
/// | 502, 503 | 14 `UNAVAILABLE` |
/// | others | 13 `INTERNAL` |
pub(crate) const fn grpc_code(status: u16) -> u8 {
    match status {
        408 | 504 => 4,
        413 | 431 => 8,
        404 => 12,
        502 | 503 => 14,
        _ => 13,
    }
}

/// An answer to a call of gRPC: its status is that of the call, and is told in the head, as there is no body.
fn write_grpc(out: &mut BytesMut, status: u16, told: &Told<'_>) {
    let title = reason(status);
    let message = match (told.detail, told.cause) {
        (Some(detail), _) => detail.to_owned(),
        (None, Some(cause)) => format!("{title}: {cause} in {}", told.stage),
        (None, None) => title.to_owned(),
    };
    out.put_slice(b"HTTP/1.1 200 OK\r\n");
    put_field(out, "content-type", b"application/grpc");
    put_field(out, "grpc-status", itoa::Buffer::new().format(grpc_code(status)).as_bytes());
    out.put_slice(b"grpc-message: ");
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.put_u8(byte),
            _ => out.put_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out.put_slice(b"\r\n");
    put_field(out, "content-length", b"0");
}

const fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Bad Gateway",
    }
}

/// An answer with a small problem report (RFC 9457), to the request of this id.
pub(crate) fn write(out: &mut BytesMut, status: u16, told: &Told<'_>, id: &str, keep_alive: bool, is_head: bool) {
    if told.grpc {
        write_grpc(out, status, told);
        put_field(out, REQUEST_ID, id.as_bytes());
        if !keep_alive {
            put_field(out, "connection", b"close");
        }
        out.put_slice(b"\r\n");
        return;
    }
    let reason = reason(status);
    let body = serde_json::json!({
        "title": reason,
        "status": status,
        "stage": told.stage,
        "cause": told.cause,
        "detail": told.detail,
    });
    let body = body.to_string();
    out.put_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
    put_field(out, "content-type", b"application/problem+json");
    put_field(out, "content-length", body.len().to_string().as_bytes());
    if !id.is_empty() {
        put_field(out, REQUEST_ID, id.as_bytes());
    }
    if status == 503 {
        put_field(out, "retry-after", b"1");
    }
    if !keep_alive {
        put_field(out, "connection", b"close");
    }
    out.put_slice(b"\r\n");
    if !is_head {
        out.put_slice(body.as_bytes());
    }
}
