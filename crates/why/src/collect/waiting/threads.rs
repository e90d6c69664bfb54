//! Where threads wait, by looks at all of them: registers and counters from the kernel, stacks from memory.

use std::collections::{BTreeMap, HashMap};

use crate::{
    collect::{
        stacks::{Registers, StackId, Stacks},
        tasks::{SeenThread, THREADS_MAX},
        window::Overlap,
    },
    observation::PollCall,
};

/// How many stacks are unwound at one look. Threads that have not moved since the last do not count.
const UNWOUND_MAX: usize = 256;

/// What is known of one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracked {
    pub(super) name: String,
    /// Where it waits, or waited last.
    pub(super) stack: Option<StackId>,
    pub(super) looked: Overlap<Looked>,
    /// The call it was in at the last look, when it waited then.
    pub(super) polls_now: Option<PollCall>,
    /// What tells one wait from the next.
    wait: Option<Wait>,
    waited_us: u64,
    last_us: u64,
}

/// Looks at one thread in a window.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// Those that found it, and those that found it inside of such a call.
    pub(super) looks: u32,
    pub(super) in_poll: BTreeMap<u32, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wait {
    ip: u64,
    sp: u64,
    bp: u64,
    switches: u64,
}

impl Wait {
    const fn of(seen: &SeenThread) -> Self {
        Self { ip: seen.ip, sp: seen.sp, bp: seen.bp, switches: seen.voluntary }
    }
}

/// Waits at one place by threads of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Waited {
    pub(super) waited_us: u64,
    pub(super) times: u64,
    pub(super) longest_us: u64,
}

/// All threads, over all looks.
#[derive(Default)]
pub(super) struct Looks {
    pub(super) threads: HashMap<u32, Tracked>,
    pub(super) waits: Overlap<HashMap<(StackId, String), Waited>>,
    pub(super) looks: u32,
    /// How many threads there were when the window began and at the last look.
    pub(super) first: Overlap<u64>,
    pub(super) last: u64,
    last_us: u64,
}

impl Looks {
    /// Looks at all threads.
    pub(super) fn look(&mut self, at_us: u64, threads: &[SeenThread], stacks: &mut Stacks) {
        if threads.is_empty() {
            return;
        }
        let moved = threads.iter().filter(|thread| self.has_moved(thread)).take(UNWOUND_MAX);
        let (tids, registers): (Vec<u32>, Vec<Registers>) = moved.map(|thread| (thread.tid, registers(thread))).unzip();
        let unwound: HashMap<u32, Option<StackId>> = tids.into_iter().zip(stacks.live(&registers)).collect();
        let before_us = std::mem::replace(&mut self.last_us, at_us);
        for thread in threads {
            self.enter(thread, before_us, at_us, || unwound.get(&thread.tid).copied().flatten());
        }
        // Those that have ended are kept for their names, as long as there is room.
        if self.threads.len() == THREADS_MAX {
            self.threads.retain(|_, thread| thread.last_us == at_us);
        }
        self.last = threads.len() as u64;
        if self.looks == 0 {
            self.first = Overlap::new(self.last);
        }
        self.looks += 1;
    }

