//! A network of our own: a new user and network namespace in which packets may be dropped without root and without
//! harm to anybody else. It is gone when its last process ends.
//!
//! A process enters it once, before it starts any thread, and stays. Its loopback is made to behave as an Ethernet
//! link does: an MTU of 1500 and no segmentation offload, so that a filter sees the segments a real path would see.
//!
//! The `unsafe` code of this crate is here and in [`target`](crate::target)'s processes.

use std::{
    ffi::{CStr, c_int},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountPropagationFlags, mount_bind, mount_change},
    net::{AddressFamily, SocketType},
    process::{getegid, geteuid},
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::runtime;

use crate::filter::{self, FilterError};

const ETHERNET_MTU: c_int = 1500;

static ENTERED: AtomicBool = AtomicBool::new(false);

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A user namespace is for a whole process.
    #[error("this process has threads already: enter the namespace first thing in main, in a process started for it")]
    Threads,
    /// The kernel or a rule of this machine refused.
    #[error("cannot {step}: {source}{}", hint().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Refused {
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Moves this process into a new user and network namespace, for good. Call it before any thread is started.
///
/// Where user namespaces are refused and the process is root, a network namespace alone will do.
///
/// # Errors
/// [`NetnsError`], with what to change where that is known. The process may then be half inside: end it.
pub fn enter() -> Result<(), NetnsError> {
    isolate(&Maps::of_this_process()).map_err(|Refusal { step, errno }| match errno {
        Errno::INVAL if step == UNSHARE => NetnsError::Threads,
        errno => NetnsError::Refused { step, source: errno.into() },
    })?;
    ENTERED.store(true, Ordering::Release);
    Ok(())
}

/// Whether this process lives in a namespace that [`enter`] made.
pub(crate) fn entered() -> bool {
    ENTERED.load(Ordering::Acquire)
}

/// Whether [`enter`] and a packet filter in the namespace would work on this machine, tried in a child process.
///
/// # Errors
/// What is missing, and how to change it.
pub fn available() -> Result<(), String> {
    let nft = filter::find_nft().map_err(|error| error.to_string())?;
    let probe = thread::Builder::new().name("netns-probe".to_owned()).spawn(move || {
        let mut command = Command::new(nft);
        command.args(["list", "ruleset"]);
        run_inside(&mut command);
        runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(FilterError::Run)?
            .block_on(filter::run(command, b""))
    });
    let result = probe.map_err(|error| error.to_string())?.join();
    match result.unwrap_or_else(|_| Err(FilterError::Run(io::Error::other("the probe failed")))) {
        Ok(()) => Ok(()),
        Err(FilterError::Run(error)) => {
            let hint = hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Err(format!("no network namespace of our own: {error}{hint}"))
        }
        Err(error) => Err(format!("no packet filter in a network namespace: {error}")),
    }
}

/// The settings that are known to refuse user namespaces.
fn hint() -> Option<&'static str> {
    let is = |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        Some("sysctl kernel.unprivileged_userns_clone=1 allows it")
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        Some("AppArmor may refuse it: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root")
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        Some("sysctl user.max_user_namespaces=1000 allows it")
    } else {
        None
    }
}

/// What is written to the maps of the new user namespace, made before it exists: between fork and exec there is no
/// allocating.
pub(crate) struct Maps {
    uid: String,
    gid: String,
    root: bool,
}

impl Maps {
    pub(crate) fn of_this_process() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        Self { uid: format!("0 {} 1\n", uid.as_raw()), gid: format!("0 {} 1\n", gid.as_raw()), root: uid.is_root() }
    }
}

/// A step that was refused. It holds no allocation either.
pub(crate) struct Refusal {
    step: &'static str,
    pub(crate) errno: Errno,
}

const UNSHARE: &str = "create a user and network namespace";

fn refused(step: &'static str) -> impl Fn(Errno) -> Refusal {
    move |errno| Refusal { step, errno }
}

