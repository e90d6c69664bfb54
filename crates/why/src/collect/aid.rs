//! First aid is given: the one place that changes anything in what is watched, and only when somebody who was asked said
//! so (`overdue why --allow-changes`).
//!
//! What was planned is looked at again right before. What is no longer as it was seen, or is also another process's, is
//! left alone, and said.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use overdue_core::{Cause, DurationText, kernel::netlink::InetSocket};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Resource, Rlimit, prlimit},
};

use super::{
    Target, clock,
    descriptors::{self, Named},
    fds::Limits,
    pause::pidfd,
    sockets::{self, source::Source},
    stat,
    tiers::{self, Watcher},
};
use crate::{
    aid::{FirstAid, State, Step, Stuck, is_stuck},
    observation::Hidden,
};

/// Processor time for finding out who else holds a connection, microseconds: 1,000 processes take some 20 ms.
const SEARCH_US: u64 = 2_000_000;
/// Descriptors of one process that are looked at.
const DESCRIPTORS: usize = 200_000;
/// How long a program has to close what it was told of, before it is said that it did not.
const REACTION: Duration = Duration::from_secs(1);
/// From one look at that to the next.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Withholds what this watcher may not do, and says what it lacks: only what can be done is offered.
pub fn withhold(target: &Target, steps: &mut [FirstAid]) {
    let (watcher, own) = (Watcher::here(), is_own(target));
    for step in steps.iter_mut().filter(|step| step.withheld.is_none()) {
        step.withheld = cannot(&watcher, own, &step.step);
    }
}

/// Why it cannot be done by this watcher, on a process of its own or of somebody else.
fn cannot(watcher: &Watcher, own: bool, step: &Step) -> Option<String> {
    let may = |capability| watcher.has(capability);
    match step {
        // Only the machine's own root may: in another user namespace the capability does not count.
        Step::RaiseFdLimit { hard_to: Some(_), .. } => {
            let allowed = may("CAP_SYS_RESOURCE") && watcher.first_user_namespace != Some(false);
            (!allowed).then(|| to_raise(watcher, true))
        }
        Step::RaiseFdLimit { .. } => (!own && !may("CAP_SYS_RESOURCE")).then(|| to_raise(watcher, false)),
        Step::CloseSockets { .. } => (!may("CAP_NET_ADMIN")).then(|| to_close(watcher)),
    }
}

fn to_raise(watcher: &Watcher, hard: bool) -> String {
    let what = if hard { "a hard limit" } else { "a limit of another user's process" };
    format!("to raise {what} takes CAP_SYS_RESOURCE: {}", watcher.remedy(&["CAP_SYS_RESOURCE"]))
}

fn to_close(watcher: &Watcher) -> String {
    let remedy = watcher.remedy(&["CAP_NET_ADMIN"]);
    format!("to end a connection takes CAP_NET_ADMIN in the network namespace of the process: {remedy}")
}

/// Whether its limits may be set without a privilege: all its users and groups are those of this process.
fn is_own(target: &Target) -> bool {
    let status = target.read_text("status", 16 * 1024).unwrap_or_default();
    let all = |key: &str, own: u32| {
        let mut ids = status.lines().find_map(|line| line.strip_prefix(key)).into_iter();
        ids.any(|ids| ids.split_ascii_whitespace().take(3).all(|id| id.parse() == Ok(own)))
    };
    all("Uid:", rustix::process::getuid().as_raw()) && all("Gid:", rustix::process::getgid().as_raw())
}

/// Gives one step of first aid to a process, and enters what came of it. What is withheld is not given.
pub fn give(target: &Target, aid: &mut FirstAid) {
    if aid.withheld.is_some() {
        return;
    }
    match aid.step.clone() {
        Step::RaiseFdLimit { soft, hard, to, hard_to } => {
            raise(target, aid, (soft, hard), (to, hard_to.unwrap_or(hard)))
        }
        Step::CloseSockets { sockets, silent_ms, .. } => close(target, aid, &sockets, silent_ms),
    }
}

