//! One question put to the servers until one of them has answered.
//!
//! Hickory's own pool of name servers is not used, for what a deadline needs it does not give: it hides what was sent
//! and what came back; it takes the first error code as the answer, though another server would know better; it does
//! not see an ICMP refusal; it turns its back on a try when its timeout ends, so that a server that takes longer is
//! never heard; and tasks of it outlive the lookup. Its messages, cache and configuration are used.
//!
//! Here every try has its own connected socket (a port of its own, and the kernel drops what comes from elsewhere and
//! reports refusals) and stays open until the question is answered or dropped. Nothing is spawned: the future holds
//! all of it.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use hickory_resolver::proto::op::{DnsResponse, Edns, Message, Query, ResponseCode};
use overdue_core::facts::{DnsFailure, OsFailure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{LookupLog, ResolveError};
use crate::socket;

/// After so long a silence the next server is asked as well, or the same one again. The pause doubles with every
/// repeat.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// When nobody has answered by then, nobody will. Longer than any sensible limit of a caller, which says it better.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// How long TCP may take after a truncated answer, until it counts as failed.
const TCP_WITHIN: Duration = Duration::from_secs(5);
/// The payload that passes everywhere without fragments (DNS flag day 2020).
const EDNS_PAYLOAD: u16 = 1232;
/// Some servers send more over UDP than they were asked for.
const DATAGRAM_BYTES: usize = 4096;

/// The servers to ask, and the one to begin with: the last that gave an answer.
#[derive(Debug)]
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    preferred: AtomicUsize,
}

impl Servers {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, preferred: AtomicUsize::new(0) }
    }
}

/// Asks until a server answers NOERROR or NXDOMAIN. Dropping the future closes every socket.
pub(super) async fn ask(
    servers: &Servers,
    query: &Query,
    edns: bool,
    log: &LookupLog,
) -> Result<DnsResponse, ResolveError> {
    let mut asking = Asking::new(servers, query, edns, log);
    let mut pause = REPEAT_AFTER;
    let mut repeat = pin!(sleep(pause));
    let mut give_up = pin!(sleep(GIVE_UP_AFTER));
    asking.ask_another();
    loop {
        if asking.all_failed() {
            return Err(asking.into_error());
        }
        tokio::select! {
            biased;
            (server, reply) = asking.next_reply() => {
                if let Some(response) = asking.take(server, reply) {
                    servers.preferred.store(server, Relaxed);
                    return Ok(response);
                }
            }
            () = &mut repeat => {
                if asking.is_settled() {
                    return Err(asking.into_error());
                }
                if !asking.has_unasked() {
                    pause *= 2;
                }
                asking.ask_another();
            }
            () = &mut give_up => return Err(asking.into_error()),
        }
        repeat.as_mut().reset(Instant::now() + pause);
    }
}

/// What one try came to.
enum Reply {
    Answer(DnsResponse),
    /// The rest of it is to be had over TCP.
    Truncated,
    /// The server does not understand the query as it was put, most likely for its EDNS.
    NotUnderstood(ResponseCode),
    Failed(Failure),
}

/// Why a server is of no use for this question.
#[derive(Clone, Debug)]
struct Failure {
    reason: DnsFailure,
    text: String,
    os: Option<OsFailure>,
}

impl Failure {
    fn new(reason: DnsFailure, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), os: None }
    }

    /// No socket: that is this machine's fault, not the server's.
    fn no_socket(err: &io::Error) -> Self {
        let failure = Self::new(DnsFailure::NoAnswer, format!("no socket to ask it with: {err}"));
        Self { os: Some(socket::classify(err)), ..failure }
    }
}

/// A server and how far it has been asked.
struct Asked {
    address: SocketAddr,
    standing: Standing,
}

enum Standing {
    Unasked,
    Silent { tries: u32 },
    OverTcp,
    Failed(Failure),
}

/// One try at a server, by its place in the list.
type Try<'a> = (usize, Pin<Box<dyn Future<Output = Reply> + Send + 'a>>);

/// The state of one question.
struct Asking<'a> {
    servers: Vec<Asked>,
    first: usize,
    query: &'a Query,
    edns: bool,
    log: &'a LookupLog,
    tries: Vec<Try<'a>>,
}

impl<'a> Asking<'a> {
    fn new(servers: &Servers, query: &'a Query, edns: bool, log: &'a LookupLog) -> Self {
        let unasked = |&address: &SocketAddr| Asked { address, standing: Standing::Unasked };
        Self {
            servers: servers.addresses.iter().map(unasked).collect(),
            first: servers.preferred.load(Relaxed),
            query,
            edns,
            log,
            tries: Vec::new(),
        }
    }

