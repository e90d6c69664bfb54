//! The gateway between real sockets: what goes through, what is refused, and what is said of what fails.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

mod bed;
mod dns;
mod edge;
mod failures;
mod floods;
mod frames;
mod framing;
mod http2;
mod limits;
mod page;
mod references;
mod running;
mod secure;
mod smuggling;
mod streams;
mod upstream;
mod websocket;
mod wire;
