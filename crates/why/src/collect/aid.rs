//! First aid is given: the one place that changes anything in what is watched, and only when somebody who was asked said
//! so (`overdue why --allow-changes`).
//!
//! What was planned is looked at again right before. What is no longer as it was seen, or is also another process's, is
//! left alone, and said.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
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
    sockets::{self, source::Source},
    watch::pidfd,
};
use crate::aid::{FirstAid, State, Step, Stuck, is_stuck};

/// Processor time for finding out who else holds a connection, microseconds: 1,000 processes take some 20 ms.
const SEARCH_US: u64 = 2_000_000;
/// Descriptors of one process that are looked at.
const DESCRIPTORS: usize = 200_000;
/// How long a program has to close what it was told of, before it is said that it did not.
const REACTION: Duration = Duration::from_secs(1);
/// From one look at that to the next.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

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
    if let Err(errno) = set_limit(target, to) {
        aid.error = Some(match errno {
            Errno::PERM if to.1 > seen.1 => {
                "not permitted: to raise a hard limit takes CAP_SYS_RESOURCE (and no limit is above fs.nr_open)"
                    .to_owned()
            }
            Errno::PERM => "not permitted: run as the same user, or as root (CAP_SYS_RESOURCE)".to_owned(),
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

fn set_limit(target: &Target, (soft, hard): (u64, u64)) -> Result<(), Errno> {
    let pid = i32::try_from(target.pid()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    // There is no such call by a descriptor of the process. Its number is its own as long as it lives.
    if !target.is_alive() {
        return Err(Errno::SRCH);
    }
    let word = |value: u64| (value != u64::MAX).then_some(value);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: word(soft), maximum: word(hard) }).map(|_| ())
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
    let mut changed = 0_u64;
    let ready: Vec<InetSocket> = sockets
        .iter()
        .filter_map(|stuck| {
            let now = again(&mut source, target, stuck, aid.cause, silent_ms);
            changed += u64::from(now.is_none());
            now
        })
        .collect();
    aid.before = Some(State { stuck: Some(ready.len() as u64), open: open(target), ..State::default() });
    let mut left = Vec::new();
    if changed > 0 {
        left.push(format!("{changed} are no longer as they were seen"));
    }
    let mut shared = 0_u64;
    let mut failed: HashMap<String, u64> = HashMap::new();
    let mut ended: Vec<InetSocket> = Vec::new();
    match holders(target, ready.iter().map(|socket| socket.inode).collect()) {
        Ok(others) => {
            for socket in ready {
                if others.contains_key(&socket.inode) {
                    shared += 1;
                    continue;
                }
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

/// Which other processes hold these sockets. An error where some could not be looked into: then nobody can tell.
fn holders(target: &Target, inodes: HashSet<u32>) -> Result<HashMap<u32, Vec<u32>>, String> {
    let mut found: HashMap<u32, Vec<u32>> = HashMap::new();
    if inodes.is_empty() {
        return Ok(found);
    }
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
            Err(err) if process.is_alive() => {
                return Err(unknown(format!("process {pid} may not be looked into ({err}); run as root")));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn open(target: &Target) -> Option<u64> {
    descriptors::folder(target).ok().as_ref().and_then(descriptors::count_of)
}

fn refusal(err: &io::Error) -> String {
    match Errno::from_io_error(err) {
        Some(Errno::PERM) => "not permitted: it takes CAP_NET_ADMIN in the network namespace of the process".to_owned(),
        Some(Errno::OPNOTSUPP) => "this kernel cannot (CONFIG_INET_DIAG_DESTROY)".to_owned(),
        Some(Errno::NOENT | Errno::STALE) => "it ended meanwhile".to_owned(),
        _ => err.to_string(),
    }
}
