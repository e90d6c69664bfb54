//! A control group with a quota of CPU, of version 1 or 2, whichever the machine has.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{TargetError, build};

/// The group may use a tenth of one CPU.
const PERIOD_US: u32 = 100_000;
const QUOTA_US: u32 = 10_000;

const PREFIX: &str = "overdue-lab-";

/// A group that is removed when this is dropped, if nobody is in it any more.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    pub(super) fn new() -> Result<Self, TargetError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let refused = |error: std::io::Error| TargetError::Cgroup(error.to_string());
        let version1 = Path::new("/sys/fs/cgroup/cpu");
        let version2 = Path::new("/sys/fs/cgroup");
        let is_version1 = version1.join("cpu.cfs_quota_us").is_file();
        let parent = if is_version1 { version1 } else { version2 };
        for group in build::orphans(parent, PREFIX) {
            drop(fs::remove_dir(group));
        }
        let name = format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        if !is_version1 {
            fs::write(parent.join("cgroup.subtree_control"), "+cpu").map_err(refused)?;
        }
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).map_err(refused)?;
        if is_version1 {
            fs::write(group.0.join("cpu.cfs_period_us"), PERIOD_US.to_string()).map_err(refused)?;
            fs::write(group.0.join("cpu.cfs_quota_us"), QUOTA_US.to_string()).map_err(refused)?;
        } else {
            fs::write(group.0.join("cpu.max"), format!("{QUOTA_US} {PERIOD_US}")).map_err(refused)?;
        }
        Ok(group)
    }

    /// Who writes 0 to this file joins.
    pub(super) fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It may be gone already; and one that is not empty goes when the next is made.
        drop(fs::remove_dir(&self.0));
    }
}