/// Whether this watcher may close connections of its own network namespace: it makes one between two sockets of its own,
/// and closes that.
///
/// # Errors
/// Why it may not, and what would change that.
pub fn try_closing() -> Result<(), Hidden> {
    let hidden = |why: String, how: String| Hidden { what: "closing connections".to_owned(), why, how };
    let said = |err: io::Error| match Errno::from_io_error(&err) {
        Some(Errno::PERM) => {
            hidden("the kernel does not permit it to this user".to_owned(), Watcher::here().remedy(&["CAP_NET_ADMIN"]))
        }
        _ => hidden(refusal(&err), "use a kernel built with CONFIG_INET_DIAG_DESTROY".to_owned()),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(said)?;
    let ours = TcpStream::connect(listener.local_addr().map_err(said)?).map_err(said)?;
    let target = Target::new(std::process::id()).map_err(|gone| hidden(gone.to_string(), "mount /proc".to_owned()))?;
    let mut source = match Source::of(&target)? {
        (source, None) => source,
        (_, Some(less)) => return Err(less),
    };
    let cookie = rustix::net::sockopt::socket_cookie(&ours).map_err(|errno| said(errno.into()))?;
    let ends = (ours.local_addr().map_err(said)?, ours.peer_addr().map_err(said)?);
    let socket = source
        .one(ends.0, ends.1, cookie)
        .ok_or_else(|| hidden("sock_diag does not show a socket of our own".to_owned(), String::new()))?;
    source.end(&socket).map_err(said)?;
    match ours.take_error() {
        Ok(Some(_)) => Ok(()),
        _ => Err(hidden("the kernel said that it was done, and the connection is as it was".to_owned(), String::new())),
    }
}

/// Sets the limit, where it is still what was seen.
fn raise(target: &Target, aid: &mut FirstAid, seen: (u64, u64), to: (u64, u64)) {
    let Some(before) = limits(target) else {
        aid.error = Some("the limits of the process cannot be read: it has ended".to_owned());
        return;
    };
    aid.before = Some(before);
    if (before.soft_limit, before.hard_limit) != (Some(seen.0), Some(seen.1)) {
        aid.error = Some("somebody has changed the limit meanwhile: it is left as it is".to_owned());
        return;
    }
    let replaced = set_limit(target, to);
    // The program may have raised it itself in between: its own word counts.
    if let Ok(replaced) = replaced
        && replaced != seen
    {
        let back = set_limit(target, replaced).is_ok();
        let and = if back { "it has its own limit again" } else { "its own limit could not be put back" };
        aid.error = Some(format!("the process changed its limit at the same moment: {and}"));
        aid.after = limits(target);
        return;
    }
    if let Err(errno) = replaced {
        aid.error = Some(match errno {
            Errno::PERM if to.1 > seen.1 => {
                format!("not permitted: {} (and no limit is above fs.nr_open)", to_raise(&Watcher::here(), true))
            }
            Errno::PERM => format!("not permitted: {}", to_raise(&Watcher::here(), false)),
            errno => format!("prlimit: {}", io::Error::from(errno)),
        });
        return;
    }
    let after = limits(target);
    aid.after = after;
    aid.done = after.is_some_and(|after| after.soft_limit == Some(to.0));
    aid.result = after.map(|after| {
        let number = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
        format!("the soft limit is {} now; {} descriptors are open", number(after.soft_limit), number(after.open))
    });
}

/// Sets the soft and the hard limit. Gives those that were there.
fn set_limit(target: &Target, (soft, hard): (u64, u64)) -> Result<(u64, u64), Errno> {
    let pid = i32::try_from(target.pid()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    // There is no such call by a descriptor of the process. Its number is its own as long as it lives.
    if !target.is_alive() {
        return Err(Errno::SRCH);
    }
    let word = |value: u64| (value != u64::MAX).then_some(value);
    let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: word(soft), maximum: word(hard) })?;
    Ok((before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX)))
}

