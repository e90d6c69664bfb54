//! What the programs count, taken out of their tables: so that these never fill, and that it can be said of a window.

use std::{collections::HashMap, hash::Hash};

use aya::{
    Pod,
    maps::{self, MapData},
};

use super::{
    epoll::Registered,
    records::{BY_POLL, BY_SELECT, CallKey, Poll, PollKey, Ready, ReadyKey, SampleKey, Use},
    tables::Tables,
};
use crate::{
    collect::{Target, window::Overlap},
    observation::PollCall,
};

/// What was counted in a window.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) polls: HashMap<PollKey, Poll>,
    /// What polls found ready: by descriptor, where that is known.
    pub(super) ready: HashMap<PollKey, HashMap<Option<u32>, Ready>>,
    pub(super) calls: HashMap<CallKey, u64>,
    pub(super) uses: HashMap<u32, Use>,
    pub(super) samples: HashMap<SampleKey, u64>,
    /// All samples that had been taken when the window began.
    pub(super) samples_before: u64,
    /// How long calls were counted.
    pub(super) looked_ns: u64,
    /// Time inside of polls that were still going on when calls were no longer counted.
    pub(super) inside_ns: HashMap<PollKey, u64>,
}

/// Entries of each kind in one window: what is beyond is left out, and counted as lost.
const ENTRIES_MAX: usize = 65_536;

impl Counted {
    /// Takes out all that was counted. Nothing must be counting calls meanwhile, or it would be lost. A sample that falls
    /// in between is; of some ten thousand one.
    pub(super) fn take(
        windows: &mut Overlap<Self>,
        tables: &mut Tables,
        registered: &mut Registered,
        target: &Target,
    ) -> u64 {
        let mut lost = 0;
        let mut sum = |room: bool, add: &mut dyn FnMut()| if room { add() } else { lost += 1 };
        for (key, poll) in drain(&mut tables.polls) {
            for Self { polls, .. } in windows.both() {
                sum(has_room(polls, &key), &mut || *polls.entry(key).or_default() += poll);
            }
        }
        let ready = drain(&mut tables.ready);
        let of_epolls = ready.iter().map(|(key, _)| key).filter(|key| key.epfd >= 0);
        registered.learn(of_epolls.map(|key| (key.epfd, key.data)), target);
        for (ReadyKey { data, tid, epfd }, seen) in ready {
            let (call, fd) = match epfd {
                BY_POLL => (PollCall::Poll, u32::try_from(data).ok()),
                BY_SELECT => (PollCall::Select, u32::try_from(data).ok()),
                _ => (PollCall::EpollWait, registered.fd(epfd, data)),
            };
            let key = PollKey { tid, call: call as u32 };
            for Self { ready, .. } in windows.both() {
                sum(has_room(ready, &key), &mut || {
                    let all = ready.entry(key).or_default().entry(fd).or_default();
                    all.times += seen.times;
                    all.events |= seen.events;
                });
            }
        }
        for (key, times) in drain(&mut tables.calls) {
            for Self { calls, .. } in windows.both() {
                sum(has_room(calls, &key), &mut || *calls.entry(key).or_default() += times);
            }
        }
        for (fd, Use { used, ends }) in drain(&mut tables.uses) {
            for Self { uses, .. } in windows.both() {
                sum(has_room(uses, &fd), &mut || {
                    let all = uses.entry(fd).or_default();
                    all.used += used;
                    all.ends += ends;
                });
            }
        }
        for (key, times) in drain(&mut tables.samples) {
            for Self { samples, .. } in windows.both() {
                sum(has_room(samples, &key), &mut || *samples.entry(key).or_default() += times);
            }
        }
        lost
    }
}

fn has_room<K: Eq + Hash, V>(map: &HashMap<K, V>, key: &K) -> bool {
    map.len() < ENTRIES_MAX || map.contains_key(key)
}

/// All entries of a table, which has none then.
fn drain<K: Pod, V: Pod>(table: &mut maps::HashMap<MapData, K, V>) -> Vec<(K, V)> {
    let all: Vec<(K, V)> = table.iter().flatten().collect();
    for (key, _) in &all {
        // It is there: nobody else removes any.
        let _ = table.remove(key);
    }
    all
}
