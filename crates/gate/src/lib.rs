//! A reverse proxy whose deadlines hold, and whose timeouts say why.
//!
//! [`Config`] is what it is to do, [`Gate`] does it.

mod admin;
mod clock;
pub mod config;
mod counts;
mod gate;
mod handover;
mod http1;
mod log;
mod route;
mod run;
mod tls;
mod upstream;
mod worker;

pub use self::{
    config::{Config, ConfigError},
    gate::{Gate, GateError},
    run::{run, tell_stderr},
};
