//! What h2 does not say of the frames that a client sends: since when a head is under way, and how many came that carry
//! nothing. It reads along, and holds none of it.
//!
//! Of such frames a client may send as many as [`AT_ONCE`], [`EACH_SECOND`], and one for every [`ANSWERED`] bytes that it
//! takes: so a download over small windows, or a ping for each message, costs nothing. What h2 itself counts are frames of
//! CONTINUATION, small ones of DATA, and streams that are reset before anybody has seen them.
//!
//! Streams that are reset are counted for themselves. A client that gives up calls is no flood (hedged calls, short
//! deadlines, somebody who types); one is that takes back requests faster than it could have them answered, for only so
//! does it ask for more than the streams that it may have at a time. So each answer that is taken to its end earns a reset,
//! as in Envoy, which cuts off whoever resets more than half of five hundred streams, and each second some, as a client of
//! which every call is given up asks for no more than one that waits for as many answers.

use std::time::{Duration, Instant};

/// Frames that carry nothing, before anything else is looked at.
const AT_ONCE: u64 = 20_000;
const EACH_SECOND: u64 = 200;
/// Bytes of ours that earn one frame: less than an answer to a ping, or a frame of one byte, may not.
const ANSWERED: u64 = 32;
/// Streams that may be reset at once. Each is work that was begun, and maybe a connection to a server that is closed for it.
pub(super) const RESETS_AT_ONCE: u32 = 500;
/// Those that a second, or an answer that was taken, gives back of these.
const RESETS_EACH_SECOND: u32 = 50;

/// The answer to a PING, with the head of its frame.
const PONG: u64 = 17;

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The frames of one connection.
pub(super) struct Frames {
    began: Instant,
    /// Bytes of the preface that are to come first.
    preface: usize,
    head: [u8; HEAD],
    /// So much of `head` is there.
    there: usize,
    /// Bytes of the payload that are to come.
    payload: usize,
    /// Since when a head is under way.
    head_since: Option<Instant>,
    /// How many frames that carry nothing.
    idle: u64,
    written: u64,
    resets: Resets,
}

/// The streams that may still be reset.
struct Resets {
    left: u32,
    /// What time has given is counted up to here.
    until: Instant,
    /// There were more.
    exceeded: bool,
}

impl Resets {
    fn one(&mut self, now: Instant) {
        const EACH: Duration = Duration::from_millis(1000 / RESETS_EACH_SECOND as u64);
        let since = now.saturating_duration_since(self.until);
        let more = u32::try_from(since.as_millis() / EACH.as_millis()).unwrap_or(u32::MAX);
        if more >= RESETS_AT_ONCE - self.left {
            (self.left, self.until) = (RESETS_AT_ONCE, now);
        } else {
            self.left += more;
            self.until += EACH * more;
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.exceeded = true,
        }
    }

    fn earn(&mut self) {
        self.left = (self.left + 1).min(RESETS_AT_ONCE);
    }
}

impl Frames {
    pub(super) fn new(began: Instant, preface: usize) -> Self {
        let resets = Resets { left: RESETS_AT_ONCE, until: began, exceeded: false };
        Self { began, preface, head: [0; HEAD], there: 0, payload: 0, head_since: None, idle: 0, written: 0, resets }
    }

