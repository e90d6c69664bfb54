//! What a worker counts. Read by asking it: nothing here is shared.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use overdue_core::{Cause, Stage};

use crate::{arrive::WhyNoHeader, log::FirstAttempt};

/// The stages of a request as the gateway measures them.
pub(crate) const STAGES: [Stage; 7] =
    [crate::worker::HEAD, Stage::Queue, Stage::Connect, Stage::Tls, Stage::Send, Stage::Wait, Stage::Receive];

/// Counts of one worker, or of all together.
#[derive(Default, Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) connections: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    /// Connections to servers that carried a request before, and new ones.
    pub(crate) reused: Cell<u64>,
    pub(crate) dialled: Cell<u64>,
    /// TLS handshakes with servers, and those of them that resumed a session.
    pub(crate) secured: Cell<u64>,
    pub(crate) resumed: Cell<u64>,
    /// TLS handshakes of clients that came to nothing.
    pub(crate) handshakes_failed: Cell<u64>,
    /// Connections without a PROXY header that could be taken, by [`WhyNoHeader`].
    pub(crate) proxy_headers_refused: [Cell<u64>; WhyNoHeader::ALL.len()],
    /// By class of the status, from 1xx to 5xx; 0 where there was no answer.
    pub(crate) statuses: [Cell<u64>; 6],
    /// gRPC calls by their code, 0 to 16; what is none of these is the last.
    pub(crate) grpc: [Cell<u64>; 18],
    pub(crate) stages: [Histogram; STAGES.len()],
    pub(crate) total: Histogram,
    failures: RefCell<BTreeMap<(Arc<str>, Cause), u64>>,
    /// First attempts that failed, by server and cause.
    first_attempts: RefCell<BTreeMap<(SocketAddr, Cause), u64>>,
}

/// Durations, counted by powers of two of microseconds.
#[derive(Default, Clone, Debug)]
pub(crate) struct Histogram {
    buckets: [Cell<u64>; Self::BUCKETS],
    sum_us: Cell<u64>,
}

impl Histogram {
    /// Up to 2^25 us, which is half a minute; the last has all beyond.
    const BUCKETS: usize = 27;

    pub(crate) fn record_us(&self, us: u64) {
        // 0 and 1 us are in the first, up to 2 in the second, up to 4 in the third.
        let bucket = (64 - us.saturating_sub(1).leading_zeros()) as usize;
        add(self.buckets.get(bucket.min(Self::BUCKETS - 1)), 1);
        add(Some(&self.sum_us), us);
    }

    /// The upper bounds, in seconds, with how many were not above.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().take(Self::BUCKETS - 1).enumerate().scan(0, |sum, (power, count)| {
            *sum += count.get();
            Some(((1_u64 << power) as f64 / 1e6, *sum))
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(Cell::get).sum()
    }

    pub(crate) fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.get())
    }

    fn merge(&self, other: &Self) {
        for (own, other) in self.buckets.iter().zip(&other.buckets) {
            add(Some(own), other.get());
        }
        add(Some(&self.sum_us), other.sum_us.get());
    }
}

pub(crate) fn add(count: Option<&Cell<u64>>, more: u64) {
    if let Some(count) = count {
        count.set(count.get().saturating_add(more));
    }
}

/// One more, where a count is short-lived.
pub(crate) fn add_u32(count: Option<&Cell<u32>>) {
    if let Some(count) = count {
        count.set(count.get().saturating_add(1));
    }
}

impl Counts {
    pub(crate) fn failed(&self, route: &Arc<str>, cause: Cause) {
        *self.failures.borrow_mut().entry((Arc::clone(route), cause)).or_default() += 1;
    }

    pub(crate) fn handshake_failed(&self) {
        add(Some(&self.handshakes_failed), 1);
    }

    /// Counts an attempt that another followed.
    pub(crate) fn first_attempt(&self, first: FirstAttempt) {
        let FirstAttempt { server: Some(server), cause } = first else { return };
        *self.first_attempts.borrow_mut().entry((server, cause.unwrap_or(Cause::Unknown))).or_default() += 1;
    }

    pub(crate) fn first_attempts(&self) -> BTreeMap<(SocketAddr, Cause), u64> {
        self.first_attempts.borrow().clone()
    }

    pub(crate) fn failures(&self) -> BTreeMap<(Arc<str>, Cause), u64> {
        self.failures.borrow().clone()
    }

    pub(crate) fn merge(&self, other: &Self) {
        for (own, other) in [
            (&self.connections, &other.connections),
            (&self.requests, &other.requests),
            (&self.bytes_in, &other.bytes_in),
            (&self.bytes_out, &other.bytes_out),
            (&self.reused, &other.reused),
            (&self.dialled, &other.dialled),
            (&self.secured, &other.secured),
            (&self.resumed, &other.resumed),
            (&self.handshakes_failed, &other.handshakes_failed),
        ] {
            add(Some(own), other.get());
        }
        let refused = self.proxy_headers_refused.iter().zip(&other.proxy_headers_refused);
        refused.for_each(|(own, other)| add(Some(own), other.get()));
        self.statuses.iter().zip(&other.statuses).for_each(|(own, other)| add(Some(own), other.get()));
        self.grpc.iter().zip(&other.grpc).for_each(|(own, other)| add(Some(own), other.get()));
        self.stages.iter().zip(&other.stages).for_each(|(own, other)| own.merge(other));
        self.total.merge(&other.total);
        for (key, count) in other.first_attempts() {
            *self.first_attempts.borrow_mut().entry(key).or_default() += count;
        }
        for (key, count) in other.failures() {
            *self.failures.borrow_mut().entry(key).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_where_they_belong() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 5, 1000, 1024, 1025, u64::MAX] {
            histogram.record_us(us);
        }
        let at = |bound: f64| histogram.cumulative().find(|(upper, _)| (*upper - bound).abs() < 1e-12).unwrap().1;
        assert_eq!((at(1e-6), at(2e-6), at(4e-6), at(8e-6)), (2, 3, 5, 6));
        assert_eq!((at(0.000_512), at(0.001_024), at(0.002_048)), (6, 8, 9));
        assert_eq!((at(33.554_432), histogram.count()), (9, 10));
    }
}
