//! What this watcher may see, of a process or on this machine, and what would change that: tried, not guessed.

use std::fs;

use rustix::fs::{Mode, OFlags, openat, readlink, readlinkat};
use serde::Serialize;

use super::{Target, descriptors, patience, patience::patiently};
use crate::observation::Hidden;

/// The capabilities that count here, by their numbers (`linux/capability.h`).
const CAPABILITIES: [(u32, &str); 7] = [
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
    (34, "CAP_SYSLOG"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Who watches, and what the machine allows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Watcher {
    /// The effective user.
    pub uid: u32,
    /// Those effective capabilities that open something here.
    pub capabilities: Vec<&'static str>,
    /// `kernel.yama.ptrace_scope`: 0 the same user may look into a process, 1 only its parents, 2 only root, 3 nobody.
    /// `None` where the kernel has no such restriction.
    pub ptrace_scope: Option<u8>,
    /// How `/proc` hides processes of others (`hidepid`), unless it does not.
    pub hidepid: Option<String>,
    /// Whether this is the machine's first user namespace: capabilities of another one are worth less.
    pub first_user_namespace: Option<bool>,
}

/// What it may see of one process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Sight {
    /// Who watches.
    pub watcher: Watcher,
    /// The process's effective user.
    pub uid: Option<u32>,
    /// Its descriptors, and with them its sockets.
    pub descriptors: bool,
    /// The system calls that its threads wait in.
    pub calls: bool,
    /// Its memory: limits and arrays of those calls, goroutines.
    pub memory: bool,
    /// Whether it shares the watcher's network namespace. `None` where that cannot be told.
    pub same_network: Option<bool>,
    /// Its pid namespace: numbers that it writes about itself are others.
    pub same_pids: Option<bool>,
    /// Its user namespace.
    pub same_users: Option<bool>,
}

impl Watcher {
    /// Who this is.
    #[must_use]
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            capabilities: parse_capabilities(&text("/proc/thread-self/status")),
            ptrace_scope: text("/proc/sys/kernel/yama/ptrace_scope").trim().parse().ok(),
            hidepid: parse_hidepid(&text("/proc/self/mountinfo")),
            first_user_namespace: parse_is_first(&text("/proc/self/uid_map")),
        }
    }

    /// Whether it has that capability.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }
}

impl Sight {
    /// Tries what can be seen of a process.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        let same = |namespace: &str| {
            let theirs = readlinkat(target.folder(), target.shared(&format!("ns/{namespace}")), Vec::new()).ok()?;
            Some(theirs == readlink(format!("/proc/thread-self/ns/{namespace}"), Vec::new()).ok()?)
        };
        let tried = target.clone();
        let inside = patiently("memory", patience::LIMIT, move || {
            let calls = tried.read(&tried.shared("syscall"), 256).is_ok();
            let memory =
                openat(tried.folder(), tried.shared("mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_ok();
            (calls, memory)
        });
        let (calls, memory) = inside.unwrap_or_default();
        Self {
            watcher: Watcher::here(),
            uid: target.read_text("status", 16 * 1024).ok().as_deref().and_then(parse_uid),
            descriptors: descriptors::each(target, 1, |_, _| {}).is_ok(),
            calls,
            memory,
            same_network: same("net"),
            same_pids: same("pid"),
            same_users: same("user"),
        }
    }

    /// What cannot be seen, with the reason and the remedy.
    #[must_use]
    pub fn not_visible(&self) -> Vec<Hidden> {
        let mut hidden = Vec::new();
        let mut add = |what: &str, why: String, how: &str| {
            hidden.push(Hidden { what: what.to_owned(), why, how: how.to_owned() });
        };
        let own = self.uid == Some(self.watcher.uid);
        let other = || match self.uid {
            Some(uid) if !own => format!("the process is of user {uid}, the watcher of user {}", self.watcher.uid),
            _ if self.same_users == Some(false) => "the process is in another user namespace".to_owned(),
            _ => "the process may not be looked into: it changed its user, or has more capabilities".to_owned(),
        };
        if !self.descriptors {
            add("descriptors and sockets", other(), "run as the same user, or as root (CAP_SYS_PTRACE)");
        }
        if !self.calls || !self.memory {
            let what = "what threads wait in, and the memory of the process";
            match self.watcher.ptrace_scope {
                Some(scope) if scope > 0 && own => add(
                    what,
                    format!("kernel.yama.ptrace_scope is {scope}"),
                    "run as root (CAP_SYS_PTRACE), or let `overdue why -- CMD` start the process",
                ),
                _ => add(what, other(), "run as the same user, or as root (CAP_SYS_PTRACE)"),
            }
        }
        if self.same_network == Some(false) && !self.watcher.has("CAP_SYS_ADMIN") {
            add(
                "TCP_INFO of sockets",
                "the process has a network namespace of its own".to_owned(),
                "run as root (CAP_SYS_ADMIN), or inside the namespace: nsenter --target PID --net overdue why ...",
            );
        }
        hidden
    }
}

/// The effective ones of `status`.
fn parse_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or_default();
    CAPABILITIES.into_iter().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, name)| name).collect()
}

/// The effective user of `status`: the second of four.
fn parse_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The option of the mount at `/proc`.
fn parse_hidepid(mounts: &str) -> Option<String> {
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/proc"))?;
    let (_, options) = line.rsplit_once(' ')?;
    let value = options.split(',').find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(value, "0" | "off")).then(|| value.to_owned())
}

/// Only in the first namespace every user is mapped to itself.
fn parse_is_first(map: &str) -> Option<bool> {
    let mut words = map.lines().next()?.split_ascii_whitespace();
    Some(words.next()? == "0" && words.next()? == "0" && words.next()? == u32::MAX.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_may_what() {
        assert_eq!(parse_capabilities("CapEff:\t0000008000080000\n"), ["CAP_SYS_PTRACE", "CAP_BPF"]);
        assert_eq!(parse_uid("Uid:\t1000\t7\t1000\t1000\n"), Some(7));
        let mount = "22 1 0:20 / /proc rw,relatime - proc proc rw,hidepid=invisible";
        assert_eq!(parse_hidepid(mount).as_deref(), Some("invisible"));
        assert_eq!(parse_hidepid("22 1 0:20 / /proc rw - proc proc rw"), None);
        assert_eq!(parse_is_first("         0          0 4294967295\n"), Some(true));
        assert_eq!(parse_is_first("         0       1000          1\n"), Some(false));
    }

    #[test]
    fn the_own_process_is_seen() {
        let sight = Sight::of(&Target::new(std::process::id()).unwrap());
        assert!(sight.descriptors && sight.memory && sight.calls, "{sight:?}");
        assert_eq!((sight.same_network, sight.same_pids, sight.uid), (Some(true), Some(true), Some(sight.watcher.uid)));
        assert_eq!(sight.not_visible(), []);
    }

    proptest! {
        #[test]
        fn garbage_allows_nothing(text in "\\PC*", line in "(CapEff:|Uid:)[ 0-9a-fx]*") {
            let _ = (parse_capabilities(&line), parse_uid(&line), parse_hidepid(&text), parse_is_first(&text));
        }
    }
}
