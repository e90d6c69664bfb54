//! The lives of TCP connections, the first bytes of what is said over them, and lookups of names.
//!
//! The kernel's half (`connections.bpf.c`) keeps what it knows of a connection with its socket, and counts. Here comes
//! only what is rare: first bytes, and ends. Both halves are bounded, and count what they leave out.

mod dns;
mod http;
mod http2;
mod lives;
mod raw;
mod redis;
mod tls;

use std::io::{self, Read as _};

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Iter, tp_btf::BtfTracePointLinkId},
};
use rustix::time::{ClockId, clock_gettime};

use self::{
    lives::{Epoch, Lives},
    raw::{Event, RawConnection},
};
use super::{
    Target,
    bpf::{Kernel, maps_bytes, refused},
    cost::{Count, Part},
    window::Overlap,
};
use crate::observation::{self, Hidden};

pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("connections/connections.bpf.o");

/// Entries of the ring that one look takes at most; it holds about ten thousand of the smallest.
const LOOK_MAX: usize = 20_000;
/// Sockets that are handed over in the end, at most.
const HELD_MAX: u64 = 65_536;
/// What is not visible where the kernel did not tell of them.
const HELD: &str = "open connections, as they are now";
/// What is always watched: rare, each of them.
const RARE: [(&str, &str); 4] = [
    ("state_changed", "inet_sock_set_state"),
    ("retransmitted", "tcp_retransmit_skb"),
    ("reset_received", "tcp_receive_reset"),
    ("reset_sent", "tcp_send_reset"),
];
/// Every read and write. At a third of a microsecond each, these are the cost of the watch.
const TRANSFERS: [(&str, &str); 2] = [("sent", "sock_send_length"), ("received", "sock_recv_length")];

/// Reads and writes in a second, of all that the process does; beyond that they are watched in windows. So many cost
/// three to four milliseconds in a second.
const TRANSFERS_MAX: u64 = 10_000;
/// Less time than this says nothing about a rate, in nanoseconds.
const RATE_AFTER: u64 = 20_000_000;

/// `struct shared` of `connections.bpf.c`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Shared {
    opened: u64,
    accepted: u64,
    closed: u64,
    reset_by_peer: u64,
    reset_by_us: u64,
    little_work: u64,
    dropped: u64,
    untold: u64,
    unseen: u64,
    unfollowed: u64,
    followed: u64,
    budgets: [u64; 8],
    lives: [u64; 40],
}

/// `struct watch` of `connections.bpf.c`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Watch {
    begun: u64,
    since: u64,
}

#[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
// SAFETY: integers only, all of one size.
unsafe impl Pod for Shared {}

#[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
// SAFETY: integers only, all of one size.
unsafe impl Pod for Watch {}

/// Whether every read and write is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transfers {
    /// The kernel does not tell of them.
    Unseen,
    /// All the time.
    Always,
    /// They are too many: in windows.
    Windows,
    /// No more: even that cost too much.
    GivenUp,
}

/// When a window began.
#[derive(Clone, Copy, Debug)]
struct First {
    counts: Option<Shared>,
    /// For how long reads and writes had been watched, in nanoseconds.
    watched: u64,
    /// There was a time in the window when they were not.
    gaps: bool,
}

/// The connections that the process holds, as the kernel told of them last.
#[derive(Debug, Default)]
struct Held {
    connections: Vec<RawConnection>,
    /// When that was.
    at: u64,
    /// There was no room for them.
    left_out: u64,
}

/// Watches the connections of one process. When it is dropped, everything is detached and freed.
pub struct Connections {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    shared: Array<MapData, Shared>,
    ports: Array<MapData, u64>,
    watching: Array<MapData, Watch>,
    counter: PerCpuArray<MapData, u64>,
    transfers: Transfers,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    /// When the programs for reads and writes were attached, and how many there had been by then.
    since: u64,
    counted: u64,
    /// For how long they were, before that, in nanoseconds.
    watched: u64,
    lives: Lives,
    held: Held,
    first: Overlap<First>,
    /// The monotonic clock when the watch began, in nanoseconds: the earliest that any look implies.
    epoch: u64,
    /// Memory of all maps.
    bytes: u64,
    hidden: Vec<Hidden>,
}

