//! A server of our own. `peer answering` answers every request with a few bytes, `peer silent` accepts and never says
//! a word. Prints its port and serves until it is killed.

use std::{env, io, net::Ipv4Addr};

use anyhow::{bail, ensure};
use overdue_bench::process::raise_descriptor_limit;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world\n";
/// A request head that is longer is none of ours.
const HEAD_MAX: usize = 64 * 1024;

fn main() -> anyhow::Result<()> {
    let answering = match env::args().nth(1).as_deref() {
        Some("answering") => true,
        Some("silent") => false,
        _ => bail!("usage: peer answering|silent"),
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
            // What one caller does is no reason to leave the others.
            tokio::spawn(async move { if answering { answer(stream).await } else { swallow(stream).await } });
        }
    })
}

async fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while stream.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
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
