use std::{net::IpAddr, sync::Arc};

use overdue::resolve::{Enough, Families, FamilyOutcome, LookupLog, Resolver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

use crate::{LONG, MS, alone, leaves_nothing};

const ADDRESS: [u8; 4] = [127, 0, 0, 9];

/// The answer to a query of one question: an address to who asks for IPv4, nothing to who asks for IPv6.
fn answer(query: &[u8], over_udp: bool) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    const TRUNCATED: u8 = 0x02;
    let mut answer = query.to_vec();
    answer[2] |= RESPONSE | if over_udp { TRUNCATED } else { 0 };
    let wants_v4 = query[query.len() - 3] == 1;
    if wants_v4 && !over_udp {
        answer[7] = 1;
        // The name of the question, type A, class IN, a TTL of 0.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(ADDRESS);
    }
    answer
}

/// A DNS server whose answers over UDP never fit.
async fn server() -> (Resolver, [JoinHandle<()>; 2]) {
    // A port that is free for the one may be taken for the other.
    let (udp, address, tcp) = loop {
        let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            break (udp, address, tcp);
        }
    };
    let over_udp = tokio::spawn(async move {
        let mut buf = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut buf).await {
            tokio::time::sleep(MS).await;
            let _ = udp.send_to(&answer(&buf[..length], true), from).await;
        }
    });
    let over_tcp = tokio::spawn(async move {
        while let Ok((mut peer, _)) = tcp.accept().await {
            tokio::spawn(async move {
                while let Ok(length) = peer.read_u16().await {
                    let mut query = vec![0; length.into()];
                    peer.read_exact(&mut query).await?;
                    let answer = answer(&query, false);
                    peer.write_u16(u16::try_from(answer.len()).unwrap()).await?;
                    tokio::time::sleep(MS).await;
                    peer.write_all(&answer).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (Resolver::servers(vec![address]), [over_udp, over_tcp])
}

#[test]
fn a_lookup_over_udp_and_tcp() {
    alone(async || {
        let (resolver, servers) = server().await;
        leaves_nothing(async || {
            let log = LookupLog::new();
            let addresses = resolver.lookup("api.test", 80, &log).await.unwrap();
            assert_eq!(addresses, [IpAddr::from(ADDRESS)]);
        })
        .await;
        let (resolver, more) = server().await;
        leaves_nothing(async || {
            let Families { v6, v4 } =
                resolver.resolve_each("api.test", 80, Enough::Both, LONG, &LookupLog::new()).await;
            assert!(matches!((v6, v4), (FamilyOutcome::None(_), FamilyOutcome::Found(_))));
        })
        .await;
        more.iter().for_each(JoinHandle::abort);
        servers.iter().for_each(JoinHandle::abort);
    });
}