impl Connections {
    /// Begins to watch.
    ///
    /// # Errors
    /// When BPF is not allowed, or this kernel has not what it takes.
    pub fn attach(kernel: &Kernel, target: &Target) -> Result<Self, Hidden> {
        let mut ebpf = kernel.load(OBJECT, target)?;
        let bytes = maps_bytes(&ebpf);
        let mut map = |name| ebpf.take_map(name).ok_or_else(|| missing("map"));
        let (events, shared, ports) = (map("events")?, map("shared")?, map("ports")?);
        let (watching, counter) = (map("watching")?, map("transfers")?);
        let mut this = Self {
            events: RingBuf::try_from(events).map_err(refused)?,
            shared: Array::try_from(shared).map_err(refused)?,
            ports: Array::try_from(ports).map_err(refused)?,
            watching: Array::try_from(watching).map_err(refused)?,
            counter: PerCpuArray::try_from(counter).map_err(refused)?,
            ebpf,
            transfers: Transfers::Always,
            links: Vec::new(),
            since: 0,
            counted: 0,
            watched: 0,
            lives: Lives::default(),
            held: Held::default(),
            first: Overlap::new(First { counts: None, watched: 0, gaps: false }),
            epoch: now(),
            bytes,
            hidden: Vec::new(),
        };
        for (name, event) in RARE {
            let program: &mut BtfTracePoint = this.program(name)?;
            program.load(event, kernel.btf).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        // What is there already is made known before a read or write can be taken for something new.
        let program: &mut Iter = this.program("held")?;
        program.load("task_file", kernel.btf).map_err(refused)?;
        this.held = this.ask()?;
        this.watching.set(0, Watch { begun: 1, since: 0 }, 0).map_err(refused)?;
        let transfers = TRANSFERS.iter().try_for_each(|(name, event)| {
            let program: &mut BtfTracePoint = this.program(name)?;
            program.load(event, kernel.btf).map_err(refused)
        });
        if let Err(hidden) = transfers.and_then(|()| this.attach_transfers()) {
            this.transfers = Transfers::Unseen;
            let what = "first bytes of connections, and when they were read and written".to_owned();
            this.hidden.push(Hidden { what, how: "use a kernel from 6.3 on".to_owned(), ..hidden });
        }
        Ok(this)
    }

    /// The watch begins now: moments count from here, however long the attaching took. What came before counts as then.
    pub fn begin(&mut self) {
        self.epoch = now();
    }

    /// Takes what has come since the last look; `at_us` is the time since the watch began. To be called a few times in
    /// each second: what comes between must fit into the ring, else it is dropped and counted.
    ///
    /// Where the process reads and writes so often that watching it would slow it, this is left to [windows].
    ///
    /// [windows]: Self::window
    pub fn look(&mut self, at_us: u64) {
        self.epoch = self.epoch.min(now().saturating_sub(at_us.saturating_mul(1000)));
        if self.transfers == Transfers::Always && self.rate().is_some_and(|rate| rate > TRANSFERS_MAX) {
            self.transfers = Transfers::Windows;
            self.first.both().for_each(|window| window.gaps = true);
            self.detach_transfers();
        }
        self.drain();
    }

    /// Begins and ends a window, which should last some 40 ms in each half second. It changes nothing for a process whose
    /// reads and writes are watched all the time.
    pub fn window(&mut self, open: bool) {
        if self.transfers != Transfers::Windows || open != self.links.is_empty() {
            return;
        }
        if open {
            // It was possible before; should it not be now, the time watched tells.
            if self.attach_transfers().is_err() {
                self.detach_transfers();
            }
        } else if self.rate().is_some_and(|rate| rate < TRANSFERS_MAX / 2) {
            self.transfers = Transfers::Always;
        } else {
            self.detach_transfers();
        }
    }

    /// Tells of a port that the process listens on, where the programs do not see that themselves: the listener of
    /// MPTCP, which Go's are, is no TCP socket to them, and what it accepts is.
    pub fn listens_on(&mut self, port: u16) {
        let word = u32::from(port >> 6);
        let bits = self.ports.get(&word, 0).unwrap_or(0) | 1 << (port & 63);
        // A port that is not entered makes its connections those of an unknown side.
        let _ = self.ports.set(word, bits, 0);
    }

    /// What could not be seen, at the last look.
    #[must_use]
    pub fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }

    /// Events that were lost so far because the ring was full, or left out because they were too many.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.get(&0, 0).map_or(0, |shared| shared.dropped) + self.lives.left_out + self.held.left_out
    }

    /// Memory that the kernel holds for it, but for what it keeps with each connection.
    #[must_use]
    pub const fn map_bytes(&self) -> u64 {
        self.bytes
    }

    /// What the kernel has counted of its programs.
    pub(super) fn counts(&self) -> [Count; 2] {
        // What is rare is taken to be the process's, all of it.
        let rare = Count::of(Part::Lives, &self.ebpf, &RARE.map(|(name, _)| name), None);
        let transfers = TRANSFERS.map(|(name, _)| name);
        [rare, Count::of(Part::Transfers, &self.ebpf, &transfers, Some(self.transferred()))]
    }

    /// Detaches what costs too much, for good. What was seen so far is kept.
    pub(super) fn give_up(&mut self, part: Part) {
        match part {
            Part::Transfers => {
                self.detach_transfers();
                self.first.both().for_each(|first| first.gaps = true);
                if self.transfers != Transfers::Unseen {
                    self.transfers = Transfers::GivenUp;
                }
            }
            Part::Lives => {
                for (name, _) in RARE {
                    if let Ok(program) = self.program::<BtfTracePoint>(name) {
                        let _ = program.unload();
                    }
                }
            }
            Part::Calls | Part::Samples => {}
        }
    }

    /// Another window begins. What ended before `begin_us`, when the one that is shown now began, is forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.drain();
        self.look_at_held();
        let counts = self.shared.get(&0, 0).ok();
        let gaps = self.transfers != Transfers::Always;
        self.first.turn(First { counts, watched: self.watched(), gaps });
        let begin = self.at(begin_us);
        self.lives.turn(&self.held.connections, begin);
    }

    /// What was seen in a window that began at `begin_us`, the worst connections first.
    #[must_use]
    pub fn observed(&mut self, begin_us: u64) -> observation::Connections {
        let is_new = self.look_at_held();
        self.drain();
        // Of the time since the kernel told of them nothing is known: not that they were silent.
        let now = if is_new { now() } else { self.held.at };
        let first = *self.first.shown();
        let watched = self.watched().saturating_sub(first.watched);
        let transfers_us = (self.transfers != Transfers::Unseen).then_some(watched / 1000);
        let all_transfers = !first.gaps && self.transfers == Transfers::Always;
        let is_listener = |port: u16| {
            let word = self.ports.get(&u32::from(port >> 6), 0).unwrap_or(0);
            word >> (port & 63) & 1 == 1
        };
        let held = &self.held.connections;
        let seen = self.lives.observed(held, now, Epoch(self.at(begin_us)), is_listener, all_transfers);
        let Ok(counts) = self.shared.get(&0, 0) else { return seen };
        let counts = first.counts.map_or(counts, |first| counts.since(&first));
        observation::Connections {
            opened: counts.opened,
            accepted: counts.accepted,
            closed: counts.closed,
            reset_by_peer: counts.reset_by_peer,
            reset_by_us: counts.reset_by_us,
            little_work: counts.little_work,
            life_median_us: median(&counts.lives),
            untold: counts.untold,
            unfollowed: counts.unfollowed,
            not_looked_at: counts.unseen,
            transfers_us,
            ..seen
        }
    }

    /// A time of the watch on the monotonic clock, in nanoseconds.
    const fn at(&self, at_us: u64) -> u64 {
        self.epoch.saturating_add(at_us.saturating_mul(1000))
    }

    /// For how long reads and writes have been watched, in nanoseconds.
    fn watched(&self) -> u64 {
        self.watched + if self.links.is_empty() { 0 } else { now().saturating_sub(self.since) }
    }

    fn drain(&mut self) {
        for _ in 0..LOOK_MAX {
            let Some(entry) = self.events.next() else { break };
            if let Some(event) = Event::read(&entry) {
                self.lives.take(event);
            }
        }
    }

    /// Looks at all connections that the process holds. Where the kernel does not tell, those of the last time stay.
    fn look_at_held(&mut self) -> bool {
        self.hidden.retain(|hidden| hidden.what != HELD);
        let asked = self.ask().map(|held| self.held = held);
        asked
            .map_err(|why| self.hidden.push(Hidden { what: HELD.to_owned(), how: "watch again".to_owned(), ..why }))
            .is_ok()
    }

    /// Asks the kernel for all connections that the process holds.
    fn ask(&mut self) -> Result<Held, Hidden> {
        let program: &mut Iter = self.program("held")?;
        let link = program.attach().map_err(refused)?;
        let mut file = program.take_link(link).map_err(refused)?.into_file().map_err(refused)?;
        let mut bytes = Vec::new();
        let size = RawConnection::SIZE as u64;
        file.by_ref().take(HELD_MAX * size).read_to_end(&mut bytes).map_err(refused)?;
        let left_out = io::copy(&mut file, &mut io::sink()).map_err(refused)? / size;
        let connections = bytes.chunks_exact(RawConnection::SIZE).filter_map(RawConnection::read).collect();
        Ok(Held { connections, at: now(), left_out })
    }

    fn attach_transfers(&mut self) -> Result<(), Hidden> {
        for (name, _) in TRANSFERS {
            let program: &mut BtfTracePoint = self.program(name)?;
            let link = program.attach().map_err(refused)?;
            self.links.push((name, link));
        }
        self.since = now();
        self.counted = self.transferred();
        self.watching.set(0, Watch { begun: 1, since: self.since }, 0).map_err(refused)
    }

    fn detach_transfers(&mut self) {
        if self.links.is_empty() {
            return;
        }
        self.watched += now().saturating_sub(self.since);
        for (name, link) in std::mem::take(&mut self.links) {
            // A link that is gone is what is wanted.
            if let Ok(program) = self.program::<BtfTracePoint>(name) {
                program.detach(link).ok();
            }
        }
    }

    /// Reads and writes in a second since they are watched; `None` when that is too short to tell.
    fn rate(&self) -> Option<u64> {
        let time = now().saturating_sub(self.since);
        (time >= RATE_AFTER)
            .then(|| self.transferred().saturating_sub(self.counted).saturating_mul(1_000_000_000) / time)
    }

    /// Reads and writes so far.
    fn transferred(&self) -> u64 {
        self.counter.get(&0, 0).map_or(0, |counts| counts.iter().sum())
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Hidden>
    where
        P: 'a,
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        self.ebpf.program_mut(name).ok_or_else(|| missing("program"))?.try_into().map_err(refused)
    }
}

