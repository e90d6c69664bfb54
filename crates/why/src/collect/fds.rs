//! Open descriptors: how many over time, of which kind, against which limit.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use super::{
    Target,
    clock::Pace,
    descriptors::{self, Named},
    tiers,
    window::{self, Overlap},
};
use crate::observation::{FdKind, Fds, Hidden, Reading};

/// Readings that are kept; then every other one is dropped.
const READINGS: usize = 512;
/// Descriptors that are looked at one by one; more are counted only.
const CLASSIFIED: usize = 200_000;

/// Collects [`Fds`].
#[derive(Debug)]
pub struct Collector {
    target: Target,
    limits: Limits,
    open: Readings,
    first: Overlap<Kinds>,
    last: Kinds,
    /// The protocols of sockets by inode: an inode is one socket as long as it is open.
    protocols: HashMap<u64, &'static str>,
    counting: Pace,
    classifying: Pace,
    /// What kept the last look from being one.
    trouble: Option<io::Error>,
}

/// Descriptors by kind, with one of each as an example.
type Kinds = BTreeMap<&'static str, (u64, Option<String>)>;

impl Collector {
    /// Counts and classifies for the first time.
    ///
    /// # Errors
    /// When the table of descriptors may not be read.
    pub fn attach(target: &Target) -> Result<Self, Hidden> {
        let mut this = Self {
            target: target.clone(),
            limits: Limits::default(),
            open: Readings::default(),
            first: Overlap::default(),
            last: Kinds::new(),
            protocols: HashMap::new(),
            counting: Pace::default(),
            classifying: Pace::default(),
            trouble: None,
        };
        this.classifying.begin(0);
        this.classify(0).map_err(|err| hidden(target, &err))?;
        this.classifying.end(0);
        this.first = Overlap::new(this.last.clone());
        this.read_limits();
        Ok(this)
    }

    /// Counts; and now and then, the rarer the more there are, looks at each.
    pub fn look(&mut self, at_us: u64) {
        if self.classifying.begin(at_us) {
            self.trouble = self.classify(at_us).err();
            self.read_limits();
            self.classifying.end(at_us);
        } else if self.counting.begin(at_us) {
            self.trouble = self.count().map(|count| self.open.push(at_us, count)).err();
            self.counting.end(at_us);
        }
    }

    /// A look at each, whatever it costs.
    pub fn look_at_all(&mut self, at_us: u64) {
        if self.target.is_alive() {
            self.trouble = self.classify(at_us).err();
            self.read_limits();
        }
    }

    /// Another window begins. What was read before `begin_us`, when the one that is shown now began, is forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.first.turn(self.last.clone());
        window::forget(&mut self.open.readings, begin_us);
    }

    /// What was seen in a window that began at `begin_us`. Of a process that has ended that is what the last looks saw.
    #[must_use]
    pub fn observed(&self, begin_us: u64, not_visible: &mut Vec<Hidden>) -> Fds {
        if let Some(err) = self.trouble.as_ref().filter(|_| self.target.is_alive()) {
            let how = "watch again".to_owned();
            not_visible.push(Hidden {
                what: "the last look at descriptors".to_owned(),
                how,
                ..hidden(&self.target, err)
            });
        }
        let mut kinds: BTreeMap<&str, FdKind> = BTreeMap::new();
        for (kind, (count, example)) in &self.last {
            kinds.insert(kind, FdKind { kind: (*kind).to_owned(), first: 0, last: *count, example: example.clone() });
        }
        for (kind, (count, example)) in self.first.shown() {
            let entry = kinds.entry(kind).or_insert_with(|| FdKind { kind: (*kind).to_owned(), ..FdKind::default() });
            entry.first = *count;
            entry.example = entry.example.take().or_else(|| example.clone());
        }
        let mut by_kind: Vec<FdKind> = kinds.into_values().collect();
        by_kind.sort_by_key(|kind| std::cmp::Reverse((kind.last, kind.first)));
        Fds {
            soft_limit: self.limits.soft,
            hard_limit: self.limits.hard,
            open: window::since(self.open.readings.clone(), begin_us),
            by_kind,
            by_peer: Vec::new(),
            openers: None,
        }
    }

    fn read_limits(&mut self) {
        if let Some(limits) = Limits::of(&self.target) {
            self.limits = limits;
        }
    }

    fn count(&self) -> io::Result<u64> {
        let folder = descriptors::folder(&self.target)?;
        match descriptors::count_of(&folder) {
            Some(count) => Ok(count),
            None => Ok(descriptors::numbers(&folder, usize::MAX)?.len() as u64),
        }
    }

    fn classify(&mut self, at_us: u64) -> io::Result<()> {
        let mut kinds = Kinds::new();
        let mut known = HashMap::new();
        let (target, protocols) = (&self.target, &self.protocols);
        let count = descriptors::each(target, CLASSIFIED, |fd, named| {
            let (kind, example) = match named {
                Named::Socket(inode) => {
                    let protocol = protocols.get(&inode).copied();
                    let kind = protocol.unwrap_or_else(|| kind_of_socket(descriptors::protocol(target, fd).as_deref()));
                    known.insert(inode, kind);
                    (kind, None)
                }
                Named::Other(link) => {
                    let kind = descriptors::kind_of(link);
                    (kind, link.starts_with('/').then_some(link))
                }
            };
            let entry = kinds.entry(kind).or_default();
            entry.0 += 1;
            // The highest number is one of the newest: what grows, and not what was opened at the start.
            if let Some(example) = example.filter(|example| entry.1.as_deref() != Some(example)) {
                entry.1 = Some(example.to_owned());
            }
        })?;
        // A process that ends closes all before it is gone: that is no reading.
        if count == 0 && !self.target.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.open.push(at_us, count);
        self.last = kinds;
        self.protocols = known;
        Ok(())
    }
}

