//! Loading BPF programs: which kernel, which process, and what to say when it is not allowed.
//!
//! The objects are built by `cargo xtask bpf` and lie beside their sources, so that nobody who builds this needs clang.

#[cfg(test)]
pub(super) mod constants;
mod types;

#[cfg(fuzzing)]
pub(super) use types::fuzz;

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    sync::{Mutex, OnceLock, PoisonError},
};

use aya::{Btf, Ebpf, EbpfLoader, Pod, maps::Map, programs::ProgramError, sys::SyscallError};

use super::{Target, connections, lookups, off_cpu, tiers::Watcher, trace, waiting};
use crate::observation::Hidden;

/// The inode of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_PIDNS: u64 = 0xEFFF_FFFC;

/// All programs: what they ask of the kernel's types is what is kept of those.
const OBJECTS: [&[u8]; 5] = [connections::OBJECT, lookups::OBJECT, off_cpu::OBJECT, trace::OBJECT, waiting::OBJECT];

/// The running kernel, as BPF programs are fitted to it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub(crate) btf: &'static Btf,
}

/// The kernel's types, which do not change while it runs.
static TYPES: OnceLock<Btf> = OnceLock::new();
/// There is one loader, because to make one it reads all types of the kernel, whether it is given others or not.
static LOADER: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// `struct target` of `overdue.bpf.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct TargetIds {
    pidns_dev: u64,
    pidns_ino: u64,
    tgid: u32,
    unused: u32,
}

#[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
// SAFETY: integers only, laid out without padding.
unsafe impl Pod for TargetIds {}

impl Kernel {
    /// Reads what the kernel tells about its types.
    ///
    /// # Errors
    /// When it tells nothing.
    pub fn new() -> Result<Self, Hidden> {
        // Held all along: two at once would take twice the memory, which is some 25 MB for a moment.
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(btf) = TYPES.get() {
            return Ok(Self { btf });
        }
        let hidden = |error: &dyn fmt::Display| {
            hidden(
                format!("the kernel's types cannot be read: {error}"),
                "use a kernel built with CONFIG_DEBUG_INFO_BTF, and have /sys mounted",
            )
        };
        // First, and emptied: what it read is gone before anything else is.
        let loader = loader.get_or_insert_with(|| {
            let mut loader = EbpfLoader::new();
            loader.btf(None);
            loader
        });
        give_back();
        let mut bytes = fs::read("/sys/kernel/btf/vmlinux").map_err(|error| hidden(&error))?;
        let names = types::Names::of(OBJECTS.into_iter());
        if let Some(cut) = types::cut_down(&bytes, &names) {
            bytes = cut;
        }
        let btf = Btf::parse(&bytes, Default::default()).map_err(|error| hidden(&error))?;
        drop(bytes);
        let btf = TYPES.get_or_init(|| btf);
        loader.btf(Some(btf));
        give_back();
        Ok(Self { btf })
    }

    /// Loads an object's maps, told whom to watch. Its programs are not loaded yet.
    ///
    /// # Errors
    /// When BPF is not allowed, or the object does not fit this kernel.
    pub(crate) fn load(&self, object: &[u8], target: &Target) -> Result<Ebpf, Hidden> {
        let ids = TargetIds::of(target)
            .map_err(|error| hidden(format!("the own pid namespace cannot be read: {error}"), "have /proc mounted"))?;
        // The loader outlives the watch, and what it refers to has to: 24 bytes for each watch.
        let ids: &'static TargetIds = Box::leak(Box::new(ids));
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        let loader = loader.get_or_insert_with(EbpfLoader::new);
        loader.btf(Some(self.btf)).override_global("target", ids, true).load(object).map_err(refused)
    }
}

/// What was freed goes back to the system: memory that a watcher holds is part of what it costs.
fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator's own function; no crate has it")]
    // SAFETY: it takes no pointers, and only memory that nobody has is given back.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl TargetIds {
    fn of(target: &Target) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/pid")?;
        let (pidns_dev, pidns_ino) =
            if namespace.ino() == FIRST_PIDNS { (0, 0) } else { (namespace.dev(), namespace.ino()) };
        Ok(Self { pidns_dev, pidns_ino, tgid: target.pid(), unused: 0 })
    }
}

/// Links an iterator over tasks to one process, and lets it run as often as somebody reads.
pub(crate) struct TaskIterator {
    link: OwnedFd,
}

/// `union bpf_attr` for the two commands below, as far as they go.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_bytes: u32,
    unused: u32,
}

/// `union bpf_iter_link_info`.
#[repr(C)]
#[derive(Default)]
struct TaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    unused: u32,
}

