//! Locks of files: who holds the one that a thread waits for.

use std::{collections::HashMap, fs::File, io::Read as _, path::Path};

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::Target;
use crate::observation::BlockedIn;

/// The kernel's table is read up to here.
const TABLE_BYTES: u64 = 1 << 20;

/// The kernel's table of locks, read when somebody waits for one.
#[derive(Default)]
pub(super) struct FileLocks {
    table: Option<String>,
    by_fd: HashMap<(u32, &'static str), Option<u32>>,
}

impl FileLocks {
    /// The process that holds what a thread waits for, where it is the only one.
    pub(super) fn holder(&mut self, target: &Target, blocked: &BlockedIn) -> Option<u32> {
        let kind = match blocked.call.as_str() {
            "flock" => "FLOCK",
            "fcntl" => "POSIX",
            _ => return None,
        };
        let fd = blocked.fd?;
        if !self.by_fd.contains_key(&(fd, kind)) {
            let holder = self.find(target, fd, kind);
            self.by_fd.insert((fd, kind), holder);
        }
        self.by_fd.get(&(fd, kind)).copied().flatten()
    }

    fn find(&mut self, target: &Target, fd: u32, kind: &str) -> Option<u32> {
        // What is known of it, without asking a server that may be dead.
        let file = target.shared(&format!("fd/{fd}"));
        let file = statx(target.folder(), file, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
        let table = self.table.get_or_insert_with(table);
        let inode = format!("{:02x}:{:02x}:{}", file.stx_dev_major, file.stx_dev_minor, file.stx_ino);
        let holder = only_holder(table, kind, &inode)?;
        // Whoever took it may have ended since, and left it to a child.
        Path::new(&format!("/proc/{holder}")).exists().then_some(holder)
    }
}

fn table() -> String {
    let mut table = String::new();
    // Where it cannot be read, nobody is known to hold anything.
    let _ = File::open("/proc/locks").and_then(|file| file.take(TABLE_BYTES).read_to_string(&mut table));
    table
}

/// `1: FLOCK  ADVISORY  WRITE 31625 fe:00:5783599 0 EOF`; who waits has an arrow before its kind.
fn only_holder(table: &str, kind: &str, inode: &str) -> Option<u32> {
    let holder = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_held = words.next()? == kind;
        let pid: u32 = words.nth(2)?.parse().ok()?;
        (is_held && words.next()? == inode && pid > 0).then_some(pid)
    };
    let mut holders = table.lines().filter_map(holder);
    let first = holders.next()?;
    holders.all(|pid| pid == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_only_holder_of_a_lock() {
        let table = "1: POSIX  ADVISORY  WRITE 7 fe:00:9 0 EOF\n2: FLOCK  ADVISORY  WRITE 31 fe:00:9 0 EOF\n2: -> FLOCK  \
                     ADVISORY  WRITE 32 fe:00:9 0 EOF\n3: FLOCK  ADVISORY  READ 33 fe:00:8 0 EOF\n4: FLOCK  ADVISORY  READ \
                     34 fe:00:8 0 EOF\n5: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 EOF\n";
        let holder = |kind, inode| only_holder(table, kind, inode);
        assert_eq!((holder("FLOCK", "fe:00:9"), holder("POSIX", "fe:00:9")), (Some(31), Some(7)));
        // Two share it; nobody's number is known; nobody has it.
        assert_eq!(
            (holder("FLOCK", "fe:00:8"), holder("OFDLCK", "fe:00:7"), holder("FLOCK", "fe:00:7")),
            (None, None, None)
        );
    }

    #[test]
    fn a_lock_of_this_process_is_found() {
        let path = std::env::temp_dir().join(format!("overdue-lock-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.lock().unwrap();
        let fd = Some(std::os::fd::AsRawFd::as_raw_fd(&file).cast_unsigned());
        let target = Target::new(std::process::id()).unwrap();
        let waits = |call: &str| BlockedIn { call: call.to_owned(), fd, ..BlockedIn::default() };
        let found = ["flock", "fcntl", "read"].map(|call| FileLocks::default().holder(&target, &waits(call)));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found, [Some(std::process::id()), None, None]);
    }

    proptest! {
        #[test]
        fn garbage_has_no_holder(table in "\\PC*", line in "[0-9]: FLOCK [A-Z ]{0,9}[0-9 :a-f]*") {
            let _ = (only_holder(&table, "FLOCK", "fe:00:1"), only_holder(&line, "FLOCK", "fe:00:1"));
        }
    }
}
