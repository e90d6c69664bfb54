//! Frames of HTTP/2 in the clear, by their headers: only those by which a peer gives up are looked into.

const HEADER: usize = 9;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// The last stream and the code.
const GOAWAY_BYTES: usize = 8;
/// A first SETTINGS frame is six bytes for each of its settings, of which there are a few.
const SETTINGS_MAX: u8 = 240;

/// What a peer sends, as far as it can be followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Frames {
    /// Bytes that were gone through.
    at: u64,
    /// A frame's header, as much of it as has come.
    header: Vec<u8>,
    /// What is left of the current frame.
    left: u64,
    /// A header was missed.
    lost: bool,
    /// The first bytes of a GOAWAY frame.
    body: Vec<u8>,
    /// The code of a GOAWAY frame: 0 is an orderly end.
    pub(crate) goaway: Option<u32>,
}

/// Whether what a peer sends first can be HTTP/2: it begins with SETTINGS, on stream 0.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, 0..=SETTINGS_MAX, SETTINGS, 0, 0, 0, 0, 0, ..])
}

impl Frames {
    /// The first bytes of a read.
    pub(crate) fn feed(&mut self, offset: u64, mut bytes: &[u8]) {
        if self.lost || offset < self.at {
            return;
        }
        let missing = offset - self.at;
        if missing > self.left {
            self.lost = true;
            return;
        }
        self.left -= missing;
        self.at = offset.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let kind = self.header.get(3).copied();
            if self.left == 0 {
                if self.header.len() >= HEADER {
                    self.header.clear();
                }
                let (taken, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend_from_slice(taken);
                bytes = rest;
                if let [high, middle, low, _, _, _, _, _, _] = *self.header.as_slice() {
                    self.left = u32::from_be_bytes([0, high, middle, low]).into();
                    self.body.clear();
                }
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                let (body, rest) = bytes.split_at(here);
                bytes = rest;
                self.left -= here as u64;
                if kind == Some(GOAWAY) {
                    let room = GOAWAY_BYTES.saturating_sub(self.body.len());
                    self.body.extend(body.iter().take(room));
                    if let [_, _, _, _, a, b, c, d] = *self.body.as_slice() {
                        self.goaway = Some(u32::from_be_bytes([a, b, c, d]));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDERLY: &[u8] = &[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    const ACCUSING: &[u8] = &[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// SETTINGS, a frame of data of which only the header is seen, and what follows it.
    fn stream(last: &[u8], step: usize) -> Frames {
        let mut frames = Frames::default();
        let settings = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        assert!(begins(&settings));
        let data = [0, 0, 100, 0, 0, 0, 0, 0, 1];
        let mut at = 0;
        for part in settings.chunks(step).chain(data.chunks(step)) {
            frames.feed(at, part);
            at += part.len() as u64;
        }
        at += 100;
        for part in last.chunks(step) {
            frames.feed(at, part);
            at += part.len() as u64;
        }
        frames
    }

    #[test]
    fn a_peer_that_gives_up_says_why() {
        for step in [1, 4, 9, 64] {
            assert_eq!(stream(ORDERLY, step).goaway, Some(0), "{step}");
            assert_eq!(stream(ACCUSING, step).goaway, Some(1), "{step}");
            assert_eq!(stream(&[], step).goaway, None, "{step}");
        }
        assert!(!begins(b"HTTP/1.1 400") && !begins(&[0, 0, 6, 4]));
    }

    #[test]
    fn what_was_missed_is_not_guessed() {
        let mut frames = Frames::default();
        frames.feed(0, &[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0]);
        frames.feed(100, ACCUSING);
        assert_eq!((frames.goaway, frames.lost), (None, true));
    }

    proptest! {
        #[test]
        fn nothing_panics(parts: Vec<(u64, Vec<u8>)>) {
            let mut frames = Frames::default();
            let mut at = 0_u64;
            for (gap, bytes) in parts {
                frames.feed(at.saturating_add(gap % 300), &bytes);
                at = at.saturating_add(gap % 300).saturating_add(bytes.len() as u64);
                prop_assert!(frames.header.len() <= HEADER && frames.body.len() <= GOAWAY_BYTES);
            }
        }
    }
}
