//! Against real Go programs. The toolchain on the path has to be there where `CI` is set; `OVERDUE_GO` may name others,
//! separated by colons.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;

use super::{
    layout::Layout,
    sample::{FULL_MAX, List},
    *,
};
use crate::{
    collect::{Interrupt, Options, Watch, need::skip},
    observation::GoroutineState,
};

/// The one on the path comes first.
fn toolchains() -> Vec<PathBuf> {
    let (path, others) = (env::var_os("PATH").unwrap_or_default(), env::var_os("OVERDUE_GO").unwrap_or_default());
    let mut on_path = env::split_paths(&path).map(|folder| folder.join("go")).filter(|go| go.is_file());
    let others = env::split_paths(&others).filter(|go| !go.as_os_str().is_empty());
    let found: Vec<_> = on_path.next().into_iter().chain(others).collect();
    if found.is_empty() {
        skip("go is not on the path");
    }
    found
}

/// How a program is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Build {
    Plain,
    /// With symbols, without debug information.
    NoDwarf,
    Stripped,
    Pie,
    StrippedPie,
    /// Stripped, and without section headers, which nobody needs to run it.
    Bare,
    BarePie,
}

impl Build {
    const ALL: [Self; 7] =
        [Self::Plain, Self::NoDwarf, Self::Stripped, Self::Pie, Self::StrippedPie, Self::Bare, Self::BarePie];

    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::NoDwarf => &["-ldflags=-w"],
            Self::Stripped | Self::Bare => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::StrippedPie | Self::BarePie => &["-ldflags=-s -w", "-buildmode=pie"],
        }
    }
}

/// A program that is removed when it is no longer needed.
struct Program(PathBuf);

impl Program {
    fn new(go: &Path, how: Build) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let program = env::temp_dir().join(format!("overdue-go-{}-{number}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/collect/go/peer/main.go");
        let mut command = Command::new(go);
        command.arg("build").args(how.flags()).arg("-o").arg(&program).arg(source);
        command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GO111MODULE", "off");
        let built = command.env_remove("GOROOT").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let program = Self(program);
        if matches!(how, Build::Bare | Build::BarePie) {
            program.change(|bytes| {
                // e_shoff; e_shnum and e_shstrndx.
                bytes[0x28..0x30].fill(0);
                bytes[0x3c..0x40].fill(0);
            });
        }
        program
    }

    /// Changes the file.
    fn change(&self, change: impl FnOnce(&mut [u8])) {
        let mut bytes = fs::read(&self.0).unwrap();
        change(&mut bytes);
        fs::write(&self.0, bytes).unwrap();
    }

