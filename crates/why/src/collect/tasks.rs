//! The threads of the process, as an iterator in the kernel tells them (`bpf/tasks.bpf.h`): registers, state and call.

use std::{io::Read as _, os::fd::AsFd as _};

use aya::{Ebpf, programs::Iter};

use super::{
    Target,
    bpf::{Kernel, TaskIterator, program, refused},
    bytes::Reader,
};
use crate::observation::Hidden;

/// How many threads are looked at.
pub(super) const THREADS_MAX: usize = 4096;

/// All threads of one process, whenever they are asked for.
pub(super) struct Tasks(TaskIterator);

impl Tasks {
    /// Loads the iterator of an object that holds it.
    pub(super) fn load(kernel: &Kernel, ebpf: &mut Ebpf, target: &Target) -> Result<Self, Hidden> {
        Self::named("thread", kernel, ebpf, target)
    }

    /// The same with an iterator of another name, which has records of its own: [`records`](Self::records).
    pub(super) fn named(name: &str, kernel: &Kernel, ebpf: &mut Ebpf, target: &Target) -> Result<Self, Hidden> {
        let program: &mut Iter = program(ebpf, name)?;
        program.load("task", kernel.btf).map_err(refused)?;
        let fd = program.fd().map_err(refused)?;
        TaskIterator::new(fd.as_fd(), target.pid()).map(Self).map_err(refused)
    }

    /// The threads as they are now; none where the process has ended.
    pub(super) fn look(&self) -> Vec<SeenThread> {
        self.records(SeenThread::BYTES, SeenThread::parse)
    }

    /// The records of the iterator, each of so many bytes.
    pub(super) fn records<T>(&self, bytes_each: usize, parse: fn(&[u8]) -> Option<T>) -> Vec<T> {
        let mut bytes = Vec::new();
        if let Ok(run) = self.0.run() {
            // An error in the middle: what came before it counts.
            let _ = run.take((THREADS_MAX * bytes_each) as u64).read_to_end(&mut bytes);
        }
        bytes.chunks_exact(bytes_each).filter_map(parse).collect()
    }
}

/// A thread, as the iterator tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SeenThread {
    pub(super) tid: u32,
    /// The kernel's `__state`; 0 is running or ready.
    pub(super) state: u32,
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// The system call it is in, or -1 and others where it is in none. Of a running thread it means nothing.
    pub(super) call: u64,
    pub(super) args: [u64; 6],
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
    pub(super) name: [u8; 16],
}

impl SeenThread {
    /// The size of one in the iterator's output.
    pub(super) const BYTES: usize = 8 + 8 * 4 + 8 * 6 + 8 * 2 + 16;

    /// `None` where the bytes are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            tid: reader.u32()?,
            state: reader.u32()?,
            ip: reader.u64()?,
            sp: reader.u64()?,
            bp: reader.u64()?,
            call: reader.u64()?,
            args: reader.words()?,
            voluntary: reader.u64()?,
            involuntary: reader.u64()?,
            name: reader.take()?,
        })
    }

    /// Its name; what is no UTF-8 is replaced.
    pub(super) fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(self.name.get(..end).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let thread = SeenThread::parse(&bytes);
            prop_assert_eq!(thread.is_some(), bytes.len() >= SeenThread::BYTES);
            if let Some(thread) = thread {
                prop_assert!(thread.name().chars().count() <= 16);
            }
        }
    }
}
