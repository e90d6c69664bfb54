//! Who opened what is still open.

use std::collections::HashMap;

use rustix::fs::readlinkat;

use super::records::Opened;
use crate::collect::Target;

/// A descriptor whose opening was seen, and what it was then: a number may be another one's later.
struct Seen {
    opened: Opened,
    link: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Openers {
    seen: HashMap<u32, Seen>,
}

impl Openers {
    /// Takes over what was opened since, and forgets what was seen to be closed.
    pub(super) fn tend(&mut self, now: impl Iterator<Item = (u32, Opened)>, target: &Target) {
        let mut before = std::mem::take(&mut self.seen);
        for (fd, opened) in now {
            match before.remove(&fd) {
                Some(seen) if seen.opened.at_ns == opened.at_ns => {
                    self.seen.insert(fd, seen);
                }
                _ => {
                    if let Some(link) = link(fd, target) {
                        self.seen.insert(fd, Seen { opened, link });
                    }
                }
            }
        }
    }

    /// Where from.
    pub(super) fn places(&self) -> impl Iterator<Item = u64> {
        self.seen.values().map(|seen| seen.opened.place)
    }

    /// What is still open, by place and system call. Of a process that has ended: what was when last looked at.
    pub(super) fn still_open(&self, target: &Target) -> HashMap<(u64, u32), u64> {
        let alive = target.is_alive();
        let mut count = HashMap::new();
        for (fd, Seen { opened, link: was }) in &self.seen {
            if !alive || link(*fd, target).as_ref() == Some(was) {
                *count.entry((opened.place, opened.number)).or_default() += 1;
            }
        }
        count
    }
}

/// What the descriptor is, as `/proc/PID/fd` says; `None`: it is not open.
pub(super) fn link(fd: u32, target: &Target) -> Option<Vec<u8>> {
    readlinkat(target.folder(), format!("fd/{fd}"), Vec::new()).ok().map(std::ffi::CString::into_bytes)
}
