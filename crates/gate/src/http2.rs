//! HTTP/2, towards clients and towards servers.
//!
//! There is one way through the gateway: the one of `http1`, with its routes, limits, answers and log. A stream of HTTP/2
//! takes it, too: it reads and writes as a connection of HTTP/1.1 with one request would, and what is on the wire is
//! h2's business. So what is refused, what is told to the other side and what a limit means does not depend on the
//! version that somebody speaks, and each of the four ways between two versions is the same way. The price is a head
//! that is written out and read again in memory: about as much as the compression of the head costs.

mod client;
mod frames;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod inbound;
mod message;
mod outbound;
mod websocket;

pub(crate) use self::{
    client::{is_preface, serve},
    message::{failure, unsayable},
    outbound::{Carrier, Outbound, begin, is_spoken},
};
