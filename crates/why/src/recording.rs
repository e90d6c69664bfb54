//! A recording: an observation in a file, to be judged again elsewhere.
//!
//! It is JSON, compressed by gzip, so that `zcat FILE` shows what it holds before somebody hands it on. A reader takes
//! nothing from it on trust: its size is bounded before and after decompression, and what does not fit is an error that
//! says where.

use std::io::{self, Read, Write};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Observation, observation::SCHEMA};

/// No recording is larger, decompressed.
pub const MAX_BYTES: u64 = 64 << 20;

/// A file that is no recording, or no longer one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// It cannot be read, or its compression is damaged.
    #[error("it cannot be decompressed: {0}")]
    Io(#[from] io::Error),
    /// It is larger than [`MAX_BYTES`].
    #[error("it is larger than {} MiB, which no recording is", MAX_BYTES >> 20)]
    TooLarge,
    /// It holds something else, or is damaged.
    #[error("it holds no observation: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It was made by a version that writes otherwise.
    #[error("it has the format {0:?}, and this version reads {SCHEMA:?}")]
    OtherVersion(String),
}

#[derive(Serialize)]
struct Outgoing<'a> {
    schema: &'static str,
    observation: &'a Observation,
}

#[derive(Deserialize)]
struct Incoming {
    observation: Observation,
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
}

/// Writes an observation.
///
/// # Errors
/// As of `out`.
pub fn write(out: impl Write, observation: &Observation) -> io::Result<()> {
    let mut out = GzEncoder::new(out, Compression::default());
    serde_json::to_writer(&mut out, &Outgoing { schema: SCHEMA, observation })?;
    out.finish()?.flush()
}

/// Reads an observation.
///
/// # Errors
/// [`RecordingError`] when it is not one that this version wrote.
pub fn read(input: impl Read) -> Result<Observation, RecordingError> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(input).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(RecordingError::TooLarge);
    }
    parse(&bytes)
}

/// Reads what was decompressed.
///
/// # Errors
/// As of [`read`].
pub fn parse(bytes: &[u8]) -> Result<Observation, RecordingError> {
    // First who wrote it: a field that another version has otherwise would be a riddle as an error.
    let Schema { schema } = serde_json::from_slice(bytes)?;
    if schema != SCHEMA {
        return Err(RecordingError::OtherVersion(schema.chars().take(64).collect()));
    }
    let Incoming { observation } = serde_json::from_slice(bytes)?;
    Ok(observation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observation::{Process, Runtime};

    fn observation() -> Observation {
        let process = Process {
            pid: 7,
            name: "a\u{1b}[2J\n".to_owned(),
            runtime: Runtime::Go { version: "go1.26".to_owned() },
            ..Process::default()
        };
        Observation { window_us: 5_000_000, process, ..Observation::default() }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &observation()).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(written().as_slice()).unwrap(), observation());
    }

    #[test]
    fn what_is_no_recording_is_told() {
        let said = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(said(b"").contains("decompress"), "{}", said(b""));
        assert!(said(b"{}").contains("decompress"));
        let gz = |text: &str| {
            let mut out = GzEncoder::new(Vec::new(), Compression::fast());
            out.write_all(text.as_bytes()).unwrap();
            out.finish().unwrap()
        };
        assert!(said(&gz("{}")).contains("schema"), "{}", said(&gz("{}")));
        assert!(said(&gz(r#"{"schema":"overdue.observation/2"}"#)).contains("\"overdue.observation/2\""));
        assert!(said(&gz(r#"{"schema":"overdue.observation/1","observation":{"window_us":-1}}"#)).contains("line 1"));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut io::repeat(b' ').take(MAX_BYTES + 1), &mut out).unwrap();
        assert!(matches!(read(out.finish().unwrap().as_slice()), Err(RecordingError::TooLarge)));
    }

    proptest! {
        #[test]
        fn a_damaged_one_does_no_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(observation) = read(bytes.as_slice()) {
                let _ = crate::judge::judge(&observation);
            }
        }
    }
}
