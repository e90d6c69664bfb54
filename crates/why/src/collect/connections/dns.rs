//! Queries for names and their answers: messages over UDP, and what belongs together.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::observation::DnsExchange;

const EXCHANGES_MAX: usize = 512;
const ADDRESSES_MAX: usize = 32;
/// `resolv.conf` names three.
const SERVERS_MAX: usize = 8;
/// Nobody waits longer for an answer, in nanoseconds: `resolv.conf` allows 30 s for one server.
const GIVEN_UP_AFTER: u64 = 30_000_000_000;
/// Names longer than this are not names (RFC 1035).
const NAME_MAX: usize = 255;
const A: u16 = 1;
const AAAA: u16 = 28;

/// A query or an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) is_answer: bool,
    /// It did not fit.
    pub(crate) truncated: bool,
    pub(crate) rcode: u8,
    pub(crate) answers: u16,
    pub(crate) name: String,
    pub(crate) kind: u16,
    /// As far as the bytes go.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Message {
    /// `None` where it is no message with a question; one that is cut off behind the question is read that far.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<12>()?;
        let &[i, d, flags, code, q, d_count, a, n, ..] = header;
        if u16::from_be_bytes([q, d_count]) == 0 {
            return None;
        }
        let (name, mut rest) = name(body)?;
        let kind = u16_at(rest, 0)?;
        let answers = u16::from_be_bytes([a, n]);
        rest = rest.get(4..)?;
        let mut message = Self {
            id: u16::from_be_bytes([i, d]),
            is_answer: flags & 0x80 != 0,
            truncated: flags & 0x02 != 0,
            rcode: code & 15,
            answers,
            name,
            kind,
            addresses: Vec::new(),
        };
        for _ in 0..answers {
            let Some((address, more)) = record(rest) else { break };
            rest = more;
            if message.addresses.len() < ADDRESSES_MAX {
                message.addresses.extend(address);
            }
        }
        Some(message)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The question's name, which is not compressed, and what follows.
fn name(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut labels = Vec::new();
    loop {
        let (&length, rest) = bytes.split_first()?;
        if length == 0 {
            let name = String::from_utf8_lossy(&labels).into_owned();
            return Some((if name.is_empty() { ".".to_owned() } else { name }, rest));
        }
        if length > 63 || labels.len() + usize::from(length) > NAME_MAX {
            return None;
        }
        let (label, rest) = rest.split_at_checked(length.into())?;
        if !labels.is_empty() {
            labels.push(b'.');
        }
        labels.extend_from_slice(label);
        bytes = rest;
    }
}

/// One record: the address in it, if it is of that kind, and what follows.
fn record(mut bytes: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    loop {
        let (&length, rest) = bytes.split_first()?;
        bytes = match length {
            0 => {
                bytes = rest;
                break;
            }
            // The rest of the name is elsewhere.
            192.. => {
                bytes = rest.get(1..)?;
                break;
            }
            length => rest.get(length.into()..)?,
        };
    }
    let (kind, length) = (u16_at(bytes, 0)?, u16_at(bytes, 8)?);
    let (data, rest) = bytes.get(10..)?.split_at_checked(length.into())?;
    let address = match kind {
        A => data.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        AAAA => data.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).to_canonical()),
        _ => None,
    };
    Some((address, rest))
}

/// What belongs together: the same socket, number and question.
type Key = (u64, u16, u16, String);

/// Queries and their answers, a bounded number of them.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    all: BTreeMap<u64, Exchange>,
    open: HashMap<Key, u64>,
    next: u64,
    /// Left out, as there were too many.
    pub(crate) left_out: u64,
}

