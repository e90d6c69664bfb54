//! From a source to a program. Each is built once: its place is named after all that goes into it.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use super::{
    Language, Program, Target, TargetError, catalogue, os,
    process::{Outside, Process},
};

/// Go compiles a part of its library the first time.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// The program of a target, built where it has to be.
pub(super) fn program(target: &Target) -> Result<Program, TargetError> {
    let tool = find(target.language)?;
    let folder = folder(&[&target.source, shared(target.language).unwrap_or_default()])?;
    let source = write(&folder, &target.source)?;
    let built = folder.join(target.stem());
    let mut command = Command::new(&tool);
    match target.language {
        Language::Python | Language::Node => return Ok(Program { path: tool, script: Some(source) }),
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
    if !built.is_file() {
        // Whoever looks sees all of it or nothing, and two who build at once do not disturb each other.
        let unfinished = folder.join(format!("{}.{}-{:?}", target.stem(), process::id(), std::thread::current().id()));
        command.arg("-o").arg(&unfinished).arg(&source).current_dir(&folder);
        if target.language == Language::Go {
            command.arg(write(&folder, "common.go")?);
        }
        let name = target.language.tool().0;
        Process::spawn(command, Outside::default())
            .map_err(os(format!("run {name}")))?
            .succeeds(name, BUILD_LIMIT)?
            .map_err(|output| TargetError::Build { program: name, source_file: target.source.clone(), output })?;
        fs::rename(&unfinished, &built).map_err(os("keep the program that was built"))?;
    }
    Ok(Program { path: built, script: None })
}

/// The peer of all targets.
pub(super) fn peer() -> Result<Program, TargetError> {
    let path = find(Language::Python)?;
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

fn find(language: Language) -> Result<PathBuf, TargetError> {
    let (program, install) = language.tool();
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

/// Puts a source into a folder, unless it is there.
fn write(folder: &Path, name: &str) -> Result<PathBuf, TargetError> {
    let file = folder.join(name);
    if !file.is_file() {
        let unfinished = folder.join(format!("{name}.{}-{:?}", process::id(), std::thread::current().id()));
        fs::write(&unfinished, catalogue::source(name).unwrap_or_default()).map_err(os("write a source"))?;
        fs::rename(&unfinished, &file).map_err(os("write a source"))?;
    }
    Ok(file)
}
