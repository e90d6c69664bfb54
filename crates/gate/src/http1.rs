//! HTTP/1.1 from a client to a server: the hot path.
//!
//! One task a client connection, one request at a time. Bytes are read into buffers that the worker lends out and gets
//! back when a connection lies idle, heads are rewritten from one buffer into the next, bodies go on as they come. No
//! lock is taken and no message sent for a request.

mod answer;
mod attempt;
mod connection;
mod exchange;
mod flow;
mod head;
mod side;

pub(crate) use self::{
    answer::Known,
    connection::{Client, serve, serve_stream, serve_tls},
    exchange::{Due, TUNNEL},
    head::{Line, Protocol, climbs, put_field},
    side::{Buffers, Side, Trailing},
};
