//! How a run of the program ends: decided here and nowhere else.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Nothing is wrong.
    Fine,
    /// A verdict or a finding was reached.
    Finding,
    /// The user pressed Ctrl-C; what was known by then has been printed.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Finding => 1,
            // As a shell counts a process that SIGINT ended.
            Exit::Interrupted => 130,
        })
    }
}

/// The exit code of a wrong usage, or of an environment in which nothing could be found out.
const ERROR: u8 = 2;

/// Ends a command that could not do its work. Somebody who closed the pipe has seen enough and is told nothing.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    // `eprintln!` would panic where stderr is closed.
    _ = writeln!(io::stderr(), "error: {}", words(error));
    ExitCode::from(ERROR)
}

/// Whether whoever read what was written has closed the pipe.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.map(io::Error::kind).any(|kind| kind == io::ErrorKind::BrokenPipe)
}

/// An error with its causes, each said once: some texts hold that of their cause already.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// Ends a command line that was not understood, or that asked for help.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // What is still in a buffer at the end of the program is lost without a word.
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        _ if error.use_stderr() => ExitCode::from(ERROR),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&anyhow::Error::new(error).context("cannot write to stdout")),
    }
}