    /// Asks a server that was not asked yet, or else the one that was asked least of those that are silent.
    fn ask_another(&mut self) {
        let (first, count) = (self.first, self.servers.len());
        let open = self.servers.iter_mut().enumerate().filter_map(|(at, server)| match server.standing {
            Standing::Unasked => Some((0, at, server)),
            Standing::Silent { tries } => Some((tries, at, server)),
            Standing::OverTcp | Standing::Failed(_) => None,
        });
        let next = open.min_by_key(|(tries, at, _)| (*tries, (at + count - first) % count));
        if let Some((tries, at, server)) = next {
            server.standing = Standing::Silent { tries: tries + 1 };
            let address = server.address;
            self.ask_over_udp(at, address);
        }
    }

    fn ask_over_udp(&mut self, at: usize, address: SocketAddr) {
        self.tries.push((at, Box::pin(over_udp(address, self.query, self.edns, self.log))));
    }

    /// Gives the answer, if it is one, and otherwise does what comes next.
    fn take(&mut self, at: usize, reply: Reply) -> Option<DnsResponse> {
        let server = self.servers.get_mut(at)?;
        let address = server.address;
        // Earlier tries at the same server would come to the same.
        self.tries.retain(|(tried, _)| *tried != at);
        match reply {
            Reply::Answer(response) => return Some(response),
            Reply::Truncated => {
                server.standing = Standing::OverTcp;
                self.log.truncated();
                self.tries.push((at, Box::pin(over_tcp(address, self.query, self.edns, self.log))));
            }
            Reply::NotUnderstood(_) => {
                self.edns = false;
                self.ask_over_udp(at, address);
            }
            Reply::Failed(failure) => {
                server.standing = Standing::Failed(failure);
                if self.has_unasked() {
                    self.ask_another();
                }
            }
        }
        None
    }

    fn has_unasked(&self) -> bool {
        self.servers.iter().any(|server| matches!(server.standing, Standing::Unasked))
    }

    /// Also when there is none.
    fn all_failed(&self) -> bool {
        self.servers.iter().all(|server| matches!(server.standing, Standing::Failed(_)))
    }

    /// Repeats are for silence. When one server has failed, the others have been asked and had their time, and none
    /// is at work over TCP, there is nothing more to wait for.
    fn is_settled(&self) -> bool {
        let is_at_work = |server: &Asked| matches!(server.standing, Standing::Unasked | Standing::OverTcp);
        let has_failed = |server: &Asked| matches!(server.standing, Standing::Failed(_));
        self.servers.iter().any(has_failed) && !self.servers.iter().any(is_at_work)
    }

