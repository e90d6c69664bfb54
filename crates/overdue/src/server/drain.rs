//! Ends a server without cutting what it is doing, for so long and no longer.

use std::time::Duration;

use overdue_core::{Limit, Stage};
use tokio::sync::watch;

use super::Connections;
use crate::{Context, clock};

/// The stage in which a drain waits.
const DRAIN: Stage = Stage::Named("drain");

/// The end of a server. Connections ask it whether they may go on ([`begun`](Self::begun)); whoever ends the server waits
/// until the last is gone, or the limit has passed ([`finish`](Self::finish)).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use overdue::{Context, Limit, server::{Connections, Drain}};
///
/// let (connections, context) = (Connections::default(), Context::root());
/// let drain = Drain::new(connections.clone(), context.clone());
///
/// let permit = connections.admit("192.0.2.1".parse().unwrap()).unwrap();
/// let connection = drain.clone();
/// tokio::spawn(async move {
///     // One that is idle: it says `connection: close`, or GOAWAY, and ends.
///     connection.begun().await;
///     drop(permit);
/// });
/// let drained = drain.finish(Limit::total(Duration::from_secs(30))).await;
/// assert_eq!(drained.cut, 0);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Drain {
    connections: Connections,
    context: Context,
    begun: watch::Sender<bool>,
}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drained {
    /// How long it took.
    pub took: Duration,
    /// How many connections were open when the limit had passed.
    pub cut: usize,
}

impl Drain {
    /// Of these connections, whose work is done under this context. Give the context to each connection, as the parent of
    /// the contexts of its requests.
    #[must_use]
    pub fn new(connections: Connections, context: Context) -> Self {
        Self { connections, context, begun: watch::Sender::new(false) }
    }

    /// The context of all work.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Nothing new is begun from now on: connections end with the request that they are serving. Whoever accepts stops.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits until it begins. Cancel safe.
    pub async fn begun(&self) {
        // It fails only where the sender is gone, and that is ours.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Begins, and waits until there is no connection any more. When the limit has passed first, the context is cancelled
    /// for what is left.
    ///
    /// # Cancel safety
    /// Dropped, the drain has begun all the same, and nothing is cut. It may be called again.
    pub async fn finish(&self, limit: Limit) -> Drained {
        self.begin();
        let started = clock::now();
        // The context of the work may have a deadline of its own, which is not the drain's.
        let waiting = self.context.detached().child(limit.clone());
        let cut = match waiting.run(DRAIN, self.connections.none_left()).await {
            Ok(()) => 0,
            Err(_) => {
                let left = self.connections.open();
                self.context.cancel(format!("the server has drained for as long as it may: limit {limit}"));
                left
            }
        };
        Drained { took: clock::now().saturating_duration_since(started), cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> Limit {
        Limit::total(Duration::from_secs(5))
    }

    fn drain() -> (Connections, Drain) {
        let connections = Connections::default();
        (connections.clone(), Drain::new(connections, Context::root()))
    }

    fn admit(connections: &Connections) -> super::super::Permit {
        connections.admit("192.0.2.1".parse().unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_last_connection_and_cuts_nothing() {
        let (connections, drain) = drain();
        assert!(!drain.has_begun());
        for work_ms in [10, 300, 100] {
            let (permit, drain) = (admit(&connections), drain.clone());
            tokio::spawn(async move {
                drain.begun().await;
                tokio::time::sleep(Duration::from_millis(work_ms)).await;
                drop(permit);
            });
        }
        let drained = drain.finish(limit()).await;
        assert_eq!((drained.cut, drained.took), (0, Duration::from_millis(300)));
        assert!(drain.has_begun() && !drain.context().is_cancelled());
        // Who comes late learns it at once.
        drain.begun().await;
        assert_eq!(drain.finish(limit()).await.took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_limit_is_cancelled_and_told_why() {
        let (connections, drain) = drain();
        let permits = [admit(&connections), admit(&connections)];
        let work = drain.context().branch();
        let drained = drain.finish(limit()).await;
        assert_eq!((drained.cut, drained.took), (2, Duration::from_secs(5)));
        let cause = work.cancel_cause().unwrap().to_string();
        assert!(cause.starts_with("the server has drained for as long as it may: limit total 5s ("), "{cause}");
        drop(permits);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_it_has_begun_and_cuts_nothing() {
        let (connections, drain) = drain();
        let permit = admit(&connections);
        let finishing = tokio::time::timeout(Duration::from_millis(10), drain.finish(limit())).await;
        assert!(finishing.is_err() && drain.has_begun() && !drain.context().is_cancelled());
        drop(permit);
    }
}
