//! A server of our own. `peer answering` answers every request with a few bytes, `peer answering COUNT` when it has so
//! many of them, and `peer silent` accepts and never says a word. Prints its port and serves until it is killed.

use std::{env, io, net::Ipv4Addr, sync::Arc};

use anyhow::{bail, ensure};
use overdue_bench::process::raise_descriptor_limit;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Barrier,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world\n";
/// A request head that is longer is none of ours.
const HEAD_MAX: usize = 64 * 1024;

fn main() -> anyhow::Result<()> {
    let (what, count) = (env::args().nth(1), env::args().nth(2));
    let together = match what.as_deref() {
        Some("answering") => Some(Arc::new(Barrier::new(count.map_or(Ok(1), |count| count.parse())?))),
        Some("silent") => None,
        _ => bail!("usage: peer answering [COUNT] | silent"),
    };
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(4096)?;
        println!("{}", listener.local_addr()?.port());
        loop {
            let (stream, _) = listener.accept().await?;
            let together = together.clone();
            // What one caller does is no reason to leave the others.
            tokio::spawn(async move {
                match together {
                    Some(together) => answer(stream, &together).await,
                    None => swallow(stream).await,
                }
            });
        }
    })
}

async fn answer(mut stream: TcpStream, together: &Barrier) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while stream.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            together.wait().await;
            stream.write_all(ANSWER).await?;
        }
        ensure!(head.len() < HEAD_MAX, "the head of a request is too long");
    }
    Ok(())
}

async fn swallow(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            other => other?,
        };
    }
}