    /// A plain one, of the first toolchain.
    fn plain() -> Option<Self> {
        toolchains().first().map(|go| Self::new(go, Build::Plain))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

impl Goroutines {
    fn read_goroutines(&mut self) {
        self.take(self.program.read(&self.target));
    }
}

/// The last look, and all that was seen.
fn finish(goroutines: &mut Goroutines) -> Go {
    goroutines.read_goroutines();
    goroutines.observed(0)
}

/// A running peer; it ends when it is dropped.
struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn new(program: &Program) -> Self {
        let mut command = Command::new(&program.0);
        command.env("GOMAXPROCS", "3").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = loop {
            match command.spawn() {
                // Another test began a process while this program was written, and it has not come to its exec yet.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                child => break child.unwrap(),
            }
        };
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Self { child, orders, answers };
        peer.order("collect");
        peer
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n");
    }

    fn target(&self) -> Target {
        Target::new(self.child.id()).unwrap()
    }

    fn attach(&self) -> Goroutines {
        Goroutines::attach(&self.target()).unwrap().expect("a Go program")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn values(readings: &[Reading]) -> Vec<u64> {
    readings.iter().map(|reading| reading.value).collect()
}

/// The group with that function on its stacks.
#[track_caller]
fn group<'a>(seen: &'a Go, function: &str) -> &'a GoroutineGroup {
    let found = seen.groups.iter().find(|group| group.stack.functions().any(|f| f == function));
    found.unwrap_or_else(|| panic!("nobody is in {function}: {seen:#?}"))
}

/// The line of the peer's source with that text.
fn line(text: &str) -> String {
    let line = include_str!("peer/main.go").lines().position(|line| line.contains(text)).unwrap() + 1;
    format!("/peer/main.go:{line}")
}

#[test]
fn every_build_of_every_release_is_read() {
    for (number, go) in toolchains().iter().enumerate() {
        for how in Build::ALL {
            // Others than the first are there for their layouts, and where these come from.
            if number > 0 && matches!(how, Build::NoDwarf | Build::Pie) {
                continue;
            }
            read_one_build(go, how);
        }
    }
}

fn read_one_build(go: &Path, how: Build) {
    let program = Program::new(go, how);
    let mut peer = Peer::new(&program);
    for order in ["leak 50", "deep 100", "dial 2", "backlog 3", "spin"] {
        peer.order(order);
    }
    let look = || {
        let mut goroutines = peer.attach();
        goroutines.look(7);
        finish(&mut goroutines)
    };
    // One may be on its way to where it waits.
    let seen = (0..50).map(|_| look()).find(|seen| seen.unreadable == 0).expect("nobody moves for long");
    eprintln!("{}, {how:?}: {} groups", seen.version, seen.groups.len());
    let context = format!("{how:?} {seen:#?}");
    assert!(seen.version.starts_with("go1."), "{context}");
    assert_eq!(seen.goroutines, [Reading { at_us: 7, value: 1 + 50 + 1 + 2 + 3 + 1 }], "{context}");
    assert_eq!((seen.ps, seen.read_in_full), (3, 58), "{context}");
    assert!(seen.collections[0].value >= 12, "{context}");
    assert!(seen.heap_bytes[0].value >= 50 * (16 << 10), "{context}");
    assert!(seen.live_bytes[0].value >= 50 * (16 << 10), "{context}");

    let leaked = group(&seen, "main.leaked");
    assert_eq!((leaked.last, leaked.stayed), (50, 50), "{context}");
    assert_eq!((leaked.state, leaked.wait_reason.as_deref()), (GoroutineState::Waiting, Some("chan receive")));
    assert!(leaked.created_by.as_ref().unwrap().starts_with("main.leak ("), "{context}");
    assert!(leaked.created_by.as_ref().unwrap().ends_with(&format!("{})", line("go leaked"))), "{context}");
    assert!(leaked.oldest_wait_us.is_some_and(|wait_us| wait_us < 600_000_000), "{context}");
    let frame = leaked.stack.frames.iter().find(|f| f.function.as_deref() == Some("main.leaked")).unwrap();
    assert!(frame.at.as_ref().unwrap().ends_with(&line("<-never")), "{context}");
    assert_eq!((leaked.stack.functions().next(), &leaked.stack.cut), (Some("runtime.gopark"), &None), "{context}");

    // `Lock` is inlined: the frame has no address of its own.
    let waiting = group(&seen, "main.enter");
    assert_eq!((waiting.last, waiting.wait_reason.as_deref()), (3, Some("sync.Mutex.Lock")), "{context}");
    assert!(waiting.stack.functions().any(|function| function == "sync.(*Mutex).Lock"), "{context}");
    let deep = group(&seen, "main.deep");
    assert!(deep.stack.functions().filter(|function| *function == "main.deep").count() > 50, "{context}");
    assert!(deep.stack.cut.is_some(), "{context}");
    let reading = group(&seen, "main.read");
    assert_eq!((reading.last, reading.wait_reason.as_deref()), (2, Some("IO wait")), "{context}");
    // Where it runs is not known, only where it began; taken off its processor, it says where.
    let begun = |group: &&GoroutineGroup| {
        let by_main = group.stack.functions().any(|function| function.starts_with("main.main.func"));
        by_main && matches!(group.state, GoroutineState::Running | GoroutineState::Runnable)
    };
    assert_eq!(seen.groups.iter().filter(begun).map(|group| group.last).sum::<u64>(), 1, "{context}");
    assert!(group(&seen, "main.main").created_by.is_none(), "{context}");
}

#[test]
fn the_table_is_what_programs_say_and_code_leads_where_symbols_do() {
    for go in toolchains() {
        for how in [Build::Plain, Build::Pie] {
            let program = Program::new(&go, how);
            let peer = Peer::new(&program);
            let goroutines = peer.attach();
            let layout = *goroutines.program.runtime.layout();
            let table = buildinfo::release(goroutines.version()).and_then(Layout::of);
            assert_eq!(Some(layout), table, "{}", goroutines.version());
            let binary = Binary::new(File::open(&program.0).unwrap()).unwrap();
            assert_eq!(dwarf::layout(|name| binary.section_bytes(name)), table);

            let auxv = entry(&goroutines.target.read("auxv", 4096).unwrap()).unwrap();
            let (code, moved_by) = (&goroutines.program.code, binary.moved_by(auxv));
            assert_eq!(moved_by == 0, how == Build::Plain);
            let by_symbol = Globals::by_symbol(&binary, moved_by, &layout);
            assert!(by_symbol.is_some());
            assert_eq!(Globals::by_code(&binary, moved_by, &layout, code.table(), code.text()), by_symbol);
        }
    }
}

#[test]
fn a_leak_a_backlog_and_coming_and_going_are_told_apart() {
    let Some(program) = Program::plain() else { return };
    let watch = |order: &str| {
        let mut peer = Peer::new(&program);
        peer.order(order);
        let mut goroutines = peer.attach();
        for at_us in 0..3 {
            goroutines.look(at_us);
            peer.order(order);
        }
        goroutines.look(3);
        finish(&mut goroutines)
    };
    let grows = |readings: &[Reading], by: u64| readings.array_windows().all(|[a, b]| b.value > a.value + by);

    let leak = watch("leak 200");
    assert_eq!(values(&leak.goroutines), [201, 401, 601, 801]);
    assert!(grows(&leak.live_bytes, 200 * (16 << 10)), "{leak:#?}");
    let leaked = group(&leak, "main.leaked");
    assert_eq!((leaked.first, leaked.last, leaked.stayed, leaked.channels), (200, 800, 200, Some(1)));
    // Each hands its answer to a caller of its own, who has gone.
    let left = watch("leave 100");
    let left = group(&left, "main.left");
    assert_eq!((left.last, left.stayed, left.channels), (400, 100, Some(400)));

    let backlog = watch("backlog 200");
    assert_eq!(values(&backlog.goroutines), [201, 401, 601, 801]);
    let (first, last) = (backlog.live_bytes[0].value, backlog.live_bytes[3].value);
    assert!(last < first + 600 * 2048, "{backlog:#?}");
    let waiting = group(&backlog, "main.enter");
    assert_eq!((waiting.wait_reason.as_deref(), waiting.channels), (Some("sync.Mutex.Lock"), None));

    let served = watch("serve 500");
    assert_eq!(values(&served.goroutines), [1; 4]);
    assert!(served.groups.iter().all(|group| group.last <= 1), "{served:#?}");
    assert!(served.collections[3].value > served.collections[0].value);
}

#[test]
fn of_many_goroutines_some_are_read_and_all_are_counted() {
    let Some(program) = Program::plain() else { return };
    let mut peer = Peer::new(&program);
    peer.order("backlog 30000");
    let mut goroutines = peer.attach();
    goroutines.look(0);
    let seen = finish(&mut goroutines);
    assert_eq!(values(&seen.goroutines), [30_001]);
    // A quarter of them, or fewer where the machine is slow.
    let read = seen.read_in_full + seen.unreadable;
    assert!((900..=FULL_MAX as u64).contains(&read), "{seen:#?}");
    let waiting = group(&seen, "main.enter");
    assert!((29_000..=31_000).contains(&waiting.first) && (29_000..=31_000).contains(&waiting.last), "{seen:#?}");
    assert!(waiting.stayed >= 29_000, "{seen:#?}");
}

#[test]
fn the_last_look_counts_what_it_reads() {
    let Some(program) = Program::plain() else { return };
    let mut peer = Peer::new(&program);
    let mut goroutines = peer.attach();
    goroutines.look(0);
    peer.order("backlog 50");
    goroutines.look_at_all(1_000);
    let seen = goroutines.observed(0);
    assert_eq!(values(&seen.goroutines), [1, 51]);
    assert_eq!(group(&seen, "main.enter").last, 50);
}

#[test]
fn a_release_that_nobody_knows_is_not_guessed() {
    let Some(go) = toolchains().into_iter().next() else { return };
    let program = Program::new(&go, Build::Stripped);
    program.change(|bytes| {
        let version = Peer::new(&Program::new(&go, Build::Plain)).attach().version().to_owned();
        let at: Vec<_> = bytes.windows(version.len()).enumerate().filter(|(_, b)| *b == version.as_bytes()).collect();
        for at in at.into_iter().map(|(at, _)| at).collect::<Vec<_>>() {
            bytes[at + 4..at + 6].copy_from_slice(b"99");
        }
    });
    let peer = Peer::new(&program);
    let hidden = Goroutines::attach(&peer.target()).unwrap_err();
    assert_eq!((hidden.what.as_str(), hidden.why.as_str()), ("goroutines", "unknown layout of go1.99"));
}

/// `overdue why -- COMMAND` attaches to what is no Go program yet.
#[test]
fn what_a_command_hides_is_said_of_it_and_not_of_who_started_it() {
    let (Some(go), interrupt) = (toolchains().into_iter().next(), Interrupt::new().unwrap()) else { return };
    let program = Program::new(&go, Build::Stripped);
    let version = Peer::new(&program).attach().version().to_owned();
    program.change(|bytes| {
        while let Some(at) = bytes.windows(version.len()).position(|bytes| bytes == version.as_bytes()) {
            bytes[at + 4..at + 6].copy_from_slice(b"99");
        }
    });
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line; exec \"$0\""]).arg(&program.0).stdin(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut watch = Watch::attach(child.id(), Options { budget: None, ..Options::default() }).unwrap();
    let hidden = |seen: &crate::Observation| {
        let of_go = seen.not_visible.iter().filter(|hidden| hidden.what == TOPIC);
        of_go.map(|hidden| hidden.why.clone()).collect::<Vec<_>>()
    };
    let (_, before) = watch.next(Duration::from_millis(300), &interrupt);
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let (_, after) = watch.next(Duration::from_millis(900), &interrupt);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((hidden(&before), hidden(&after)), (vec![], vec!["unknown layout of go1.99".to_owned()]));
}

