//! What callers say when they set a deadline.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

use overdue_core::{Deadline, Limit, LimitName, Origin, Stage};

/// Until when something may take: anything of `None`, a [`Duration`] or a [`Limit`] from now, an [`Instant`], a
/// [`Deadline`].
///
/// A duration or an instant becomes a limit named after the stage it is for (`receive`, `send`), whose origin is the
/// line that set it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Until {
    /// Without end.
    Cleared,
    /// So long from now.
    In(Duration),
    /// At this moment.
    At(Instant),
    /// A limit that begins to count now.
    Limit(Limit),
    /// A deadline that counts already, such as that of a [`Context`](crate::Context).
    Deadline(Deadline),
}

impl From<Duration> for Until {
    fn from(duration: Duration) -> Self {
        Self::In(duration)
    }
}

impl From<Instant> for Until {
    fn from(at: Instant) -> Self {
        Self::At(at)
    }
}

impl From<Limit> for Until {
    fn from(limit: Limit) -> Self {
        Self::Limit(limit)
    }
}

impl From<Deadline> for Until {
    fn from(deadline: Deadline) -> Self {
        Self::Deadline(deadline)
    }
}

impl From<Option<Deadline>> for Until {
    fn from(deadline: Option<Deadline>) -> Self {
        deadline.map_or(Self::Cleared, Self::Deadline)
    }
}

impl Until {
    pub(crate) fn deadline(self, stage: Stage, set_at: &'static Location<'static>, now: Instant) -> Option<Deadline> {
        let limit = |value| Limit { name: LimitName::Stage(stage), value, origin: Origin::Code(set_at) };
        match self {
            Self::Cleared => None,
            Self::In(duration) => Some(Deadline::after(now, limit(duration))),
            Self::At(at) => Some(Deadline::at_instant(at, limit(at.saturating_duration_since(now)))),
            Self::Limit(limit) => Some(Deadline::after(now, limit)),
            Self::Deadline(deadline) => Some(deadline),
        }
    }
}