/// Makes the namespaces and their loopback. It makes system calls and nothing else, so that it may also run between
/// fork and exec.
pub(crate) fn isolate(maps: &Maps) -> Result<(), Refusal> {
    match unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) {
        Ok(()) => {
            write_to(c"/proc/self/setgroups", "deny").map_err(refused("write /proc/self/setgroups"))?;
            write_to(c"/proc/self/uid_map", &maps.uid).map_err(refused("write /proc/self/uid_map"))?;
            write_to(c"/proc/self/gid_map", &maps.gid).map_err(refused("write /proc/self/gid_map"))?;
        }
        Err(errno) if maps.root && errno != Errno::INVAL => {
            unshare(UnshareFlags::NEWNET).map_err(refused("create a network namespace"))?;
        }
        Err(errno) => return Err(Refusal { step: UNSHARE, errno }),
    }
    loopback_as_ethernet()
}

fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "rustix has no safe unshare")]
    // SAFETY: unsafe is only a thread that leaves the file descriptors it shares with others (CLONE_FILES), and no
    // caller of this function passes that.
    unsafe {
        unshare_unsafe(namespaces)
    }
}

/// Lets this process see another file as `/etc/resolv.conf`, in a mount namespace of its own. System calls and nothing
/// else, too; it takes the rights that a user namespace gives.
pub(crate) fn replace_resolver(file: &CStr) -> Result<(), Errno> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind(file, c"/etc/resolv.conf")
}

fn write_to(file: &CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn loopback_as_ethernet() -> Result<(), Refusal> {
    const ETHTOOL_STSO: u32 = 0x1f;
    const ETHTOOL_SGSO: u32 = 0x24;

    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(refused("open a socket"))?;
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO] {
        let mut off = EthtoolValue { command, data: 0 };
        let data = ptr::from_mut(&mut off).cast();
        control_loopback(&socket, libc::SIOCETHTOOL, libc::__c_anonymous_ifr_ifru { ifru_data: data })
            .map_err(refused("switch off the segmentation offload of lo"))?;
    }
    control_loopback(&socket, libc::SIOCSIFMTU, libc::__c_anonymous_ifr_ifru { ifru_mtu: ETHERNET_MTU })
        .map_err(refused("set the MTU of lo"))?;
    #[expect(clippy::cast_possible_truncation, reason = "the flag is 1")]
    let up = libc::IFF_UP as libc::c_short;
    control_loopback(&socket, libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: up })
        .map_err(refused("bring lo up"))
}

/// One of the requests of netdevice(7), about `lo`. `argument` is what that request wants; a pointer in it is valid.
fn control_loopback(
    socket: &OwnedFd,
    request: libc::Ioctl,
    argument: libc::__c_anonymous_ifr_ifru,
) -> Result<(), Errno> {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as libc::c_char;
    }
    let mut about = libc::ifreq { ifr_name: name, ifr_ifru: argument };
    #[expect(unsafe_code, reason = "netdevice(7) has no safe interface")]
    // SAFETY: `about` is the ifreq that the kernel reads and writes for these requests; it lives through the call, and
    // so does what SIOCETHTOOL's pointer leads to, an ethtool_value of the caller.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut about) };
    if result < 0 { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) } else { Ok(()) }
}

/// Makes a command run in a namespace of its own.
fn run_inside(command: &mut Command) {
    let maps = Maps::of_this_process();
    #[expect(unsafe_code, reason = "a namespace is entered between fork and exec")]
    // SAFETY: between fork and exec only functions that are safe in a signal handler may run. `isolate` makes system
    // calls on memory that exists already; it neither allocates nor takes a lock, and neither does the error.
    unsafe {
        command.pre_exec(move || {
            isolate(&maps).map_err(|Refusal { errno, .. }| io::Error::from_raw_os_error(errno.raw_os_error()))
        });
    }
}
