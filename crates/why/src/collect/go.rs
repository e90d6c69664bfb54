//! Goroutines of another process, read from its memory without stopping it: no ptrace, no signal, no breakpoint.
//!
//! What makes it possible: a Go program carries its own table of functions and frames even when it is stripped, and the
//! runtime keeps all goroutines in one list that only grows. What makes it hard: everything may change while it is read,
//! and where things are changes with each release of Go. So nothing that is read is believed before it was checked, and a
//! release whose layout is neither in the program's debug information nor in the table here is not guessed.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    time::ClockId,
};

use self::{
    binary::Binary,
    buildinfo::BuildInfo,
    code::{Code, NoCode},
    globals::Globals,
    layout::Layout,
    memory::{Memory, Range},
    runtime::{Counters, Runtime},
    sample::{Place, Reader, Sample},
};
use super::{
    Target, clock,
    patience::{LOOK_WITHIN, Patience, patiently},
    tiers,
    window::{self, Overlap},
};
use crate::observation::{Frame, Go, GoroutineGroup, Hidden, Reading, Stack};

mod binary;
mod buildinfo;
mod code;
mod dwarf;
mod globals;
mod layout;
mod memory;
mod operands;
mod pclntab;
mod runtime;
mod sample;
#[cfg(test)]
mod tests;

/// What is not visible where they are not.
pub(super) const TOPIC: &str = "goroutines";
/// Why, where the program is not yet where it will be: it may only just begin.
pub(super) const NOT_YET: &str = "the runtime was not found in memory";
/// Groups that are handed over.
const GROUPS_MAX: usize = 100;
/// Frames of one of them.
const FRAMES_MAX: usize = 128;
/// Readings of one number; where there are more, each second is dropped.
const READINGS_MAX: usize = 2048;
/// Reading all goroutines may take one part of so many of the time.
const SHARE: u32 = 50;
/// What a user can do where we can do nothing.
const PPROF: &str = "ask the program itself, where it serves net/http/pprof: /debug/pprof/goroutine?debug=2";
/// Where no section says what a program is, its data is searched up to here.
const SEARCH_MAX: u64 = 16 << 20;

/// A program that runs, and what reads it.
#[derive(Debug)]
struct Program {
    memory: Memory,
    code: Code,
    runtime: Runtime,
    /// Held by a look as long as it lasts: for good by one that never returns.
    reader: Mutex<Reader>,
}

/// The goroutines of one process.
///
/// A look costs some 50 microseconds: it reads the runtime's counters. The first one reads goroutines too (10,000 of them
/// at most, one of each so many where there are more: half a millisecond for a hundred, 40 for 10,000, never much more than
/// 300), and so does one now and then, so that 2 % of the time goes into it at most, and [`look_at_all`](Self::look_at_all).
#[derive(Debug)]
pub struct Goroutines {
    target: Target,
    version: String,
    program: Arc<Program>,
    patience: Patience,
    first: Overlap<Option<Arc<Sample>>>,
    last: Option<Arc<Sample>>,
    /// When goroutines were read last, and what that cost.
    read_at: Option<(Duration, Duration)>,
    seen: Go,
}

impl Goroutines {
    /// Finds the runtime. `None` when there is none: the process is not a Go program.
    ///
    /// A process that has only just begun is seen, too, before it has goroutines; only one that is yet to be moved to where
    /// it is loaded (`-buildmode=pie`, in its first milliseconds) is not.
    ///
    /// # Errors
    /// It is a Go program, or may be one, and cannot be seen: why, and what would change that.
    pub fn attach(target: &Target) -> Result<Option<Self>, Hidden> {
        let target = target.clone();
        patiently(TOPIC, LOOK_WITHIN, move || Self::find(&target))?
    }

