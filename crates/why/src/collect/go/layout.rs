//! Where the runtime's structures hold what is read: the one thing that changes with each release of Go.
//!
//! From the program's own debug information where it has any; else from this table, which was made by asking the debug
//! information of programs built with each release (a test builds them again). A release without an entry is not guessed.

/// Offsets in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) g: G,
    pub(super) p: P,
    pub(super) sched: Sched,
    pub(super) heap: Heap,
    /// In `mstats`: `numgc`, 32 bits.
    pub(super) collections: u32,
    /// In `moduledata`: `gofunc`.
    pub(super) functions_data: u32,
}

/// In `g`, a goroutine. Its stack's bounds come first in it, in every release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct G {
    pub(super) sp: u32,
    pub(super) pc: u32,
    pub(super) status: u32,
    pub(super) id: u32,
    pub(super) wait_since: u32,
    pub(super) wait_reason: u32,
    pub(super) created_at: u32,
    pub(super) starts_at: u32,
    /// The first of its places in queues: a `sudog`.
    pub(super) queued: u32,
    /// In `sudog`: the channel whose queue it is.
    pub(super) channel: u32,
}

/// In `p`, a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct P {
    pub(super) status: u32,
    pub(super) queue_head: u32,
    pub(super) queue_tail: u32,
    pub(super) next: u32,
    pub(super) free: u32,
}

/// In `schedt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sched {
    pub(super) lock: u32,
    pub(super) idle_ps: u32,
    pub(super) queue_len: u32,
    pub(super) system: u32,
    /// Dead goroutines that wait for reuse, with a stack and without.
    pub(super) free: [Option<u32>; 2],
}

/// In `gcControllerState`, 64 bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heap {
    pub(super) in_use: u32,
    pub(super) marked: u32,
}

impl Layout {
    /// That of a release, for amd64.
    pub(super) const fn of(release: (u16, u16)) -> Option<Self> {
        let (1, minor @ 21..=27) = release else { return None };
        let (status, created_at) = match minor {
            21 | 22 => (144, 280),
            23 | 24 => (152, 288),
            25 => (144, 280),
            _ => (144, 288),
        };
        let queue_head = match minor {
            23..=25 => 392,
            _ => 400,
        };
        let sched = match minor {
            21..=24 => Sched { lock: 24, idle_ps: 88, queue_len: 120, system: 72, free: [Some(184), None] },
            25 => Sched { lock: 32, idle_ps: 96, queue_len: 128, system: 80, free: [Some(184), Some(200)] },
            _ => Sched { lock: 32, idle_ps: 112, queue_len: 144, system: 96, free: [Some(200), Some(216)] },
        };
        Some(Self {
            g: G {
                sp: 56,
                pc: 64,
                status,
                id: status + 8,
                wait_since: status + 24,
                wait_reason: status + 32,
                created_at,
                starts_at: created_at + 16,
                queued: created_at + 32,
                channel: if minor < 26 { 80 } else { 96 },
            },
            p: P {
                status: 4,
                queue_head,
                queue_tail: queue_head + 4,
                next: queue_head + 2056,
                free: queue_head + 2072,
            },
            sched,
            heap: Heap { in_use: 272, marked: 152 },
            collections: if minor < 25 { 7704 } else { 7680 },
            functions_data: if minor < 27 { 320 } else { 344 },
        })
    }
}

/// How many bytes of a `g` have to be read.
pub(super) const fn span(g: &G) -> usize {
    let mut end = g.starts_at + 8;
    let ends = [
        g.sp + 8,
        g.pc + 8,
        g.status + 4,
        g.id + 8,
        g.wait_since + 8,
        g.wait_reason + 1,
        g.created_at + 8,
        g.queued + 8,
    ];
    let mut rest: &[u32] = &ends;
    while let Some((other, others)) = rest.split_first() {
        if *other > end {
            end = *other;
        }
        rest = others;
    }
    end as usize
}
