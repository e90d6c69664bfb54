//! Who is watched: its name, program, command line, age, and whether it ended or became another program.

mod command;

pub(super) use command::hide_in_path;

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use rustix::fs::readlinkat;

use super::{
    Target, clock,
    descriptors::{self, Named},
    patience::{self, patiently},
    stat::{self, Stat},
    tiers,
    window::Overlap,
};
use crate::observation::{Child, Ending, Hidden, Process, Runtime};

/// Bytes of the command line that are read, and parts of it that are kept.
const COMMAND_BYTES: usize = 64 * 1024;
const COMMAND_PARTS: usize = 256;
/// Threads whose names are looked at, and whose children are asked for.
const THREADS: usize = 256;
/// Children that are looked at, descriptors of each, and children that are told of.
const CHILDREN: usize = 256;
const CHILD_DESCRIPTORS: usize = 4_096;
const CHILDREN_KEPT: usize = 8;

/// Collects [`Process`].
#[derive(Debug)]
pub struct Collector {
    target: Target,
    seen: Process,
    /// Where the stack began: another place after each `execve`.
    stack_at: u64,
    /// Processor time that its children had used when a window began.
    children_cpu_us: Overlap<HashMap<u32, u64>>,
    not_visible: Vec<Hidden>,
}

impl Collector {
    /// Looks at the process for the first time.
    ///
    /// # Errors
    /// When not even its `stat` can be read: it has ended.
    pub fn attach(target: &Target) -> Result<Self, Hidden> {
        let stat = read_stat(target).ok_or_else(|| Hidden {
            what: "process".to_owned(),
            why: format!("/proc/{}/stat cannot be read: the process has ended", target.pid()),
            how: "watch a process that runs".to_owned(),
        })?;
        let mut this = Self {
            target: target.clone(),
            seen: Process { pid: target.pid(), name: stat.name.clone(), age_us: age_us(&stat), ..Process::default() },
            stack_at: stat.stack_at,
            children_cpu_us: Overlap::new(children_cpu_us(target)),
            not_visible: Vec::new(),
        };
        this.identify();
        Ok(this)
    }

    /// What the process is now; the first time, and after each `execve`.
    fn identify(&mut self) {
        self.not_visible.clear();
        let target = self.target.clone();
        let read = patiently("command line and program", patience::LIMIT, move || {
            let exe = readlinkat(target.folder(), target.shared("exe"), Vec::new());
            (target.read_text(&target.shared("cmdline"), COMMAND_BYTES), exe)
        });
        match read {
            Ok((command, exe)) => {
                self.seen.command = command.map(|text| command::parse(&text, COMMAND_PARTS)).unwrap_or_default();
                match exe {
                    Ok(exe) => self.seen.exe = Some(exe.to_string_lossy().into_owned()),
                    // A thread of the kernel has none.
                    Err(rustix::io::Errno::NOENT) => self.seen.exe = None,
                    Err(err) => self.not_visible.push(Hidden {
                        what: "program".to_owned(),
                        why: format!("/proc/{}/exe: {err}", self.target.pid()),
                        how: tiers::to_look_into(&self.target, false),
                    }),
                }
            }
            Err(hidden) => self.not_visible.push(hidden),
        }
        self.seen.runtime = runtime(self.seen.exe.as_deref(), &thread_names(&self.target));
    }

    /// Sees whether it is still the same program.
    pub fn look(&mut self, at_us: u64) {
        let Some(stat) = read_stat(&self.target) else { return };
        if stat.stack_at != self.stack_at && !stat.has_ended() {
            self.stack_at = stat.stack_at;
            self.seen.exec_at_us = Some(at_us);
            self.seen.name.clone_from(&stat.name);
            self.identify();
        }
    }

    /// It ended at that time; how, is asked for once.
    pub(super) fn ended(&mut self, at_us: u64, how: impl FnOnce() -> Option<Ending>) {
        if self.seen.ended_at_us.is_none() {
            self.seen.ended_at_us = Some(at_us);
            self.seen.ended = how();
        }
    }

    /// Another window begins.
    pub(super) fn turn(&mut self) {
        self.children_cpu_us.turn(children_cpu_us(&self.target));
    }

    /// What others found it to be written in: a Go version from its binary, say.
    pub fn set_runtime(&mut self, runtime: Runtime) {
        self.seen.runtime = runtime;
    }

    /// What is known of it so far.
    #[must_use]
    pub const fn seen(&self) -> &Process {
        &self.seen
    }

    /// What is known of it, in a window that began at `begin_us`.
    #[must_use]
    pub fn observed(&mut self, begin_us: u64, not_visible: &mut Vec<Hidden>) -> Process {
        not_visible.extend(self.not_visible.iter().cloned());
        not_visible.extend(unseen_tasks(&self.seen.runtime));
        let children = children(&self.target);
        let looked_at = children.iter().take(CHILDREN);
        let mut busiest: Vec<Child> = looked_at.filter_map(|&pid| child(pid, self.children_cpu_us.shown())).collect();
        busiest.sort_by_key(|child| (Reverse(child.cpu_us), Reverse(child.sockets), child.pid));
        busiest.truncate(CHILDREN_KEPT);
        Process {
            age_us: self.seen.age_us.map(|age| age.saturating_add(begin_us)),
            ended_at_us: self.seen.ended_at_us.map(|at| at.saturating_sub(begin_us)),
            exec_at_us: self.seen.exec_at_us.and_then(|at| at.checked_sub(begin_us)),
            children,
            busiest_children: busiest,
            ..self.seen.clone()
        }
    }
}