fn limits(target: &Target) -> Option<State> {
    let limits = Limits::parse(&target.read_text("limits", 8192).ok()?)?;
    let open = descriptors::folder(target).ok().as_ref().and_then(descriptors::count_of);
    Some(State { soft_limit: Some(limits.soft), hard_limit: Some(limits.hard), open, stuck: None })
}

/// Ends those connections that are still as they were seen, and nobody else's.
fn close(target: &Target, aid: &mut FirstAid, sockets: &[Stuck], silent_ms: u32) {
    let mut source = match Source::of(target) {
        Ok((source, None)) => source,
        Ok((_, Some(hidden))) | Err(hidden) => {
            aid.error = Some(format!("{}; {}", hidden.why, hidden.how));
            return;
        }
    };
    let ready: Vec<(&Stuck, InetSocket)> = sockets
        .iter()
        .filter_map(|stuck| Some((stuck, again(&mut source, target, stuck, aid.cause, silent_ms)?)))
        .collect();
    let mut changed = sockets.len() - ready.len();
    aid.before = Some(State { stuck: Some(ready.len() as u64), open: open(target), ..State::default() });
    let mut left = Vec::new();
    let mut shared = 0_u64;
    let mut failed: HashMap<String, u64> = HashMap::new();
    let mut ended: Vec<InetSocket> = Vec::new();
    match holders(target, ready.iter().map(|(_, socket)| socket.inode).collect()) {
        Ok((others, unseen)) => {
            if unseen > 0 {
                let processes = if unseen == 1 { "process" } else { "processes" };
                left.push(format!("{unseen} other {processes}, none of its family, may not be looked into for them"));
            }
            for (stuck, socket) in ready {
                if others.contains_key(&socket.inode) {
                    shared += 1;
                    continue;
                }
                // To ask all processes took a while.
                let Some(socket) = again(&mut source, target, stuck, aid.cause, silent_ms) else {
                    changed += 1;
                    continue;
                };
                match source.end(&socket) {
                    Ok(()) => ended.push(socket),
                    Err(err) => *failed.entry(refusal(&err)).or_default() += 1,
                }
            }
            if shared > 0 {
                let mut pids: Vec<u32> = others.into_values().flatten().collect::<HashSet<_>>().into_iter().collect();
                pids.sort_unstable();
                let pids: Vec<String> = pids.iter().take(8).map(u32::to_string).collect();
                left.push(format!("{shared} are held by other processes, too (pid {})", pids.join(", ")));
            }
        }
        Err(why) => left.push(format!("none was closed: {why}")),
    }
    if changed > 0 {
        left.push(format!("{changed} are no longer as they were seen"));
    }
    left.extend(failed.into_iter().map(|(why, number)| format!("{number} could not be closed: {why}")));
    aid.error = (!left.is_empty()).then(|| left.join("; "));
    aid.done = !ended.is_empty();
    if aid.done {
        look_again(target, &mut source, aid, sockets, &ended);
    }
}

