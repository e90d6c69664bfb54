//! Where the body of a response goes. What takes it may be stuck: it is written on a thread of its own, which a call
//! waits for within its limits, and the process not at all.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use overdue::{Context, Stage};
use tokio::{
    sync::{
        mpsc::{
            self,
            error::{SendError, TrySendError},
        },
        oneshot,
    },
    time::timeout,
};

/// So many pieces may wait to be written.
const PIECES_WAITING: usize = 4;

/// How long the writer gets for what it was given, once the call is over.
const GRACE: Duration = Duration::from_millis(100);

/// Where the body of a response goes.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// It is counted.
    Counted,
    /// Standard output.
    Stdout,
    /// A file, made when there is a response.
    File(PathBuf),
}

impl Output {
    fn open(&self) -> io::Result<Option<File>> {
        Ok(match self {
            Self::Counted => None,
            // Not `io::stdout()`: whoever is stuck in a write would keep its lock.
            Self::Stdout => Some(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::File(path) => Some(File::create(path)?),
        })
    }

    fn trouble(&self) -> String {
        match self {
            Self::Counted => "cannot count the body".to_owned(),
            Self::Stdout => "cannot write to stdout".to_owned(),
            Self::File(path) => format!("cannot write {}", path.display()),
        }
    }
}

/// Takes the pieces of a body.
#[derive(Debug)]
pub(crate) struct Sink {
    output: Output,
    /// None when the body is only counted.
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    pieces: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Sink {
    /// Begins to write. The file is opened by the writer, too: to open a pipe that nobody reads takes for ever.
    pub(crate) fn new(output: &Output) -> anyhow::Result<Self> {
        let writer = match output {
            Output::Counted => None,
            output => Some(Writer::start(output.clone()).context("cannot start a thread that writes the body")?),
        };
        Ok(Self { output: output.clone(), writer })
    }

    /// Hands over a piece, as soon as there is room for it.
    ///
    /// Fails when the context ends first, or when the writer has failed.
    pub(crate) async fn take(&mut self, context: &Context, piece: Bytes) -> anyhow::Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        // What there is room for is never late.
        let sent = match writer.pieces.try_send(piece) {
            Err(TrySendError::Full(piece)) => context.run(Stage::Handle, writer.pieces.send(piece)).await,
            other => Ok(other.map_err(|error| SendError(error.into_inner()))),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.finish(context).await,
            Err(interrupted) => {
                self.writer = None;
                Err(self.stuck(&interrupted))
            }
        }
    }

    /// Waits until all of it is written. Says it once.
    pub(crate) async fn finish(&mut self, context: &Context) -> anyhow::Result<()> {
        let Some(Writer { pieces, mut ended }) = self.writer.take() else { return Ok(()) };
        drop(pieces);
        let written = match context.run(Stage::Handle, &mut ended).await {
            Ok(written) => written,
            Err(interrupted) => timeout(GRACE, ended).await.map_err(|_| self.stuck(&interrupted))?,
        };
        written.context("the thread that writes the body ended in a panic")?.with_context(|| self.output.trouble())
    }

    fn stuck(&self, interrupted: &overdue::Error) -> anyhow::Error {
        let until = match (interrupted.limit(), interrupted.cancel_cause()) {
            (Some(limit), _) => format!("before the limit {limit} had passed"),
            (None, Some(cause)) => format!("before the end: {cause}"),
            (None, None) => "before the end".to_owned(),
        };
        anyhow::anyhow!("{}: whoever reads it did not take all of the body {until}", self.output.trouble())
    }
}

impl Writer {
    fn start(output: Output) -> io::Result<Self> {
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("body-writer".to_owned()).spawn(move || {
            let mut write = || {
                let Some(mut file) = output.open()? else { return Ok(()) };
                while let Some(piece) = waiting.blocking_recv() {
                    file.write_all(&piece)?;
                }
                Ok(())
            };
            let written = write();
            // The result before the channel's end, which makes the call ask for it. Nobody waits for it any more when
            // the call has ended.
            _ = end.send(written);
            drop(waiting);
        })?;
        Ok(Self { pieces, ended })
    }
}
