//! Deadlines that hold for clients and servers that others made. Each part is a feature, off by default.
//!
//! | what you have | what to take | what it sees |
//! |---|---|---|
//! | any tower service: a server's routes, a client | [`ContextLayer`] (feature `tower`) | the whole: one context and one limit, for everything inside that asks for [`Context::current`](crate::Context::current) |
//! | hyper-util's pooled client | [`hyper_util::Connector`] (feature `hyper-util`), and a [`ContextLayer`] around the client | `resolve`, `connect` and `tls`, each under its own limit; every read and write that fails |
//! | reqwest | [`ContextLayer`] as its `connector_layer` | resolve, connect and TLS as one |
//! | a reader, a writer or a body | [`stream::Bounded`](crate::stream::Bounded) | each read and each write |
//!
//! What no adapter can see is how long a call waited in a foreign pool, and where its sending ended and its waiting
//! began. Errors say so in [`Report::not_visible`](crate::Report::not_visible). [`Client`](crate::Client) sees both.
//!
//! # reqwest
//!
//! The layer takes the place of `connect_timeout`, and names itself when it fires. It covers what reqwest does for a new
//! connection: its own resolver, all addresses, the proxy, TLS. reqwest does not tell these apart, so neither does the
//! error: its stage has the name that is given here. The context is the one that is current where the request is
//! polled, so that the deadline of a request cuts its connecting.
//!
//! ```
//! # #[cfg(feature = "tower")] {
//! use std::time::Duration;
//! use overdue::{Limit, Stage, adapt::ContextLayer};
//!
//! let dialing = ContextLayer::new(Limit::total(Duration::from_secs(3))).stage(Stage::Named("dial"));
//! # let _provider = rustls::crypto::ring::default_provider().install_default();
//! let client = reqwest::Client::builder().connector_layer(dialing).build();
//! # client.unwrap(); }
//! ```
//!
//! Then `overdue::Error::find(&error)` finds in the error of reqwest which limit fired and who set it. Not seen: reqwest's
//! pool, the exchange and the body. Put the call in [`Context::run`](crate::Context::run), or a [`ContextLayer`] around
//! the client, to bound these.

#[cfg(feature = "hyper-util")]
pub mod hyper_util;
#[cfg(feature = "tower")]
mod layer;

#[cfg(all(feature = "tower", feature = "client"))]
pub use layer::InExtensions;
#[cfg(feature = "tower")]
pub use layer::{Carrier, ContextFuture, ContextLayer, ContextService, InTask};
