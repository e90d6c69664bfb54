//! `overdue flame` as a user runs it, on targets of the lab and on files.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use overdue_lab::target::Target;
use overdue_why::{
    Observation,
    collect::flame::Flame,
    flame::{Folded, Sight},
    observation::{Cpu, Frame, HotStack, Stack},
    recording,
};

/// A folder that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("overdue-flame-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the program in the folder.
    fn flame(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
        command.arg("flame").args(args).current_dir(&self.0).env("COLUMNS", "80").stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Watches a process, and reads the stacks that were written.
    fn watched(&self, pid: u32, sight: &str) -> Folded {
        let output =
            self.flame(&["--pid", &pid.to_string(), sight, "--for", "2s", "--folded", "stacks", "-o", "it.svg"]);
        assert_exit(&output, 0);
        assert!(stdout(&output).contains("drawn in it.svg"), "{output:?}");
        Folded::parse(&self.read("stacks")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

/// The share of a function with all that it calls.
fn share(folded: &Folded, name: &str) -> f64 {
    let function = folded.functions().into_iter().find(|function| function.name == name);
    function.map_or(0.0, |function| function.total as f64 / folded.total() as f64)
}

fn has_bpf() -> bool {
    let attached = Flame::attach(std::process::id(), Sight::Off);
    if let Err(error) = &attached {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "BPF is not allowed: {error}");
        println!("without BPF: skipped: {error}");
    }
    attached.is_ok()
}

#[test]
fn where_it_computes() {
    if !has_bpf() {
        return;
    }
    let target = Target::named("cpu-busy").unwrap().start().unwrap();
    let scratch = Scratch::new("on");
    let folded = scratch.watched(target.pid(), "--on");
    assert!(share(&folded, "checksum") > 0.9, "{}", folded.text());
    assert!(share(&folded, "main") > 0.9, "{}", folded.text());
    let svg = scratch.read("it.svg");
    for part in ["<svg", "checksum", "where it computes", "samples", "watched 2"] {
        assert!(svg.contains(part), "no {part:?}");
    }
    // Nothing lies beside it.
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
}

#[test]
fn where_it_is_off_the_processor_and_waits() {
    if !has_bpf() {
        return;
    }
    // One that slept before anybody looked.
    let target = Target::named("server-slow").unwrap().start().unwrap();
    let scratch = Scratch::new("off");
    for sight in ["--off", "--wait"] {
        let folded = scratch.watched(target.pid(), sight);
        assert!(share(&folded, "call") > 0.9, "{sight}: {}", folded.text());
        let seconds = folded.total() as f64 / 1e6;
        assert!((1.5..3.5).contains(&seconds), "{sight}: one thread for two seconds: {}", folded.text());
    }
    assert!(share(&scratch.watched(target.pid(), "--off"), "[poll]") > 0.9);

    // One that switches all the time.
    let target = Target::named("spin-short-timer").unwrap().start().unwrap();
    let folded = scratch.watched(target.pid(), "--off");
    assert!(share(&folded, "[epoll_wait]") > 0.3 && share(&folded, "main") > 0.9, "{}", folded.text());
    assert!(folded.total() as f64 / 1e6 < 3.5, "{}", folded.text());
}

#[test]
fn what_goroutines_wait_for() {
    let target = Target::named("task-leak-go").unwrap().start().unwrap();
    let scratch = Scratch::new("go");
    let folded = scratch.watched(target.pid(), "--wait");
    let searching = folded.functions().into_iter().find(|function| function.name.contains("search"));
    assert!(searching.is_some_and(|function| function.total > 10), "{}", folded.text());
    assert!(folded.text().contains(";[chan send] "), "{}", folded.text());
    assert!(scratch.read("it.svg").contains("goroutines"));
}

#[test]
fn the_difference_of_two_is_drawn_and_listed() {
    let scratch = Scratch::new("diff");
    scratch.file("before", "main;fast 50\nmain;slow 50\n");
    // Ten times as long, and twice as much in `slow`.
    scratch.file("after", "main;fast 500\nmain;slow 1500\n");
    let output = scratch.flame(&["--diff", "before", "after"]);
    assert_exit(&output, 0);
    let text = stdout(&output);
    let row = text.lines().find(|line| line.ends_with("slow")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["50.0", "75.0", "+25.0", "50.0", "75.0", "+25.0", "slow"]);
    assert!(!text.contains("  main\n"), "{text}");
    let svg = scratch.read("overdue-diff.svg");
    assert!(svg.contains("slow") && svg.contains("+25.00%"), "{svg}");
    let same = scratch.flame(&["--diff", "before", "before"]);
    assert!(stdout(&same).contains("nothing has changed"), "{same:?}");
}

#[test]
fn recordings_are_compared() {
    let scratch = Scratch::new("recordings");
    let record = |name: &str, samples: u64| {
        let frame = |name: &str| Frame { function: Some(name.to_owned()), ..Frame::default() };
        let stack = |name| Stack { frames: vec![frame(name), frame("main")], cut: None };
        let hot = |name, samples| HotStack { stack: stack(name), thread: "t".to_owned(), samples };
        let hot = vec![hot("fast", 100 - samples), hot("slow", samples)];
        let cpu = Cpu { samples: 100, hot: Some(hot), ..Cpu::default() };
        let mut bytes = Vec::new();
        recording::write(&mut bytes, &Observation { cpu: Some(cpu), ..Observation::default() }).unwrap();
        scratch.file(name, bytes);
    };
    record("before", 10);
    record("after", 60);
    let output = scratch.flame(&["--diff", "before", "after", "-o", "-"]);
    assert_exit(&output, 0);
    assert!(stdout(&output).starts_with("<?xml"), "{output:?}");
    assert!(stderr(&output).contains("+50.0"), "{output:?}");
    let off = scratch.flame(&["--diff", "before", "after", "--off"]);
    assert_exit(&off, 2);
    assert!(stderr(&off).contains("no recording tells of switches"), "{off:?}");
    assert!(stderr(&off).contains("overdue flame --diff before after --on"), "{off:?}");
    let wait = scratch.flame(&["--diff", "before", "after", "--wait"]);
    assert_exit(&wait, 2);
    assert!(stderr(&wait).contains("overdue flame --diff before after --on"), "{wait:?}");

    // The kind of the other file is what is taken of a recording.
    scratch.file("samples", "# overdue flame --on, samples\nt;main;slow 7\n");
    scratch.file("waits", "# overdue flame --wait, microseconds\nt;main;slow 7\n");
    assert_exit(&scratch.flame(&["--diff", "before", "samples"]), 0);
    let waits = scratch.flame(&["--diff", "before", "waits"]);
    assert_exit(&waits, 2);
    assert!(stderr(&waits).contains("the recording before has no stacks of --wait"), "{waits:?}");
}

/// Samples and microseconds have nothing in common, nor have waits of goroutines and of threads.
#[test]
fn stacks_of_different_kinds_are_not_compared() {
    let scratch = Scratch::new("kinds");
    let kinds = ["--on, samples", "--off, microseconds", "--wait, microseconds", "--wait, goroutines"];
    for (at, kind) in kinds.iter().enumerate() {
        scratch.file(&at.to_string(), format!("# overdue flame {kind}\nt;main;f 7\n"));
    }
    scratch.file("foreign", "t;main;f 7\n");
    for one in 0..kinds.len() {
        for two in 0..kinds.len() {
            let output = scratch.flame(&["--diff", &one.to_string(), &two.to_string()]);
            assert_exit(&output, if one == two { 0 } else { 2 });
            let both = [kinds[one], kinds[two], "overdue flame --pid PID --"];
            assert!(one == two || both.iter().all(|part| stderr(&output).contains(part)), "{output:?}");
        }
        // Of those of another tool nobody knows.
        assert_exit(&scratch.flame(&["--diff", &one.to_string(), "foreign"]), 0);
    }
    let asked = scratch.flame(&["--diff", "0", "0", "--wait"]);
    assert_exit(&asked, 2);
    assert!(stderr(&asked).contains("0 was written by --on"), "{asked:?}");
}

#[test]
fn wrong_usage_and_foreign_files() {
    let scratch = Scratch::new("wrong");
    scratch.file("good", "main;f 1\n");
    scratch.file("bad", "main;f 1\nwhat is this\n");
    scratch.file("hostile", "main;\u{1b}[2J<script>alert(1)</script>\u{7};b]]>&amp;\" 9\n");
    for (args, said) in [
        (&["--pid", "4000000000"][..], "4000000000"),
        (&[], "--pid"),
        (&["--pid", "1", "--on", "--off"], "--off"),
        (&["--diff", "good"], "2 values"),
        (&["--diff", "good", "nowhere"], "nowhere"),
        (&["--diff", "good", "bad"], "line 2"),
        (&["--diff", "good", "good", "--folded", "x"], "--folded"),
        (&["--diff", "good", "good", "-o", "/nowhere/x.svg"], "/nowhere/x.svg"),
    ] {
        let output = scratch.flame(args);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let output = scratch.flame(&["--diff", "good", "hostile"]);
    assert_exit(&output, 0);
    assert!(!stdout(&output).contains('\u{1b}'), "{output:?}");
    let svg = scratch.read("overdue-diff.svg");
    assert!(!svg.contains("<script>alert") && !svg.contains('\u{1b}') && !svg.contains('\u{7}'), "{svg}");
    assert!(svg.contains("&lt;script&gt;alert(1)"), "{svg}");
    assert!(Path::new(&scratch.0).join("overdue-diff.svg").is_file());
}
