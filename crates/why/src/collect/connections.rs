//! The lives of TCP connections, the first bytes of what is said over them, and lookups of names.
//!
//! The kernel's half (`connections.bpf.c`) keeps what it knows of a connection with its socket, and counts. Here comes
//! only what is rare: first bytes, and ends. Both halves are bounded, and count what they leave out.

mod dns;
mod http;
mod lives;
mod raw;
mod tls;

use std::io::Read as _;

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, RingBuf},
    programs::{BtfTracePoint, Iter},
};
use rustix::time::{ClockId, clock_gettime};

use self::{
    lives::{Epoch, Lives},
    raw::{Event, RawConnection},
};
use super::{
    Target,
    bpf::{Kernel, refused},
};
use crate::observation::{self, Hidden};

pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("connections/connections.bpf.o");

/// Entries of the ring that one look takes at most; it holds about ten thousand of the smallest.
const LOOK_MAX: usize = 20_000;
/// Sockets that are handed over in the end, at most.
const HELD_MAX: u64 = 65_536;
/// What is always watched: rare, each of them.
const RARE: [(&str, &str); 4] = [
    ("state_changed", "inet_sock_set_state"),
    ("retransmitted", "tcp_retransmit_skb"),
    ("reset_received", "tcp_receive_reset"),
    ("reset_sent", "tcp_send_reset"),
];
/// Every read and write.
const TRANSFERS: [(&str, &str); 2] = [("sent", "sock_send_length"), ("received", "sock_recv_length")];

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

#[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
// SAFETY: integers only, all of one size.
unsafe impl Pod for Shared {}

/// Watches the connections of one process. When it is dropped, everything is detached and freed.
pub struct Connections {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    shared: Array<MapData, Shared>,
    ports: Array<MapData, u64>,
    lives: Lives,
    /// The monotonic clock when the watch began, in nanoseconds: the earliest that any look implies.
    epoch: u64,
    hidden: Vec<Hidden>,
}

impl Connections {
    /// Begins to watch.
    ///
    /// # Errors
    /// When BPF is not allowed, or this kernel has not what it takes.
    pub fn attach(kernel: &Kernel, target: &Target) -> Result<Self, Hidden> {
        let mut ebpf = kernel.load(OBJECT, target)?;
        let missing = || refused(std::io::Error::other("a map is missing in the object"));
        let events = ebpf.take_map("events").ok_or_else(missing)?;
        let shared = ebpf.take_map("shared").ok_or_else(missing)?;
        let ports = ebpf.take_map("ports").ok_or_else(missing)?;
        let watching = ebpf.take_map("watching").ok_or_else(missing)?;
        let mut this = Self {
            events: RingBuf::try_from(events).map_err(refused)?,
            shared: Array::try_from(shared).map_err(refused)?,
            ports: Array::try_from(ports).map_err(refused)?,
            ebpf,
            lives: Lives::default(),
            epoch: now(),
            hidden: Vec::new(),
        };
        for (program, event) in RARE {
            this.attach_one(kernel, program, event)?;
        }
        // What is there already is made known before a read or write can be taken for something new.
        let program: &mut Iter = this.program("held")?;
        program.load("task_file", kernel.btf).map_err(refused)?;
        this.held()?;
        Array::<_, u32>::try_from(watching).and_then(|mut map| map.set(0, 1, 0)).map_err(refused)?;
        for (program, event) in TRANSFERS {
            if let Err(hidden) = this.attach_one(kernel, program, event) {
                let what = "first bytes of connections, and when they were read and written".to_owned();
                this.hidden.push(Hidden { what, how: "use a kernel from 6.3 on".to_owned(), ..hidden });
                break;
            }
        }
        Ok(this)
    }

    /// Takes what has come since the last look; `at_us` is the time since the watch began. To be called a few times in
    /// each second: what comes between must fit into the ring, else it is dropped and counted.
    pub fn look(&mut self, at_us: u64) {
        self.epoch = self.epoch.min(now().saturating_sub(at_us.saturating_mul(1000)));
        self.drain();
    }

    /// What could not be seen.
    #[must_use]
    pub fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }

    /// Events that were lost so far because the ring was full, or left out because they were too many.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.get(&0, 0).map_or(0, |shared| shared.dropped) + self.lives.left_out
    }

    /// Ends the watch and hands over what was seen, the worst connections first.
    #[must_use]
    pub fn finish(mut self) -> observation::Connections {
        let held = self.held().unwrap_or_default();
        self.drain();
        let Self { shared, ports, lives, epoch, .. } = self;
        let is_listener = |port: u16| {
            let word = ports.get(&u32::from(port >> 6), 0).unwrap_or(0);
            word >> (port & 63) & 1 == 1
        };
        let seen = lives.finish(held, now(), Epoch(epoch), is_listener);
        let Ok(counts) = shared.get(&0, 0) else { return seen };
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
            ..seen
        }
    }

    fn drain(&mut self) {
        for _ in 0..LOOK_MAX {
            let Some(entry) = self.events.next() else { break };
            if let Some(event) = Event::read(&entry) {
                self.lives.take(event);
            }
        }
    }

    /// Asks the kernel for all connections that the process holds.
    fn held(&mut self) -> Result<Vec<RawConnection>, Hidden> {
        let program: &mut Iter = self.program("held")?;
        let link = program.attach().map_err(refused)?;
        let file = program.take_link(link).map_err(refused)?.into_file().map_err(refused)?;
        let mut bytes = Vec::new();
        file.take(HELD_MAX * RawConnection::SIZE as u64).read_to_end(&mut bytes).map_err(refused)?;
        Ok(bytes.chunks_exact(RawConnection::SIZE).filter_map(RawConnection::read).collect())
    }

    fn attach_one(&mut self, kernel: &Kernel, program: &str, event: &str) -> Result<(), Hidden> {
        let program: &mut BtfTracePoint = self.program(program)?;
        program.load(event, kernel.btf).map_err(refused)?;
        program.attach().map_err(refused)?;
        Ok(())
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Hidden>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        let missing = || refused(std::io::Error::other("a program is missing in the object"));
        self.ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)
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
