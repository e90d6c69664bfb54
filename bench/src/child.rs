//! Child processes: pinned to a core, and gone with this one, however it ends.

use std::{
    env,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use rustix::{
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Where a process may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Core {
    /// What is measured.
    Load,
    /// The peer, elsewhere than the load where there are two cores.
    Peer,
    /// What needs more than one.
    Any,
}

impl Core {
    fn set(self) -> rustix::io::Result<CpuSet> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let core = match self {
            Self::Load => cores.next(),
            Self::Peer => cores.next_back(),
            Self::Any => return Ok(allowed),
        };
        let mut set = CpuSet::new();
        core.into_iter().for_each(|core| set.set(core));
        Ok(set)
    }
}

/// A program of this workspace.
pub(crate) fn program(name: &str, core: Core) -> anyhow::Result<Command> {
    pinned(&env::current_exe()?.with_file_name(name), core)
}

/// The command that is measured, as it is shipped: `xtask` builds it beside the folder of the benchmarks.
pub(crate) fn overdue() -> anyhow::Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("the benchmarks are in no folder of a build")?;
    Ok(target.join("dist/overdue"))
}

/// A command on its core. It dies when this process does.
pub(crate) fn pinned(program: &Path, core: Core) -> anyhow::Result<Command> {
    let set = core.set()?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    #[expect(unsafe_code, reason = "std has no safe way to prepare the child")]
    // SAFETY: between fork and exec it makes two system calls, and nothing else: it does not allocate.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(sched_setaffinity(None, &set)?)
        });
    }
    Ok(command)
}

/// The file of that name on the `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A server that runs until this is dropped.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot run {:?}", command.get_program()))?;
        Ok(Self(child))
    }

    /// Starts a server that prints its port first.
    pub(crate) fn with_port(command: &mut Command) -> anyhow::Result<(Self, u16)> {
        let mut server = Self::start(command.stdout(Stdio::piped()))?;
        let mut line = String::new();
        let printed = server.0.stdout.take().context("the server's output is not piped")?;
        BufReader::new(printed).read_line(&mut line)?;
        let port = line.trim().parse().with_context(|| format!("the server printed {line:?} instead of its port"))?;
        Ok((server, port))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal to a server that has not ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_none() {
            // Nobody else waits for it: the number is still its own.
            kill_process(Pid::from_child(&self.0), signal)?;
        }
        Ok(())
    }

    /// The exit of a server that has ended.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