    /// These bytes came.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                self.end_head();
                continue;
            }
            let missing = HEAD - self.there;
            let count = missing.min(bytes.len());
            let (own, rest) = bytes.split_at(count);
            if let Some(room) = self.head.get_mut(self.there..self.there + count) {
                room.copy_from_slice(own);
            }
            self.there += count;
            bytes = rest;
            if self.there == HEAD {
                self.there = 0;
                self.begin(&now);
            }
        }
    }

    /// The head of a frame is there.
    fn begin(&mut self, now: &impl Fn() -> Instant) {
        let [a, b, c, kind, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS | CONTINUATION => {
                self.head_since.get_or_insert_with(now);
                self.end_head();
            }
            // Those that are small are h2's business.
            DATA => {}
            RST_STREAM => self.resets.one(now()),
            _ => self.idle += 1,
        }
    }

    /// A head ends with the last byte of a frame that says so.
    fn end_head(&mut self) {
        let [_, _, _, kind, flags, ..] = self.head;
        if self.payload == 0 && matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.head_since = None;
        }
    }

    /// So many bytes went out.
    pub(super) const fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// An answer went out to its end.
    pub(super) fn answered(&mut self) {
        self.resets.earn();
    }

    /// Whether more streams were reset than anybody needs.
    pub(super) const fn is_resetting(&self) -> bool {
        self.resets.exceeded
    }

    /// Since when a head is under way, if one is.
    pub(super) const fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Whether there are more frames that carry nothing than anybody needs.
    pub(super) fn is_flooded(&self, now: impl Fn() -> Instant) -> bool {
        if self.idle <= AT_ONCE {
            return false;
        }
        let earned = self.written.saturating_sub(self.idle * PONG) / ANSWERED;
        self.idle - AT_ONCE > earned + now().saturating_duration_since(self.began).as_secs() * EACH_SECOND
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1][..], &vec![9; length]].concat()
    }

    /// What came, in pieces of `step` bytes.
    fn read(bytes: &[u8], step: usize) -> Frames {
        let began = clock::now();
        let mut frames = Frames::new(began, 0);
        bytes.chunks(step).for_each(|piece| frames.read(piece, || began));
        frames
    }

    #[test]
    fn a_head_is_under_way_until_its_last_byte() {
        let whole = [frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 3)].concat();
        for step in [1, 4, 100] {
            for cut in HEAD..whole.len() {
                assert!(read(&whole[..cut], step).head_since().is_some(), "{cut} of {step}");
            }
            assert_eq!(read(&whole, step).head_since(), None);
            assert_eq!(read(&[frame(HEADERS, END_HEADERS, 0), frame(DATA, 0, 9)].concat(), step).head_since(), None);
        }
        assert_eq!(read(&whole[..HEAD - 1], 3).head_since(), None);
        let mut frames = Frames::new(clock::now(), 24);
        frames.read(&[HEADERS; 24], clock::now);
        assert_eq!((frames.there, frames.payload), (0, 0));
    }

    #[test]
    fn what_carries_nothing_has_an_end() {
        const PING: u8 = 6;
        let at_once = usize::try_from(AT_ONCE).unwrap();
        let flood = |frame: &[u8], count: usize| read(&frame.repeat(count), 1000);
        let ping = frame(PING, 0, 8);
        let began = clock::now();
        assert!(!flood(&ping, at_once).is_flooded(|| began));
        assert!(flood(&ping, at_once + 300).is_flooded(|| began + Duration::from_millis(999)));
        assert!(!flood(&ping, at_once + 300).is_flooded(|| began + Duration::from_secs(9)));
        assert!(!flood(&frame(DATA, 0, 100), 2 * at_once).is_flooded(|| began));
        // Their answers earn nothing; a download does.
        let mut frames = flood(&ping, 2 * at_once);
        frames.wrote(2 * at_once * 17);
        assert!(frames.is_flooded(|| began));
        frames.wrote(at_once * 32);
        assert!(!frames.is_flooded(|| began));
    }

    #[test]
    fn resets_are_held_against_time_and_answers() {
        const LIMIT: usize = RESETS_AT_ONCE as usize;
        let reset = frame(RST_STREAM, 0, 4);
        assert!(!read(&reset.repeat(LIMIT), 1000).is_resetting());
        assert!(read(&reset.repeat(LIMIT + 1), 1000).is_resetting());
        let began = clock::now();
        // So many a second, for ten minutes; and who did nothing so long may do no more at once than at the beginning.
        let steadily = |each_second: u32| {
            let mut frames = Frames::new(began, 0);
            (0..600 * each_second)
                .for_each(|at| frames.read(&reset, || began + Duration::from_secs(1) * at / each_second));
            frames
        };
        assert!(!steadily(20).is_resetting());
        assert!(!steadily(RESETS_EACH_SECOND).is_resetting());
        assert!(steadily(RESETS_EACH_SECOND + 2).is_resetting());
        let mut frames = steadily(1);
        (0..=LIMIT).for_each(|_| frames.read(&reset, || began + Duration::from_secs(9999)));
        assert!(frames.is_resetting());
        // One call of two is given up, as fast as it goes.
        let mut frames = Frames::new(began, 0);
        for _ in 0..100 * LIMIT {
            frames.answered();
            frames.read(&reset, || began);
        }
        assert!(!frames.is_resetting());
        (0..=LIMIT).for_each(|_| frames.read(&reset, || began));
        assert!(frames.is_resetting());
    }

    proptest! {
        #[test]
        fn the_cut_does_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1_usize..50) {
            let (whole, pieces) = (read(&bytes, 1000), read(&bytes, step));
            prop_assert_eq!((whole.idle, whole.payload, whole.there), (pieces.idle, pieces.payload, pieces.there));
            prop_assert_eq!(whole.resets.left, pieces.resets.left);
            prop_assert_eq!(whole.head_since.is_some(), pieces.head_since.is_some());
        }
    }
}
