//! Whatever has a socket may be dropped at any point: the socket goes, with every task and whoever was to be woken. A
//! binary of its own, because it counts the sockets of the process; so its tests run one at a time.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod cut;
#[cfg(all(feature = "hyper-util", feature = "tower"))]
mod hyper_util;
mod names;
mod streams;

use std::{fs, future::Future, net::SocketAddr, sync::Mutex, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use overdue::{Client, Context, Limit, PoolOptions, TlsOptions, resolve::Resolver};
use overdue_lab::Fault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    task::JoinHandle,
};

use crate::cut::after_each_poll;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

/// Drops the work after each of its polls, and looks for sockets and tasks that are left.
async fn leaves_nothing<F: Future>(work: impl Fn() -> F) {
    after_each_poll(|| (sockets(), Handle::current().metrics().num_alive_tasks()), work).await;
}

fn sockets() -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    // Another thread may close one meanwhile.
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// In both flavours of runtime, while no other test runs.
fn alone<F: Future>(test: impl Fn() -> F) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap();
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test());
}

fn root() -> Context {
    Context::root()
}

/// A server made of one function. Stops when dropped.
struct Server {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> S + Send + 'static,
        S: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                // A caller that leaves is what these tests are about.
                let serving = serve(peer);
                tokio::spawn(async move { drop(serving.await) });
            }
        });
        Self { addr, task }
    }

    /// Sends back what it gets, until there is no more.
    async fn echo() -> Self {
        Self::start(|mut peer| async move {
            let (mut reader, mut writer) = peer.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        })
        .await
    }

    /// Answers each request, in pieces, with "abcde".
    async fn http() -> Self {
        Self::start(|mut peer| async move {
            let (mut head, mut byte) = (Vec::new(), [0]);
            loop {
                while !head.ends_with(b"\r\n\r\n") {
                    peer.read_exact(&mut byte).await?;
                    head.push(byte[0]);
                }
                let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                if let Some((_, length)) = text.split_once("content-length: ") {
                    let length = length.split('\r').next().unwrap().parse().unwrap();
                    peer.read_exact(&mut vec![0; length]).await?;
                }
                for piece in ["HTTP/1.1 200 OK\r\nContent-", "Length: 5\r\n\r\na", "bc", "de"] {
                    peer.write_all(piece.as_bytes()).await?;
                    tokio::time::sleep(MS).await;
                }
            }
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server of the lab that speaks HTTP inside TLS, and how it is reached.
struct Secure {
    fault: Fault,
    tls: TlsOptions,
    resolver: Resolver,
    name: String,
}

impl Secure {
    fn start(scenario: &str) -> Self {
        let fault = Fault::start(overdue_lab::find(scenario).unwrap()).unwrap();
        let tls = TlsOptions::default().with_roots_pem(fault.roots_pem().unwrap().as_bytes()).unwrap();
        let url: http::Uri = fault.url().parse().unwrap();
        let host = url.host().unwrap();
        let loopback = "127.0.0.1".parse().unwrap();
        let resolver = Resolver::servers(vec![]).with_override(host, None, vec![loopback]);
        let name = format!("{host}:{}", url.port_u16().unwrap());
        Self { fault, tls, resolver, name }
    }
}

async fn body(client: &Client, url: &str) -> Vec<u8> {
    let response = client.get(&root(), url).await.unwrap();
    response.into_body().bytes(1 << 10).await.unwrap().to_vec()
}

#[test]
fn a_call_and_its_body() {
    alone(async || {
        let server = Server::http().await;
        let url = format!("http://{}/", server.addr);
        leaves_nothing(async || {
            let client = Client::new().unwrap();
            // The second finds the connection of the first.
            for _ in 0..2 {
                assert_eq!(body(&client, &url).await, b"abcde");
            }
        })
        .await;
    });
}

#[test]
fn calls_that_wait_for_one_another() {
    alone(async || {
        let server = Server::http().await;
        let url = format!("http://{}/", server.addr);
        leaves_nothing(async || {
            let pool = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
            let client = Client::builder().pool(pool).build().unwrap();
            let (one, two) = tokio::join!(body(&client, &url), body(&client, &url));
            assert_eq!([one, two], [b"abcde"; 2]);
        })
        .await;
    });
}

#[test]
fn a_call_over_tls() {
    alone(async || {
        for scenario in ["ok-https", "ok-h2"] {
            let secure = Secure::start(scenario);
            leaves_nothing(async || {
                let client = Client::builder().tls(secure.tls.clone()).resolver(secure.resolver.clone());
                let client = client.build().unwrap();
                let url = secure.fault.url();
                // One waits for the connection that the other makes.
                let (one, two) = tokio::join!(body(&client, &url), body(&client, &url));
                assert_eq!(one, two);
            })
            .await;
        }
    });
}

async fn upload(client: &Client, url: &str, bytes: usize) {
    let request = http::Request::post(url).body(Full::new(Bytes::from(vec![7; bytes]))).unwrap();
    client.call(&root(), request).await.unwrap().into_body().bytes(1 << 10).await.unwrap();
}

#[test]
fn an_upload() {
    alone(async || {
        let server = Server::http().await;
        let url = format!("http://{}/", server.addr);
        leaves_nothing(async || upload(&Client::new().unwrap(), &url, 6 << 20).await).await;
        let secure = Secure::start("ok-h2");
        leaves_nothing(async || {
            let client = Client::builder().tls(secure.tls.clone()).resolver(secure.resolver.clone());
            // Several windows of a stream.
            upload(&client.build().unwrap(), &secure.fault.url(), 200_000).await;
        })
        .await;
    });
}

#[test]
fn a_call_that_a_limit_ends() {
    alone(async || {
        let silent = Server::start(|mut peer| async move { peer.read_to_end(&mut Vec::new()).await.map(drop) }).await;
        let url = format!("http://{}/", silent.addr);
        leaves_nothing(async || {
            let client = Client::builder().limit(Limit::total(20 * MS)).build().unwrap();
            client.get(&root(), &url).await.unwrap_err();
        })
        .await;
    });
}