    /// Polls every try; ready with the first that ended.
    async fn next_reply(&mut self) -> (usize, Reply) {
        poll_fn(|cx| {
            let ready = self.tries.iter_mut().find_map(|(at, attempt)| match attempt.as_mut().poll(cx) {
                Poll::Ready(reply) => Some((*at, reply)),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Why there is no answer: the failure that says most, and in words what became of every server.
    fn into_error(self) -> ResolveError {
        let name = self.query.name().to_ascii();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if self.servers.is_empty() {
            return ResolveError::new(DnsFailure::NoAnswer, format!("{name}: there is no server to ask"));
        }
        let (mut texts, mut silent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for Asked { address, standing } in self.servers {
            match standing {
                Standing::Failed(failure) => {
                    texts.push(format!("{} ({address})", failure.text));
                    failures.push(failure);
                }
                _ => silent.push(address.to_string()),
            }
        }
        if !silent.is_empty() {
            texts.push(format!("no answer from {}", silent.join(", ")));
        }
        let telling = failures.into_iter().min_by_key(|failure| match failure.reason {
            _ if failure.os.is_some() => 0,
            DnsFailure::ServerError => 1,
            DnsFailure::Unusable => 2,
            _ => 3,
        });
        let (reason, os) = telling.map_or((DnsFailure::NoAnswer, None), |failure| (failure.reason, failure.os));
        ResolveError { reason, text: format!("{name}: {}", texts.join("; ")), os }
    }
}

/// One datagram and what comes back for it.
async fn over_udp(server: SocketAddr, query: &Query, edns: bool, log: &LookupLog) -> Reply {
    let (id, request) = match encode(query, edns) {
        Ok(encoded) => encoded,
        Err(failure) => return Reply::Failed(failure),
    };
    let any = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = match UdpSocket::bind::<SocketAddr>(any).await {
        Ok(socket) => socket,
        Err(err) => return Reply::Failed(Failure::no_socket(&err)),
    };
    let sent = match socket.connect(server).await {
        Ok(()) => socket.send(&request).await,
        Err(err) => Err(err),
    };
    if let Err(err) = sent {
        return Reply::Failed(Failure::new(DnsFailure::NoAnswer, format!("cannot be asked: {err}")));
    }
    log.asked(server);

    let mut buf = [0; DATAGRAM_BYTES];
    let mut strange: Option<Instant> = None;
    loop {
        let received = match strange {
            None => socket.recv(&mut buf).await,
            Some(since) => match timeout_at(since + REPEAT_AFTER, socket.recv(&mut buf)).await {
                Ok(received) => received,
                Err(_) => {
                    return Reply::Failed(Failure::new(DnsFailure::Unusable, "nothing but answers to other queries"));
                }
            },
        };
        let answer = match received {
            Ok(len) => buf.get(..len).unwrap_or_default(),
            Err(err) => return Reply::Failed(Failure::new(DnsFailure::NoAnswer, err.to_string())),
        };
        log.answered();
        match read(answer, id, query) {
            Some(Reply::NotUnderstood(code)) if !edns => {
                return Reply::Failed(Failure::new(DnsFailure::ServerError, code_name(code)));
            }
            Some(reply) => return reply,
            None => strange = strange.or_else(|| Some(Instant::now())),
        }
    }
}

/// The same over TCP, after a truncated answer.
async fn over_tcp(server: SocketAddr, query: &Query, edns: bool, log: &LookupLog) -> Reply {
    let failed = |why: &dyn std::fmt::Display| {
        Reply::Failed(Failure::new(DnsFailure::Unusable, format!("truncated over UDP, and over TCP: {why}")))
    };
    let (id, request) = match encode(query, edns) {
        Ok(encoded) => encoded,
        Err(failure) => return Reply::Failed(failure),
    };
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let len = u16::try_from(request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&len.to_be_bytes()[..], &request].concat()).await?;
        log.asked(server);
        let len = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await?;
        log.answered();
        io::Result::Ok(answer)
    };
    match timeout(TCP_WITHIN, exchange).await {
        Ok(Ok(answer)) => match read(&answer, id, query) {
            Some(Reply::Truncated) => failed(&"truncated again"),
            Some(Reply::NotUnderstood(code)) => failed(&code_name(code)),
            Some(reply) => reply,
            None => failed(&"the answer to another query"),
        },
        Ok(Err(err)) => failed(&err),
        Err(_) => failed(&"no answer in time"),
    }
}

/// A query with an unguessable id.
fn encode(query: &Query, edns: bool) -> Result<(u16, Vec<u8>), Failure> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_PAYLOAD);
        message.set_edns(edns);
    }
    match message.to_vec() {
        Ok(bytes) => Ok((message.metadata.id, bytes)),
        Err(err) => Err(Failure::new(DnsFailure::InvalidName, err.to_string())),
    }
}

/// What an answer means. `None`: it is none to this query, but has another id or question. Anybody can send that, so
/// it ends nothing.
fn read(bytes: &[u8], id: u16, query: &Query) -> Option<Reply> {
    let &[id_high, id_low, flags, _] = bytes.first_chunk()?;
    let (is_response, is_truncated) = (flags & 0x80 != 0, flags & 0x02 != 0);
    if u16::from_be_bytes([id_high, id_low]) != id || !is_response {
        return None;
    }
    // Before the rest is read: what was cut short may be cut in the middle of a record.
    if is_truncated {
        return Some(Reply::Truncated);
    }
    let response = match DnsResponse::from_buffer(bytes.to_vec()) {
        Ok(response) => response,
        Err(err) => {
            return Some(Reply::Failed(Failure::new(DnsFailure::Unusable, format!("an unreadable answer: {err}"))));
        }
    };
    let code = response.metadata.response_code;
    let is_error = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    // Some servers leave the question out of an error.
    if response.queries != [query.clone()] && !(is_error && response.queries.is_empty()) {
        return None;
    }
    Some(match code {
        ResponseCode::NoError | ResponseCode::NXDomain => Reply::Answer(response),
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Reply::NotUnderstood(code),
        code => Reply::Failed(Failure::new(DnsFailure::ServerError, code_name(code))),
    })
}

/// The names that dig and the logs of servers use.
pub(super) fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        code => format!("RCODE {} ({code})", u16::from(code)),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME},
    };
    use proptest::prelude::*;

    use super::*;

    fn question() -> Query {
        Query::query(Name::from_ascii("api.test.").unwrap(), RecordType::A)
    }

    fn response() -> Vec<u8> {
        let mut message = Message::query().into_response();
        message.metadata.id = 7;
        message.add_query(question());
        let alias = RData::CNAME(CNAME(Name::from_ascii("b.test.").unwrap()));
        message.add_answer(Record::from_rdata(Name::from_ascii("api.test.").unwrap(), 60, alias));
        let address = RData::A(A::new(192, 0, 2, 7));
        message.add_answer(Record::from_rdata(Name::from_ascii("b.test.").unwrap(), 60, address));
        message.to_vec().unwrap()
    }

    #[test]
    fn a_response_is_read_whatever_the_case_of_its_question() {
        let mut bytes = response();
        assert!(matches!(read(&bytes, 7, &question()), Some(Reply::Answer(_))));
        bytes[13] = b'A';
        assert!(matches!(read(&bytes, 7, &question()), Some(Reply::Answer(_))));
        assert!(read(&bytes, 8, &question()).is_none());
        bytes[13] = b'x';
        assert!(read(&bytes, 7, &question()).is_none());
    }

    proptest! {
        #[test]
        fn garbage_is_no_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(!matches!(read(&bytes, 7, &question()), Some(Reply::Answer(_))));
        }

        #[test]
        fn a_damaged_response_is_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = response();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = read(&bytes, 7, &question());
        }
    }
}
