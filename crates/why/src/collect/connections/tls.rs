//! TLS as far as it is in the clear: records, hellos, alerts; and what their lengths tell of the rest.

use super::raw::Way;

const CHANGE_CIPHER: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const TLS_1_3: u16 = 0x0304;
/// An encrypted alert of TLS 1.3 is so long: the alert, its type, the tag. The least that else is sent, a Finished, is
/// longer by the length of a hash.
const HIDDEN_ALERT: u16 = 2 + 1 + 16;
/// Records of TLS 1.3 that may be session tickets: two of the same length, as most servers send them. One alone may as
/// well be a short answer. So are two that are shorter than a ticket is.
const TICKETS: usize = 2;
const TICKET_MIN: u16 = 100;
const TICKET_MAX: u16 = 1024;
/// They come in the server's first flight after the handshake: within so many times of what its hello took.
const FLIGHT: u64 = 2;
/// What is kept of the hellos of one direction.
const HELLO_MAX: usize = 8192;
/// The longest name (RFC 1035) and how many protocols are kept.
const NAME_MAX: usize = 255;
const ALPN_MAX: usize = 16;
/// What is shown of what is no TLS.
const SHOWN_MAX: usize = 48;

/// What a `ClientHello` or `ServerHello` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hello {
    pub(crate) client: bool,
    /// Offered at most, or chosen.
    pub(crate) version: u16,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Vec<String>,
    /// All of it was here.
    whole: bool,
}

/// One handshake, followed by the first bytes of reads and writes. Times are those that it is fed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Handshake {
    read: Records,
    write: Records,
    /// The way of the `ClientHello`.
    asked: Option<Way>,
    hello: Option<Hello>,
    chosen: Option<u16>,
    pub(crate) hello_at: Option<u64>,
    pub(crate) answered_at: Option<u64>,
    pub(crate) done_at: Option<u64>,
    /// `done_at` was not seen itself.
    pub(crate) done_inferred: bool,
    pub(crate) alert: Option<(u8, Way)>,
    pub(crate) alert_hidden: bool,
    pub(crate) not_tls: Option<String>,
    /// Data that the client sent first: the last of it, and how many bytes.
    sent: Option<(u64, u64)>,
    /// What the server sent after that: the lengths, and when each came.
    came: Vec<(u16, u64)>,
    /// Something came before it: where that were the tickets, there are no more.
    came_before: bool,
}

/// Data inside of TLS to which no answer was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unanswered {
    /// The last of it.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    /// Bytes that came after it, and may be session tickets.
    pub(crate) tickets: u64,
}

/// The records of one direction, as far as they can be followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Records {
    /// Bytes of the stream that were gone through.
    at: u64,
    /// A record's header, as much of it as has come.
    header: Vec<u8>,
    /// What is left of the current record.
    left: u64,
    /// A header was missed.
    lost: bool,
    /// The messages of handshake records in the clear.
    hello: Vec<u8>,
    /// What follows is encrypted.
    changed: bool,
    /// An encrypted handshake record: Finished (TLS 1.2).
    finished: bool,
}

/// Something of a record.
enum Seen<'a> {
    Header { kind: u8, length: u16 },
    Body { kind: u8, bytes: &'a [u8] },
    NoTls,
}

impl Handshake {
    /// The first bytes of a read or write.
    pub(crate) fn feed(&mut self, way: Way, offset: u64, bytes: &[u8], at: u64) {
        let mut records = std::mem::take(self.records(way));
        let start = records.at == 0 && offset == 0;
        records.feed(offset, bytes, |records, seen| self.see(way, records, &seen, at));
        if records.lost && start && self.not_tls.is_none() && self.asked.is_some_and(|asked| asked != way) {
            self.not_tls = Some(shown(bytes));
        }
        *self.records(way) = records;
    }

