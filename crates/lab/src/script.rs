//! Runs the steps of a script on one connection.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::sleep,
};

use crate::{
    fault::Shared,
    scenario::{Pace, Payload, Read, Script, Step},
    tls,
    wire::{Ended, Inbox, Wire},
};

/// What fits one write: a payload up to this size leaves in one piece.
const ONE_WRITE_BYTES: usize = 64 * 1024;

static FILLER: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// Runs a script to its end, or to the step that could not be done.
pub(crate) async fn run(tcp: TcpStream, script: &Script, shared: &Shared) -> Result<(), (&'static str, Ended)> {
    let mut wire = Wire::Plain(tcp);
    let mut inbox = Inbox::default();
    let first = script.steps.iter().position(|step| *step == Step::Tls).map_or(0, |tls| tls + 1);
    let mut at = 0;
    while let Some(step) = script.steps.get(at) {
        at += 1;
        let done = match step {
            Step::Tls => match tls::accept(wire, &inbox, shared.identity()).await {
                Ok(inside) => {
                    wire = inside;
                    Ok(())
                }
                Err(ended) => return Err((step.as_str(), ended)),
            },
            Step::Again => {
                at = first;
                Ok(())
            }
            step => run_step(step, &mut wire, &mut inbox, shared).await,
        };
        done.map_err(|ended| (step.as_str(), ended))?;
    }
    Ok(())
}

async fn run_step(step: &Step, wire: &mut Wire, inbox: &mut Inbox, shared: &Shared) -> Result<(), Ended> {
    match step {
        Step::Read(Read::Head) => inbox.message(wire, head_length).await.map(drop),
        Step::Read(Read::TlsRecord) => inbox.message(wire, tls::record_length).await.map(drop),
        Step::Read(Read::Http2Request) => read_http2_request(wire, inbox).await,
        Step::Read(Read::Bytes(bytes)) => inbox.discard(wire, *bytes).await,
        Step::Read(Read::AllAndIgnore) => read_all(wire).await,
        Step::Send(payload) => send(wire, payload).await,
        Step::Trickle { filler_bytes, pace } => trickle(wire, *filler_bytes, *pace).await,
        Step::ServerFlight { pace } => {
            let hello = inbox.message(wire, tls::record_length).await?;
            send_paced(wire, &tls::first_flight(&hello, shared.identity())?, *pace).await
        }
        Step::Pause(duration) => {
            sleep(*duration).await;
            Ok(())
        }
        Step::Filter(rule) => shared.filter(*rule).await,
        Step::Armed => {
            shared.arm();
            Ok(())
        }
        Step::Hold => Ok(caller_left(wire.tcp()).await?),
        Step::Close => close(wire).await,
        Step::Reset => Ok(wire.tcp().set_zero_linger()?),
        // The loop of `run` does these.
        Step::Tls | Step::Again => Ok(()),
    }
}

/// Where an HTTP/1 head ends, if its end is there.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads what an HTTP/2 client sends up to its first HEADERS.
async fn read_http2_request(wire: &mut Wire, inbox: &mut Inbox) -> Result<(), Ended> {
    const PREFACE_BYTES: u64 = 24;
    const HEADERS: u8 = 1;
    inbox.discard(wire, PREFACE_BYTES).await?;
    loop {
        let frame = inbox.message(wire, http2_frame_length).await?;
        if frame.get(3) == Some(&HEADERS) {
            return Ok(());
        }
    }
}

fn http2_frame_length(bytes: &[u8]) -> Option<usize> {
    let [a, b, c] = *bytes.first_chunk::<3>()?;
    Some(9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c))
}

async fn send(wire: &mut Wire, payload: &Payload) -> Result<(), Ended> {
    let mut filler = payload.filler_bytes;
    let mut bytes = payload.bytes.clone();
    if let Ok(all) = usize::try_from(filler)
        && bytes.len().saturating_add(all) <= ONE_WRITE_BYTES
    {
        bytes.resize(bytes.len() + all, b'x');
        filler = 0;
    }
    wire.write_all(&bytes).await?;
    while filler > 0 {
        let chunk = filler_chunk(filler);
        wire.write_all(chunk).await?;
        filler -= chunk.len() as u64;
    }
    Ok(wire.flush().await?)
}

fn filler_chunk(bytes: u64) -> &'static [u8] {
    usize::try_from(bytes).ok().and_then(|bytes| FILLER.get(..bytes)).unwrap_or(&FILLER)
}

async fn trickle(wire: &mut Wire, mut bytes: u64, pace: Pace) -> Result<(), Ended> {
    while bytes > 0 {
        let chunk = filler_chunk(bytes.min(pace.chunk_bytes.max(1).into()));
        send_paced(wire, chunk, Some(pace)).await?;
        bytes -= chunk.len() as u64;
    }
    Ok(())
}

async fn send_paced(wire: &mut Wire, bytes: &[u8], pace: Option<Pace>) -> Result<(), Ended> {
    let (chunk_bytes, every) =
        pace.map_or((usize::MAX, Duration::ZERO), |pace| (usize::from(pace.chunk_bytes.max(1)), pace.every));
    for chunk in bytes.chunks(chunk_bytes) {
        wire.write_all(chunk).await?;
        wire.flush().await?;
        sleep(every).await;
    }
    Ok(())
}

/// Sends FIN (and close_notify), then reads what still comes: closing a socket with unread bytes would send RST.
async fn close(wire: &mut Wire) -> Result<(), Ended> {
    wire.shutdown().await?;
    read_all(wire).await
}

async fn read_all(wire: &mut Wire) -> Result<(), Ended> {
    let mut sink = vec![0; ONE_WRITE_BYTES];
    while wire.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Waits until the caller closed or reset the connection, and reads nothing meanwhile.
pub(crate) async fn caller_left(tcp: &TcpStream) -> io::Result<()> {
    while !tcp.ready(Interest::READABLE).await?.is_read_closed() {
        // Bytes came. A read that "would block" makes tokio forget about them, so that the next `ready` waits for news.
        let unread: io::Result<()> = tcp.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
        drop(unread);
    }
    Ok(())
}