/// One query, in nanoseconds of the monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) seen: DnsExchange,
    pub(crate) sent: u64,
    pub(crate) answered: Option<u64>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Exchanges {
    /// A message that was sent.
    pub(crate) fn sent(&mut self, bytes: &[u8], cookie: u64, tid: u32, server: Option<SocketAddr>, at: u64) {
        let Some(message) = Message::read(bytes).filter(|message| !message.is_answer) else { return };
        let server = server.map(|server| server.ip().to_string()).unwrap_or_default();
        let key = (cookie, message.id, message.kind, message.name);
        // The same question to the next server may come from another socket, with another number.
        let again = self.all.iter_mut().rev().take(16).find(|(_, exchange)| {
            let seen = &exchange.seen;
            exchange.answered.is_none() && seen.tid == tid && seen.kind == key.2 && seen.name == key.3
        });
        if let Some((id, exchange)) = again {
            let seen = &mut exchange.seen;
            seen.sent += 1;
            seen.in_vain.retain(|asked| *asked != server);
            let before = std::mem::replace(&mut seen.server, server);
            if before != seen.server && !seen.in_vain.contains(&before) && seen.in_vain.len() < SERVERS_MAX {
                seen.in_vain.push(before);
            }
            seen.refused = false;
            let id = *id;
            self.open.insert(key, id);
        } else {
            let seen = DnsExchange { name: key.3.clone(), kind: key.2, server, tid, sent: 1, ..DnsExchange::default() };
            self.all.insert(self.next, Exchange { seen, sent: at, answered: None, addresses: Vec::new() });
            self.open.insert(key, self.next);
            self.next += 1;
        }
        self.forget();
    }

    /// Nobody listens where that socket asked.
    pub(crate) fn refused(&mut self, cookie: u64) {
        for id in self.open.iter().filter(|((socket, ..), _)| *socket == cookie).map(|(_, id)| id) {
            if let Some(exchange) = self.all.get_mut(id).filter(|exchange| exchange.answered.is_none()) {
                exchange.seen.refused = true;
            }
        }
    }

    /// A message that was received.
    pub(crate) fn received(&mut self, bytes: &[u8], cookie: u64, at: u64) {
        let Some(message) = Message::read(bytes).filter(|message| message.is_answer) else { return };
        let key = (cookie, message.id, message.kind, message.name);
        let Some(exchange) = self.open.remove(&key).and_then(|id| self.all.get_mut(&id)) else { return };
        if exchange.answered.is_some() {
            return;
        }
        (exchange.answered, exchange.seen.refused) = (Some(at), false);
        exchange.seen.answered_us = Some(at.saturating_sub(exchange.sent) / 1000);
        exchange.seen.rcode = Some(message.rcode);
        exchange.seen.truncated = message.truncated;
        exchange.seen.answers = Some(message.answers);
        exchange.addresses = message.addresses;
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Exchange> {
        self.all.values()
    }

    /// Drops what ended before, so that only what may belong to a later window is kept.
    pub(crate) fn forget_before(&mut self, begin: u64) {
        self.all.retain(|_, exchange| exchange.ends_at() >= begin);
        self.open.retain(|_, id| self.all.contains_key(id));
    }

    /// Makes room: who was answered quickest goes first, then the oldest.
    fn forget(&mut self) {
        if self.all.len() > EXCHANGES_MAX {
            let least = self.all.iter().min_by_key(|(id, exchange)| (exchange.worth(), **id)).map(|(id, _)| *id);
            self.all.remove(&least.unwrap_or_default());
            self.left_out += 1;
        }
        // A query that is sent over and over under other numbers.
        if self.open.len() > 2 * EXCHANGES_MAX {
            self.open.retain(|_, id| self.all.get(id).is_some_and(|exchange| exchange.seen.sent == 1));
        }
    }
}

impl Exchange {
    /// When it is over for who asked, in nanoseconds of the monotonic clock.
    pub(crate) fn ends_at(&self) -> u64 {
        self.answered.unwrap_or_else(|| self.sent.saturating_add(GIVEN_UP_AFTER))
    }

    /// The longer it took, the more; one without a good answer most.
    pub(crate) fn worth(&self) -> u64 {
        match self.answered {
            Some(at) if self.seen.rcode == Some(0) => at.saturating_sub(self.sent),
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(id: u16, answer: bool, answers: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend_from_slice(if answer { &[0x81, 0x80] } else { &[1, 0] });
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&answers.to_be_bytes());
        bytes.extend_from_slice(b"\0\0\0\0\x04host\x07example\0\0\x01\0\x01");
        bytes.extend_from_slice(rest);
        bytes
    }

    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x02\xc0\x0c";
    const ADDRESS: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x7f\0\0\x01";

    #[test]
    fn a_query_and_its_answer() {
        let mut exchanges = Exchanges::default();
        let server = Some("127.0.0.1:53".parse().unwrap());
        exchanges.sent(&message(7, false, 0, b""), 1, 100, server, 1_000_000);
        // Once more, from another socket, as after a timeout.
        exchanges.sent(&message(8, false, 0, b""), 2, 100, server, 3_000_000);
        let answer = message(8, true, 2, &[ALIAS, ADDRESS].concat());
        exchanges.received(&answer, 1, 4_000_000);
        assert_eq!(exchanges.all().next().unwrap().answered, None, "another socket's");
        exchanges.received(&answer, 2, 4_000_000);
        let [exchange] = exchanges.all().collect::<Vec<_>>()[..] else { panic!("{exchanges:?}") };
        assert_eq!(exchange.seen.name, "host.example");
        assert_eq!((exchange.seen.sent, exchange.seen.answered_us), (2, Some(3000)));
        assert_eq!((exchange.seen.rcode, exchange.seen.answers), (Some(0), Some(2)));
        assert_eq!(exchange.addresses, [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn a_server_that_is_not_there() {
        let mut exchanges = Exchanges::default();
        let mut asks = |id, cookie| exchanges.sent(&message(id, false, 0, b""), cookie, 100, None, 1_000_000);
        asks(7, 1);
        let refused = |exchanges: &Exchanges| exchanges.all().next().unwrap().seen.refused;
        exchanges.refused(2);
        assert!(!refused(&exchanges), "another socket's");
        exchanges.refused(1);
        assert!(refused(&exchanges));
        // The next server may be there.
        exchanges.sent(&message(8, false, 0, b""), 2, 100, None, 1_000_000);
        assert!(!refused(&exchanges));
        exchanges.refused(2);
        exchanges.received(&message(8, true, 1, ADDRESS), 2, 4_000_000);
        assert!(!refused(&exchanges));
    }

    #[test]
    fn servers_that_were_asked_in_vain() {
        let mut exchanges = Exchanges::default();
        let mut asks = |id: u8| {
            let server = Some(SocketAddr::from(([127, 0, 0, id], 53)));
            exchanges.sent(&message(id.into(), false, 0, b""), id.into(), 100, server, 1_000_000);
            let seen = &exchanges.all().next().unwrap().seen;
            (seen.server.clone(), seen.in_vain.join(" "))
        };
        let asked = |server: &str, in_vain: &str| (server.to_owned(), in_vain.to_owned());
        assert_eq!(asks(75), asked("127.0.0.75", ""));
        assert_eq!(asks(75), asked("127.0.0.75", ""));
        assert_eq!(asks(76), asked("127.0.0.76", "127.0.0.75"));
        // The second round.
        assert_eq!(asks(75), asked("127.0.0.75", "127.0.0.76"));
        for id in 1..50 {
            asks(id);
        }
        assert_eq!(asks(76).1.split(' ').count(), SERVERS_MAX);
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let mut bytes = message(8, true, 0, &[]);
        assert!(!Message::read(&bytes).unwrap().truncated);
        bytes[2] |= 0x02;
        assert!(Message::read(&bytes).unwrap().truncated);
    }

    #[test]
    fn cut_off_answers_keep_what_is_there() {
        let message = Message::read(&message(8, true, 2, &[ADDRESS, &ALIAS[..9]].concat())).unwrap();
        assert_eq!((message.addresses.len(), message.answers), (1, 2));
        assert_eq!(Message::read(&[0; 11]), None);
    }

    #[test]
    fn only_so_many_are_kept_and_the_unanswered_first() {
        let mut exchanges = Exchanges::default();
        for id in 0..2000_u16 {
            exchanges.sent(&message(id, false, 0, b""), 1, id.into(), None, 1000);
            if id % 10 != 0 {
                exchanges.received(&message(id, true, 0, b""), 1, 2000 + u64::from(id));
            }
        }
        assert_eq!(exchanges.all().count(), EXCHANGES_MAX);
        assert_eq!(exchanges.all().filter(|exchange| exchange.answered.is_none()).count(), 200);
        assert_eq!(exchanges.left_out, 2000 - EXCHANGES_MAX as u64);
        assert!(exchanges.open.len() <= 2 * EXCHANGES_MAX);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, rest: Vec<u8>, answers: u16) {
            for bytes in [bytes, message(1, true, answers, &rest)] {
                if let Some(message) = Message::read(&bytes) {
                    prop_assert!(message.name.len() <= 3 * NAME_MAX && message.addresses.len() <= ADDRESSES_MAX);
                }
            }
        }
    }
}
