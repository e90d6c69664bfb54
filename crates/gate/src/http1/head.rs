//! Heads, rewritten for the other side.
//!
//! What is about one connection is not sent on: `Connection` and the fields that it names, `Keep-Alive`,
//! `Proxy-Connection`, `TE`, `Upgrade`, and the framing, which is told anew. Nor is what only a proxy that is trusted may
//! say: the time that remains, and whom it serves.

use std::{rc::Rc, time::Duration};

use bytes::{BufMut as _, BytesMut};
use overdue::{
    h1::{
        Framing,
        fields::{Field, tokens},
        request, response,
    },
    server::propagate::{ENVOY_TIMEOUT_MS, GRPC_TIMEOUT, Style, TimeoutHeaders, left_for_next},
};
use overdue_core::Limit;

use crate::{
    config::{Forwarded, Listener},
    route::{self, Asked},
    trace::{self, Brought, Hop, Ids, REQUEST_ID, TRACEPARENT, TRACESTATE},
    worker::{Live, Plan, PlannedRoute},
};

/// A request that was read, whose new head has been begun.
pub(crate) struct Prepared {
    pub(crate) route: Rc<PlannedRoute>,
    /// Bytes of the head that was read.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) is_1_1: bool,
    pub(crate) is_head: bool,
    /// Whether it could be sent twice without harm.
    pub(crate) is_idempotent: bool,
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
    /// It says where it goes; only HTTP/1.0 need not.
    names_host: bool,
    pub(crate) is_grpc: bool,
    /// The time that its caller gives it.
    pub(crate) inherited: Option<Limit>,
    /// The least that has to come of its body.
    pub(crate) pace: Option<Limit>,
}

/// What the log says of a request, in one buffer that is used again.
#[derive(Default, Clone)]
pub(crate) struct Line {
    text: String,
    method: usize,
    authority: usize,
    path: usize,
    hop: Option<Hop>,
    protocol: Option<Protocol>,
}

