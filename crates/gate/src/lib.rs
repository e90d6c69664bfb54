//! A reverse proxy whose deadlines hold, and whose timeouts say why.
//!
//! [`Config`] is what it is to do, [`Gate`] does it.

mod admin;
mod clock;
pub mod config;
mod counts;
mod gate;
mod http1;
mod http2;
mod log;
mod route;
mod run;
mod tls;
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
    config::{Config, ConfigError},
    gate::{Gate, GateError},
    run::{run, tell_stderr},
};