#[test]
fn a_look_that_never_returns_ends_the_looks_and_not_the_watch() {
    let Some(program) = Program::plain() else { return };
    let mut peer = Peer::new(&program);
    peer.order("backlog 7");
    let mut goroutines = peer.attach();
    goroutines.look_at_all(0);
    goroutines.patience = Patience::new(TOPIC, Duration::from_millis(50));
    let running = Arc::clone(&goroutines.program);
    let held = running.reader.lock().unwrap();
    for at_us in 1..10 {
        goroutines.look_at_all(at_us);
    }
    assert_eq!(goroutines.hidden().map(|hidden| hidden.what.as_str()), Some(TOPIC));
    let seen = goroutines.observed(0);
    assert_eq!((values(&seen.goroutines), seen.groups.len()), (vec![8], 0), "what was counted stays");
    drop(held);
}

#[test]
fn what_is_not_go_has_no_goroutines() {
    let target = Target::new(std::process::id()).unwrap();
    assert!(Goroutines::attach(&target).unwrap().is_none());
}

#[test]
fn one_that_ends_while_it_is_read_adds_nothing() {
    let Some(program) = Program::plain() else { return };
    let mut peer = Peer::new(&program);
    peer.order("backlog 2000");
    let (target, mut goroutines) = (peer.target(), peer.attach());
    goroutines.look(0);
    peer.child.kill().unwrap();
    // It may die within any of these.
    for at_us in 1..200 {
        goroutines.look(at_us);
        goroutines.read_goroutines();
    }
    peer.child.wait().unwrap();
    goroutines.look(200);
    let seen = finish(&mut goroutines);
    assert!(seen.goroutines.iter().all(|reading| reading.at_us < 200 && reading.value == 2001), "{seen:#?}");
    assert_eq!(group(&seen, "main.enter").first, 2000);
    assert_eq!(Goroutines::attach(&target).unwrap_err().why, "the process has ended");
}