/// What a side speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// What the servers of a route are spoken to in.
    pub(crate) fn of_servers(route: &PlannedRoute) -> Self {
        if route.servers.cluster.http2 { Self::Http2 } else { Self::Http11 }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl Line {
    fn set(&mut self, method: &str, authority: &str, path: &str) {
        /// Of a longer path the log has the beginning.
        const PATH_MAX: usize = 1024;
        const OTHERS_MAX: usize = 256;
        self.text.clear();
        self.text.push_str(method.get(..method.len().min(OTHERS_MAX)).unwrap_or_default());
        self.method = self.text.len();
        self.text.push_str(authority.get(..authority.len().min(OTHERS_MAX)).unwrap_or_default());
        self.authority = self.text.len();
        self.text.push_str(path.get(..path.len().min(PATH_MAX)).unwrap_or_default());
        self.path = self.text.len();
        self.hop = None;
    }

    /// Behind all else; one that is there stays.
    fn set_id(&mut self, id: &str) {
        if self.id().is_empty() {
            self.text.push_str(id);
        }
    }

    /// The answer that a request gets has an id, however little was understood of it.
    pub(crate) fn ensure_id(&mut self, ids: &Ids) {
        self.set_id(trace::new_id(ids).as_str());
    }

    /// The id of the request; empty where there is no request.
    pub(crate) fn id(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// Its place in a trace.
    pub(crate) const fn hop(&self) -> Option<&Hop> {
        self.hop.as_ref()
    }

    pub(crate) fn method(&self) -> &str {
        self.text.get(..self.method).unwrap_or_default()
    }

    pub(crate) fn authority(&self) -> &str {
        self.text.get(self.method..self.authority).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.text.get(self.authority..self.path).unwrap_or_default()
    }

    /// What the client speaks, as far as it has said so.
    pub(crate) const fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    pub(crate) const fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = Some(protocol);
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
        (self.method, self.authority, self.path, self.hop) = (0, 0, 0, None);
        self.protocol = None;
    }
}

/// Why a request goes nowhere.
pub(crate) struct NotServed {
    pub(crate) status: u16,
    pub(crate) why: String,
    /// Where what follows it begins, if that is known: the length of its head, when it has no body.
    pub(crate) length: Option<usize>,
    pub(crate) is_head: bool,
    pub(crate) is_grpc: bool,
}

impl From<request::Refused> for NotServed {
    fn from(refused: request::Refused) -> Self {
        Self { status: refused.status, why: refused.why, length: None, is_head: false, is_grpc: false }
    }
}

/// Reads a request at the front of `buf`, finds its route, and writes its head for the server into `out`, but for what
/// [`finish_request`] adds. `None` when it is not all there yet.
pub(crate) fn prepare(
    buf: &[u8],
    plan: &Plan,
    listener: &Listener,
    live: &Live,
    line: &mut Line,
    out: &mut BytesMut,
) -> Result<Option<Prepared>, NotServed> {
    let mut room = response::room();
    if live.is_stream {
        line.set_protocol(Protocol::Http2);
    }
    let Some(head) = request::parse(buf, &mut room)? else { return Ok(None) };
    if !live.is_stream {
        line.set_protocol(if head.is_1_1 { Protocol::Http11 } else { Protocol::Http10 });
    }
    let authority = head.authority.unwrap_or_default();
    line.set(head.method, authority, head.path);
    let trusted = live.is_trusted(&listener.trusted);
    let brought = Brought::read(head.fields);
    match brought.id().filter(|_| trusted) {
        Some(id) => line.set_id(id),
        None => line.ensure_id(&plan.ids),
    }
    line.hop = brought.hop(&plan.config.trace, trusted, &plan.ids);
    let is_head = head.method == "HEAD";
    let not_served = |status, why| NotServed {
        status,
        why,
        length: (head.framing == Framing::Empty && head.keep_alive).then_some(head.length),
        is_head,
        is_grpc: head.fields.iter().any(is_of_grpc),
    };
    if climbs(head.path) {
        return Err(not_served(400, format!("its path climbs: {}", head.path)));
    }
    let asked = Asked { method: head.method, authority, path: head.path, fields: head.fields };
    let Some(route) = route::find(&plan.routes, asked) else {
        return Err(not_served(404, format!("no route is for {} {authority}{}", head.method, head.path)));
    };
    if let (Framing::Length(length), Some(most)) = (head.framing, route.route.body_max)
        && length > most
    {
        return Err(not_served(
            413,
            format!("its body of {length} bytes is longer than the {most} that its route takes"),
        ));
    }
    let inherited = if trusted { inherited(&plan.timeouts, head.fields) } else { Ok(None) };
    let inherited = inherited.map_err(|why| not_served(400, why))?;
    let upgrade = head.said.upgrade && head.is_1_1 && head.framing == Framing::Empty && asks_for_another(head.fields);
    let is_grpc =
        write_request(out, &head, authority, &Served { live, line, forwarded: listener.forwarded, trusted, upgrade });
    Ok(Some(Prepared {
        route: Rc::clone(route),
        length: head.length,
        framing: head.framing,
        keep_alive: head.keep_alive,
        is_1_1: head.is_1_1,
        is_head,
        is_idempotent: matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
        upgrade,
        names_host: head.authority.is_some(),
        is_grpc,
        inherited,
        // The messages of a call come when there is something to say.
        pace: listener.body_rate.clone().filter(|_| head.framing != Framing::Empty && !is_grpc),
    }))
}

/// Whether `Upgrade` names a protocol that may be tunnelled. One that carries requests of its own, past routes and limits,
/// may not.
fn asks_for_another(fields: &[Field<'_>]) -> bool {
    let mut named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("upgrade")).peekable();
    let carries_requests = |token: &[u8]| {
        let begins = |start: &[u8]| token.get(..start.len()).is_some_and(|own| own.eq_ignore_ascii_case(start));
        begins(b"h2") || begins(b"http") || begins(b"tls")
    };
    named.peek().is_some() && !named.flat_map(|field| tokens(field.value)).any(carries_requests)
}

/// Whether a path climbs, which some servers follow and routes do not; in whatever way one of them may read it.
pub(crate) fn climbs(path: &str) -> bool {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    // Nearly no path has any of these.
    if !(path.contains("/.") || path.contains(['%', '\\'])) {
        return false;
    }
    let read = [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/"), ("%3b", ";")];
    let read = read.into_iter().fold(path.to_ascii_lowercase(), |path, (code, plain)| path.replace(code, plain));
    // What is behind a semicolon are parameters, which some cut off.
    read.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

fn inherited(headers: &TimeoutHeaders, fields: &[Field<'_>]) -> Result<Option<Limit>, String> {
    let fields = fields.iter().map(|field| (field.name.as_bytes(), field.value.trim_ascii()));
    headers.read(fields).map_err(|err| err.to_string())
}

/// Whose request is written, and how.
struct Served<'a> {
    live: &'a Live,
    line: &'a Line,
    forwarded: Forwarded,
    trusted: bool,
    upgrade: bool,
}

/// What becomes of a field of a request.
enum Fate {
    Keep,
    Drop,
    /// Whom the proxies before this one served, to which is added: `X-Forwarded-For`, `Forwarded`.
    ForwardedFor,
    Forwarded,
}

/// Whether this is the name of a field, also for those who take an underscore for a hyphen: many servers do, in the
/// variables in which they hand fields to an application.
pub(super) fn is_taken_for(name: &str, other: &str) -> bool {
    let alike = |(own, other): (u8, u8)| own.eq_ignore_ascii_case(&other) || own == b'_' && other == b'-';
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(alike)
}

/// All that begins so is what a proxy says of its client.
pub(super) fn is_of_proxies(name: &str) -> bool {
    name.get(..12).is_some_and(|start| is_taken_for(start, "x-forwarded-"))
}

fn fate(name: &str, served: &Served<'_>) -> Fate {
    let Served { trusted, upgrade, forwarded, .. } = *served;
    let is = |other: &str| is_taken_for(name, other);
    // No proxy says what it says under such a name, so it comes from whoever is before it.
    let trusted = trusted && !name.contains('_');
    let upgrade = upgrade && !name.contains('_');
    // By the length of the name first: most fields are none of these.
    let own = match name.len() {
        2 => is("te"),
        4 => is("host"),
        7 => is("upgrade") && !upgrade,
        9 if is("forwarded") && trusted && forwarded.has_rfc7239() => return Fate::Forwarded,
        9 => (is("forwarded") || is("x-real-ip")) && !trusted,
        10 => {
            let keeps_state = served.line.hop().is_some_and(Hop::keeps_state);
            is("connection") || is("keep-alive") || is(TRACESTATE) && !keeps_state
        }
        11 => is(TRACEPARENT),
        12 => is(GRPC_TIMEOUT) || is(REQUEST_ID),
        14 => is("content-length") || is("http2-settings"),
        15 if is("x-forwarded-for") && trusted && forwarded.has_x() => return Fate::ForwardedFor,
        15 => is("x-forwarded-for") && !trusted,
        16 => is("proxy-connection") || is("x-forwarded-host") && !trusted,
        17 => is("transfer-encoding") || is("x-forwarded-proto") && !trusted,
        30 => is(ENVOY_TIMEOUT_MS),
        _ => false,
    };
    if own || !trusted && is_of_proxies(name) { Fate::Drop } else { Fate::Keep }
}

/// Whether this field says that a request is one of gRPC; gRPC-Web is another protocol.
fn is_of_grpc(field: &Field<'_>) -> bool {
    field.name.len() == 12
        && field.name.eq_ignore_ascii_case("content-type")
        && field.value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// True for a gRPC request.
fn write_request(out: &mut BytesMut, head: &request::Head<'_, '_>, authority: &str, whose: &Served<'_>) -> bool {
    let Served { live, line, upgrade, forwarded, .. } = *whose;
    out.reserve(head.length + 512);
    out.put_slice(head.method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if head.authority.is_some() {
        put_field(out, "host", authority.as_bytes());
    }
    let (mut is_grpc, mut proto) = (false, false);
    let (mut served_x, mut served): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    for field in head.fields {
        match fate(field.name, whose) {
            Fate::Drop => continue,
            Fate::ForwardedFor => {
                // Several fields are one list.
                if let Some(before) = served_x.replace(field.value) {
                    put_field(out, "x-forwarded-for", before);
                }
                continue;
            }
            Fate::Forwarded if !closes_quotes(field.value) => continue,
            Fate::Forwarded => {
                if let Some(before) = served.replace(field.value) {
                    put_field(out, "forwarded", before);
                }
                continue;
            }
            Fate::Keep if head.said.names_others && is_named(head.fields, field.name) => continue,
            Fate::Keep => put_field(out, field.name, field.value),
        }
        is_grpc |= is_of_grpc(field);
        proto |= field.name.len() == 17 && field.name.eq_ignore_ascii_case("x-forwarded-proto");
    }
    if forwarded.has_x() {
        out.put_slice(b"x-forwarded-for: ");
        put_behind(out, served_x);
        out.put_slice(live.peer_ip().as_bytes());
        out.put_slice(b"\r\n");
        if !proto {
            put_field(out, "x-forwarded-proto", live.scheme.as_bytes());
        }
    }
    if forwarded.has_rfc7239() {
        out.put_slice(b"forwarded: ");
        put_behind(out, served);
        put_forwarded(out, live, authority);
        out.put_slice(b"\r\n");
    }
    put_field(out, REQUEST_ID, line.id().as_bytes());
    if let Some(hop) = line.hop() {
        put_field(out, TRACEPARENT, &hop.traceparent());
    }
    if upgrade {
        put_field(out, "connection", b"upgrade");
    }
    match head.framing {
        Framing::Empty if head.said.length.is_none() => {}
        Framing::Empty => put_field(out, "content-length", b"0"),
        Framing::Length(length) => put_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes()),
        Framing::Chunked | Framing::UntilClose => put_field(out, "transfer-encoding", b"chunked"),
    }
    is_grpc
}

/// What a list has before that which is added.
fn put_behind(out: &mut BytesMut, before: Option<&[u8]>) {
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        out.put_slice(before);
        out.put_slice(b", ");
    }
}

/// An element of `Forwarded`: whom the request serves, at which name and over what (RFC 7239).
fn put_forwarded(out: &mut BytesMut, live: &Live, authority: &str) {
    // The zone of an address is this machine's own.
    let ip = live.peer_ip().split('%').next().unwrap_or_default();
    let (open, close) = if ip.contains(':') { ("\"[", "]\"") } else { ("", "") };
    for part in ["for=", open, ip, close] {
        out.put_slice(part.as_bytes());
    }
    if !authority.is_empty() {
        out.put_slice(b";host=");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        match authority.bytes().all(plain) {
            true => out.put_slice(authority.as_bytes()),
            false => put_quoted(out, authority),
        }
    }
    out.put_slice(b";proto=");
    out.put_slice(live.scheme.as_bytes());
}

fn put_quoted(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(byte);
    }
    out.put_u8(b'"');
}

/// Whether every quote is closed: one that is not would take in what is added behind it.
fn closes_quotes(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

/// Whether `Connection` names this field.
fn is_named(fields: &[Field<'_>], name: &str) -> bool {
    fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| tokens(field.value))
        .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
}

/// Says what remains but for the reserve, and ends the head. `None` when there is no end to it. False when nothing remains
/// that could be said: the request must not be sent.
pub(crate) fn finish_request(out: &mut BytesMut, left: Option<Duration>, request: &Prepared, server: &str) -> bool {
    if !request.names_host {
        put_field(out, "host", server.as_bytes());
    }
    if let Some(left) = left {
        let left = left_for_next(left, request.route.route.reserve);
        let Some(millis) = Style::Millis.write(left) else { return false };
        put_field(out, ENVOY_TIMEOUT_MS, millis.as_bytes());
        if let Some(text) = Style::Grpc.write(left).filter(|_| request.is_grpc) {
            put_field(out, GRPC_TIMEOUT, text.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
    true
}

/// How the client is told the end of a response body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) chunks: bool,
    pub(crate) keep_alive: bool,
}

/// Writes a response head for the client, with the id of the request unless it is empty.
pub(crate) fn write_response(
    out: &mut BytesMut,
    head: &response::Head<'_, '_>,
    id: &str,
    is_head: bool,
    is_1_1: bool,
    keep_alive: bool,
) -> Told {
    let switches = head.status == 101;
    let open_end = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
    let told = Told { chunks: open_end && is_1_1, keep_alive: keep_alive && (!open_end || is_1_1) && !switches };
    out.reserve(head.length + 64 + id.len());
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(itoa::Buffer::new().format(head.status).as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.reason.as_bytes());
    out.put_slice(b"\r\n");
    for field in head.fields {
        let is = |other: &str| field.name.eq_ignore_ascii_case(other);
        let own = match field.name.len() {
            7 => is("upgrade") && !switches,
            10 => is("connection") || is("keep-alive"),
            12 => is(REQUEST_ID),
            14 => is("content-length"),
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        if !(own || head.said.names_others && is_named(head.fields, field.name)) {
            put_field(out, field.name, field.value);
        }
    }
    if !id.is_empty() {
        put_field(out, REQUEST_ID, id.as_bytes());
    }
    match head.framing {
        _ if told.chunks => put_field(out, "transfer-encoding", b"chunked"),
        Framing::Length(length) => put_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes()),
        // What the body of a GET would have.
        Framing::Empty if is_head || head.status == 304 => {
            if let Some(length) = head.said.length {
                put_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
        }
        Framing::Empty if head.status >= 200 && head.status != 204 => put_field(out, "content-length", b"0"),
        _ => {}
    }
    if switches {
        put_field(out, "connection", b"upgrade");
    } else if head.status >= 200 && !told.keep_alive {
        put_field(out, "connection", b"close");
    } else if head.status >= 200 && !is_1_1 {
        put_field(out, "connection", b"keep-alive");
    }
    out.put_slice(b"\r\n");
    told
}

pub(crate) fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
