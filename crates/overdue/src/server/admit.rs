//! How many connections there may be, in all and from one source.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// Where connections come from, as limits count them: one IPv4 address, or one IPv6 network of 64 bits, in which a
/// single machine can take any address it likes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Source(Bits);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Bits {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Source {
    /// An IPv4 address that comes as IPv6 is the IPv4 address it stands for.
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Bits::V4(address.to_bits()),
            IpAddr::V6(address) => Bits::V6((address.to_bits() >> 64) as u64),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Bits::V4(bits) => Ipv4Addr::from_bits(bits).fmt(f),
            Bits::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

/// The connections that are open now. Several listeners may share one, so that its limits hold for all of them.
#[derive(Clone, Debug)]
pub struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    most: usize,
    most_by_source: usize,
    open: AtomicUsize,
    /// Only sources with a connection, and only where they are limited: never more than there are connections.
    by_source: Mutex<HashMap<Source, usize>>,
    /// How many have ended, so that who waits for an end misses none.
    ended: AtomicU64,
    freed: Notify,
}

/// Why a connection may not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Excess {
    /// There are too many connections.
    #[error("too many connections")]
    Total,
    /// There are too many from its source.
    #[error("too many connections from one source")]
    Source,
}

impl Default for Connections {
    /// Without a limit.
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl Connections {
    /// No more than `most` in all, and `most_by_source` from each [`Source`]. `None` is no limit.
    #[must_use]
    pub fn new(most: Option<usize>, most_by_source: Option<usize>) -> Self {
        Self {
            inner: Arc::new(Inner {
                most: most.unwrap_or(usize::MAX),
                most_by_source: most_by_source.unwrap_or(usize::MAX),
                open: AtomicUsize::new(0),
                by_source: Mutex::default(),
                ended: AtomicU64::new(0),
                freed: Notify::new(),
            }),
        }
    }

    /// One more connection from this address, for as long as its permit lives.
    ///
    /// # Errors
    /// [`Excess`] says which limit is in the way.
    pub fn admit(&self, peer: IpAddr) -> Result<Permit, Excess> {
        let inner = &self.inner;
        let taken = inner
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < inner.most).then_some(open + 1));
        taken.map_err(|_| Excess::Total)?;
        let mut permit = Permit { connections: self.clone(), source: None };
        if inner.most_by_source != usize::MAX {
            let source = Source::from(peer);
            let mut by_source = inner.by_source.lock().unwrap_or_else(PoisonError::into_inner);
            let open = by_source.get(&source).copied().unwrap_or(0);
            if open >= inner.most_by_source {
                drop(by_source);
                return Err(Excess::Source);
            }
            by_source.insert(source, open + 1);
            permit.source = Some(source);
        }
        Ok(permit)
    }

    /// How many there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// How many there are from this address's source. Counted only where sources are limited.
    #[must_use]
    pub fn open_from(&self, peer: IpAddr) -> usize {
        let by_source = self.inner.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        by_source.get(&Source::from(peer)).copied().unwrap_or(0)
    }

    /// Waits until there is none. Cancel safe.
    pub(super) async fn none_left(&self) {
        loop {
            let seen = self.ended();
            if self.open() == 0 {
                return;
            }
            self.one_ends(seen).await;
        }
    }

    /// How many have ended until now.
    pub(super) fn ended(&self) -> u64 {
        self.inner.ended.load(Ordering::Acquire)
    }

    /// Waits until more have ended than `seen`. Cancel safe.
    pub(super) async fn one_ends(&self, seen: u64) {
        let freed = self.inner.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if self.ended() == seen {
            freed.await;
        }
    }
}

/// One connection, as its limits count it. It counts until this is dropped: drop the stream first, so that its
/// descriptor is free when a listener that ran out of them is woken.
#[derive(Debug)]
#[must_use = "dropped at once, the connection is not counted"]
pub struct Permit {
    connections: Connections,
    source: Option<Source>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let inner = &self.connections.inner;
        if let Some(source) = self.source {
            let mut by_source = inner.by_source.lock().unwrap_or_else(PoisonError::into_inner);
            match by_source.get_mut(&source) {
                Some(open) if *open > 1 => *open -= 1,
                _ => drop(by_source.remove(&source)),
            }
        }
        inner.open.fetch_sub(1, Ordering::Relaxed);
        inner.ended.fetch_add(1, Ordering::Release);
        inner.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_one_ipv4_address_or_64_bits_of_ipv6() {
        let source = |text| Source::from(ip(text)).to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_ne!(Source::from(ip("0.0.0.1")), Source::from(ip("::1")));
    }

    #[test]
    fn permits_count_until_they_are_dropped() {
        let connections = Connections::new(Some(3), Some(2));
        let first = connections.admit(ip("2001:db8::1")).unwrap();
        let second = connections.admit(ip("2001:db8::2")).unwrap();
        assert_eq!(connections.admit(ip("2001:db8::3")).unwrap_err(), Excess::Source);
        let third = connections.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(connections.admit(ip("192.0.2.2")).unwrap_err(), Excess::Total);
        assert_eq!((connections.open(), connections.open_from(ip("2001:db8::9"))), (3, 2));
        drop(first);
        let again = connections.admit(ip("2001:db8::3")).unwrap();
        drop((second, third, again));
        assert_eq!(connections.open(), 0);
        // Sources without a connection are forgotten.
        assert!(connections.inner.by_source.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_end_before_the_wait_is_not_missed() {
        let connections = Connections::default();
        let permit = connections.admit(ip("::1")).unwrap();
        let seen = connections.ended();
        drop(permit);
        connections.one_ends(seen).await;
        let permit = connections.admit(ip("::1")).unwrap();
        let waiting = connections.one_ends(connections.ended());
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(permit);
        waiting.await;
    }
}
