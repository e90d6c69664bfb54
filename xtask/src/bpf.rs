//! `cargo xtask bpf`: the BPF programs, from C to the objects that are committed beside their sources, so that nobody
//! else needs clang. The hashes of the sources lie beside them, too: a changed source shows without a compiler.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{house::House, say, usage_error};

const USAGE: &str = "\
Builds the BPF objects that are committed (needs clang, llvm-strip and libbpf's headers).

Usage: cargo xtask bpf [--check]

Options:
  --check    change nothing; fail where an object is not what its source gives
  -h, --help this text
";

/// Where the sources lie, one folder a topic.
const SOURCES: &str = "crates/why/src/collect";
/// The hashes of all sources, as `sha256sum` writes them.
const HASHES: &str = "bpf/sources.sha256";
const SUFFIX: &str = ".bpf.c";
/// What a topic's source includes, besides what all share.
const HEADERS: &str = ".bpf.h";

/// Runs the chore and says how it went.
pub(crate) fn main<'a>(mut arguments: impl Iterator<Item = &'a str>) -> ExitCode {
    let house = House::new();
    let done = match arguments.next() {
        None => build(&house),
        Some("--check") => check(&house),
        Some("--help" | "-h") => {
            say(USAGE.trim_end());
            return ExitCode::SUCCESS;
        }
        Some(other) => return usage_error(&format!("unknown argument {other:?}"), USAGE),
    };
    match done {
        Ok(said) => {
            say(&said);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(&format!("error: {problem}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether what it takes is there.
pub(crate) fn has_compiler() -> bool {
    ["clang", "llvm-strip"].into_iter().all(|tool| {
        let quiet = Command::new(tool).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    })
}

/// Builds every object in its place.
fn build(house: &House) -> Result<String, String> {
    let folder = house.root.join(SOURCES);
    let programs = programs(&folder)?;
    for program in &programs {
        compile(&folder, program, &folder.join(object(program)))?;
    }
    let hashes = hashes(&folder, &programs)?;
    fs::write(folder.join(HASHES), hashes).map_err(|error| format!("{HASHES}: {error}"))?;
    Ok(format!("{} objects built", programs.len()))
}

/// Builds every object elsewhere, and compares.
pub(crate) fn check(house: &House) -> Result<String, String> {
    let folder = house.root.join(SOURCES);
    let programs = programs(&folder)?;
    check_hashes(&folder, &programs)?;
    let elsewhere = house.root.join("target/bpf");
    fs::create_dir_all(&elsewhere).map_err(|error| format!("{}: {error}", elsewhere.display()))?;
    for program in &programs {
        let committed = object(program);
        let built = elsewhere.join(committed.file_name().unwrap_or_default());
        compile(&folder, program, &built)?;
        let read = |file: &Path| fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        if read(&built)? != read(&folder.join(&committed))? {
            return Err(format!("{} is not what its source gives: run `cargo xtask bpf`", committed.display()));
        }
    }
    Ok(format!("{} objects are what their sources give", programs.len()))
}

/// Whether the sources are those that the objects were built of; needs no compiler.
pub(crate) fn check_sources(house: &House) -> Result<String, String> {
    let folder = house.root.join(SOURCES);
    let programs = programs(&folder)?;
    check_hashes(&folder, &programs)?;
    Ok(format!("the sources of {} objects have not changed", programs.len()))
}

fn check_hashes(folder: &Path, programs: &[PathBuf]) -> Result<(), String> {
    let committed = fs::read_to_string(folder.join(HASHES)).map_err(|error| format!("{HASHES}: {error}"))?;
    if committed == hashes(folder, programs)? {
        Ok(())
    } else {
        Err(format!("a source has changed since {HASHES} was written: run `cargo xtask bpf`"))
    }
}

/// The programs' sources, below the folder, in order.
fn programs(folder: &Path) -> Result<Vec<PathBuf>, String> {
    files(folder, SUFFIX)
}

/// The files with that ending in the folders of all topics, below the folder, in order.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let list =
        |folder: &Path| -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let problem = |error: io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for topic in list(folder).map_err(problem)?.into_iter().filter(|path| path.is_dir()) {
        let sources = list(&topic).map_err(problem)?;
        let sources = sources.into_iter().filter(|path| path.to_string_lossy().ends_with(ending));
        found.extend(sources.filter_map(|path| path.strip_prefix(folder).map(Path::to_owned).ok()));
    }
    found.sort();
    Ok(found)
}

fn object(program: &Path) -> PathBuf {
    program.with_extension("o")
}

/// The same source gives the same bytes: no path of the machine goes into the object.
fn compile(folder: &Path, program: &Path, object: &Path) -> Result<(), String> {
    let mut clang = Command::new("clang");
    clang
        .current_dir(folder)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-D__TARGET_ARCH_x86", "-Wall", "-Werror", "-I", "bpf"])
        // For what libbpf's headers include of the system's.
        .args(["-idirafter", "/usr/include/x86_64-linux-gnu"])
        .arg(format!("-ffile-prefix-map={}=.", folder.display()))
        .arg("-c")
        .arg(program)
        .arg("-o")
        .arg(object);
    run(&mut clang)?;
    // Debug information goes, types (BTF) stay.
    run(Command::new("llvm-strip").arg("-g").arg(object))
}

fn hashes(folder: &Path, programs: &[PathBuf]) -> Result<String, String> {
    let mut sum = Command::new("sha256sum");
    sum.current_dir(folder).args(files(folder, HEADERS)?).args(programs);
    let output = sum.output().map_err(|error| format!("sha256sum: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("sha256sum: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
