//! Who watches, what that allows, and what would allow more.

use std::fs;

use serde::Serialize;

use super::Target;

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

    /// What would let it do what takes all of these capabilities, and was refused: nobody who is root is told to become it.
    #[must_use]
    pub fn remedy(&self, needs: &[&str]) -> String {
        // What CAP_SYS_ADMIN was before it was divided.
        let holds = |need: &str| {
            self.has(need) || matches!(need, "CAP_BPF" | "CAP_PERFMON" | "CAP_SYSLOG") && self.has("CAP_SYS_ADMIN")
        };
        let lacks: Vec<&str> = needs.iter().copied().filter(|need| !holds(need)).collect();
        let names = lacks.join(" and ");
        match (self.uid, lacks.as_slice()) {
            (_, []) if self.first_user_namespace == Some(false) => {
                format!("run in the machine's own user namespace: in this one {} counts for less", needs.join(" and "))
            }
            (_, []) => format!(
                "{} is there: a security module or the kernel's lockdown refuses it, which `dmesg` may tell",
                needs.join(" and ")
            ),
            (0, _) => {
                let short = |name: &&str| format!("--cap-add {}", name.trim_start_matches("CAP_"));
                let flags: Vec<String> = lacks.iter().map(short).collect();
                format!("give root {names}, which it lacks here (in a container: `{}`)", flags.join(" "))
            }
            // Nothing less than root.
            (_, ["CAP_SYS_ADMIN"]) => "run as root (CAP_SYS_ADMIN)".to_owned(),
            _ => {
                let bits = lacks.join(",").to_lowercase();
                format!("run as root, or give the program {names} (`setcap {bits}+ep $(which overdue)`)")
            }
        }
    }
}

/// What lets this watcher read what only the process itself and a debugger may: its descriptors, and with `inside` its
/// memory and the arguments of its calls.
pub(super) fn to_look_into(target: &Target, inside: bool) -> String {
    let watcher = Watcher::here();
    let uid = target.read_text("status", 16 * 1024).ok().as_deref().and_then(parse_uid);
    // To one of the same user it was refused already, by Yama or because it changed its user.
    let refused = uid == Some(watcher.uid) || inside && watcher.ptrace_scope.is_some_and(|scope| scope > 0);
    match watcher.remedy(&["CAP_SYS_PTRACE"]) {
        remedy if refused || watcher.uid == 0 => remedy,
        remedy => format!("run as the same user, or {}", remedy.trim_start_matches("run ")),
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

    fn watcher(uid: u32, capabilities: &[&'static str]) -> Watcher {
        let capabilities = capabilities.to_vec();
        Watcher { uid, capabilities, ptrace_scope: None, hidepid: None, first_user_namespace: Some(true) }
    }

    #[test]
    fn root_is_told_what_it_lacks_and_others_to_be_root() {
        const BPF: &[&str] = &["CAP_BPF", "CAP_PERFMON"];
        assert_eq!(
            watcher(1000, &["CAP_BPF"]).remedy(BPF),
            "run as root, or give the program CAP_PERFMON (`setcap cap_perfmon+ep $(which overdue)`)"
        );
        assert_eq!(
            watcher(0, &["CAP_NET_ADMIN"]).remedy(BPF),
            "give root CAP_BPF and CAP_PERFMON, which it lacks here (in a container: `--cap-add BPF --cap-add PERFMON`)"
        );
        for all in [watcher(0, BPF), watcher(0, &["CAP_SYS_ADMIN"]), watcher(1000, BPF)] {
            assert!(all.remedy(BPF).contains("lockdown"), "{}", all.remedy(BPF));
        }
        let inner = Watcher { first_user_namespace: Some(false), ..watcher(0, BPF) };
        assert!(inner.remedy(BPF).starts_with("run in the machine's own user namespace"), "{}", inner.remedy(BPF));
    }

    #[test]
    fn whoever_is_of_the_same_user_is_not_told_to_be() {
        let own = to_look_into(&Target::new(std::process::id()).unwrap(), false);
        assert!(!own.contains("same user"), "{own}");
    }

    proptest! {
        #[test]
        fn garbage_allows_nothing(text in "\\PC*", line in "(CapEff:|Uid:)[ 0-9a-fx]*") {
            let _ = (parse_capabilities(&line), parse_uid(&line), parse_hidepid(&text), parse_is_first(&text));
        }
    }
}