/// What became of them, as soon as the program has given all their descriptors back, or had its time for it.
fn look_again(target: &Target, source: &mut Source, aid: &mut FirstAid, sockets: &[Stuck], ended: &[InetSocket]) {
    let inodes: HashSet<u32> = ended.iter().map(|socket| socket.inode).collect();
    let began = clock::Clock::start();
    let mut held = still_held(target, &inodes);
    let pidfd = pidfd(target);
    let mut end: Vec<_> = pidfd.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
    while held.is_some_and(|held| held > 0) && began.elapsed() < REACTION {
        // Nothing tells of a descriptor that another process closes; of its end its own does.
        if poll(&mut end, Some(&GLANCE)) != Ok(0) {
            break;
        }
        held = still_held(target, &inodes);
    }
    let stuck = sockets.iter().filter(|stuck| one(source, stuck).is_some_and(|now| now.state == stuck.state)).count();
    aid.after = Some(State { stuck: Some(stuck as u64), open: open(target), ..State::default() });
    let number = ended.len() as u64;
    let back = match held {
        Some(0) => "the program noticed, and closed all their descriptors".to_owned(),
        Some(held) if held == number => format!(
            "the program still holds all their descriptors after {}: until it closes them, or is restarted, they count \
             against its limit",
            DurationText(REACTION)
        ),
        Some(held) => {
            format!("the program noticed, and closed {} of their descriptors so far", number.saturating_sub(held))
        }
        None => "whether the program closed their descriptors could not be seen".to_owned(),
    };
    aid.result = Some(format!("{number} closed, {stuck} of those that were planned are still there; {back}"));
}

/// The connection as it is now, where that is still what was planned for: the same socket, held by this process under the
/// same number, in the same state, and as silent.
fn again(source: &mut Source, target: &Target, stuck: &Stuck, cause: Cause, silent_ms: u32) -> Option<InetSocket> {
    let now = one(source, stuck)?;
    let held = descriptors::link(target, stuck.fd).ok()?;
    let is_own =
        now.inode != 0 && matches!(descriptors::parse(&held), Named::Socket(inode) if inode == u64::from(now.inode));
    (is_own && now.state == stuck.state && is_stuck(cause, silent_ms, &sockets::as_seen(&now, stuck.fd))).then_some(now)
}

fn one(source: &mut Source, stuck: &Stuck) -> Option<InetSocket> {
    source.one(stuck.local, stuck.remote, stuck.cookie)
}

/// How many of these sockets the process has descriptors of.
fn still_held(target: &Target, inodes: &HashSet<u32>) -> Option<u64> {
    let mut held = HashSet::new();
    let looked = descriptors::each(target, DESCRIPTORS, |_, named| held.extend(of(&named, inodes)));
    looked.ok().map(|_| held.len() as u64)
}

/// The socket that is named, where it is one of these.
fn of(named: &Named<'_>, inodes: &HashSet<u32>) -> Option<u32> {
    let Named::Socket(inode) = named else { return None };
    u32::try_from(*inode).ok().filter(|inode| inodes.contains(inode))
}

/// Which other processes hold these sockets. Connections are shared by forking, most of all: an error where some process
/// of the family could not be looked into. Of others that could not it is told how many there are.
fn holders(target: &Target, inodes: HashSet<u32>) -> Result<(HashMap<u32, Vec<u32>>, u64), String> {
    let mut found: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut unseen = 0;
    if inodes.is_empty() {
        return Ok((found, unseen));
    }
    let read = |process: &Target| stat::parse(&process.read_text("stat", 4096).ok()?);
    let own = read(target).ok_or_else(|| "the process has ended".to_owned())?;
    let unknown = |why: String| format!("whether other processes hold them, too, cannot be told: {why}");
    let began_us = clock::thread_cpu_us();
    let pids = fs::read_dir("/proc").map_err(|err| unknown(format!("/proc: {err}")))?;
    for pid in pids.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if clock::thread_cpu_us().saturating_sub(began_us) > SEARCH_US {
            return Err(unknown("there are too many processes".to_owned()));
        }
        let Ok(process) = Target::new(pid) else { continue };
        if pid == target.pid() {
            continue;
        }
        let looked = descriptors::each(&process, DESCRIPTORS, |_, named| {
            if let Some(inode) = of(&named, &inodes) {
                let pids = found.entry(inode).or_default();
                if !pids.contains(&pid) {
                    pids.push(pid);
                }
            }
        });
        match looked {
            Ok(number) if number > DESCRIPTORS as u64 => {
                return Err(unknown(format!("process {pid} has {number} descriptors")));
            }
            Err(err) => {
                let Some(its) = read(&process).filter(|its| !its.has_ended()) else { continue };
                // What began before it cannot have got its connections by a fork of it. The first process takes orphans
                // over, and forked none of them.
                let is_parent = pid == own.parent && pid != 1;
                let may_descend = its.started_ticks >= own.started_ticks;
                if is_parent || may_descend && (its.parent == target.pid() || its.session == own.session) {
                    let how = tiers::to_look_into(&process, false);
                    return Err(unknown(format!("process {pid} may not be looked into ({err}); {how}")));
                }
                unseen += 1;
            }
            Ok(_) => {}
        }
    }
    Ok((found, unseen))
}

