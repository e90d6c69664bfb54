//! A DNS server for tests, and the answers it gives.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use crate::resolve::Resolver;

pub(super) const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// A DNS server; gone when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Sends what `behave` makes of each query, in order.
    pub(super) async fn start(behave: impl Fn(&Message, Over) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_with(true, behave).await
    }

    pub(super) async fn start_with(
        tcp: bool,
        behave: impl Fn(&Message, Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let behave = Arc::new(behave);
        let (listener, socket, address) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // Somebody else may have that port for UDP.
            if let Ok(socket) = UdpSocket::bind(address).await {
                break (listener, socket, address);
            }
        };
        let mut tasks = JoinSet::new();
        let behave_udp = Arc::clone(&behave);
        tasks.spawn(async move {
            let mut buf = [0; 1500];
            loop {
                let (len, from) = socket.recv_from(&mut buf).await.unwrap();
                for answer in behave_udp(&Message::from_vec(&buf[..len]).unwrap(), Over::Udp) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        if tcp {
            tasks.spawn(async move {
                // A connection without an answer stays open.
                let mut streams = Vec::new();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let len = stream.read_u16().await.unwrap();
                    let mut query = vec![0; usize::from(len)];
                    stream.read_exact(&mut query).await.unwrap();
                    for answer in behave(&Message::from_vec(&query).unwrap(), Over::Tcp) {
                        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                    streams.push(stream);
                }
            });
        }
        Self { address, _tasks: tasks }
    }

    pub(super) fn resolver(&self) -> Resolver {
        Resolver::servers(vec![self.address])
    }
}

pub(super) fn family(query: &Message) -> RecordType {
    query.queries[0].query_type()
}

pub(super) fn answer(query: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut message = query.clone().into_response();
    message.edns = None;
    message.metadata.response_code = code;
    message.answers = answers;
    message
}

pub(super) fn bytes(message: &Message) -> Vec<Vec<u8>> {
    vec![message.to_vec().unwrap()]
}

/// The one address of each family.
pub(super) fn good(query: &Message) -> Vec<Vec<u8>> {
    let name = query.queries[0].name().clone();
    let data = if family(query) == RecordType::A { RData::A(A(V4)) } else { RData::AAAA(AAAA(V6)) };
    bytes(&answer(query, ResponseCode::NoError, vec![Record::from_rdata(name, 60, data)]))
}

pub(super) fn code(query: &Message, code: ResponseCode) -> Vec<Vec<u8>> {
    bytes(&answer(query, code, vec![]))
}

pub(super) fn with_soa(query: &Message, code: ResponseCode) -> Vec<Vec<u8>> {
    let mut message = answer(query, code, vec![]);
    let zone = Name::from_ascii("test.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 60);
    message.authorities = vec![Record::from_rdata(zone, 60, RData::SOA(soa))];
    bytes(&message)
}

pub(super) fn truncated(query: &Message) -> Vec<Vec<u8>> {
    let mut message = answer(query, ResponseCode::NoError, vec![]);
    message.metadata.truncation = true;
    bytes(&message)
}
