//! The server that answers: nginx where there is one, else our own.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{
    child::{Core, Server, on_path, pinned, program},
    usage::requests_in,
};

/// A running peer.
pub(crate) struct Peer {
    server: Server,
    pub(crate) url: String,
    port: u16,
    /// Its name and version.
    pub(crate) name: String,
    dir: Option<Dir>,
}

impl Peer {
    /// A peer that answers every request with a few bytes and keeps its connections.
    pub(crate) fn start() -> anyhow::Result<Self> {
        match on_path("nginx") {
            Some(nginx) => Self::nginx(nginx, Core::Peer, "", ""),
            None => {
                eprintln!(
                    "nginx is not on the PATH (apt-get install nginx-light): a server of our own answers instead"
                );
                let (server, port) = Server::with_port(program("peer", Core::Peer)?.arg("answering"))?;
                let name = "a server of our own (bench/src/bin/peer.rs)".to_owned();
                Ok(Self { server, url: url(port), port, name, dir: None })
            }
        }
    }

    /// One that is what is measured, and counts its requests: nginx, and no other.
    pub(crate) fn counting() -> anyhow::Result<Self> {
        let nginx = on_path("nginx")
            .context("nginx is not on the PATH: it is what is watched (apt-get install nginx-light)")?;
        Self::nginx(nginx, Core::Load, "location = /status { stub_status; }", "")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A folder that goes with it.
    pub(crate) fn folder(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new("."), |dir| &dir.0)
    }

    /// Requests that it has answered, this one included.
    pub(crate) fn requests(&self) -> anyhow::Result<u64> {
        let address = self.url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("nginx does not tell how many requests there were")?;
        requests_in(&answer)
    }

    fn nginx(nginx: PathBuf, core: Core, location: &str, servers: &str) -> anyhow::Result<Self> {
        let output = Command::new(&nginx).arg("-v").output().context("cannot run nginx -v")?;
        let name = String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", "");
        let dir = Dir::new()?;
        let port = free_port()?;
        let file = dir.0.join("nginx.conf");
        fs::write(&file, configuration(port, location, servers))?;
        let mut server =
            Server::start(pinned(&nginx, core)?.args(["-e", "stderr", "-p"]).arg(&dir.0).arg("-c").arg(file))?;
        for _ in 0..500 {
            if let Some(status) = server.ended()? {
                bail!("nginx ended at once: {status}");
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { server, url: url(port), port, name, dir: Some(dir) });
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("nginx does not listen after 10 s");
    }
}

/// One for proxies to stand before: it counts its requests, and is elsewhere than what is measured. It has a body of 1 KiB
/// at `/1k`, and on another port, over HTTP/2, an answer of gRPC of that length to whatever is posted to [`METHOD`].
pub(crate) struct Behind {
    pub(crate) peer: Peer,
    grpc: u16,
}

/// The path of the gRPC call.
pub(crate) const METHOD: &str = "/bench.Echo/Say";

impl Behind {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let nginx = on_path("nginx").context("nginx is not on the PATH: it is behind (apt-get install nginx-light)")?;
        let body = "x".repeat(1024);
        let location = format!("location = /status {{ stub_status; }} location = /1k {{ return 200 {body}; }}");
        let grpc = free_port()?;
        // What is posted to a file is refused; said to be an error with a page, that page is given as the answer. What may
        // have includes in it has no content-length, as is usual in gRPC. A mirror makes nginx read the call whole before it
        // answers: else it resets the stream that it has answered, and proxies take that for a fault.
        let server = format!(
            "open_file_cache max=10;
             server {{
               listen 127.0.0.1:{grpc} http2; root .; default_type application/grpc;
               location = {METHOD} {{ mirror /read; error_page 405 =200 /answer; }}
               location = /read {{ internal; return 204; }}
               location = /answer {{ internal; ssi on; ssi_types application/grpc; add_trailer grpc-status 0 always; }}
             }}"
        );
        let peer = Peer::nginx(nginx, Core::Peer, &location, &server)?;
        fs::write(peer.folder().join("answer"), grpc_message(&body))?;
        // Only what is there is refused.
        let file = peer.folder().join(METHOD.trim_start_matches('/'));
        fs::create_dir_all(file.parent().context("the method has no service")?)?;
        fs::write(file, "")?;
        fs::write(peer.folder().join("call"), grpc_message("world"))?;
        Ok(Self { peer, grpc })
    }

    /// Where it listens.
    pub(crate) fn port(&self, grpc: bool) -> u16 {
        if grpc { self.grpc } else { self.peer.port }
    }
}

/// A message of one string, field 1, as it is sent: not compressed, its length, and in Protocol Buffers.
fn grpc_message(text: &str) -> Vec<u8> {
    let mut message = vec![0x0a];
    let mut length = text.len();
    while length >= 0x80 {
        message.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    message.push(length.to_le_bytes()[0]);
    message.extend_from_slice(text.as_bytes());
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

/// A port that nobody has. Somebody may take it before it is used; then nginx ends, and says why.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}

fn configuration(port: u16, location: &str, servers: &str) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr crit;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
           client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
           server {{ listen 127.0.0.1:{port}; {location} location / {{ return 200 \"hello, world\\n\"; }} }}
           {servers}
         }}"
    )
}

/// A directory that is removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> anyhow::Result<Self> {
        let dir = env::current_exe()?.with_file_name(format!("nginx-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(grpc_message("abc"), b"\0\0\0\0\x05\x0a\x03abc");
        let long = grpc_message(&"x".repeat(1024));
        assert_eq!(long.get(..8), Some(&b"\0\0\0\x04\x03\x0a\x80\x08"[..]));
    }
}