    /// Whether these bytes can begin a connection of TLS.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        matches!(bytes, [HANDSHAKE] | [HANDSHAKE, 3, ..])
    }

    pub(crate) fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Chosen, or else offered.
    pub(crate) fn version(&self) -> Option<u16> {
        self.chosen.or(self.hello.as_ref().map(|hello| hello.version))
    }

    /// Whether the process is the client.
    pub(crate) fn is_client(&self) -> bool {
        self.asked == Some(Way::Write)
    }

    fn records(&mut self, way: Way) -> &mut Records {
        match way {
            Way::Read => &mut self.read,
            Way::Write => &mut self.write,
        }
    }

    fn see(&mut self, way: Way, records: &mut Records, seen: &Seen<'_>, at: u64) {
        match *seen {
            Seen::Body { kind: HANDSHAKE, bytes } if !records.changed => self.messages(way, records, bytes, at),
            Seen::Body { kind: ALERT, bytes: &[_, code] } if !records.changed => {
                self.alert.get_or_insert((code, way));
            }
            Seen::Header { kind: CHANGE_CIPHER, .. } => records.changed = true,
            // In TLS 1.3 the hellos that follow a retry look like this.
            Seen::Header { kind: HANDSHAKE, .. } if records.changed && self.chosen != Some(TLS_1_3) => {
                records.finished = true;
                let other = match way {
                    Way::Read => &self.write,
                    Way::Write => &self.read,
                };
                if other.finished {
                    self.done(at, false);
                }
            }
            Seen::Header { kind: DATA, length } if self.done_at.is_some() => self.data(way, length, at),
            Seen::Header { kind: DATA, length } if self.answered_at.is_some() => {
                if self.chosen == Some(TLS_1_3) {
                    // The client's first is its Finished, or the alert that ends it all.
                    if self.asked == Some(way) && self.done_at.is_none() {
                        if length == HIDDEN_ALERT {
                            self.alert_hidden = true;
                        } else if !self.alert_hidden {
                            self.done(at, true);
                        }
                    }
                } else {
                    self.done(at, true);
                    self.data(way, length, at);
                }
            }
            _ => {}
        }
    }

    /// A record of data, after the handshake.
    fn data(&mut self, way: Way, length: u16, at: u64) {
        let is_end = self.chosen == Some(TLS_1_3) && length == HIDDEN_ALERT;
        if self.asked != Some(way) {
            if self.sent.is_none() {
                self.came_before = true;
            } else if self.came.len() <= TICKETS {
                self.came.push((length, at));
            }
        } else if !is_end && (self.came.is_empty() || self.came_tickets()) {
            let before = self.sent.map_or(0, |(_, bytes)| bytes);
            self.sent = Some((at, before.saturating_add(length.into())));
        }
    }

    /// Whether all that came may be tickets. It may as well be an answer of such lengths that came at once.
    fn came_tickets(&self) -> bool {
        let &[(first, _), (second, at)] = self.came.as_slice() else { return false };
        let (Some(hello), Some(answered), Some(done)) = (self.hello_at, self.answered_at, self.done_at) else {
            return false;
        };
        let in_first_flight = at.saturating_sub(done) <= answered.saturating_sub(hello).saturating_mul(FLIGHT);
        let plausible = first == second && (TICKET_MIN..=TICKET_MAX).contains(&first);
        self.chosen == Some(TLS_1_3) && plausible && in_first_flight && !self.came_before
    }

    /// What the client had sent first, where nothing of the server's came after it but what may be session tickets.
    /// `read` and `written` are all bytes that passed: what was not looked at may be an answer.
    pub(crate) fn unanswered(&self, read: u64, written: u64) -> Option<Unanswered> {
        let all_seen = self.read.reaches(read) && self.write.reaches(written);
        let (at, bytes) = self.sent.filter(|_| all_seen && (self.came.is_empty() || self.came_tickets()))?;
        Some(Unanswered { at, bytes, tickets: self.came.iter().map(|(length, _)| u64::from(*length)).sum() })
    }

    fn messages(&mut self, way: Way, records: &mut Records, bytes: &[u8], at: u64) {
        let room = HELLO_MAX.saturating_sub(records.hello.len());
        records.hello.extend(bytes.iter().take(room));
        let Some(hello) = Hello::read(&records.hello) else { return };
        if hello.client {
            if self.asked.is_none() {
                self.asked = Some(way);
                self.hello_at = Some(at);
            }
            if self.asked == Some(way) && !self.hello.as_ref().is_some_and(|hello| hello.whole) {
                self.hello = Some(hello);
            }
        } else if self.asked.is_none_or(|asked| asked != way) {
            self.answered_at.get_or_insert(at);
            self.chosen = Some(hello.version);
        }
    }

    fn done(&mut self, at: u64, inferred: bool) {
        if self.done_at.is_none() {
            self.done_at = Some(at);
            self.done_inferred = inferred;
        }
    }
}

impl Records {
    /// Whether all of so many bytes are of records that were seen to begin.
    fn reaches(&self, bytes: u64) -> bool {
        !self.lost && bytes <= self.at.saturating_add(self.left)
    }

