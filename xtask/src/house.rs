//! Where the chores are done, and what is there.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The project on this machine.
pub(crate) struct House {
    pub(crate) root: PathBuf,
    cargo: OsString,
    /// On a build server nothing is skipped.
    pub(crate) ci: bool,
}

impl House {
    pub(crate) fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: here.parent().unwrap_or(here).to_owned(),
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            ci: env::var_os("CI").is_some_and(|ci| ci == "true"),
        }
    }

    /// Cargo with arguments, none of which contains a space.
    pub(crate) fn cargo(&self, arguments: &str) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.args(arguments.split(' ')).current_dir(&self.root);
        // Cargo describes xtask to us in variables. Build scripts that watch them would run again each time that
        // somebody changes between this and plain cargo.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                cargo.env_remove(name);
            }
        }
        cargo
    }
}