    /// Reads the file, which may lie on a dead server, and memory.
    fn find(target: &Target) -> Result<Option<Self>, Hidden> {
        let file = match openat(target.folder(), "exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            // The kernel's own threads have none.
            Err(Errno::NOENT) if target.is_alive() => return Ok(None),
            Err(errno) => return Err(unreadable(target, &errno.into())),
        };
        let binary = match Binary::new(file) {
            Ok(binary) => binary,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(unreadable(target, &error)),
        };
        let Some(info) = build_info(&binary) else { return Ok(None) };
        if !binary.is_amd64() {
            return Err(hidden("the machine is not amd64, the only one whose code is understood", PPROF));
        }
        let entered_at = target.read("auxv", 4096).map_err(|error| unreadable(target, &error))?;
        let entered_at = entry(&entered_at).ok_or_else(not_yet)?;
        let moved_by = binary.moved_by(entered_at);

        let known = binary.segments().first().map(|segment| segment.address.wrapping_add(moved_by)).unwrap_or_default();
        let memory = Memory::new(target, Range { at: known, len: 16 }).map_err(|error| match error.raw_os_error() {
            // The program's first bytes: the kernel is about to map them.
            Some(libc::EFAULT | libc::EIO) => not_yet(),
            _ => unreadable(target, &error),
        })?;
        let version = match info {
            BuildInfo::Version(version) => version,
            BuildInfo::At(at) => pointed_at(&memory, at).unwrap_or_else(|| "go before 1.18".into()),
        };
        let layout = dwarf::layout(|name| binary.section_bytes(name))
            .or_else(|| buildinfo::release(&version).and_then(Layout::of))
            .ok_or_else(|| unknown(&version))?;
        let code = Code::find(binary, &memory, moved_by, layout.functions_data).map_err(|why| match why {
            NoCode::NoTable => hidden("the program has no table of functions that could be read", PPROF),
            NoCode::OldTable => unknown(&version),
            NoCode::NoModule => not_yet(),
        })?;
        let globals = Globals::by_symbol(code.binary(), moved_by, &layout)
            .or_else(|| Globals::by_code(code.binary(), moved_by, &layout, code.table(), code.text()))
            .ok_or_else(|| {
                hidden("the runtime's variables were not found: no symbols, unusual code", "keep symbols")
            })?;
        let runtime = Runtime::new(&memory, layout, globals).ok_or_else(|| unknown(&version))?;

        // The number of the process may have been given to another meanwhile; then what was read is of that one.
        let same = Target::new(target.pid()).ok().filter(|_| target.is_alive());
        let target = same.ok_or_else(|| hidden("the process has ended", ""))?;
        let seen = Go { version: version.clone(), ..Go::default() };
        let program = Arc::new(Program { memory, code, runtime, reader: Mutex::default() });
        let patience = Patience::new(TOPIC, LOOK_WITHIN);
        Ok(Some(Self {
            target,
            version,
            program,
            patience,
            first: Overlap::default(),
            last: None,
            read_at: None,
            seen,
        }))
    }

    /// The version of Go, as the program says: `go1.26.1`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Why they are not looked at any more.
    pub(super) const fn hidden(&self) -> Option<&Hidden> {
        self.patience.refused()
    }

    /// Reads the runtime's counters, and goroutines when it is time to. `at_us` is the time since the watch began, in
    /// microseconds. A process that has ended adds nothing.
    pub fn look(&mut self, at_us: u64) {
        let is_due = self.read_at.is_none_or(|(at, cost)| now().saturating_sub(at) >= cost * SHARE);
        self.read(at_us, is_due);
    }

    /// Reads the counters and goroutines, whatever it costs.
    pub fn look_at_all(&mut self, at_us: u64) {
        self.read(at_us, true);
    }

    /// All of a look is on one thread, which may be left behind.
    fn read(&mut self, at_us: u64, goroutines: bool) {
        let (program, target) = (Arc::clone(&self.program), self.target.clone());
        let looked = self.patience.ask(move || {
            let counters = program.runtime.counters(&program.memory).filter(|_| target.is_alive());
            let read = (goroutines && counters.is_some()).then(|| program.read(&target));
            (counters, read)
        });
        let Some((counters, read)) = looked else { return };
        counters.iter().for_each(|counters| self.count(at_us, counters));
        read.into_iter().for_each(|read| self.take(read));
    }

    fn count(&mut self, at_us: u64, counters: &Counters) {
        let seen = &mut self.seen;
        seen.ps = counters.ps;
        for (readings, value) in [
            (&mut seen.goroutines, Some(counters.goroutines)),
            (&mut seen.heap_bytes, counters.heap_bytes),
            (&mut seen.live_bytes, counters.live_bytes),
            (&mut seen.collections, counters.collections),
            (&mut seen.idle_ps, Some(counters.idle_ps)),
            (&mut seen.run_queue, Some(counters.run_queue)),
        ] {
            readings.extend(value.map(|value| Reading { at_us, value }));
            if readings.len() > READINGS_MAX {
                thin(readings);
            }
        }
    }