    fn feed(&mut self, offset: u64, mut bytes: &[u8], mut see: impl FnMut(&mut Self, Seen<'_>)) {
        if self.lost || offset < self.at {
            return;
        }
        let missing = offset - self.at;
        if missing > self.left {
            self.lost = true;
            return;
        }
        self.left -= missing;
        self.at = offset.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            if self.left == 0 {
                if self.header.len() == 5 {
                    self.header.clear();
                }
                let (taken, rest) = bytes.split_at(bytes.len().min(5 - self.header.len().min(5)));
                self.header.extend_from_slice(taken);
                bytes = rest;
                let plain = match *self.header.as_slice() {
                    [] => true,
                    [kind] => (CHANGE_CIPHER..=24).contains(&kind),
                    [kind, major, ..] => (CHANGE_CIPHER..=24).contains(&kind) && major == 3,
                };
                if !plain {
                    self.lost = true;
                    return see(self, Seen::NoTls);
                }
                if let [kind, _, _, high, low] = *self.header.as_slice() {
                    let length = u16::from_be_bytes([high, low]);
                    self.left = length.into();
                    see(self, Seen::Header { kind, length });
                }
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                let (body, rest) = bytes.split_at(here);
                bytes = rest;
                self.left -= here as u64;
                if let [kind, ..] = *self.header.as_slice() {
                    see(self, Seen::Body { kind, bytes: body });
                }
            }
        }
    }
}

impl Hello {
    /// Reads the first message of a handshake, or as much of it as is here. `None` when it is no hello, or too short
    /// to tell.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (&[kind, high, middle, low], rest) = bytes.split_first_chunk()?;
        let client = match kind {
            1 => true,
            2 => false,
            _ => return None,
        };
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
        let whole = rest.len() >= length;
        let mut body = Bytes(rest.get(..length).unwrap_or(rest));
        let mut hello = Self { client, version: body.u16()?, whole, ..Self::default() };
        hello.extensions(&mut body);
        Some(hello)
    }

    /// Goes as far as the bytes go.
    fn extensions(&mut self, body: &mut Bytes<'_>) -> Option<()> {
        body.take(32)?;
        let session = body.u8()?;
        body.take(session.into())?;
        if self.client {
            let ciphers = body.u16()?;
            body.take(ciphers.into())?;
            let compression = body.u8()?;
            body.take(compression.into())?;
        } else {
            body.take(3)?;
        }
        let length = body.u16()?;
        let mut all = Bytes(body.0.get(..length.into()).unwrap_or(body.0));
        loop {
            let (kind, length) = (all.u16()?, all.u16()?);
            let mut data = Bytes(all.take(length.into())?);
            match kind {
                // server_name: a list, of which the first entry is the only one in use.
                0 if self.client => self.sni = server_name(&mut data),
                // application_layer_protocol_negotiation
                16 => self.alpn = protocols(&mut data),
                // supported_versions
                43 if self.client => {
                    let length = data.u8().unwrap_or(0);
                    let mut versions = Bytes(data.0.get(..length.into()).unwrap_or(data.0));
                    // Values meant to be ignored (RFC 8701) look like 0x0A0A; those in use begin with 3.
                    while let Some(version) = versions.u16() {
                        if version >> 8 == 3 {
                            self.version = self.version.max(version);
                        }
                    }
                }
                43 => self.version = data.u16().unwrap_or(self.version),
                _ => {}
            }
        }
    }
}

fn server_name(data: &mut Bytes<'_>) -> Option<String> {
    data.u16()?;
    if data.u8()? != 0 {
        return None;
    }
    let length = data.u16()?;
    let name = data.take(length.into())?;
    Some(String::from_utf8_lossy(name.get(..NAME_MAX).unwrap_or(name)).into_owned())
}

fn protocols(data: &mut Bytes<'_>) -> Vec<String> {
    data.u16();
    let mut found = Vec::new();
    while found.len() < ALPN_MAX {
        let Some(name) = data.u8().and_then(|length| data.take(length.into())) else { break };
        found.push(String::from_utf8_lossy(name).into_owned());
    }
    found
}

/// The beginning of what is no TLS, printable.
fn shown(bytes: &[u8]) -> String {
    bytes.get(..SHOWN_MAX).unwrap_or(bytes).escape_ascii().to_string()
}