    /// Another window begins. Threads that had ended before `begin_us`, when the one that is shown now began, are
    /// forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.waits.turn(HashMap::new());
        self.first.turn(self.last);
        self.threads.retain(|_, thread| thread.last_us == self.last_us || thread.last_us >= begin_us);
        self.threads.values_mut().for_each(|thread| thread.looked.turn(Looked::default()));
    }

    /// Whether the last look found that thread, as far as they were looked at.
    pub(super) fn is_there(&self, tid: u32) -> bool {
        self.looks == 0 || self.threads.get(&tid).is_some_and(|thread| thread.last_us == self.last_us)
    }

    /// All that are of use yet.
    pub(super) fn stacks(&mut self) -> impl Iterator<Item = StackId> {
        let waits = self.waits.both().flat_map(|waits| waits.keys()).map(|(stack, _)| *stack);
        waits.chain(self.threads.values().filter_map(|thread| thread.stack))
    }

    /// Whether it waits, and not as it did at the last look.
    fn has_moved(&self, seen: &SeenThread) -> bool {
        let known = self.threads.get(&seen.tid);
        seen.tid != 0 && seen.state != 0 && known.is_none_or(|thread| thread.wait != Some(Wait::of(seen)))
    }

    fn enter(&mut self, seen: &SeenThread, before_us: u64, at_us: u64, stack: impl FnOnce() -> Option<StackId>) {
        if seen.tid == 0 || self.threads.len() >= THREADS_MAX && !self.threads.contains_key(&seen.tid) {
            return;
        }
        let thread = self.threads.entry(seen.tid).or_default();
        // One that was not there at the look before began to wait some time since.
        let is_known = thread.looked.shown().looks > 0 || thread.wait.is_some();
        let since_us = if thread.last_us == before_us && is_known { before_us } else { at_us };
        thread.looked.both().for_each(|window| window.looks += 1);
        thread.last_us = at_us;
        thread.name = seen.name();
        thread.polls_now = None;
        if seen.state == 0 {
            // Its registers in the kernel are those of its last entry.
            thread.wait = None;
            return;
        }
        if let Some(call) = poll_call(seen.call) {
            thread.polls_now = Some(call);
            thread.looked.both().for_each(|window| *window.in_poll.entry(call as u32).or_default() += 1);
        }
        let wait = Wait::of(seen);
        let is_new = thread.wait != Some(wait);
        if is_new {
            // The same place again needs no unwinding where it is surely the same stack: nothing ran since. Else it does.
            thread.stack = stack();
            thread.wait = Some(wait);
            thread.waited_us = 0;
        }
        let Some(stack) = thread.stack else { return };
        let waited_us = at_us.saturating_sub(since_us);
        thread.waited_us += waited_us;
        for waits in self.waits.both() {
            let total = waits.entry((stack, thread.name.clone())).or_default();
            total.waited_us += waited_us;
            // One that began before the window is met in it, too.
            total.times = (total.times + u64::from(is_new)).max(1);
            total.longest_us = total.longest_us.max(thread.waited_us);
        }
    }
}

const fn registers(seen: &SeenThread) -> Registers {
    Registers { ip: seen.ip, sp: seen.sp, bp: seen.bp }
}

/// The call by which a thread polls, by the number of a system call.
pub(super) fn poll_call(number: u64) -> Option<PollCall> {
    match number {
        232 | 281 | 441 => Some(PollCall::EpollWait),
        7 | 271 => Some(PollCall::Poll),
        23 | 270 => Some(PollCall::Select),
        426 => Some(PollCall::IoUringEnter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(state: u32, switches: u64) -> SeenThread {
        SeenThread {
            tid: 7,
            state,
            ip: 1,
            sp: 2,
            bp: 3,
            call: 232,
            args: [0; 6],
            voluntary: switches,
            involuntary: 0,
            name: *b"worker\0\0\0\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn a_wait_goes_on_until_the_thread_has_run() {
        let target = crate::collect::Target::new(std::process::id()).unwrap();
        let mut stacks = Stacks::new(&target);
        let mut looks = Looks::default();
        let mut see = |looks: &mut Looks, before, at, seen: &SeenThread| {
            looks.enter(seen, before, at, || stacks.by_addresses(&[1]));
        };
        see(&mut looks, 0, 100, &thread(1, 5));
        see(&mut looks, 100, 200, &thread(1, 5));
        see(&mut looks, 200, 300, &thread(1, 5));
        see(&mut looks, 300, 400, &thread(0, 5));
        see(&mut looks, 400, 500, &thread(1, 6));
        let waited = looks.waits.shown().values().next().unwrap();
        assert_eq!(*waited, Waited { waited_us: 300, times: 2, longest_us: 200 });
        let tracked = &looks.threads[&7];
        let looked = tracked.looked.shown();
        assert_eq!((looked.looks, looked.in_poll[&(PollCall::EpollWait as u32)]), (5, 4));
    }
}
