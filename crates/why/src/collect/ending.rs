//! How a process ended: its exit code, or the signal that killed it.
//!
//! The kernel tells it to the parent, and shows it in `/proc` until the parent has taken it; from Linux 6.15 on whoever
//! has held a descriptor of the process may ask afterwards, too.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::Target;
use crate::observation::Ending;

/// `PIDFD_GET_INFO` for the first version of `struct pidfd_info`, and what is asked for.
const GET_INFO: libc::Ioctl = 0xC040_FF0B;
const INFO_EXIT: u64 = 1 << 3;

/// The first version of `struct pidfd_info`: mask, control group, eleven ids, and how it ended.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How it ended, of a process that has.
pub(super) fn of(target: &Target, pidfd: Option<&OwnedFd>) -> Option<Ending> {
    use std::os::fd::AsFd as _;

    let pidfd = pidfd.map(OwnedFd::as_fd);
    let told = || pidfd.and_then(told_to_holder);
    // Between the two looks its parent may take it.
    pidfd.and_then(told_to_parent).or_else(told).or_else(|| shown(target)).or_else(told)
}

/// To its parent, and without taking it from whoever waits for it here.
fn told_to_parent(pidfd: BorrowedFd<'_>) -> Option<Ending> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::PidFd(pidfd), options).ok()??;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Ending::Exited { code }),
        (None, Some(signal)) => Some(Ending::Killed { signal, core: status.dumped() }),
        (None, None) => None,
    }
}

fn told_to_holder(pidfd: BorrowedFd<'_>) -> Option<Ending> {
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    #[expect(unsafe_code, reason = "rustix does not have this call")]
    // SAFETY: the call writes as many bytes as its number says at most, which is the size of `Info`.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (done == 0 && info.mask & INFO_EXIT != 0).then(|| status(info.exit_code))
}

/// To those who may trace it. Others see 0, which may be or not be true.
fn shown(target: &Target) -> Option<Ending> {
    let stat = target.read_text("stat", 4096).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The state is the third field of proc(5), the status the 52nd.
    let (state, code) = (*fields.first()?, fields.get(52 - 3)?.parse::<i32>().ok()?);
    let is_known = code != 0 || rustix::process::geteuid().is_root();
    (matches!(state, "Z" | "X") && is_known).then(|| status(code))
}

/// What `wait` returns, in its parts.
fn status(status: i32) -> Ending {
    match status & 0x7f {
        0 => Ending::Exited { code: status >> 8 & 0xff },
        signal => Ending::Killed { signal, core: status & 0x80 != 0 },
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::collect::pause;

    /// A process that ends by itself when it is told to, as that shell script says.
    fn ended(script: &str, look: impl FnOnce(&Target, &OwnedFd) -> Option<Ending>) -> Option<Ending> {
        let mut child =
            Command::new("sh").args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).spawn().unwrap();
        let target = Target::new(child.id()).unwrap();
        let pidfd = pause::pidfd(&target).unwrap();
        drop(child.stdin.take());
        while target.is_alive() {
            std::thread::yield_now();
        }
        let seen = look(&target, &pidfd);
        child.wait().unwrap();
        seen
    }

    #[test]
    fn a_child_of_ours() {
        for (script, ending) in [
            ("exit 0", Ending::Exited { code: 0 }),
            ("exit 7", Ending::Exited { code: 7 }),
            ("kill -9 $$", Ending::Killed { signal: 9, core: false }),
        ] {
            assert_eq!(ended(script, |target, pidfd| of(target, Some(pidfd))), Some(ending), "{script}");
            let zombie = ended(script, |target, _| shown(target));
            assert!(zombie == Some(ending) || zombie.is_none() && !rustix::process::geteuid().is_root(), "{script}");
        }
    }

    #[test]
    fn one_that_its_parent_has_taken() {
        let mut child = Command::new("sh").args(["-c", "read go; exit 3"]).stdin(Stdio::piped()).spawn().unwrap();
        let target = Target::new(child.id()).unwrap();
        let pidfd = pause::pidfd(&target).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        // Older kernels do not tell.
        let told = of(&target, Some(&pidfd));
        assert!(matches!(told, None | Some(Ending::Exited { code: 3 })), "{told:?}");
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        if (numbers.next(), numbers.next()) >= (Some(6), Some(16)) {
            assert_eq!(told, Some(Ending::Exited { code: 3 }));
        }
    }
}
