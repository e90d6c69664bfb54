//! Which sockets are the process's: the inodes that its descriptors name.
//!
//! Reading thousands of links costs more than the dump of as many sockets. So between two full readings only those links
//! are read that may have changed: new descriptors, and those whose socket is gone or that name none.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use crate::collect::{
    Target,
    descriptors::{self, Named},
};

/// Descriptors that are looked at.
const DESCRIPTORS: usize = 200_000;
/// Every so many rounds all links are read: a descriptor may have been replaced by `dup2` while its socket lives on
/// elsewhere.
const FULL_EVERY: u32 = 8;

/// The join of descriptors and inodes.
#[derive(Debug, Default)]
pub(super) struct Own {
    by_fd: HashMap<u32, Option<u64>>,
    by_inode: HashMap<u64, u32>,
    /// Inodes in the namespace that are nobody's here.
    foreign: HashSet<u64>,
    count: Option<u64>,
}

impl Own {
    /// Before a dump: reads all links, when it is time for that, and says whether it did.
    pub(super) fn before_dump(&mut self, target: &Target, round: u32, whole: bool) -> io::Result<bool> {
        let all = whole || round.is_multiple_of(FULL_EVERY);
        if all {
            *self = Self { count: descriptors::count_of(&descriptors::folder(target)?), ..Self::default() };
            let by_fd = &mut self.by_fd;
            descriptors::each(target, DESCRIPTORS, |fd, named| {
                by_fd.insert(fd, inode_of(&named));
            })?;
            self.by_inode = by_fd.iter().filter_map(|(&fd, &inode)| Some((inode?, fd))).collect();
        }
        Ok(all)
    }

    /// The descriptor of an inode. 0 is none: the process closed it, or has not accepted it.
    pub(super) fn fd(&self, inode: u32) -> Option<u32> {
        if inode == 0 { None } else { self.by_inode.get(&inode.into()).copied() }
    }

    /// Whether it is known to be nobody's here.
    pub(super) fn is_foreign(&self, inode: u32) -> bool {
        let inode = inode.into();
        inode == 0 || (self.foreign.contains(&inode) && !self.by_inode.contains_key(&inode))
    }

    /// These are in the namespace and no descriptor names them.
    pub(super) fn are_foreign(&mut self, inodes: &[u32]) {
        self.foreign.extend(inodes.iter().map(|&inode| u64::from(inode)));
    }

    /// After a dump: `unknown` are inodes that were not there before, `present` tells of all whether they are there.
    pub(super) fn after_dump(
        &mut self,
        target: &Target,
        unknown: impl Iterator<Item = u32>,
        present: &HashSet<u64>,
    ) -> io::Result<()> {
        let unknown: Vec<u64> = unknown.map(u64::from).collect();
        let count = descriptors::count_of(&descriptors::folder(target)?);
        if unknown.is_empty() && count.is_some() && count == self.count {
            return Ok(());
        }
        let by_fd = &mut self.by_fd;
        let numbers = descriptors::numbers(&descriptors::folder(target)?, DESCRIPTORS)?;
        let there: HashSet<u32> = numbers.iter().copied().collect();
        by_fd.retain(|fd, _| there.contains(fd));
        let stale = numbers.into_iter().filter(|fd| {
            let inode = by_fd.get(fd).copied().flatten();
            !inode.is_some_and(|inode| present.contains(&inode))
        });
        for fd in stale.collect::<Vec<_>>() {
            by_fd.remove(&fd);
            if let Ok(link) = descriptors::link(target, fd) {
                by_fd.insert(fd, inode_of(&descriptors::parse(&link)));
            }
        }
        // Anew: two descriptors may name one socket, of which one is closed.
        self.by_inode = self.by_fd.iter().filter_map(|(&fd, &inode)| Some((inode?, fd))).collect();
        self.count = count;
        self.foreign.extend(unknown.into_iter().filter(|inode| !self.by_inode.contains_key(inode)));
        Ok(())
    }

    /// Whether it has no descriptors at all: one that ends closes them before it is gone.
    pub(super) fn is_empty(&self) -> bool {
        self.by_fd.is_empty()
    }
}

fn inode_of(named: &Named<'_>) -> Option<u64> {
    match named {
        Named::Socket(inode) => Some(*inode),
        Named::Other(_) => None,
    }
}
