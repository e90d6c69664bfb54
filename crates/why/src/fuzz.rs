//! What the fuzz targets call. Not part of the library.

#[cfg(target_os = "linux")]
pub use crate::collect::fuzz::{btf, heads, trace, unwind_tables};

/// A recording, decompressed: it is read and judged, or refused.
pub fn recording(bytes: &[u8]) {
    if let Ok(seen) = crate::recording::parse(bytes) {
        std::hint::black_box(serde_json::to_string(&crate::Report::of(&seen)).map(|text| text.len()).ok());
    }
}
