//! Which descriptor an event is about: the program chose what epoll tells it, and the kernel's table of the epoll
//! descriptor says for which descriptor it chose that.

use std::collections::{HashMap, HashSet};

use crate::collect::Target;

/// How much of one table is read; the kernel holds the epoll's lock meanwhile.
const TABLE_MAX: usize = 256 * 1024;
/// Tables are read so often; each time only where an event is not known yet.
const READS_MAX: u32 = 64;

/// What programs registered.
#[derive(Default)]
pub(super) struct Registered {
    fds: HashMap<(i32, u64), u32>,
    /// Events that no table had.
    unknown: HashSet<(i32, u64)>,
    reads: u32,
}

impl Registered {
    /// Learns whom these events of epoll descriptors are about.
    pub(super) fn learn(&mut self, events: impl Iterator<Item = (i32, u64)>, target: &Target) {
        let mut missing: HashMap<i32, Vec<u64>> = HashMap::new();
        for (epfd, data) in events {
            if !self.fds.contains_key(&(epfd, data)) && !self.unknown.contains(&(epfd, data)) {
                missing.entry(epfd).or_default().push(data);
            }
        }
        for (epfd, missing) in missing {
            if self.reads == READS_MAX {
                return;
            }
            self.reads += 1;
            let Ok(text) = target.read_text(&format!("fdinfo/{epfd}"), TABLE_MAX) else { continue };
            for (fd, data) in text.lines().filter_map(parse) {
                self.fds.insert((epfd, data), fd);
            }
            for data in missing {
                if !self.fds.contains_key(&(epfd, data)) {
                    self.unknown.insert((epfd, data));
                }
            }
        }
    }

    /// The descriptor, where the table told.
    pub(super) fn fd(&self, epfd: i32, data: u64) -> Option<u32> {
        self.fds.get(&(epfd, data)).copied()
    }
}

/// One line of an epoll's `fdinfo`: descriptor and data.
fn parse(line: &str) -> Option<(u32, u64)> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let fd = words.next()?.parse().ok()?;
    let data = words.skip_while(|word| *word != "data:").nth(1)?;
    Some((fd, u64::from_str_radix(data, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let line = "tfd:        5 events:     2019 data:     7f1c5c00a1d0  pos:0 ino:1b2c sdev:8";
        assert_eq!(parse(line), Some((5, 0x7f1c_5c00_a1d0)));
        assert_eq!(parse("pos:\t0"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in ".{0,100}") {
            parse(&line);
            parse(&format!("tfd:{line}"));
        }
    }
}
