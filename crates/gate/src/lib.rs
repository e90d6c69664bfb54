//! A reverse proxy whose deadlines hold, and whose timeouts say why.
//!
//! [`Config`] is what it is to do, [`Gate`] does it.

mod admin;
mod arrive;
mod check;
mod clock;
pub mod config;
mod counts;
mod gate;
mod handover;
mod http1;
mod http2;
mod live;
mod log;
mod lookout;
mod notices;
mod policy;
mod proxy_header;
mod route;
mod run;
mod tls;
mod trace;
mod upstream;
mod worker;

/// What the fuzz targets call. Not part of the library.
#[cfg(fuzzing)]
pub mod fuzz {
    /// A request of HTTP/2, and the answer to it, on their way through HTTP/1.1.
    pub fn http2_exchange(input: &[u8]) {
        crate::http2::fuzz::exchange(input);
    }
}

pub use self::{
    check::{Checked, check},
    config::{Config, ConfigError},
    gate::{Gate, GateError},
    run::{run, tell_stderr},
};
#[cfg(fuzzing)]
pub use self::{proxy_header::fuzz as fuzz_proxy_header, trace::fuzz as fuzz_traceparent};
