//! What the fuzz targets call. Not part of the library.

#[cfg(target_os = "linux")]
pub use crate::collect::fuzz::{heads, trace};
