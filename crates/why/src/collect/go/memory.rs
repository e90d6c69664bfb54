//! Reading another process's memory while it runs: nothing is attached, nothing stops. What is read may change while it
//! is read, and an address found in it may lead nowhere.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::fs::{Mode, OFlags, openat};

use crate::collect::Target;

/// The kernel's limit on ranges in one call (`UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;
/// Each range that cannot be read costs a call: after so many of them the rest is given up.
const FAILURES_MAX: usize = 2048;
/// Addresses of programs are below it.
const ADDRESSES_END: u64 = 1 << 47;

/// Bytes to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) at: u64,
    pub(super) len: usize,
}

impl Range {
    const fn is_possible(self) -> bool {
        self.at < ADDRESSES_END && self.len as u64 <= ADDRESSES_END - self.at
    }
}

/// What was read of several ranges.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    bytes: Vec<u8>,
    /// Where each begins and ends in `bytes`, and whether it was read.
    parts: Vec<(usize, usize, bool)>,
}

impl Ranges {
    /// The bytes of one range; `None` when it could not be read whole.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let (begin, end, read) = *self.parts.get(index)?;
        if read { self.bytes.get(begin..end) } else { None }
    }
}

/// The memory of a process.
#[derive(Debug)]
pub(super) struct Memory {
    pid: libc::pid_t,
    /// Held where `process_vm_readv` is not allowed, as seccomp filters of containers have it.
    file: Option<File>,
}

impl Memory {
    /// Tries which way of reading is allowed, on bytes that are known to be there.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn new(target: &Target, known: Range) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(target.pid()).map_err(io::Error::other)?;
        let mut memory = Self { pid, file: None };
        let direct = memory.read(known);
        if direct.is_ok() {
            return direct.map(|_| memory);
        }
        let file = openat(target.folder(), "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        memory.file = Some(File::from(file));
        memory.read(known).map(|_| memory)
    }

    /// Reads one range whole.
    pub(super) fn read(&self, range: Range) -> io::Result<Vec<u8>> {
        let read = self.read_all(&[range])?;
        read.get(0).map(<[u8]>::to_vec).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))
    }

    /// Reads many ranges with few calls. One that cannot be read is left out.
    ///
    /// # Errors
    /// When nothing at all can be read any more: the process has ended, or may not be read.
    pub(super) fn read_all(&self, ranges: &[Range]) -> io::Result<Ranges> {
        let mut parts = Vec::with_capacity(ranges.len());
        let mut end = 0_usize;
        for range in ranges {
            parts.push((end, end.saturating_add(range.len), false));
            end = end.saturating_add(range.len);
        }
        let mut read = Ranges { bytes: vec![0; end], parts };
        match &self.file {
            Some(file) => Self::read_by_file(file, ranges, &mut read)?,
            None => self.read_by_call(ranges, &mut read)?,
        }
        Ok(read)
    }

    fn read_by_file(file: &File, ranges: &[Range], read: &mut Ranges) -> io::Result<()> {
        for (range, part) in ranges.iter().zip(&mut read.parts) {
            let into = read.bytes.get_mut(part.0..part.1).filter(|_| range.is_possible());
            let Some(into) = into else { continue };
            match file.read_exact_at(into, range.at) {
                Ok(()) => part.2 = true,
                // Zero bytes is what the file of a process that has ended gives.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_by_call(&self, ranges: &[Range], read: &mut Ranges) -> io::Result<()> {
        let (mut first, mut failures) = (0, 0);
        let mut remote = Vec::with_capacity(RANGES_MAX.min(ranges.len()));
        while first < ranges.len() && failures < FAILURES_MAX {
            let batch: &[Range] = ranges.get(first..).unwrap_or_default();
            let batch = batch.get(..RANGES_MAX).unwrap_or(batch);
            remote.clear();
            // An address that can be none would refuse the whole call.
            remote.extend(batch.iter().take_while(|range| range.is_possible()).map(|range| libc::iovec {
                iov_base: std::ptr::without_provenance_mut(usize::try_from(range.at).unwrap_or(0)),
                iov_len: range.len,
            }));
            if remote.is_empty() {
                (first, failures) = (first + 1, failures + 1);
                continue;
            }
            let begin = read.parts.get(first).map_or(0, |part| part.0);
            let end = read.parts.get(first + remote.len() - 1).map_or(0, |part| part.1);
            let got = self.call(&remote, read.bytes.get_mut(begin..end).unwrap_or_default())?;
            let before = first;
            for part in read.parts.iter_mut().skip(before).take(remote.len()) {
                part.2 = part.1 <= begin + got;
                if !part.2 {
                    break;
                }
                first += 1;
            }
            if first < before + remote.len() {
                (first, failures) = (first + 1, failures + 1);
            }
        }
        Ok(())
    }

    /// How many bytes came, in the order of the ranges.
    fn call(&self, remote: &[libc::iovec], into: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        #[expect(unsafe_code, reason = "rustix has no process_vm_readv")]
        // SAFETY: the kernel writes `into.len()` bytes at most, to `into`, which is borrowed for writing; `remote` is a
        // list of addresses in another process, which nobody here dereferences.
        let got = unsafe {
            libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        if let Ok(got) = usize::try_from(got) {
            return Ok(got);
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways() -> [Memory; 2] {
        let target = Target::new(std::process::id()).unwrap();
        let file = openat(target.folder(), "mem", OFlags::RDONLY, Mode::empty()).unwrap();
        let pid = libc::pid_t::try_from(target.pid()).unwrap();
        [Memory { pid, file: None }, Memory { pid, file: Some(File::from(file)) }]
    }

    #[test]
    fn what_leads_nowhere_is_left_out_and_the_rest_is_read() {
        let here: Vec<u64> = (0..5000).collect();
        let address = |i: usize| here.get(i..).unwrap().as_ptr().addr() as u64;
        let mut ranges = Vec::new();
        for i in 0..here.len() {
            ranges.push(Range { at: address(i), len: 8 });
            if i % 100 == 0 {
                ranges.push(Range { at: [8, 1 << 40, u64::MAX - 3, 1 << 63][i / 100 % 4], len: 16 });
            }
        }
        for memory in ways() {
            let read = memory.read_all(&ranges).unwrap();
            let numbers: Vec<u64> = (0..ranges.len())
                .filter_map(|i| read.get(i))
                .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            assert_eq!(numbers, here);
        }
    }

    #[test]
    fn nothing_but_nonsense_ends() {
        let nonsense = vec![Range { at: u64::MAX - 8, len: 64 }; 100_000];
        for memory in ways() {
            let read = memory.read_all(&nonsense).map(|read| (0..nonsense.len()).any(|i| read.get(i).is_some()));
            assert!(!read.unwrap_or(false));
        }
    }
}
