//! Moves the limits of a connection from anywhere.

use std::{fmt, panic::Location, sync::Weak};

use overdue_core::{Limit, Stage};

use super::{
    Interrupter, Until,
    connection::{ACCEPT, Connection, Control},
};
use crate::clock;
use std::sync::Arc;

/// Sets the limits of a [`Stream`](super::Stream) or a [`Listener`](super::Listener), and closes it, from any thread. It
/// does not keep the connection open. Clones are cheap.
#[derive(Clone)]
pub struct Handle {
    pub(super) control: Arc<Control>,
    pub(super) connection: Weak<Connection>,
}

impl Handle {
    /// Sets, moves or clears the deadline of both directions, pending operations included.
    #[track_caller]
    pub fn set_deadline(&self, until: impl Into<Until>) {
        let (until, caller) = (until.into(), Location::caller());
        self.set(Stage::Receive, until.clone(), caller);
        self.set(Stage::Send, until, caller);
    }

    /// Sets, moves or clears the deadline of reads, the pending ones included.
    #[track_caller]
    pub fn set_read_deadline(&self, until: impl Into<Until>) {
        self.set(Stage::Receive, until.into(), Location::caller());
    }

    /// Sets, moves or clears the deadline of writes, the pending ones included.
    #[track_caller]
    pub fn set_write_deadline(&self, until: impl Into<Until>) {
        self.set(Stage::Send, until.into(), Location::caller());
    }

    /// Sets, moves or clears the deadline of a [`Listener`](super::Listener)'s `accept`, the pending ones included. (Of
    /// a stream it would be that of reads, under another name.)
    #[track_caller]
    pub fn set_accept_deadline(&self, until: impl Into<Until>) {
        self.set(ACCEPT, until.into(), Location::caller());
    }

    fn set(&self, stage: Stage, until: Until, caller: &'static Location<'static>) {
        let now = clock::unpaused();
        self.control.side(stage).set_deadline(until.deadline(stage, caller, now), now);
    }

    /// How long the peer may be silent while a read waits; [`LimitName::Gap`](crate::LimitName::Gap) is the name for it.
    /// For the pending read the time counts from its start.
    pub fn set_read_idle(&self, limit: Option<Limit>) {
        self.control.read.set_idle(limit);
    }

    /// How long the peer may take nothing while a write waits. For the pending write the time counts from its start.
    ///
    /// That the peer took bytes is noticed when the limit would fire, so it may fire up to as much later.
    pub fn set_write_idle(&self, limit: Option<Limit>) {
        self.control.write.set_idle(limit);
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.control.read.bytes()
    }

    /// Bytes written so far: taken by the kernel.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.control.write.bytes()
    }

    /// Closes the stream for everybody: what is pending, and whatever is begun later, fails with an error that names
    /// the line of this call. The socket is shut down at once in both directions; its descriptor is freed when the
    /// stream is dropped, so that no other socket gets its number while a thread may still use it. Returns whether this
    /// call was the first.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn close(&self) -> bool {
        let first = self.control.life.interrupt("the stream was closed");
        if let Some(connection) = self.connection.upgrade() {
            connection.shut_down();
        }
        first
    }

    /// Whether somebody closed the stream through a handle.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.life().cause().is_some()
    }

    pub(super) fn life(&self) -> &Interrupter {
        &self.control.life
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("bytes_read", &self.bytes_read())
            .field("bytes_written", &self.bytes_written())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