#[test]
fn goroutines_that_come_and_go_while_they_are_read_do_no_harm() {
    let Some(program) = Program::plain() else { return };
    let mut peer = Peer::new(&program);
    peer.order("backlog 500");
    let mut goroutines = peer.attach();
    let busy = std::thread::spawn(move || {
        for _ in 0..20 {
            peer.order("serve 20000");
        }
        peer
    });
    let mut at_us = 0;
    while !busy.is_finished() {
        goroutines.look(at_us);
        goroutines.read_goroutines();
        at_us += 1;
    }
    let peer = busy.join().unwrap();
    let last = goroutines.last.as_ref().unwrap();
    let read = last.members.len() as u64 * last.stride;
    assert!(read >= 400, "{read}");
    goroutines.read_goroutines();
    let seen = finish(&mut goroutines);
    assert!((450..=550).contains(&group(&seen, "main.enter").last), "{seen:#?}");
    drop(peer);
}

#[test]
fn who_may_not_read_is_told_what_would_help() {
    let Some(program) = Program::plain() else { return };
    let peer = Peer::new(&program);
    let target = peer.target();
    let target = if rustix::process::geteuid().is_root() { target } else { Target::new(1).unwrap() };
    let refused = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65534);
            // Of this thread alone; its capabilities go with it.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        Goroutines::attach(&target).unwrap_err()
    });
    let refused = refused.join().unwrap();
    assert_eq!(refused.why, "its memory may not be read");
    assert!(refused.how.contains("CAP_SYS_PTRACE"), "{refused:?}");
}

