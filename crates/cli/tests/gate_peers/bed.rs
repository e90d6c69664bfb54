//! What the tests stand on: the gateway as a process, and programs of others, which are missing in CI at their peril.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use tempfile::TempDir;

/// A gateway with a listener in the clear and one with TLS, for `gate.test`.
pub(crate) struct Gate {
    child: Child,
    pub(crate) clear: String,
    pub(crate) secure: String,
    pub(crate) admin: String,
    folder: TempDir,
}

impl Gate {
    /// With these clusters and routes.
    pub(crate) fn start(rest: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let made = rcgen::generate_simple_self_signed(["gate.test".to_owned()]).unwrap();
        fs::write(at("chain.pem"), made.cert.pem()).unwrap();
        fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let text = format!(
            "workers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nfile = {:?}\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\ntrusted = [\"127.0.0.1/32\"]\n\
             [[listener]]\nlisten = \"127.0.0.2:0\"\ntrusted = [\"127.0.0.1/32\"]\n\
             [listener.tls]\ncertificates = [{{ chain = {:?}, key = {:?} }}]\n{rest}\n",
            at("log"),
            at("chain.pem"),
            at("key.pem")
        );
        fs::write(at("gate.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
        command.args(["gate", "--config"]).arg(at("gate.toml")).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |before: &str| {
            let line = said.next().unwrap().unwrap();
            line.strip_prefix(before).unwrap_or_else(|| panic!("{line:?}")).trim_end_matches('/').to_owned()
        };
        let (clear, secure, admin) = (address("serving "), address("serving "), address("operator at http://"));
        Self { child, clear, secure, admin, folder }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("chain.pem")
    }

    /// Ends it, as an operator would, and gives its log: that is whole then.
    pub(crate) fn log(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A server of somebody else, which ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    _stdin: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { _stdin: child.stdin.take(), said, child }
    }

    /// What it says next, which is where it listens.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A script of this folder.
pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate_peers")).join(name)
}

/// Python, with what CI installs for it.
pub(crate) fn python() -> Command {
    let mut command = Command::new("python3");
    if let Some(peers) = env::var_os("OVERDUE_PYTHON") {
        command.env("PYTHONPATH", peers);
    }
    command
}

/// Whether this program works; in CI it has to.
pub(crate) fn is_there(command: &mut Command) -> bool {
    let works = command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    assert!(works || env::var_os("CI").is_none_or(|ci| ci != "true"), "{command:?} fails: .ci/run installs it");
    if !works {
        println!("{command:?} does not work here: skipped");
    }
    works
}

/// What a program said that had to succeed.
#[track_caller]
pub(crate) fn done(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
