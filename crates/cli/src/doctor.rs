//! `overdue doctor`: what can be seen on this machine, what cannot, why, and how to change it. Each line is tried here
//! and now; nothing is changed.

use std::{
    env, fs,
    io::{self, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use overdue::{Client, TlsOptions};
use overdue_core::{Limit, LimitName, Report, Source, Stage};
use overdue_why::collect::{Connections, Kernel, Target, aid, tiers::Watcher};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::{
    drive::Ready,
    exit::Exit,
    interrupt::{self, Interrupt, Threads},
    plan::Plan,
    screen::{Ink, Screen},
    sink::Output,
};

/// The call that looks at itself waits this long for an answer that never comes.
const LOOK: Duration = Duration::from_millis(100);

/// Where distributions keep the certificates they trust.
const ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One thing that was looked for.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    /// Whether it is there.
    seen: bool,
    /// What was found, or why there is nothing.
    found: String,
    /// What it is good for.
    use_for: &'static str,
    /// How to get it, where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<String>,
}

impl Check {
    fn seen(what: &'static str, use_for: &'static str, found: impl Into<String>) -> Self {
        Self { what, seen: true, found: found.into(), use_for, how: None }
    }

    fn missing(what: &'static str, use_for: &'static str, why: impl Into<String>, how: impl Into<String>) -> Self {
        Self { what, seen: false, found: why.into(), use_for, how: Some(how.into()).filter(|how| !how.is_empty()) }
    }
}

pub(crate) fn run(json: bool) -> anyhow::Result<Exit> {
    // Forks, so before there are threads.
    let namespace = namespace();
    let mut checks = interrupt::run(Threads::One, |interrupt| async move { look_at_a_call(&interrupt).await })?;
    checks.extend([
        resolver(),
        roots(),
        descriptors(),
        namespace,
        nft(),
        processes(),
        btf(),
        events(),
        closing(),
        limits(),
    ]);

    let uname = rustix::system::uname();
    let kernel = format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
    let mut out = io::stdout();
    if json {
        let report = serde_json::json!({ "schema": "overdue.doctor/1", "kernel": kernel, "checks": checks });
        writeln!(out, "{report}")?;
    } else {
        out.write_all(text(Screen::of(&out), &kernel, &checks).as_bytes())?;
    }
    Ok(Exit::Fine)
}

fn text(screen: Screen, kernel: &str, checks: &[Check]) -> String {
    let mut out = format!("{kernel}\n\n");
    let widest = checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
    for check in checks {
        let mark = if check.seen { screen.ink(Ink::Green, "yes") } else { screen.ink(Ink::Yellow, "no ") };
        let what = screen.ink(Ink::Bold, &format!("{:widest$}", check.what));
        let below = " ".repeat("yes  ".len() + widest);
        out.push_str(&screen.hanging(&format!("{mark}  {what}  "), &check.found));
        if let Some(how) = &check.how {
            // Not hung under its first words: commands are long, and stay on one line.
            out.push_str(&screen.hanging(&format!("{below}  "), &format!("To have it: {how}.")));
        }
        out.push_str(&screen.hanging(&format!("{below}  "), &format!("Good for {}.", check.use_for)));
    }
    let missing = checks.iter().filter(|check| !check.seen).count();
    out + &format!("\n{} of {} are there.\n", checks.len() - missing, checks.len())
}

/// Calls a server of its own that never answers, and reads in the report what was seen of the socket.
async fn look_at_a_call(interrupt: &Interrupt) -> anyhow::Result<Vec<Check>> {
    let silent = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    let mut plan = Plan::of_url(&silent.local_addr()?.to_string())?;
    for name in [LimitName::Total, LimitName::Stage(Stage::Wait)] {
        plan.limit(Limit::new(name, LOOK));
    }
    let ready = Ready::new(plan, None, interrupt.context()).await?;
    let report = ready.call(interrupt.context(), &Output::Counted).await?.answer.report;
    let from = |source| evidence(&report, source);

    let tcp_info = "telling a slow server from a lost path and from a peer that does not read";
    let cookie = "finding the same connection in other tools";
    let sock_diag = "the other side of a call on this same host: full accept queues, unread bytes";
    Ok(vec![
        match from(Source::TcpInfo) {
            Some(text) => Check::seen("TCP_INFO", tcp_info, format!("of a call to a silent server here: {text}")),
            None => Check::missing(
                "TCP_INFO",
                tcp_info,
                "the kernel told nothing about a socket of our own",
                "use a Linux kernel that is not behind an emulation (gVisor and the like leave it out)",
            ),
        },
        match report.connection.as_ref().and_then(|connection| connection.cookie) {
            Some(number) => Check::seen("SO_COOKIE", cookie, format!("this one was {number}")),
            None => Check::missing("SO_COOKIE", cookie, "the kernel gave no cookie", "use Linux 4.6 or later"),
        },
        match from(Source::SockDiag) {
            Some(text) => Check::seen("sock_diag", sock_diag, text),
            None => Check::missing(
                "sock_diag",
                sock_diag,
                "the kernel did not show the other end of a loopback connection",
                "load the module tcp_diag, or allow NETLINK_SOCK_DIAG in the sandbox's seccomp filter",
            ),
        },
    ])
}

fn evidence(report: &Report, source: Source) -> Option<String> {
    let all = report.verdicts.iter().flat_map(|verdict| &verdict.evidence);
    all.filter(|evidence| evidence.source == source).map(|evidence| evidence.text.to_string()).next()
}

fn resolver() -> Check {
    const WHAT: &str = "DNS servers";
    const FOR: &str = "resolving names, and saying which server was silent";
    let text = fs::read_to_string("/etc/resolv.conf");
    let servers: Vec<_> = text.iter().flat_map(|text| text.lines()).filter_map(server).collect();
    match (&text, servers.is_empty()) {
        (Ok(_), false) => Check::seen(WHAT, FOR, format!("{} (/etc/resolv.conf)", servers.join(", "))),
        (Ok(_), true) => {
            Check::missing(WHAT, FOR, "/etc/resolv.conf names none", "name one there, or use `overdue get --dns ADDR`")
        }
        (Err(error), _) => {
            let why = format!("/etc/resolv.conf: {error}");
            Check::missing(WHAT, FOR, why, "make it, or use `overdue get --dns ADDR`")
        }
    }
}

fn server(line: &str) -> Option<&str> {
    line.strip_prefix("nameserver")?.split_whitespace().next()
}

fn roots() -> Check {
    const WHAT: &str = "trusted certificates";
    const FOR: &str = "https to public servers";
    let files = match env::var_os("SSL_CERT_FILE") {
        Some(named) => vec![named.into()],
        None => ROOTS.map(PathBuf::from).to_vec(),
    };
    let found = files.into_iter().filter_map(|file| Some((certificates(&file)?, file))).find(|(count, _)| *count > 0);
    match (found, Client::builder().tls(TlsOptions::default()).build()) {
        (Some((count, file)), Ok(_)) => Check::seen(WHAT, FOR, format!("{count} in {}", file.display())),
        (Some((_, file)), Err(error)) => {
            Check::missing(WHAT, FOR, format!("{} cannot be used: {error}", file.display()), "use --cacert FILE")
        }
        (None, _) => Check::missing(
            WHAT,
            FOR,
            "none where distributions keep them",
            "install the package ca-certificates, set SSL_CERT_FILE, or use `overdue get --cacert FILE`",
        ),
    }
}

fn certificates(file: &Path) -> Option<usize> {
    Some(fs::read_to_string(file).ok()?.matches("-----BEGIN CERTIFICATE-----").count())
}

fn descriptors() -> Check {
    const WHAT: &str = "file descriptors";
    const FOR: &str = "many calls at a time (`overdue get -n N -c C` takes one for each)";
    let limit = getrlimit(Resource::Nofile);
    let show = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    let found = format!("{} (soft limit; the hard one is {})", show(limit.current), show(limit.maximum));
    if limit.current.is_none_or(|current| current >= 1024) {
        Check::seen(WHAT, FOR, found)
    } else {
        Check::missing(WHAT, FOR, found, "`ulimit -n 4096` in this shell")
    }
}

fn namespace() -> Check {
    const WHAT: &str = "network namespace";
    const FOR: &str = "the scenarios of the lab that drop packets, without root and without harm to others";
    match overdue_lab::netns::available() {
        Ok(()) => Check::seen(WHAT, FOR, "one of our own was made, with a packet filter in it, and is gone again"),
        Err(why) => Check::missing(
            WHAT,
            FOR,
            why,
            format!(
                "install nftables and allow unprivileged user namespaces (in a container: a seccomp profile that allows \
                 unshare); or {}",
                Watcher::here().remedy(&["CAP_SYS_ADMIN"])
            ),
        ),
    }
}

fn nft() -> Check {
    const WHAT: &str = "nft";
    const FOR: &str = "the packet filters of those scenarios";
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    match folders.map(|folder| folder.join("nft")).find(|file| file.is_file()) {
        Some(file) => Check::seen(WHAT, FOR, file.display().to_string()),
        None => Check::missing(WHAT, FOR, "not in PATH, nor in /usr/sbin", "install the package nftables"),
    }
}

/// What `overdue why` can see of processes without help of the kernel's events.
fn processes() -> Check {
    const WHAT: &str = "processes of others";
    const FOR: &str = "`overdue why` on a service that runs as another user";
    let watcher = Watcher::here();
    let scope = watcher.ptrace_scope.filter(|scope| *scope > 0);
    let scope = scope.map(|scope| format!("; kernel.yama.ptrace_scope is {scope}")).unwrap_or_default();
    if watcher.has("CAP_SYS_PTRACE") {
        return Check::seen(WHAT, FOR, format!("user {} may look into any process", watcher.uid));
    }
    let hidden = watcher.hidepid.as_ref().map(|hidepid| format!(", and /proc hides them (hidepid={hidepid})"));
    let why = format!("user {} may look into its own ones{scope}{}", watcher.uid, hidden.unwrap_or_default());
    Check::missing(WHAT, FOR, why, watcher.remedy(&["CAP_SYS_PTRACE"]))
}

/// The kernel's types, which programs are fitted to.
fn btf() -> Check {
    const WHAT: &str = "BTF of the kernel";
    const FOR: &str = "`overdue why`: its programs fit themselves to this kernel";
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(FILE) {
        Ok(file) => Check::seen(WHAT, FOR, format!("{FILE}, {} bytes", file.len())),
        Err(error) => {
            Check::missing(WHAT, FOR, format!("{FILE}: {error}"), "use a kernel built with CONFIG_DEBUG_INFO_BTF")
        }
    }
}

/// Attaches to this very process, and detaches again.
fn events() -> Check {
    const WHAT: &str = "events of the kernel";
    const FOR: &str = "`overdue why`: lives of connections, their first bytes, event loops, stacks";
    let attached = Target::new(std::process::id())
        .map_err(|gone| (gone.to_string(), "have /proc mounted".to_owned()))
        .and_then(|target| {
            let attached = Kernel::new().and_then(|kernel| Connections::attach(&kernel, &target));
            attached.map_err(|hidden| (hidden.why, hidden.how))
        });
    match attached {
        Ok(connections) if connections.hidden().is_empty() => {
            Check::seen(WHAT, FOR, "BPF programs were attached to this process, and are gone again")
        }
        Ok(connections) => {
            let hidden: Vec<_> =
                connections.hidden().iter().map(|hidden| format!("{}: {}", hidden.what, hidden.why)).collect();
            let how: Vec<_> = connections.hidden().iter().map(|hidden| hidden.how.as_str()).collect();
            Check::missing(WHAT, FOR, hidden.join("; "), how.join("; "))
        }
        Err((why, how)) => Check::missing(WHAT, FOR, why, how),
    }
}

/// Closes a connection of this very process, from outside as it were.
fn closing() -> Check {
    const WHAT: &str = "closing connections";
    const FOR: &str = "`overdue why --allow-changes`: ends connections of a process that are stuck";
    match aid::try_closing() {
        Ok(()) => Check::seen(WHAT, FOR, "one between two sockets of this process was closed through sock_diag"),
        Err(refused) => Check::missing(WHAT, FOR, refused.why, refused.how),
    }
}

/// Whose limits may be raised.
fn limits() -> Check {
    const WHAT: &str = "raising limits";
    const FOR: &str = "`overdue why --allow-changes`: more descriptors for a process that runs out of them";
    let watcher = Watcher::here();
    if watcher.has("CAP_SYS_RESOURCE") {
        return Check::seen(WHAT, FOR, "of any process, soft and hard ones");
    }
    let mine = format!("user {} may raise soft limits of its own processes, up to the hard ones", watcher.uid);
    Check::missing(WHAT, FOR, mine, watcher.remedy(&["CAP_SYS_RESOURCE"]))
}
