//! Loading BPF programs: which kernel, which process, and what to say when it is not allowed.
//!
//! The objects are built by `cargo xtask bpf` and lie beside their sources, so that nobody who builds this needs clang.

use std::{fs, os::unix::fs::MetadataExt as _};

use aya::{Btf, Ebpf, EbpfLoader, Pod};

use super::Target;
use crate::observation::Hidden;

/// The inode of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_PIDNS: u64 = 0xEFFF_FFFC;

/// The running kernel, as BPF programs are fitted to it.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) btf: Btf,
}

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
        let btf = Btf::from_sys_fs().map_err(|error| {
            hidden(
                format!("the kernel's types cannot be read: {error}"),
                "use a kernel built with CONFIG_DEBUG_INFO_BTF, and have /sys mounted",
            )
        })?;
        Ok(Self { btf })
    }

    /// Loads an object's maps, told whom to watch. Its programs are not loaded yet.
    ///
    /// # Errors
    /// When BPF is not allowed, or the object does not fit this kernel.
    pub(crate) fn load(&self, object: &[u8], target: &Target) -> Result<Ebpf, Hidden> {
        let ids = TargetIds::of(target)
            .map_err(|error| hidden(format!("the own pid namespace cannot be read: {error}"), "have /proc mounted"))?;
        EbpfLoader::new().btf(Some(&self.btf)).override_global("target", &ids, true).load(object).map_err(refused)
    }
}

impl TargetIds {
    fn of(target: &Target) -> std::io::Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/pid")?;
        let (pidns_dev, pidns_ino) =
            if namespace.ino() == FIRST_PIDNS { (0, 0) } else { (namespace.dev(), namespace.ino()) };
        Ok(Self { pidns_dev, pidns_ino, tgid: target.pid(), unused: 0 })
    }
}

/// What the kernel's refusal means to the reader.
pub(crate) fn refused(error: impl std::error::Error) -> Hidden {
    // The causes below say more than the text above them; each is said once.
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        source = error.source();
    }
    hidden(why, "run as root, or give the program CAP_BPF and CAP_PERFMON (`setcap cap_bpf,cap_perfmon+ep`)")
}

fn hidden(why: String, how: &str) -> Hidden {
    Hidden { what: "events of the kernel (BPF)".to_owned(), why, how: how.to_owned() }
}