fn open(target: &Target) -> Option<u64> {
    descriptors::folder(target).ok().as_ref().and_then(descriptors::count_of)
}

fn refusal(err: &io::Error) -> String {
    match Errno::from_io_error(err) {
        Some(Errno::PERM) => format!("not permitted: {}", to_close(&Watcher::here())),
        Some(Errno::OPNOTSUPP) => "this kernel cannot (CONFIG_INET_DIAG_DESTROY)".to_owned(),
        Some(Errno::NOENT | Errno::STALE) => "it ended meanwhile".to_owned(),
        _ => err.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
        process::{Child, Command, Stdio},
    };

    use overdue_core::facts::TcpState;

    use super::*;
    use crate::collect::need::skip;

    fn may(capability: &str) -> bool {
        Watcher::here().has(capability)
    }

    fn own() -> Target {
        Target::new(std::process::id()).unwrap()
    }

    /// Our end of a connection whose peer has closed, as a step would name it.
    fn closed_by_the_peer() -> (TcpStream, Stuck) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        let stuck = stuck(&ours, TcpState::CloseWait);
        (ours, stuck)
    }

    fn stuck(stream: &TcpStream, state: TcpState) -> Stuck {
        Stuck {
            cookie: rustix::net::sockopt::socket_cookie(stream).unwrap(),
            fd: u32::try_from(stream.as_raw_fd()).unwrap(),
            local: stream.local_addr().unwrap(),
            remote: stream.peer_addr().unwrap(),
            state,
        }
    }

    fn step(cause: Cause, step: Step) -> FirstAid {
        FirstAid {
            cause,
            plan: String::new(),
            means: String::new(),
            lasting: String::new(),
            step,
            withheld: None,
            done: false,
            error: None,
            result: None,
            before: None,
            after: None,
        }
    }

    fn closing(sockets: Vec<Stuck>, silent_ms: u32) -> FirstAid {
        step(Cause::CloseWaitPileup, Step::CloseSockets { sockets, silent_ms, more: 0 })
    }

    #[test]
    fn a_stuck_connection_is_closed_and_what_its_owner_reads_is_what_was_said() {
        if !may("CAP_NET_ADMIN") {
            return skip("CAP_NET_ADMIN is missing");
        }
        let (mut ours, doomed) = closed_by_the_peer();
        let (mut other, _) = closed_by_the_peer();
        let mut aid = closing(vec![doomed], 0);
        give(&own(), &mut aid);
        assert!(aid.done, "{aid:?}");
        // The end of what the peer sent stays what it was.
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert_eq!(ours.write(b"x").unwrap_err().raw_os_error(), Some(Errno::CONNABORTED.raw_os_error()));
        assert_eq!(ours.write(b"x").unwrap_err().raw_os_error(), Some(Errno::PIPE.raw_os_error()));
        // It still holds the descriptor, and that is said.
        assert!(aid.result.as_ref().unwrap().contains("still holds all"), "{aid:?}");
        assert_eq!((aid.before.unwrap().stuck, aid.after.unwrap().stuck), (Some(1), Some(0)));
        // Nobody else's.
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn whoever_waits_goes_on_and_gives_the_descriptor_back() {
        if !may("CAP_NET_ADMIN") {
            return skip("CAP_NET_ADMIN is missing");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let doomed = stuck(&ours, TcpState::FinWait2);
        // The acknowledgement of the FIN may be delayed.
        let (mut source, _) = Source::of(&own()).unwrap();
        while one(&mut source, &doomed).unwrap().state != TcpState::FinWait2 {
            std::thread::yield_now();
        }
        let reader = std::thread::spawn(move || {
            let mut ours = ours;
            ours.read(&mut [0]).unwrap_err().raw_os_error()
        });
        let mut aid = step(Cause::FinWait2Pileup, Step::CloseSockets { sockets: vec![doomed], silent_ms: 0, more: 0 });
        give(&own(), &mut aid);
        assert!(aid.done, "{aid:?}");
        assert_eq!(reader.join().unwrap(), Some(Errno::CONNABORTED.raw_os_error()));
        assert!(aid.result.as_ref().unwrap().contains("closed all their descriptors"), "{aid:?}");
    }

    /// In another state, in use, another socket, another descriptor, a listener.
    #[test]
    fn what_is_not_as_it_was_seen_is_left_alone() {
        let (mut ours, as_seen) = closed_by_the_peer();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let healthy = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        let remote = "0.0.0.0:0".parse().unwrap();
        let local = listener.local_addr().unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&listener).unwrap();
        let fd = u32::try_from(listener.as_raw_fd()).unwrap();
        for (wrong, silent_ms) in [
            (Stuck { state: TcpState::FinWait2, ..as_seen }, 0),
            (as_seen, 600_000),
            (Stuck { cookie: as_seen.cookie + 1, ..as_seen }, 0),
            (Stuck { fd, ..as_seen }, 0),
            (stuck(&healthy, TcpState::Established), 0),
            (stuck(&healthy, TcpState::CloseWait), 0),
            (Stuck { cookie, fd, local, remote, state: TcpState::Listen }, 0),
            (Stuck { cookie, fd, local, remote, state: TcpState::CloseWait }, 0),
        ] {
            let mut aid = closing(vec![wrong], silent_ms);
            give(&own(), &mut aid);
            assert!(!aid.done && aid.error.as_ref().unwrap().contains("no longer as"), "{aid:?}");
        }
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        TcpStream::connect(local).unwrap();
    }

    /// The kernel itself compares the cookie.
    #[test]
    fn another_socket_between_the_same_ends_is_not_meant() {
        if !may("CAP_NET_ADMIN") {
            return skip("CAP_NET_ADMIN is missing");
        }
        let (mut ours, doomed) = closed_by_the_peer();
        let (mut source, _) = Source::of(&own()).unwrap();
        let mut socket = source.one(doomed.local, doomed.remote, doomed.cookie).unwrap();
        socket.cookie += 1;
        assert!(source.end(&socket).is_err());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    /// A child that has the same socket, until its input ends.
    struct Sharer(Child);

    impl Sharer {
        fn of(stream: &TcpStream) -> Self {
            let shared = stream.try_clone().unwrap();
            let mut command = Command::new("sh");
            // Once more as its stdout: that is inherited.
            command
                .args(["-c", "read line"])
                .stdin(Stdio::piped())
                .stdout(Stdio::from(std::os::fd::OwnedFd::from(shared)));
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Sharer {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn what_another_process_holds_too_is_left_alone() {
        let (mut ours, doomed) = closed_by_the_peer();
        let sharer = Sharer::of(&ours);
        let mut aid = closing(vec![doomed], 0);
        give(&own(), &mut aid);
        let pid = sharer.0.id().to_string();
        assert!(!aid.done && aid.error.as_ref().unwrap().contains(&pid), "{aid:?}");
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    /// A child of ours, with a limit of its own.
    fn limited(soft: u64, hard: u64) -> Sharer {
        let mut command = Command::new("sh");
        let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; echo ready; read line");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        Sharer(child)
    }

    fn raising(soft: u64, hard: u64, to: u64, hard_to: Option<u64>) -> FirstAid {
        step(Cause::FdLeak, Step::RaiseFdLimit { soft, hard, to, hard_to })
    }

    #[test]
    fn a_limit_is_raised_in_the_running_process() {
        let child = limited(64, 128);
        let target = Target::new(child.0.id()).unwrap();
        let mut aid = raising(64, 128, 100, None);
        give(&target, &mut aid);
        assert!(aid.done && aid.error.is_none(), "{aid:?}");
        let after = aid.after.unwrap();
        assert_eq!(
            (aid.before.unwrap().soft_limit, after.soft_limit, after.hard_limit),
            (Some(64), Some(100), Some(128))
        );

        // What was seen is not what is there any more.
        let mut stale = raising(64, 128, 90, None);
        give(&target, &mut stale);
        assert!(!stale.done && stale.error.unwrap().contains("meanwhile"));
        assert_eq!(limits(&target).unwrap().soft_limit, Some(100));

        let mut hard = raising(100, 128, 256, Some(256));
        give(&target, &mut hard);
        if may("CAP_SYS_RESOURCE") {
            assert_eq!(hard.after.unwrap().hard_limit, Some(256));
        } else {
            assert!(!hard.done && hard.error.unwrap().contains("CAP_SYS_RESOURCE"));
            assert_eq!(limits(&target).unwrap().hard_limit, Some(128));
        }
        // The step may be withheld.
        let mut withheld = FirstAid { withheld: Some("not this one".to_owned()), ..raising(100, 128, 110, None) };
        give(&target, &mut withheld);
        assert_eq!((withheld.done, withheld.before), (false, None));
    }

    #[test]
    fn what_this_watcher_may_not_do_is_withheld() {
        let watcher = |capabilities: &[&'static str]| Watcher {
            uid: 0,
            capabilities: capabilities.to_vec(),
            ptrace_scope: None,
            hidepid: None,
            first_user_namespace: Some(true),
        };
        let soft = raising(64, 128, 100, None).step;
        let hard = raising(128, 128, 256, Some(256)).step;
        let close = closing(vec![closed_by_the_peer().1], 0).step;
        let none = watcher(&[]);
        assert_eq!(cannot(&none, true, &soft), None);
        for (own, step, lacks) in
            [(false, &soft, "CAP_SYS_RESOURCE"), (true, &hard, "CAP_SYS_RESOURCE"), (true, &close, "CAP_NET_ADMIN")]
        {
            let why = cannot(&none, own, step).unwrap();
            assert!(why.contains(&format!("give root {lacks}")), "{why}");
            assert_eq!(cannot(&watcher(&[lacks]), own, step), None);
        }
        let inner = Watcher { first_user_namespace: Some(false), ..watcher(&["CAP_SYS_RESOURCE"]) };
        assert!(cannot(&inner, true, &hard).unwrap().contains("user namespace"));

        // As this very test may, of a child of its own.
        let child = limited(64, 64);
        let target = Target::new(child.0.id()).unwrap();
        let mut steps = [raising(64, 64, 128, Some(128)), raising(64, 128, 100, None)];
        withhold(&target, &mut steps);
        let may_hard = may("CAP_SYS_RESOURCE") && Watcher::here().first_user_namespace != Some(false);
        assert_eq!([steps[0].withheld.is_none(), steps[1].withheld.is_none()], [may_hard, true], "{steps:?}");
    }

    #[test]
    fn of_one_that_is_gone_nothing_is_changed() {
        let child = limited(64, 128);
        let target = Target::new(child.0.id()).unwrap();
        drop(child);
        for mut aid in [raising(64, 128, 100, None), closing(vec![closed_by_the_peer().1], 0)] {
            give(&target, &mut aid);
            assert!(!aid.done && aid.error.is_some(), "{aid:?}");
        }
    }
}
