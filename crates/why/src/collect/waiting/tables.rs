//! The maps that the programs fill.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};

use super::records::{
    CallKey, Failure, FailureKey, Inside, Opened, Poll, PollKey, Ready, ReadyKey, SampleKey, Tally, Use, Window,
};
use crate::collect::{bpf::maps_bytes, stacks::Places};

pub(super) struct Tables {
    window: Array<MapData, Window>,
    tally: PerCpuArray<MapData, Tally>,
    pub(super) inside: HashMap<MapData, u32, Inside>,
    pub(super) polls: HashMap<MapData, PollKey, Poll>,
    pub(super) ready: HashMap<MapData, ReadyKey, Ready>,
    pub(super) calls: HashMap<MapData, CallKey, u64>,
    pub(super) uses: HashMap<MapData, u32, Use>,
    pub(super) failures: HashMap<MapData, FailureKey, Failure>,
    pub(super) opened: HashMap<MapData, u32, Opened>,
    pub(super) places: HashMap<MapData, u64, u8>,
    pub(super) samples: HashMap<MapData, SampleKey, u64>,
    /// Memory of all of them.
    pub(super) bytes: u64,
}

impl Tables {
    /// Takes the maps out of a loaded object, and the places that they name.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<(Self, Places), MapError> {
        let bytes = maps_bytes(ebpf);
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
        let places = Places::new(take("snapshots")?.try_into()?);
        let tables = Self {
            window: take("window")?.try_into()?,
            tally: take("tally")?.try_into()?,
            inside: take("inside")?.try_into()?,
            polls: take("polls")?.try_into()?,
            ready: take("ready")?.try_into()?,
            calls: take("calls")?.try_into()?,
            uses: take("uses")?.try_into()?,
            failures: take("failures")?.try_into()?,
            opened: take("opened")?.try_into()?,
            places: take("places")?.try_into()?,
            samples: take("samples")?.try_into()?,
            bytes,
        };
        Ok((tables, places))
    }

    /// From now on calls are counted; with 0 no more.
    pub(super) fn open(&mut self, since_ns: u64) -> Result<(), MapError> {
        self.window.set(0, Window { opened_ns: since_ns }, 0)
    }

    /// The tally of all processors together.
    pub(super) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        if let Ok(all) = self.tally.get(&0, 0) {
            for one in all.iter() {
                sum.lost_entries += one.lost_entries;
                sum.lost_stacks += one.lost_stacks;
                sum.calls += one.calls;
                sum.samples += one.samples;
            }
        }
        sum
    }
}