fn hidden(target: &Target, err: &io::Error) -> Hidden {
    Hidden {
        what: "descriptors".to_owned(),
        why: format!("/proc/{}/fd: {err}", target.pid()),
        how: tiers::to_look_into(target, false),
    }
}

/// By the name that the kernel gives the protocol.
fn kind_of_socket(protocol: Option<&str>) -> &'static str {
    match protocol {
        Some("TCP" | "TCPv6" | "MPTCP" | "MPTCPv6") => "tcp",
        Some("UDP" | "UDPv6" | "UDPLITE" | "UDP-Lite" | "UDPLITEv6") => "udp",
        Some(name) if name.starts_with("UNIX") => "unix",
        Some("NETLINK") => "netlink",
        _ => "socket",
    }
}

/// The limit of open descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Limits {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Limits {
    /// Those of a process.
    pub(super) fn of(target: &Target) -> Option<Self> {
        target.read_text("limits", 8192).ok().as_deref().and_then(Self::parse)
    }

    /// Reads `/proc/PID/limits`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let mut words = line.split_ascii_whitespace();
        let mut next = || match words.next()? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        };
        Some(Self { soft: next()?, hard: next()? })
    }
}

/// Numbers over time, a bounded number of them: the longer the watch, the further apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    pub(super) readings: Vec<Reading>,
}

impl Readings {
    pub(super) fn push(&mut self, at_us: u64, value: u64) {
        if self.readings.len() >= READINGS {
            let mut at = 0;
            self.readings.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
        match self.readings.last_mut() {
            Some(last) if last.at_us == at_us => last.value = value,
            _ => self.readings.push(Reading { at_us, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::collect::need::skip;

    #[test]
    fn limits_are_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 unlimited            files\n";
        assert_eq!(Limits::parse(text), Some(Limits { soft: 1024, hard: u64::MAX }));
        assert_eq!(Limits::parse("Max open files"), None);
    }

    /// Rights may be taken from the watcher, too, or the process may change its own.
    #[test]
    fn a_look_that_failed_is_said() {
        if !rustix::process::geteuid().is_root() {
            return skip("only root can give up the right to look");
        }
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let target = Target::new(child.id()).unwrap();
        let looks = std::thread::spawn(move || {
            let mut fds = Collector::attach(&target).unwrap();
            let nobody = rustix::process::Uid::from_raw(65534);
            // Of this thread alone; its capabilities go with it.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let mut hidden = Vec::new();
            fds.look_at_all(1);
            let seen = fds.observed(0, &mut hidden);
            (seen.open.len(), hidden)
        });
        let (readings, hidden) = looks.join().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let [hidden] = &hidden[..] else { panic!("{hidden:?}") };
        assert_eq!((readings, hidden.what.as_str()), (1, "the last look at descriptors"));
        assert!(hidden.why.contains("ermission denied"), "{hidden:?}");
    }

    #[test]
    fn a_long_watch_keeps_the_first_and_the_last_reading() {
        let mut open = Readings::default();
        for at in 0..5000 {
            open.push(at, at);
        }
        assert!(open.readings.len() <= READINGS);
        assert_eq!(open.readings.first().unwrap().at_us, 0);
        assert_eq!(open.readings.last().unwrap().at_us, 4999);
    }

    proptest! {
        #[test]
        fn garbage_is_read(text in "(Max open files)?[ a-z0-9\n]*") {
            let _ = Limits::parse(&text);
        }
    }
}
