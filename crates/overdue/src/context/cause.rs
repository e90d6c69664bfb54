//! Why a context was cancelled.

use std::{borrow::Cow, error::Error as StdError, fmt, panic::Location, sync::Arc};

/// Why a context was cancelled: words, or an error of the canceller's own type, and the line that cancelled.
#[derive(Clone, Debug)]
pub struct CancelCause {
    reason: Reason,
    at: Option<&'static Location<'static>>,
}

#[derive(Clone, Debug)]
enum Reason {
    Words(Cow<'static, str>),
    Typed(Arc<dyn StdError + Send + Sync>),
}

impl CancelCause {
    /// A cause of the canceller's own type, which descendants find again with [`downcast_ref`](Self::downcast_ref).
    pub fn typed(reason: impl StdError + Send + Sync + 'static) -> Self {
        Self { reason: Reason::Typed(Arc::new(reason)), at: None }
    }

    /// The canceller's own type, if that is what it gave.
    #[must_use]
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        match &self.reason {
            Reason::Typed(reason) => reason.downcast_ref(),
            Reason::Words(_) => None,
        }
    }

    /// The line that cancelled.
    #[must_use]
    pub const fn location(&self) -> Option<&'static Location<'static>> {
        self.at
    }

    pub(crate) fn placed(mut self, at: &'static Location<'static>) -> Self {
        self.at.get_or_insert(at);
        self
    }
}

impl From<&'static str> for CancelCause {
    fn from(words: &'static str) -> Self {
        Self { reason: Reason::Words(words.into()), at: None }
    }
}

impl From<String> for CancelCause {
    fn from(words: String) -> Self {
        Self { reason: Reason::Words(words.into()), at: None }
    }
}

impl fmt::Display for CancelCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Words(words) => f.write_str(words),
            Reason::Typed(reason) => fmt::Display::fmt(reason, f),
        }
    }
}