/// Takes from the front, in the network's order.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u16(&mut self) -> Option<u16> {
        let (&taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(taken))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3], &length[..], body].concat()
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind], &length[1..], body].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        [&kind.to_be_bytes()[..], &length, data].concat()
    }

    fn client_hello() -> Vec<u8> {
        let mut name = vec![0, 15, 0, 0, 12];
        name.extend_from_slice(b"host.example");
        let extensions = [
            // The name behind a share of a key that is large.
            extension(51, &[7; 1200]),
            extension(0, &name),
            extension(16, b"\0\x0c\x02h2\x08http/1.1"),
            extension(43, &[6, 0x0a, 0x0a, 3, 4, 3, 3]),
        ]
        .concat();
        let mut body = vec![3, 3];
        body.extend_from_slice(&[1; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&extensions);
        record(HANDSHAKE, &message(1, &body))
    }

    fn server_hello(version: u8) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[1; 32]);
        body.extend_from_slice(&[0, 0x13, 1, 0]);
        let extensions = if version == 4 { extension(43, &[3, 4]) } else { Vec::new() };
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&extensions);
        record(HANDSHAKE, &message(2, &body))
    }

    /// Feeds whole writes, of which `seen` bytes are seen.
    fn feed(parts: &[(Way, &[u8])], seen: usize) -> Handshake {
        let (mut handshake, mut offsets) = (Handshake::default(), [0_u64; 2]);
        for (at, (way, bytes)) in (1..).zip(parts) {
            let offset = &mut offsets[usize::from(*way == Way::Write)];
            handshake.feed(*way, *offset, &bytes[..bytes.len().min(seen)], at);
            *offset += bytes.len() as u64;
        }
        handshake
    }

    #[test]
    fn a_hello_is_read_whole_and_in_parts() {
        let hello = client_hello();
        for step in [1, 5, 100, hello.len()] {
            let parts: Vec<_> = hello.chunks(step).map(|part| (Way::Write, part)).collect();
            let handshake = feed(&parts, 2048);
            let hello = handshake.hello().unwrap();
            assert_eq!((hello.sni.as_deref(), hello.version), (Some("host.example"), TLS_1_3), "{step}");
            assert_eq!(hello.alpn, ["h2", "http/1.1"]);
            assert!(handshake.is_client() && handshake.hello_at.is_some() && handshake.answered_at.is_none());
        }
    }

    #[test]
    fn tls_1_3_ends_with_what_the_client_sends_next() {
        let (hello, answer) = (client_hello(), [server_hello(4), record(20, &[1]), record(23, &[9; 3000])].concat());
        let finished = [record(20, &[1]), record(23, &[9; 53])].concat();
        let done = feed(&[(Way::Write, &hello), (Way::Read, &answer), (Way::Write, &finished)], 2048);
        assert_eq!((done.done_at, done.done_inferred, done.version()), (Some(3), true, Some(TLS_1_3)));
        let alert = record(23, &[9; 19]);
        let ended = feed(&[(Way::Write, &hello), (Way::Read, &answer), (Way::Write, &alert)], 2048);
        assert_eq!((ended.done_at, ended.alert_hidden), (None, true));
        // The same, seen by the server.
        let served = feed(&[(Way::Read, &hello), (Way::Write, &answer), (Way::Read, &finished)], 2048);
        assert!(!served.is_client() && served.done_at == Some(3));
    }

    #[test]
    fn after_a_retry_both_hellos_are_in_the_clear() {
        let (hello, retry) = (client_hello(), [server_hello(4), record(20, &[1])].concat());
        let again = [record(20, &[1]), client_hello()].concat();
        let handshake = feed(
            &[(Way::Write, &hello), (Way::Read, &retry), (Way::Write, &again), (Way::Read, &server_hello(4))],
            2048,
        );
        assert_eq!((handshake.done_at, handshake.answered_at), (None, Some(2)));
    }

    #[test]
    fn tls_1_2_ends_with_both_finished() {
        let (hello, answer) = (client_hello(), [server_hello(3), record(HANDSHAKE, &[11; 4000])].concat());
        let finished = [record(20, &[1]), record(HANDSHAKE, &[9; 40])].concat();
        let parts: [(Way, &[u8]); 4] =
            [(Way::Write, &hello), (Way::Read, &answer), (Way::Write, &finished), (Way::Read, &finished)];
        assert_eq!(feed(&parts[..3], 512).done_at, None);
        let done = feed(&parts, 512);
        assert_eq!((done.done_at, done.done_inferred, done.version()), (Some(4), false, Some(0x0303)));
        let data = record(23, &[0; 99]);
        let missed = feed(&[parts[0], parts[1], (Way::Read, &data)], 512);
        assert_eq!((missed.done_at, missed.done_inferred), (Some(3), true));
    }

    #[test]
    fn a_request_inside_of_tls_and_what_came_after_it() {
        let hello = client_hello();
        let after = |version: u8, parts: &[(Way, &[u8])]| {
            let answer = [server_hello(version), record(20, &[1]), record(23, &[9; 300])].concat();
            let finished = [record(20, &[1]), record(if version == 4 { 23 } else { HANDSHAKE }, &[9; 53])].concat();
            let plain = [server_hello(version), record(20, &[1]), record(HANDSHAKE, &[9; 40])].concat();
            let answer = if version == 4 { answer } else { plain };
            let mut all: Vec<(Way, &[u8])> = vec![(Way::Write, &hello), (Way::Read, &answer), (Way::Write, &finished)];
            all.extend(parts);
            let bytes = |way| all.iter().filter(|part| part.0 == way).map(|part| part.1.len() as u64).sum::<u64>();
            let unanswered = feed(&all, 2048).unanswered(bytes(Way::Read), bytes(Way::Write));
            unanswered.map(|it| (it.at, it.bytes, it.tickets))
        };
        let (request, ticket) = (record(23, &[7; 120]), record(23, &[1; 250]));
        let (tickets, end) = (ticket.repeat(2), record(23, &[2; 19]));
        let (sent, told) = ((Way::Write, request.as_slice()), (Way::Read, ticket.as_slice()));
        let (both, closed) = ((Way::Read, tickets.as_slice()), (Way::Write, end.as_slice()));
        assert_eq!(after(4, &[sent, closed]), Some((4, 120, 0)));
        assert_eq!(after(4, &[sent, both, closed]), Some((4, 120, 500)));
        assert_eq!(after(4, &[both, sent, closed]), Some((5, 120, 0)));
        assert_eq!(after(4, &[sent, both, sent, closed]), Some((6, 240, 500)));
        assert_eq!(after(3, &[sent]), Some((4, 120, 0)));
        // A session ticket, or an answer: nobody knows. An answer, and the last word of HTTP/2 after it. Nothing asked.
        let other = record(23, &[1; 99]);
        let other = (Way::Read, other.as_slice());
        for parts in
            [&[sent, told][..], &[sent, both, told], &[sent, told, other], &[sent, told, sent, closed], &[closed], &[]]
        {
            assert_eq!(after(4, parts), None, "{}", parts.len());
        }
        assert_eq!((after(3, &[sent, told]), after(3, &[sent, both])), (None, None));
        // Too short for tickets: a head and a body of one length. After the tickets, and long after the handshake.
        let small = record(23, &[1; 56]).repeat(2);
        let small = (Way::Read, small.as_slice());
        for parts in [&[sent, small][..], &[both, sent, both], &[sent, sent, sent, both]] {
            assert_eq!(after(4, parts), None, "{}", parts.len());
        }
        // What was not looked at may be an answer.
        let asked = feed(&[(Way::Write, &hello), (Way::Read, &server_hello(3)), sent], 2048);
        assert_eq!(
            (asked.unanswered(0, 0).is_some(), asked.unanswered(9_999, 0), asked.unanswered(0, 9_999)),
            (true, None, None)
        );
    }

    #[test]
    fn alerts_and_what_is_no_tls() {
        let hello = client_hello();
        let alert = feed(&[(Way::Write, &hello), (Way::Read, &[21, 3, 3, 0, 2]), (Way::Read, &[2, 40])], 2048);
        assert_eq!(alert.alert, Some((40, Way::Read)));
        let plain = feed(&[(Way::Write, &hello), (Way::Read, b"HTTP/1.1 400 Bad\r\n\x1b")], 2048);
        assert_eq!(plain.not_tls.as_deref(), Some("HTTP/1.1 400 Bad\\r\\n\\x1b"));
    }

    proptest! {
        #[test]
        fn nothing_panics(parts in prop::collection::vec((any::<bool>(), any::<u32>(), any::<Vec<u8>>()), 0..8)) {
            let mut handshake = Handshake::default();
            for (write, offset, bytes) in parts {
                handshake.feed(if write { Way::Write } else { Way::Read }, offset.into(), &bytes, 1);
                handshake.unanswered(offset.into(), u64::MAX);
                Hello::read(&bytes);
            }
        }

        #[test]
        fn damaged_hellos_do_not_either(at: usize, byte: u8, step in 1..99_usize) {
            let mut hello = client_hello();
            let at = at % hello.len();
            hello[at] = byte;
            let parts: Vec<_> = hello.chunks(step).map(|part| (Way::Read, part)).collect();
            feed(&parts, 64);
        }
    }
}
