//! What a name stands for in each family, and what is not known of it.

use std::net::IpAddr;

use overdue_core::facts::DnsFailure;

use super::{ResolveError, Resolved, by_turns};

/// What a lookup of both families came to, each for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Families {
    /// IPv6.
    pub v6: FamilyOutcome,
    /// IPv4.
    pub v4: FamilyOutcome,
}

/// What is enough for a lookup of both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enough {
    /// What each of them came to.
    Both,
    /// IPv6 addresses; without any, what IPv4 came to is waited for.
    V6,
    /// IPv4 addresses; without any, what IPv6 came to is waited for.
    V4,
}

/// What a lookup came to for one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FamilyOutcome {
    /// It has addresses, all of this family; at least one.
    Found(Resolved),
    /// It has none: the name does not exist ([`DnsFailure::NoSuchName`]), or not with such a record
    /// ([`DnsFailure::NoAddress`]).
    None(ResolveError),
    /// Whether it has any is not known: whoever was asked failed, or nobody answered.
    Failed(ResolveError),
    /// Not known either: the limit of the lookup passed first, or the other family was [`Enough`].
    Cut,
}

impl FamilyOutcome {
    /// Why there is no address, where somebody said so.
    #[must_use]
    pub fn error(&self) -> Option<&ResolveError> {
        match self {
            Self::None(err) | Self::Failed(err) => Some(err),
            Self::Found(_) | Self::Cut => None,
        }
    }
}

impl Families {
    /// Both at once, as they are known where nobody is asked for each. A family of which there is nothing is none.
    pub(super) fn of(host: &str, addresses: Vec<IpAddr>) -> Self {
        let (v6, v4): (Vec<_>, Vec<_>) = by_turns(addresses).into_iter().partition(IpAddr::is_ipv6);
        let outcome = |addresses: Vec<IpAddr>, kind| {
            if addresses.is_empty() {
                let none = ResolveError::new(DnsFailure::NoAddress, format!("{host}: no {kind} address"));
                return FamilyOutcome::None(none);
            }
            FamilyOutcome::Found(Resolved { addresses, ttl: None })
        };
        Self { v6: outcome(v6, "IPv6"), v4: outcome(v4, "IPv4") }
    }

    /// The same for both.
    pub(super) fn both(outcome: FamilyOutcome) -> Self {
        Self { v6: outcome.clone(), v4: outcome }
    }
}

impl From<Result<Resolved, ResolveError>> for FamilyOutcome {
    fn from(result: Result<Resolved, ResolveError>) -> Self {
        match result {
            Ok(resolved) => Self::Found(resolved),
            Err(err) if matches!(err.reason, DnsFailure::NoSuchName | DnsFailure::NoAddress) => Self::None(err),
            Err(err) => Self::Failed(err),
        }
    }
}