    fn take(&mut self, (sample, began, ended): Read) {
        self.read_at = Some((ended, ended.saturating_sub(began)));
        let Some(sample) = sample.map(Arc::new) else { return };
        self.first.both().filter(|first| first.is_none()).for_each(|first| *first = Some(Arc::clone(&sample)));
        self.last = Some(sample);
    }

    /// Another window begins. What was read before `begin_us`, when the one that is shown now began, is forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.first.turn(self.last.clone());
        for readings in readings(&mut self.seen) {
            window::forget(readings, begin_us);
        }
    }

    /// What was seen in a window that began at `begin_us`.
    #[must_use]
    pub fn observed(&self, begin_us: u64) -> Go {
        let mut seen = self.seen.clone();
        for readings in readings(&mut seen) {
            *readings = window::since(std::mem::take(readings), begin_us);
        }
        // A look that does not return has the stacks.
        let (Some(last), Ok(reader)) = (self.last.as_deref(), self.program.reader.try_lock()) else { return seen };
        let first = self.first.shown().as_deref().unwrap_or(last);
        seen.unreadable = last.unreadable;
        seen.read_in_full = last.members.len() as u64;
        let stayed = stayed(first, last);
        let count = |sample: &Sample, place: &Place| {
            sample.places.get(place).map_or(0, |members| members.count.saturating_mul(sample.stride))
        };
        let mut places: Vec<_> = last.places.keys().chain(first.places.keys()).copied().collect();
        places.sort_by_key(|place| {
            let (first, last) = (count(first, place), count(last, place));
            (Reverse(last.max(first)), place.stack, place.created_at, place.reason, place.state as u8)
        });
        places.dedup();
        places.truncate(GROUPS_MAX);
        // As far as it was seen: what was read last may be old by now.
        let read_at = self.read_at.map_or_else(now, |(at, _)| at);
        let now = u64::try_from(read_at.as_nanos()).unwrap_or(u64::MAX);
        let groups = places.into_iter().map(|place| {
            let oldest = last.places.get(&place).map(|members| members.oldest).filter(|oldest| *oldest != 0);
            GoroutineGroup {
                state: place.state,
                wait_reason: place
                    .reason
                    .and_then(|reason| self.program.runtime.wait_reason(reason))
                    .map(str::to_owned),
                stack: self.program.stack(&reader, &place),
                created_by: self.program.created_by(place.created_at),
                first: count(first, &place),
                last: count(last, &place),
                stayed: stayed.get(&place).copied().unwrap_or(0),
                channels: last.channels.get(&place).map(|channels| match channels.len() as u64 {
                    1 => 1,
                    number => number.saturating_mul(last.stride),
                }),
                oldest_wait_us: oldest.and_then(|oldest| now.checked_sub(oldest)).map(|wait_ns| wait_ns / 1000),
            }
        });
        seen.groups = groups.collect();
        seen
    }
}

/// Goroutines that were read, if they could be, when that began, and when it ended.
type Read = (Option<Sample>, Duration, Duration);

impl Program {
    fn read(&self, target: &Target) -> Read {
        let began = now();
        let read = |list| {
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.read(&self.memory, &self.code, &self.runtime.layout().g, list).ok()
        };
        let sample = self.runtime.list(&self.memory).and_then(read);
        let ended = now();
        // What was read of a process that ended meanwhile may be of another that has its number.
        (sample.filter(|sample| !sample.places.is_empty() && target.is_alive()), began, ended)
    }

    fn stack(&self, reader: &Reader, place: &Place) -> Stack {
        let Some(trace) = reader.stack(place.stack) else { return Stack::default() };
        let mut frames: Vec<Frame> = trace.pcs.iter().flat_map(|pc| self.code.frames(*pc)).collect();
        frames.truncate(FRAMES_MAX);
        Stack { frames, cut: trace.cut.map(str::to_owned) }
    }

