//! A DNS server for one name: it says what the scenario wants to every query, over UDP; TCP refuses or is silent.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use hickory_proto::{
    op::{Message, Metadata, ResponseCode},
    rr::{RData, Record, RecordType},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use crate::{
    fault::{Shared, Trouble},
    netns,
    scenario::{Dns, OverTcp, Rcode, Reply},
    script::caller_left,
};

/// The most replies that wait at once; a query beyond them is dropped, as a busy server does.
const MAX_WAITING: usize = 128;

/// How often a port is looked for that is free on both UDP and TCP.
const PORT_ATTEMPTS: u32 = 16;

const TTL_SECS: u32 = 1;

/// Where every resolver looks for one. In a namespace of our own it is free, and a stock client finds the server there
/// by a `resolv.conf`, which has no room for another port.
const DNS_PORT: u16 = 53;

/// The sockets, bound to the same port.
pub(crate) struct Sockets {
    udp: UdpSocket,
    /// Bound, and listening only where the scenario accepts there; otherwise it keeps the port and the kernel refuses.
    tcp: Socket,
    pub(crate) addr: SocketAddr,
}

pub(crate) fn bind(dns: &Dns) -> io::Result<Sockets> {
    let port = if netns::entered() { DNS_PORT } else { 0 };
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
        udp.set_nonblocking(true)?;
        let addr = udp.local_addr()?;
        let tcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        tcp.set_nonblocking(true)?;
        match tcp.bind(&addr.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(()) => {
                if dns.reply == Reply::Truncated(OverTcp::Silent) {
                    tcp.listen(16)?;
                }
                return Ok(Sockets { udp, tcp, addr });
            }
        }
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(sockets: Sockets, dns: Dns, shared: Arc<Shared>) {
    let accepts = dns.reply == Reply::Truncated(OverTcp::Silent);
    let tcp = async {
        if accepts {
            hold_all(sockets.tcp).await
        } else {
            // Bound and not listening: the kernel refuses.
            let _keeps_the_port = sockets.tcp;
            std::future::pending().await
        }
    };
    let result = tokio::select! {
        result = answer_all(sockets.udp, Arc::new(dns)) => result,
        result = tcp => result,
    };
    if let Err(error) = result {
        shared.trouble(Trouble::of_server(format!("the DNS server: {error}")));
    }
    std::future::pending().await
}

async fn answer_all(udp: UdpSocket, dns: Arc<Dns>) -> io::Result<()> {
    let udp = Arc::new(tokio::net::UdpSocket::from_std(udp)?);
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut query = [0; 4096];
    loop {
        let (length, caller) = udp.recv_from(&mut query).await?;
        let Some(reply) = query.get(..length).and_then(|query| reply_to(query, &dns)) else { continue };
        match dns.reply {
            Reply::Slow(delay) => {
                let Ok(slot) = waiting.clone().try_acquire_owned() else { continue };
                let udp = udp.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    // A caller that is gone by now is what this scenario is about.
                    drop(udp.send_to(&reply, caller).await);
                    drop(slot);
                });
            }
            _ => drop(udp.send_to(&reply, caller).await),
        }
    }
}

async fn hold_all(tcp: Socket) -> io::Result<()> {
    let listener = TcpListener::from_std(tcp.into())?;
    let slots = Arc::new(Semaphore::new(MAX_WAITING));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(async move {
            drop(caller_left(&tcp).await);
            drop(slot);
        });
    }
}

/// The reply to one query, or none: to what is no query, and when the scenario is silent.
fn reply_to(query: &[u8], dns: &Dns) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    match dns.reply {
        Reply::Silent => return None,
        Reply::Rcode(code) => {
            reply.metadata.response_code = match code {
                Rcode::Nxdomain => ResponseCode::NXDomain,
                Rcode::Servfail => ResponseCode::ServFail,
                Rcode::Refused => ResponseCode::Refused,
            }
        }
        Reply::Truncated(_) => reply.metadata.truncation = true,
        Reply::Answer | Reply::Slow(_) => {
            for address in &dns.addresses {
                let data = match (question.query_type(), *address) {
                    (RecordType::A, IpAddr::V4(v4)) => RData::A(v4.into()),
                    (RecordType::AAAA, IpAddr::V6(v6)) => RData::AAAA(v6.into()),
                    _ => continue,
                };
                reply.add_answer(Record::from_rdata(question.name().clone(), TTL_SECS, data));
            }
        }
    }
    reply.add_query(question.clone());
    reply.to_vec().ok()
}
