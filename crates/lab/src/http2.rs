//! An HTTP/2 server: correct framing by the `h2` crate, and one fault on top of it.

use std::collections::VecDeque;

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{Request, Response};
use tokio::net::TcpStream;

use crate::{
    fault::Shared,
    scenario::{Http2, Http2Then},
    tls,
    wire::{Ended, Inbox, Wire},
};

const MAX_STREAMS: u32 = 100;

/// The most requests that are held on one connection. A caller that cancels can open ever more; the oldest is let go.
const MAX_HELD: usize = 256;

/// Serves one connection until the caller leaves.
pub(crate) async fn serve(tcp: TcpStream, http2: &Http2, shared: &Shared) -> Result<(), (&'static str, Ended)> {
    let mut wire = Wire::Plain(tcp);
    if http2.tls.is_some() {
        wire = tls::accept(wire, &Inbox::default(), shared.identity()).await.map_err(|ended| ("tls", ended))?;
    }
    requests(wire, http2, shared).await.map_err(|ended| ("http2", ended))
}

async fn requests(wire: Wire, http2: &Http2, shared: &Shared) -> Result<(), Ended> {
    let mut connection = Builder::new()
        .max_concurrent_streams(http2.max_streams.unwrap_or(MAX_STREAMS))
        .handshake::<_, Bytes>(wire)
        .await?;
    let mut held = VecDeque::new();
    let mut answered = 0;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        if answered < http2.good_requests || http2.then == Http2Then::Answer {
            answered = answered.saturating_add(1);
            answer(respond)?;
            continue;
        }
        match http2.then {
            Http2Then::Answer => {}
            // To hold the body and never release its capacity is to never send WINDOW_UPDATE.
            Http2Then::NoWindowUpdate => hold(&mut held, request, respond),
            Http2Then::Hold => {
                hold(&mut held, request, respond);
                shared.arm();
            }
        }
    }
    Ok(())
}

type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

fn hold(held: &mut VecDeque<Exchange>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    if held.len() >= MAX_HELD {
        held.pop_front();
    }
    held.push_back((request, respond));
}

fn answer(mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = respond.send_response(Response::new(()), false)?;
    body.send_data(Bytes::from_static(b"hello from the lab\n"), true)
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        if error.is_io() || error.is_remote() { Self::CallerLeft } else { Self::Broken(error.to_string()) }
    }
}
