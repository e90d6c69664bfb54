//! `cargo xtask test`: everything that must hold before a change lands, step by step.

use std::{
    env,
    ffi::OsString,
    fmt,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use crate::{bpf, house::House, say, usage_error};

const USAGE: &str = "\
Everything that must hold before a change lands.

Usage: cargo xtask test [--only STEP]... [--keep-going]

Steps, in this order; the first that fails ends the run:
  fmt      the code is formatted
  clippy   no warning in any target
  test     all tests: doc tests, then the rest (by cargo-nextest where it is installed)
  doc      the documentation builds without a warning
  deny     licences, sources and bans of all dependencies (cargo-deny)
  bpf      the committed BPF objects are what their sources give (clang; Linux)
  models   every order in which threads can meet at what they share (loom)
  fuzz     the fuzz targets compile
  bench    the benchmarks compile, without a warning (Linux)

Options:
  --only STEP    this step only; may be given more than once
  --keep-going   go on after a step that failed
  -h, --help     this text

Environment:
  CI=true        a tool that is missing is a failure, as against a skipped step
";

/// Runs the chore and says how it went.
pub(crate) fn main<'a>(arguments: impl Iterator<Item = &'a str>) -> ExitCode {
    match Options::parse(arguments) {
        Ok(Some(options)) => options.run(),
        Ok(None) => {
            say(USAGE.trim_end());
            ExitCode::SUCCESS
        }
        Err(problem) => usage_error(&problem, USAGE),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Fmt,
    Clippy,
    Test,
    Doc,
    Deny,
    Bpf,
    Models,
    Fuzz,
    Bench,
}

impl Step {
    const ALL: [Self; 9] =
        [Self::Fmt, Self::Clippy, Self::Test, Self::Doc, Self::Deny, Self::Bpf, Self::Models, Self::Fuzz, Self::Bench];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Test => "test",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Bpf => "bpf",
            Self::Models => "models",
            Self::Fuzz => "fuzz",
            Self::Bench => "bench",
        }
    }

    fn run(self, house: &House) -> Outcome {
        match self {
            Self::Fmt => house.all([
                house.cargo("fmt --all -- --check"),
                house.cargo("fmt --manifest-path fuzz/Cargo.toml -- --check"),
                house.cargo("fmt --manifest-path bench/Cargo.toml -- --check"),
            ]),
            Self::Clippy => {
                // What a user leaves out must leave nothing behind.
                let part = |features| {
                    let parts = format!("--no-default-features --features={features}");
                    house.cargo(&format!("clippy --package overdue {parts} -- -D warnings"))
                };
                house.all([
                    house.cargo("clippy --workspace --all-targets --all-features -- -D warnings"),
                    part(""),
                    part("direct"),
                    part("tower"),
                ])
            }
            Self::Test => {
                let rest = if house.has("nextest") {
                    "nextest run --workspace --all-features"
                } else {
                    "test --workspace --all-features --all-targets"
                };
                house.all([house.cargo("test --workspace --all-features --doc"), house.cargo(rest)])
            }
            Self::Doc => {
                // Libraries only: the binary `overdue` would be documented over the library of the same name.
                let mut doc = house.cargo("doc --workspace --all-features --no-deps --lib");
                doc.env("RUSTDOCFLAGS", flags("RUSTDOCFLAGS", "-D warnings"));
                house.all([doc])
            }
            Self::Deny if house.has("deny") => {
                house.all([house.cargo("deny --all-features check --hide-inclusion-graph bans licenses sources")])
            }
            Self::Deny => house.missing("cargo-deny", "cargo install cargo-deny --locked"),
            Self::Bpf if bpf::has_compiler() => Outcome::of(bpf::check(house)),
            Self::Bpf => match bpf::check_sources(house) {
                Ok(_) => house.missing("clang, which builds them,", "apt-get install clang llvm libbpf-dev"),
                changed @ Err(_) => Outcome::of(changed),
            },
            Self::Models => {
                let mut models = house.cargo("test --package overdue --lib --target-dir target/models models::");
                models.env("RUSTFLAGS", flags("RUSTFLAGS", "--cfg overdue_loom"));
                house.all([models])
            }
            Self::Fuzz if house.has_cxx() => {
                let mut check = house.cargo("check --manifest-path fuzz/Cargo.toml --target-dir target/fuzz");
                check.env("RUSTFLAGS", flags("RUSTFLAGS", "--cfg fuzzing -D warnings"));
                house.all([check])
            }
            Self::Fuzz => house.missing("a C++ compiler, which libFuzzer is built with,", "apt-get install g++"),
            Self::Bench if cfg!(target_os = "linux") => {
                let check = "clippy --manifest-path bench/Cargo.toml --target-dir target/bench --no-deps --all-targets -- -D warnings";
                house.all([house.cargo(check)])
            }
            Self::Bench => house.missing("Linux, which the benchmarks measure,", "use another machine"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Options {
    steps: Vec<Step>,
    keep_going: bool,
}

impl Options {
    /// `None` is a cry for help.
    fn parse<'a>(mut arguments: impl Iterator<Item = &'a str>) -> Result<Option<Self>, String> {
        let mut only = Vec::new();
        let mut keep_going = false;
        while let Some(argument) = arguments.next() {
            match argument {
                "--only" => {
                    let name = arguments.next().ok_or("--only needs the name of a step")?;
                    let step = Step::ALL.into_iter().find(|step| step.as_str() == name);
                    only.push(step.ok_or_else(|| format!("there is no step {name:?}"))?);
                }
                "--keep-going" => keep_going = true,
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        let steps = Step::ALL.into_iter().filter(|step| only.is_empty() || only.contains(step)).collect();
        Ok(Some(Self { steps, keep_going }))
    }

    fn run(&self) -> ExitCode {
        let house = House::new();
        let mut done = Vec::new();
        let ((), whole) = timed(|| {
            for &step in &self.steps {
                let (outcome, took) = timed(|| step.run(&house));
                say(&format!("==> {step}: {outcome} after {}", Took(took)));
                let failed = matches!(outcome, Outcome::Failed(_));
                done.push((step, outcome, took));
                if failed && !self.keep_going {
                    break;
                }
            }
        });
        let summary = Summary { steps: &self.steps, done: &done, whole };
        say(&format!("\n{summary}"));
        if summary.count(|outcome| matches!(outcome, Outcome::Failed(_))) == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Outcome {
    fn of(done: Result<String, String>) -> Self {
        match done {
            Ok(said) => {
                say(&format!("\n==> {said}"));
                Self::Passed
            }
            Err(why) => Self::Failed(why),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed(why) => write!(f, "FAILED, {why},"),
            Self::Skipped(why) => write!(f, "skipped, {why},"),
        }
    }
}

/// What ran, how it ended and how long it took.
struct Summary<'a> {
    steps: &'a [Step],
    done: &'a [(Step, Outcome, Duration)],
    whole: Duration,
}

impl Summary<'_> {
    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.done.iter().filter(|(_, outcome, _)| which(outcome)).count()
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("xtask test:")?;
        for (step, outcome, took) in self.done {
            match outcome {
                Outcome::Passed => write!(f, " {step} {},", Took(*took))?,
                Outcome::Failed(_) => write!(f, " {step} FAILED {},", Took(*took))?,
                Outcome::Skipped(_) => write!(f, " {step} skipped,")?,
            }
        }
        for step in self.steps.iter().skip(self.done.len()) {
            write!(f, " {step} not run,")?;
        }
        writeln!(f, " in all {}", Took(self.whole))?;
        let passed = self.count(|outcome| *outcome == Outcome::Passed);
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        write!(f, "steps: {passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl House {
    /// Runs the commands in turn, until one fails.
    fn all<const N: usize>(&self, commands: [Command; N]) -> Outcome {
        for mut command in commands {
            say(&format!("\n==> {}", Shown(&command)));
            match command.status() {
                Ok(status) if status.success() => {}
                Ok(status) => return Outcome::Failed(status.to_string()),
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        }
        Outcome::Passed
    }

    /// Whether cargo knows this subcommand.
    fn has(&self, subcommand: &str) -> bool {
        answers(&mut self.cargo(&format!("{subcommand} --version")))
    }

    fn has_cxx(&self) -> bool {
        let compilers =
            env::var_os("CXX").map_or_else(|| vec!["c++".into(), "g++".into(), "clang++".into()], |cxx| vec![cxx]);
        compilers.into_iter().any(|cxx: OsString| answers(Command::new(cxx).arg("--version").current_dir(&self.root)))
    }

    fn missing(&self, what: &str, how: &str) -> Outcome {
        let why = format!("{what} is missing ({how})");
        if self.ci { Outcome::Failed(why) } else { Outcome::Skipped(why) }
    }
}

/// A command as it would be typed.
struct Shown<'a>(&'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0.get_envs() {
            if let Some(value) = value {
                write!(f, "{}={:?} ", name.display(), value)?;
            }
        }
        f.write_str("cargo")?;
        self.0.get_args().try_for_each(|argument| write!(f, " {}", argument.display()))
    }
}

/// A duration to a tenth of a second.
struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..60 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            secs => write!(f, "{}m{:02}s", secs / 60, secs % 60),
        }
    }
}

fn answers(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Flags that the user has set in this variable, and ours after them.
fn flags(variable: &str, ours: &str) -> String {
    match env::var(variable) {
        Ok(theirs) if !theirs.is_empty() => format!("{theirs} {ours}"),
        _ => ours.to_owned(),
    }
}

/// What the work gives, and how long it took.
#[expect(clippy::disallowed_methods, reason = "it measures programs, of which no test can pause the time")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace())
    }

    #[test]
    fn steps_keep_their_order() {
        assert_eq!(parse(""), Ok(Some(Options { steps: Step::ALL.to_vec(), keep_going: false })));
        let some = Options { steps: vec![Step::Fmt, Step::Doc], keep_going: true };
        assert_eq!(parse("--only doc --keep-going --only fmt"), Ok(Some(some)));
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert_eq!(parse("--only"), Err("--only needs the name of a step".to_owned()));
        assert_eq!(parse("--only lint"), Err("there is no step \"lint\"".to_owned()));
        assert_eq!(parse("--fast"), Err("unknown argument \"--fast\"".to_owned()));
        assert_eq!(parse("--fast --help"), Err("unknown argument \"--fast\"".to_owned()));
        assert_eq!(parse("--help"), Ok(None));
    }

    #[test]
    fn the_summary_names_every_step() {
        let failed = Outcome::Failed("exit status: 1".to_owned());
        let done = [
            (Step::Fmt, Outcome::Passed, Duration::from_millis(840)),
            (Step::Clippy, failed, Duration::from_millis(75_300)),
        ];
        let steps = [Step::Fmt, Step::Clippy, Step::Test];
        let summary = Summary { steps: &steps, done: &done, whole: Duration::from_millis(76_140) };
        assert_eq!(
            summary.to_string(),
            "xtask test: fmt 0.8s, clippy FAILED 1m15s, test not run, in all 1m16s\nsteps: 1 passed, 1 failed, 0 skipped"
        );
    }
}