const BPF_LINK_CREATE: u32 = 28;
const BPF_ITER_CREATE: u32 = 33;
const BPF_TRACE_ITER: u32 = 28;

impl TaskIterator {
    /// Of the threads of one process, which is named as in the caller's pid namespace.
    ///
    /// # Errors
    /// As of `bpf`: `EINVAL` where the kernel (before 6.1) cannot iterate over one process.
    pub(crate) fn new(program: BorrowedFd<'_>, pid: u32) -> io::Result<Self> {
        let info = TaskInfo { pid, ..TaskInfo::default() };
        let create = LinkCreate {
            program: program.as_raw_fd().unsigned_abs(),
            attach_type: BPF_TRACE_ITER,
            info: (&raw const info).addr() as u64,
            info_bytes: u32::try_from(size_of::<TaskInfo>()).unwrap_or_default(),
            ..LinkCreate::default()
        };
        // `info` lives until the call is over.
        bpf(BPF_LINK_CREATE, &create).map(|link| Self { link })
    }

    /// A new run, that goes on as it is read.
    ///
    /// # Errors
    /// As of `bpf`.
    pub(crate) fn run(&self) -> io::Result<File> {
        // The command takes the link where the other takes the program.
        let create = LinkCreate { program: self.link.as_raw_fd().unsigned_abs(), ..LinkCreate::default() };
        bpf(BPF_ITER_CREATE, &create).map(File::from)
    }
}

/// The commands that make a descriptor.
fn bpf(command: u32, attributes: &LinkCreate) -> io::Result<OwnedFd> {
    // `ITER_CREATE` knows 8 bytes; what is beyond is 0, which every kernel takes.
    #[expect(unsafe_code, reason = "no crate has an iterator over one process")]
    // SAFETY: the attributes are as long as is said and are only read; what `info` in them points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<LinkCreate>()) };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => {
            #[expect(unsafe_code, reason = "a descriptor that the call made")]
            // SAFETY: the kernel just made it, and nobody else has it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(fd)
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory of all maps that are still an object's, as the kernel counts it.
pub(crate) fn maps_bytes(ebpf: &Ebpf) -> u64 {
    let bytes = |map: &Map| match map {
        Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map) | Map::SkStorage(map) => {
            map_bytes(map.fd().as_fd())
        }
        _ => 0,
    };
    ebpf.maps().map(|(_, map)| bytes(map)).sum()
}

fn map_bytes(map: impl AsFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).unwrap_or_default();
    let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    memory.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// A program of an object, which is of that kind.
pub(crate) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<P, Hidden>
where
    P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let missing = || refused(io::Error::other(format!("the object has no program {name}")));
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)
}

/// What the kernel's refusal means to the reader.
pub(crate) fn refused(error: impl std::error::Error + 'static) -> Hidden {
    if is_permission(&error) {
        let how = Watcher::here().remedy(&["CAP_BPF", "CAP_PERFMON"]);
        return hidden("the kernel does not permit BPF to this user".to_owned(), &how);
    }
    // The causes below say more than the text above them; each is said once.
    let mut why = said(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        let text = said(&error.to_string());
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        source = error.source();
    }
    hidden(why, "use a kernel of Linux 6.1 or later; and report this, with `uname -r`")
}

/// Whether the kernel refused for want of a right, whatever was asked first.
fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let causes_text: String = causes.clone().map(ToString::to_string).collect();
    causes.any(|cause| {
        let io_error = cause.downcast_ref::<io::Error>();
        let of_call = cause.downcast_ref::<SyscallError>().map(|error| &error.io_error);
        // EACCES is said of events (`perf_event_paranoid`), and of a program that its verifier does not like.
        io_error.or(of_call).and_then(io::Error::raw_os_error).is_some_and(|errno| match errno {
            libc::EPERM => true,
            libc::EACCES => !causes_text.contains("Verifier output"),
            _ => false,
        })
    })
}

/// Where the kernel did not like a program it tells all that it thought; what it disliked is said near the end.
fn said(text: &str) -> String {
    let Some((what, log)) = text.split_once("Verifier output:") else { return text.to_owned() };
    let statistics = ["verification time", "stack depth", "processed "];
    let complaint = log
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !statistics.iter().any(|statistic| line.starts_with(statistic)));
    format!("{}: {}", what.trim_end_matches([' ', '.']), complaint.unwrap_or_default())
}

fn hidden(why: String, how: &str) -> Hidden {
    Hidden { what: "events of the kernel (BPF)".to_owned(), why, how: how.to_owned() }
}
