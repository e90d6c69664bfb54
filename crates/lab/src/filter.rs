//! Packet filters of a namespace, by the `nft` program.
//!
//! Filters sit on input: a packet dropped there is lost without a trace, as on a real path. Dropped on output it would
//! give its sender an error.

use std::{
    env, fmt,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt},
    net::unix::pipe,
    time::{sleep, timeout},
};

use crate::scenario::Rule;

/// `nft` takes some ten milliseconds.
const NFT_LIMIT: Duration = Duration::from_secs(5);

/// The most of what `nft` says that is kept.
const MAX_COMPLAINT_BYTES: u64 = 2048;

/// Where `nft` lies when PATH has no place for the administrator's programs.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Why a packet filter could not be switched on.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no `nft`.
    #[error("nft not found: install nftables (Debian, Ubuntu, Fedora: the package nftables)")]
    NoNft,
    /// It could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[source] std::io::Error),
    /// It did not end.
    #[error("nft did not end within {} s and was killed", NFT_LIMIT.as_secs())]
    TooLong,
    /// It refused the rules.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// The filters between callers and one port of the namespace.
pub(crate) struct Filters {
    port: u16,
}

impl Filters {
    /// Makes the table the rules go to.
    pub(crate) async fn new(port: u16) -> Result<Self, FilterError> {
        nft("add table inet overdue_lab\n\
             add set inet overdue_lab gone { type inet_service; size 16; flags dynamic; }\n\
             add chain inet overdue_lab input { type filter hook input priority 0; policy accept; }\n")
        .await?;
        Ok(Self { port })
    }

    /// Switches a filter on. It stays until the namespace is gone.
    pub(crate) async fn add(&self, rule: Rule) -> Result<(), FilterError> {
        nft(&Statements { rule, port: self.port }.to_string()).await
    }
}

struct Statements {
    rule: Rule,
    port: u16,
}

impl fmt::Display for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ADD: &str = "add rule inet overdue_lab input tcp";
        let port = self.port;
        match self.rule {
            Rule::DropSyn => writeln!(f, "{ADD} dport {port} tcp flags & (syn|ack) == syn drop"),
            Rule::DropToServer => writeln!(f, "{ADD} dport {port} drop"),
            Rule::DropFromServer => writeln!(f, "{ADD} sport {port} drop"),
            Rule::DropBoth => writeln!(f, "{ADD} dport {port} drop\n{ADD} sport {port} drop"),
            // The packet that is one too many takes the way back with it.
            Rule::DropBothAfterUpload { bytes } => writeln!(
                f,
                "{ADD} sport {port} tcp sport @gone drop\n\
                 {ADD} dport {port} quota over {bytes} bytes add @gone {{ tcp dport }} drop"
            ),
            Rule::DropLarge { over_bytes } => writeln!(
                f,
                "{ADD} dport {port} meta length > {over_bytes} drop\n\
                 {ADD} sport {port} meta length > {over_bytes} drop"
            ),
        }
    }
}

/// The path of `nft`.
pub(crate) fn find_nft() -> Result<PathBuf, FilterError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.map(PathBuf::from))
        .map(|folder| folder.join("nft"))
        .find(|file| file.is_file())
        .ok_or(FilterError::NoNft)
}

async fn nft(statements: &str) -> Result<(), FilterError> {
    let mut command = Command::new(find_nft()?);
    command.args(["-f", "-"]);
    run(command, statements.as_bytes()).await
}

/// Runs `nft` to its end, for so long and no longer. `input` is smaller than a pipe, so writing it blocks nobody.
pub(crate) async fn run(mut command: Command, input: &[u8]) -> Result<(), FilterError> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = Running(command.spawn().map_err(FilterError::Run)?);
    if let Some(mut stdin) = nft.0.stdin.take() {
        match stdin.write_all(input) {
            // It ended before it read everything, and will say why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result.map_err(FilterError::Run)?,
        }
    }

    let complaint = timeout(NFT_LIMIT, nft.ended()).await.map_err(|_| FilterError::TooLong)?;
    match complaint.map_err(FilterError::Run)? {
        None => Ok(()),
        Some(complaint) => Err(FilterError::Refused(complaint)),
    }
}

/// A child that does not outlive its handle, and is no zombie either.
struct Running(Child);

impl Running {
    /// Waits for the end of the child; what it complained of, where it failed.
    async fn ended(&mut self) -> io::Result<Option<String>> {
        let mut complaint = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            let mut stderr = pipe::Receiver::from_owned_fd(stderr.into())?;
            (&mut stderr).take(MAX_COMPLAINT_BYTES).read_to_end(&mut complaint).await?;
            io::copy(&mut stderr, &mut io::sink()).await?;
        }
        // The end of a pipe comes a moment before the end of the process that held it.
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(None),
                Some(_) => return Ok(Some(String::from_utf8_lossy(&complaint).trim().to_owned())),
                None => sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either may fail because it has ended already: then there is nothing left to do.
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}