/// Tasks of tokio are memory like any other: nothing outside of the process tells how many there are.
fn unseen_tasks(runtime: &Runtime) -> Option<Hidden> {
    (*runtime == Runtime::Tokio).then(|| Hidden {
        what: "tokio's tasks: how many there are, and what they wait for".to_owned(),
        why: "they leave no mark outside of the program, unlike threads and goroutines".to_owned(),
        how: "ask the program: tokio-console, or the metrics of its runtime (`num_alive_tasks`)".to_owned(),
    })
}

fn read_stat(target: &Target) -> Option<Stat> {
    stat::parse(&target.read_text("stat", 4096).ok()?)
}

/// What a child has done since then. `None` of one that has ended.
fn child(pid: u32, before_us: &HashMap<u32, u64>) -> Option<Child> {
    let target = Target::new(pid).ok()?;
    let stat = read_stat(&target).filter(|stat| !stat.has_ended())?;
    let mut sockets = 0;
    let counted = descriptors::each(&target, CHILD_DESCRIPTORS, |_, named| {
        sockets += u64::from(matches!(named, Named::Socket(_)));
    });
    let cpu_us = cpu_us(&stat).saturating_sub(before_us.get(&pid).copied().unwrap_or_default());
    Some(Child { pid, name: stat.name, cpu_us, sockets: counted.ok().map(|_| sockets) })
}

/// What each child has used until now.
fn children_cpu_us(target: &Target) -> HashMap<u32, u64> {
    let of = |pid| Some((pid, cpu_us(&read_stat(&Target::new(pid).ok()?)?)));
    children(target).into_iter().take(CHILDREN).filter_map(of).collect()
}

fn cpu_us(stat: &Stat) -> u64 {
    stat::ticks_us(stat.user_ticks.saturating_add(stat.system_ticks))
}

fn age_us(stat: &Stat) -> Option<u64> {
    let started = Duration::from_micros(stat::ticks_us(stat.started_ticks));
    Some(clock::us(clock::since_boot().saturating_sub(started)))
}

fn thread_names(target: &Target) -> Vec<String> {
    let name = |tid: u32| target.read_text(&format!("task/{tid}/comm"), 64).ok();
    target
        .threads(THREADS)
        .unwrap_or_default()
        .into_iter()
        .filter_map(name)
        .map(|name| name.trim_end_matches('\n').to_owned())
        .collect()
}

fn children(target: &Target) -> Vec<u32> {
    let of = |tid: u32| target.read_text(&format!("task/{tid}/children"), 64 * 1024).unwrap_or_default();
    let mut found: Vec<u32> = target
        .threads(THREADS)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|tid| of(tid).split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    found.sort_unstable();
    found
}

/// What a program is written in, by its file's name and its threads' names. Go leaves no mark in either: its binary
/// tells, and whoever reads that says so by [`Collector::set_runtime`].
fn runtime(exe: Option<&str>, threads: &[String]) -> Runtime {
    let has = |prefix: &str| threads.iter().any(|name| name.starts_with(prefix));
    let exe = exe.map(|exe| exe.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or(exe));
    match exe {
        Some(exe) if exe.starts_with("python") || exe.starts_with("pypy") => Runtime::Python,
        Some("node" | "nodejs") => Runtime::Node,
        Some("java") => Runtime::Java,
        // The kernel cuts names after 15 bytes. The first is of tokio 1.44 and later, the second of those before.
        _ if has("tokio-rt-worker") || has("tokio-runtime-w") => Runtime::Tokio,
        // A program of its own name that has the virtual machine in it.
        _ if has("G1 Main Marker") || has("VM Periodic Tas") => Runtime::Java,
        _ if has("V8Worker") || has("DelayedTaskSche") => Runtime::Node,
        _ => Runtime::Native,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_by_their_marks() {
        let none: &[String] = &[];
        assert_eq!(runtime(Some("/usr/bin/python3.12"), none), Runtime::Python);
        assert_eq!(runtime(Some("/opt/node/bin/node (deleted)"), none), Runtime::Node);
        assert_eq!(runtime(Some("/usr/bin/java"), none), Runtime::Java);
        assert_eq!(runtime(None, &["x".to_owned(), "tokio-runtime-w".to_owned()]), Runtime::Tokio);
        assert_eq!(runtime(Some("/bin/sh"), none), Runtime::Native);
        assert!(unseen_tasks(&Runtime::Tokio).is_some() && unseen_tasks(&Runtime::Native).is_none());
    }
}
