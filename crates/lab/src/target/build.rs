//! From a source to a program. Each is built once: its place is named after all that goes into it.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use super::{
    Language, Program, RUST, Target, TargetError, catalogue, os,
    process::{Outside, Process},
};

/// Go compiles a part of its library the first time.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

const TOKIO_FEATURES: &str = r#"["io-util", "net", "rt-multi-thread", "sync", "time"]"#;

/// The program of a target, built where it has to be.
pub(super) fn program(target: &Target) -> Result<Program, TargetError> {
    let (name, install) = target.language.tool();
    let tool = find(name, install)?;
    let folder = folder(&[&target.source, shared(target.language).unwrap_or_default()])?;
    let source = write(&folder, &target.source)?;
    let built = folder.join(target.stem());
    let mut command = Command::new(&tool);
    match target.language {
        Language::Python | Language::Node => return Ok(Program { path: tool, script: Some(source) }),
        _ if built.is_file() => return Ok(Program { path: built, script: None }),
        Language::Rust if target.tokio => {
            with_tokio(target, &folder, &built)?;
            return Ok(Program { path: built, script: None });
        }
        Language::C => {
            write(&folder, "common.h")?;
            command.args(["-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-pthread"]);
        }
        Language::Go => {
            command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
            command.env("GOTOOLCHAIN", "local").env_remove("GOOS").env_remove("GOARCH").arg("build");
        }
        Language::Rust => {
            command.args(["--edition", "2021", "-O", "-g", "-C", "force-frame-pointers=yes"]);
        }
    }
    let unfinished = unfinished(&built);
    command.arg("-o").arg(&unfinished).arg(&source).current_dir(&folder);
    if target.language == Language::Go {
        command.arg(write(&folder, "common.go")?);
    }
    run(name, command, target)?;
    fs::rename(&unfinished, &built).map_err(os("keep the program that was built"))?;
    Ok(Program { path: built, script: None })
}

/// A program with tokio: the version that this project is locked to, whose source cargo has fetched to build the lab.
/// All such programs share what is compiled of it.
fn with_tokio(target: &Target, folder: &Path, built: &Path) -> Result<(), TargetError> {
    const LOCK: &str = include_str!("../../../../Cargo.lock");

    let stem = target.stem();
    let manifest = format!(
        "[package]\nname = \"{stem}\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n\
         [[bin]]\nname = \"{stem}\"\npath = \"{}\"\n\n\
         [dependencies]\ntokio = {{ version = \"1\", default-features = false, features = {TOKIO_FEATURES} }}\n\n\
         [profile.dev]\nopt-level = 1\n\n\
         [profile.dev.package.\"*\"]\nopt-level = 0\ndebug = \"line-tables-only\"\n\n[workspace]\n",
        target.source
    );
    fs::write(folder.join("Cargo.toml"), manifest).map_err(os("write a manifest"))?;
    fs::write(folder.join("Cargo.lock"), LOCK).map_err(os("write a lock file"))?;
    let output = cache()?.join("tokio");
    let mut command = Command::new(find("cargo", RUST)?);
    command.args(["build", "--quiet", "--offline"]).current_dir(folder);
    command.env("CARGO_TARGET_DIR", &output).env("RUSTFLAGS", "-C force-frame-pointers=yes");
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    run("cargo", command, target)?;
    let unfinished = unfinished(built);
    fs::copy(output.join("debug").join(stem), &unfinished).map_err(os("copy the program that was built"))?;
    fs::rename(&unfinished, built).map_err(os("keep the program that was built"))
}

fn run(name: &'static str, command: Command, target: &Target) -> Result<(), TargetError> {
    Process::spawn(command, Outside::default())
        .map_err(os(format!("run {name}")))?
        .succeeds(name, BUILD_LIMIT)?
        .map_err(|output| TargetError::Build { program: name, source_file: target.source.clone(), output })
}

/// Whoever looks at a file sees all of it or nothing, and two who make it at once do not disturb each other: it gets its
/// name when it is whole.
fn unfinished(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{name}.{}-{:?}", process::id(), thread::current().id()))
}

/// The peer of all targets.
pub(super) fn peer() -> Result<Program, TargetError> {
    let (name, install) = Language::Python.tool();
    let path = find(name, install)?;
    let folder = folder(&["peer.py"])?;
    Ok(Program { path, script: Some(write(&folder, "peer.py")?) })
}

fn shared(language: Language) -> Option<&'static str> {
    match language {
        Language::C => Some("common.h"),
        Language::Go => Some("common.go"),
        _ => None,
    }
}

fn find(program: &'static str, install: &'static str) -> Result<PathBuf, TargetError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or(TargetError::NoTool { program, install })
}

/// The folder for what is made of these sources. A new compiler builds anew only what is new, which is good enough.
fn folder(sources: &[&str]) -> Result<PathBuf, TargetError> {
    let mut hasher = DefaultHasher::new();
    for name in sources {
        (name, catalogue::source(name)).hash(&mut hasher);
    }
    let name = sources.first().map(|name| name.replace('.', "-")).unwrap_or_default();
    let folder = cache()?.join(format!("{name}-{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).map_err(os("make a folder to build in"))?;
    Ok(folder)
}

/// Cargo's target folder when we were built by it, or else the user's cache.
pub(super) fn cache() -> Result<PathBuf, TargetError> {
    let myself = env::current_exe().unwrap_or_default();
    let cargo = myself.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned);
    let user = || {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))
    };
    Ok(cargo.or_else(user).ok_or(TargetError::NoCache)?.join("overdue-targets"))
}

/// What processes that are gone have left behind here: entries named after their pid.
pub(super) fn orphans(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_orphan = |name: &str| {
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists())
    };
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_orphan)).map(|entry| entry.path()).collect()
}

/// Puts a source into a folder, unless it is there.
fn write(folder: &Path, name: &str) -> Result<PathBuf, TargetError> {
    let file = folder.join(name);
    if !file.is_file() {
        let unfinished = unfinished(&file);
        fs::write(&unfinished, catalogue::source(name).unwrap_or_default()).map_err(os("write a source"))?;
        fs::rename(&unfinished, &file).map_err(os("write a source"))?;
    }
    Ok(file)
}
