//! What this process has used and holds.

use std::{collections::BTreeSet, fs, mem::MaybeUninit, time::Duration};

use rustix::{
    param::page_size,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// CPU time of all threads of this process.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// In its own code.
    pub user: Duration,
    /// In the kernel for it.
    pub system: Duration,
}

impl Cpu {
    /// Since the process began.
    #[must_use]
    pub fn now() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        #[expect(unsafe_code, reason = "no safe crate has getrusage")]
        // SAFETY: getrusage fills in the whole struct, and cannot fail for RUSAGE_SELF and a valid pointer.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let duration = |time: libc::timeval| {
            let part = |value: i64| u64::try_from(value).unwrap_or_default();
            Duration::from_secs(part(time.tv_sec)) + Duration::from_micros(part(time.tv_usec))
        };
        Self { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
    }

    /// Since an earlier moment.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// The sockets that are open, each by the name that the kernel never gives to another.
///
/// # Panics
/// When there is no `/proc`.
#[must_use]
pub fn sockets() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc/self/fd can be read");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).filter(|link| link.starts_with("socket:")).collect()
}

/// Lets this process have as many open files as it may.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_descriptor_limit() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
}

/// How many files are open.
///
/// # Panics
/// When there is no `/proc`.
#[must_use]
pub fn descriptors() -> usize {
    // The directory that is read is one of them.
    fs::read_dir("/proc/self/fd").expect("/proc/self/fd can be read").count() - 1
}

/// Bytes of memory that are resident.
///
/// # Panics
/// When there is no `/proc`.
#[must_use]
pub fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("/proc/self/statm can be read");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is the resident pages") * page_size()
}

/// Makes the allocator give the kernel back what it keeps for later, so that what is resident is in use.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe crate has malloc_trim")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