#[test]
fn readings_are_bounded() {
    let mut readings: Vec<_> = (0..7).map(|at_us| Reading { at_us, value: at_us }).collect();
    thin(&mut readings);
    assert_eq!(values(&readings), [0, 2, 4, 6]);
    readings.truncate(4);
    thin(&mut readings);
    assert_eq!(values(&readings), [0, 4, 6]);
}

/// A runtime made of nonsense, in our own memory, which is read as if it were another's.
#[test]
fn nonsense_in_memory_is_survived() {
    let Some(program) = Program::plain() else { return };
    let peer = Peer::new(&program);
    let goroutines = peer.attach();
    let own = Target::new(std::process::id()).unwrap();
    let known = [0_u64; 2];
    let memory = Memory::new(&own, Range { at: known.as_ptr().addr() as u64, len: 16 }).unwrap();
    let layout = *goroutines.program.runtime.layout();
    let pc = goroutines.program.code.text() + 0x1000;
    proptest!(ProptestConfig::with_cases(48), |(
        words in prop::collection::vec(
            prop_oneof![any::<u64>(), 0_u64..16, Just(pc), (0_u64..4096).prop_map(|i| (1 << 63) | (i * 8))], 512..1024),
        len in prop_oneof![0_u64..600, any::<u64>()],
    )| {
        // Some of the words point into the others.
        let mut words = words;
        let base = words.as_ptr().addr() as u64;
        for word in &mut words {
            if *word >> 63 == 1 && *word < ((1 << 63) | (4096 * 8)) {
                *word = base + (*word & 0xfff);
            }
        }
        let list = List { at: base, len };
        let sample = Reader::default().read(&memory, &goroutines.program.code, &layout.g, list);
        prop_assert!(sample.is_err() || sample.unwrap().members.len() <= FULL_MAX);
        let at = |i: u64| base + i % 256 * 8;
        let globals = Globals {
            all_gs: at(len), all_ps: at(len / 3), sched: at(len / 5), max_procs: Some(at(len / 7)),
            gc_controller: None, collections: Some(len), wait_reasons: Some(at(len / 11)),
        };
        if let Some(runtime) = Runtime::new(&memory, layout, globals) {
            runtime.counters(&memory);
        }
        std::hint::black_box(&words);
    });
}

/// `cargo test -p overdue-why --release what_a_look_costs -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn what_a_look_costs() {
    for go in toolchains() {
        for count in [100, 10_000, 100_000] {
            let program = Program::new(&go, Build::Stripped);
            let mut peer = Peer::new(&program);
            peer.order(&format!("backlog {count}"));
            let began = now();
            let mut goroutines = peer.attach();
            let attached = now();
            goroutines.look(0);
            let looked = now();
            for at_us in 1..=100 {
                goroutines.read_at = Some((now(), Duration::from_secs(1)));
                goroutines.look(at_us);
            }
            let hundred = now();
            goroutines.read_goroutines();
            let read = now();
            let seen = finish(&mut goroutines);
            eprintln!(
                "{} {count}: attach {:?}, first look {:?}, a look {:?}, all goroutines {:?}, finish {:?}; {} read",
                seen.version,
                attached - began,
                looked - attached,
                (hundred - looked) / 100,
                read - hundred,
                now() - read,
                seen.read_in_full,
            );
        }
    }
}