fn missing(what: &str) -> Hidden {
    refused(io::Error::other(format!("a {what} is missing in the object")))
}

impl Shared {
    /// What was counted since; but for what is counted of this moment (`followed`, `budgets`).
    fn since(mut self, first: &Self) -> Self {
        let Self { opened, accepted, closed, reset_by_peer, reset_by_us, little_work, .. } = first;
        let Self { dropped, untold, unseen, unfollowed, .. } = first;
        for (now, before) in [
            (&mut self.opened, opened),
            (&mut self.accepted, accepted),
            (&mut self.closed, closed),
            (&mut self.reset_by_peer, reset_by_peer),
            (&mut self.reset_by_us, reset_by_us),
            (&mut self.little_work, little_work),
            (&mut self.dropped, dropped),
            (&mut self.untold, untold),
            (&mut self.unseen, unseen),
            (&mut self.unfollowed, unfollowed),
        ]
        .into_iter()
        .chain(self.lives.iter_mut().zip(&first.lives))
        {
            *now = now.saturating_sub(*before);
        }
        self
    }
}

/// The middle of a histogram whose bucket n holds 2^n up to 2^(n+1) microseconds, to the precision of the bucket.
fn median(buckets: &[u64]) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    let mut seen = 0;
    let bucket = buckets.iter().position(|count| {
        seen += count;
        all > 0 && seen * 2 >= all
    })?;
    // The bucket's middle.
    Some((3_u64 << bucket) >> 1)
}

/// The monotonic clock, which BPF reads, too; in nanoseconds.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    use super::*;

    /// Entries of the ring, each with its length before it; then the end of the watch.
    pub fn heads(mut bytes: &[u8]) {
        let mut lives = Lives::default();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (entry, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
            bytes = rest;
            if let Some(event) = Event::read(entry) {
                lives.take(event);
            }
        }
        let seen = lives.observed(&[], 1_000_000_000, Epoch(1000), |port| port == 443, false);
        for connection in &seen.connections {
            std::hint::black_box(crate::timeline::stages(connection, 1_000_000));
        }
    }
}
