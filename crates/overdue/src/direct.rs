//! Connections for threads that block, with deadlines that can be moved at any time; and a poller over many of them.
//!
//! For code that cannot afford a runtime: nothing here needs one. A [`Stream`] is a TCP or Unix socket with the contract
//! of [`overdue::stream`](crate::stream), for [`Read`](std::io::Read) and [`Write`](std::io::Write):
//!
//! - A deadline can be set, moved and cleared by anybody who holds the [`Handle`], from any thread, at any time. It
//!   holds for the operation that is pending now and for all that follow, until it is set anew.
//! - A deadline that has passed before an operation begins fails it at once: the socket is not touched. From then on
//!   the socket is asked before the clock: bytes that are here win over a deadline that has just passed.
//! - After a deadline fired, setting another makes the direction usable again. A read that timed out has consumed
//!   nothing; of a write that timed out nothing went out, and [`Handle::bytes_written`] tells how far the ones before
//!   it got (those inside of `write_all`, say).
//! - An idle limit counts while an operation waits, and begins anew with every byte that moves.
//! - Of all that apply the earliest fires, and the error names it with its owner.
//! - An operation ends before its deadline when an [`Interrupter`] says so, or a signal, if
//!   [that is wanted](Options::until_signal).
//!
//! Errors are [`io::Error`](std::io::Error)s. Where a limit fired the kind is `TimedOut`, where somebody interrupted or
//! closed it `ConnectionAborted`; what the system reports keeps its kind. [`Error::find`](crate::Error::find) finds in
//! them the stage (`connect`, `accept`, `receive`, `send`), the limit with its origin, and the judged cause with the
//! kernel's evidence.
//!
//! Time is the kernel's monotonic clock, in nanoseconds; `tokio::time::pause` does not stop it.
//!
//! A client that gives the peer 5 s of silence at most, and the whole answer 30 s:
//!
//! ```
//! use std::{io::{self, BufRead, BufReader, Write}, time::Duration};
//! use overdue::{Limit, LimitName, direct::{Listener, Stream}};
//!
//! fn ask(stream: &Stream, question: &str) -> io::Result<String> {
//!     stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, Duration::from_secs(5))));
//!     stream.set_deadline(Duration::from_secs(30));
//!     (&*stream).write_all(format!("{question}\n").as_bytes())?;
//!     let mut answer = String::new();
//!     BufReader::new(stream).read_line(&mut answer)?;
//!     stream.set_deadline(None);
//!     Ok(answer)
//! }
//!
//! # fn main() -> io::Result<()> {
//! let listener = Listener::bind(([127, 0, 0, 1], 0).into())?;
//! let stream = Stream::connect(listener.local_addr().unwrap(), Duration::from_secs(10))?;
//! # listener.handle().set_accept_deadline(Duration::from_secs(10));
//! listener.accept()?.write_all(b"42\n")?;
//! assert_eq!(ask(&stream, "6 * 7")?, "42\n");
//! # Ok(()) }
//! ```

mod alarm;
mod connection;
mod handle;
mod interrupt;
mod listen;
mod options;
mod poller;
mod side;
mod stream;
mod wait;

pub use self::{
    handle::Handle,
    interrupt::Interrupter,
    listen::Listener,
    options::Options,
    poller::{Event, Events, Interest, Poller, Source, Token, Waker},
    stream::Stream,
};
pub use crate::until::Until;