    /// `main.main (/src/main.go:27)`
    fn created_by(&self, pc: u64) -> Option<String> {
        let frame = self.code.frames(pc).into_iter().next().filter(|_| pc != 0)?;
        let function = frame.function?;
        Some(match frame.at {
            Some(at) => format!("{function} ({at})"),
            None => function,
        })
    }
}

/// How many goroutines of a place were there at both readings.
fn stayed(first: &Sample, last: &Sample) -> HashMap<Place, u64> {
    let mut stayed: HashMap<Place, u64> = HashMap::new();
    let stride = first.stride.max(last.stride);
    for (id, (index, place)) in &last.members {
        // Only what both readings would have read tells who stayed.
        if index % stride.max(1) == 0 && first.members.get(id).is_some_and(|(_, before)| before == place) {
            *stayed.entry(*place).or_default() += stride;
        }
    }
    stayed
}

/// All that is read over time.
fn readings(seen: &mut Go) -> [&mut Vec<Reading>; 6] {
    let Go { goroutines, heap_bytes, live_bytes, collections, idle_ps, run_queue, .. } = seen;
    [goroutines, heap_bytes, live_bytes, collections, idle_ps, run_queue]
}

/// Drops every second reading; the first and the last stay.
fn thin(readings: &mut Vec<Reading>) {
    let last = readings.len() - 1;
    let mut index = 0;
    readings.retain(|_| {
        index += 1;
        (index - 1) % 2 == 0 || index - 1 == last
    });
}

/// Of the monotonic clock, from which the runtime takes its times.
fn now() -> Duration {
    clock::read(ClockId::Monotonic)
}

fn build_info(binary: &Binary) -> Option<BuildInfo> {
    let section = binary.section_bytes(".go.buildinfo").and_then(|bytes| BuildInfo::find(&bytes));
    section.or_else(|| {
        let mut data = binary.segments().iter().filter(|segment| segment.writable);
        data.find_map(|segment| BuildInfo::find(&binary.segment_bytes(segment, SEARCH_MAX)?))
    })
}

/// The version of a program of Go before 1.18.
fn pointed_at(memory: &Memory, at: u64) -> Option<String> {
    let header = memory.read(Range { at, len: 16 }).ok()?;
    let len = usize::try_from(pclntab::le64(&header, 8)?).ok().filter(|len| *len <= buildinfo::VERSION_MAX)?;
    buildinfo::printable(&memory.read(Range { at: pclntab::le64(&header, 0)?, len }).ok()?)
}

/// Where the program was entered, from the kernel's notes to it.
fn entry(auxv: &[u8]) -> Option<u64> {
    const AT_ENTRY: u64 = 9;
    let mut notes = auxv.as_chunks::<16>().0.iter();
    notes.find(|note| pclntab::le64(*note, 0) == Some(AT_ENTRY)).and_then(|note| pclntab::le64(note, 8))
}

fn hidden(why: &str, how: &str) -> Hidden {
    Hidden { what: TOPIC.into(), why: why.into(), how: how.into() }
}

fn not_yet() -> Hidden {
    hidden(NOT_YET, "attach again: it may only just begin")
}

fn unknown(version: &str) -> Hidden {
    // It is the process's own word.
    let release = buildinfo::release(version).map(|(major, minor)| format!("go{major}.{minor}"));
    hidden(
        &format!("unknown layout of {}", release.as_deref().unwrap_or("this Go")),
        "build it without -ldflags=-w, which takes the layout out of it, or ask its own net/http/pprof",
    )
}

fn unreadable(target: &Target, error: &io::Error) -> Hidden {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => hidden("its memory may not be read", &tiers::to_look_into(target, true)),
        Some(libc::ESRCH | libc::ENOENT) => hidden("the process has ended", ""),
        _ => hidden(&format!("its memory could not be read: {error}"), PPROF),
    }
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub mod fuzz {
    /// A table of functions and lines.
    pub fn pclntab(bytes: &[u8]) {
        super::pclntab::ask_everything(bytes);
    }

    /// What the linker says of the build.
    pub fn buildinfo(bytes: &[u8]) {
        if let Some(super::BuildInfo::Version(version)) = super::BuildInfo::find(bytes) {
            super::buildinfo::release(&version);
        }
    }
}
