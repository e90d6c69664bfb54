//! What ties a request to the log lines of others: its id (`x-request-id`), and its place in a trace (`traceparent`, the
//! W3C's Trace Context).

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
};

use overdue::h1::fields::Field;

use crate::config::Trace;

pub(crate) const REQUEST_ID: &str = "x-request-id";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// A longer id is not kept.
const REQUEST_ID_MAX: usize = 128;
/// More than the recommendation asks everybody to pass on, and no more entries than it allows.
const STATE_MAX: usize = 4096;
const STATE_ENTRIES_MAX: usize = 32;

/// Numbers that nobody can foresee, for ids: a keyed hash of a counter. The system is asked once for the keys, and no more.
#[derive(Default)]
pub(crate) struct Ids {
    keys: RandomState,
    count: Cell<u64>,
}

impl Ids {
    /// Not zero, which stands for "none" in a trace.
    pub(crate) fn next(&self) -> u64 {
        self.count.set(self.count.get().wrapping_add(1));
        self.keys.hash_one(self.count.get()).max(1)
    }

    pub(crate) fn next_wide(&self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// A number in as many hexadecimal digits as it has.
pub(crate) struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn new(number: u128) -> Self {
        let mut digits = [b'0'; N];
        let mut left = number;
        for digit in digits.iter_mut().rev() {
            let nibble = (left & 0xf) as u8;
            *digit = nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
            left >>= 4;
        }
        Self(digits)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// An id for a request that came without one.
pub(crate) fn new_id(ids: &Ids) -> Hex<32> {
    Hex::new(ids.next_wide())
}

/// Where in a trace the caller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Caller {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Sampled, and made at random: no others are known, and what is not known is not passed on.
const SAMPLED: u8 = 1;
const KNOWN_FLAGS: u8 = SAMPLED | 2;

/// Reads a `traceparent`. A version of the future is read as far as this one goes.
fn parse(value: &[u8]) -> Option<Caller> {
    let [version @ .., b'-'] = value.get(..3)? else { return None };
    let version = hex(version)?;
    let (trace, rest) = value.get(3..)?.split_at_checked(32)?;
    let (span, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let (flags, rest) = rest.strip_prefix(b"-")?.split_at_checked(2)?;
    let ends = rest.is_empty() || version > 0 && rest.starts_with(b"-");
    let caller = Caller {
        trace: hex(trace)?,
        span: u64::try_from(hex(span)?).ok()?,
        flags: u8::try_from(hex(flags)?).ok()? & KNOWN_FLAGS,
    };
    (version != 0xff && ends && caller.trace != 0 && caller.span != 0).then_some(caller)
}

/// In lower case alone.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(nibble))
    })
}

/// The part of the gateway in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    trace: u128,
    /// The caller's span; 0 where the trace begins here.
    parent: u64,
    span: u64,
    flags: u8,
    /// What vendors said of the trace goes on with it.
    keeps_state: bool,
}

impl Hop {
    pub(crate) fn trace_id(&self) -> Hex<32> {
        Hex::new(self.trace)
    }

    pub(crate) fn span_id(&self) -> Hex<16> {
        Hex::new(self.span.into())
    }

    /// The span of the caller, where it has one.
    pub(crate) fn parent_id(&self) -> Option<Hex<16>> {
        (self.parent != 0).then(|| Hex::new(self.parent.into()))
    }

    pub(crate) const fn keeps_state(&self) -> bool {
        self.keeps_state
    }

    /// What the next hop is told.
    pub(crate) fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (trace, span, flags) = (self.trace_id(), self.span_id(), Hex::<2>::new(self.flags.into()));
        for (at, part) in [(3, trace.as_bytes()), (36, span.as_bytes()), (53, flags.as_bytes())] {
            if let Some(place) = text.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
        text
    }
}

/// What a request brought with it.
#[derive(Default)]
pub(crate) struct Brought<'a> {
    id: Option<&'a [u8]>,
    caller: Option<&'a [u8]>,
    ids: usize,
    callers: usize,
    state_bytes: usize,
    state_entries: usize,
}

impl<'a> Brought<'a> {
    pub(crate) fn read(fields: &[Field<'a>]) -> Self {
        let mut brought = Self::default();
        for Field { name, value } in fields {
            match name.len() {
                10 if name.eq_ignore_ascii_case(TRACESTATE) => {
                    brought.state_bytes += value.len();
                    brought.state_entries +=
                        value.split(|byte| *byte == b',').filter(|entry| !entry.trim_ascii().is_empty()).count();
                }
                11 if name.eq_ignore_ascii_case(TRACEPARENT) => {
                    brought.callers += 1;
                    brought.caller = Some(value.trim_ascii());
                }
                12 if name.eq_ignore_ascii_case(REQUEST_ID) => {
                    brought.ids += 1;
                    brought.id = Some(value.trim_ascii());
                }
                _ => {}
            }
        }
        brought
    }

    /// The id, if it is one: of several nobody knows which is meant.
    pub(crate) fn id(&self) -> Option<&'a str> {
        let id = self.id.filter(|id| self.ids == 1 && (1..=REQUEST_ID_MAX).contains(&id.len()))?;
        str::from_utf8(id).ok().filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
    }

    /// The next hop of its trace, or the first of one that begins here; `None` where there is none.
    pub(crate) fn hop(&self, rules: &Trace, trusted: bool, ids: &Ids) -> Option<Hop> {
        let heard = trusted || rules.from_anyone;
        let caller = self.caller.filter(|_| heard && self.callers == 1).and_then(parse);
        if let Some(Caller { trace, span, flags }) = caller {
            let keeps_state = self.state_bytes <= STATE_MAX && self.state_entries <= STATE_ENTRIES_MAX;
            return Some(Hop { trace, parent: span, span: ids.next(), flags, keeps_state });
        }
        let share = rules.start?;
        let trace = ids.next_wide();
        // The lower half decides, so that others who look at it decide alike.
        let sampled = (trace & u128::from(u64::MAX)) as f64 / 2_f64.powi(64) < share;
        let flags = if sampled { SAMPLED } else { 0 };
        Some(Hop { trace, parent: 0, span: ids.next(), flags, keeps_state: false })
    }
}

/// What is read is written again as it came, but for the flags that nobody knows.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Some(Caller { trace, span, flags }) = parse(bytes) else { return };
    let text = Hop { trace, parent: 0, span, flags, keeps_state: false }.traceparent();
    assert_eq!(parse(&text), Some(Caller { trace, span, flags }));
    assert_eq!(text[3..53], bytes[3..53]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn rules(start: Option<f64>, from_anyone: bool) -> Trace {
        Trace { start, from_anyone }
    }

    fn brought<'a>(fields: &'a [(&'a str, &'a str)]) -> Vec<Field<'a>> {
        fields.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect()
    }

    #[test]
    fn a_traceparent_is_read_strictly() {
        let caller = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((caller.span, caller.flags), (0x00f0_67aa_0ba9_02b7, 1));
        for good in [
            GOOD.replace("-01", "-00"),
            // A version of the future, and what it adds.
            GOOD.replacen("00", "01", 1),
            GOOD.replacen("00", "cc", 1) + "-what-ever",
            GOOD.replacen("00", "fe", 1) + "-",
        ] {
            assert!(parse(good.as_bytes()).is_some(), "{good}");
        }
        // Flags that are not known are not passed on.
        assert_eq!(parse(GOOD.replace("-01", "-ff").as_bytes()).unwrap().flags, 3);
        let truncated = (0..GOOD.len()).map(|end| GOOD[..end].to_owned());
        for bad in truncated.chain([
            GOOD.replacen("00", "ff", 1),
            GOOD.to_owned() + "-",
            GOOD.to_owned() + "-00",
            GOOD.to_owned() + "0",
            GOOD.replacen("00", "01", 1) + "0",
            GOOD.replacen("00", "01", 1) + ".",
            GOOD.to_uppercase(),
            GOOD.replace(TRACE, &TRACE.to_uppercase()),
            GOOD.replace(TRACE, &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("00f067aa0ba902b7", "00f067aa0ba902bg"),
            GOOD.replace('-', "_"),
            GOOD.replacen('-', " ", 1),
            format!("{GOOD},{GOOD}"),
            GOOD.replace("-01", "-0"),
            GOOD.replace("-01", "-0x"),
            GOOD.replacen("00", "0", 1),
            GOOD.replacen("00", "+0", 1),
        ]) {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_hop_keeps_the_trace_and_has_a_span_of_its_own() {
        let ids = Ids::default();
        let fields = brought(&[("Traceparent", GOOD), ("TraceState", "a=1, b=2"), ("tracestate", "c=3")]);
        let hop = Brought::read(&fields).hop(&rules(None, false), true, &ids).unwrap();
        let text = String::from_utf8(hop.traceparent().to_vec()).unwrap();
        assert_eq!((hop.trace_id().as_str(), &text[..36]), (TRACE, &GOOD[..36]));
        assert_eq!(hop.parent_id().unwrap().as_str(), "00f067aa0ba902b7");
        assert_eq!((&text[36..52], &text[52..]), (hop.span_id().as_str(), "-01"));
        assert!(hop.keeps_state && hop.span != hop.parent, "{hop:?}");
        let other = Brought::read(&fields).hop(&rules(None, false), true, &ids).unwrap();
        assert_ne!(other.span, hop.span);
        // Of somebody whose word does not count, and of two of them.
        assert_eq!(Brought::read(&fields).hop(&rules(None, false), false, &ids), None);
        assert!(Brought::read(&fields).hop(&rules(None, true), false, &ids).is_some());
        let twice = brought(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(Brought::read(&twice).hop(&rules(None, true), true, &ids), None);
    }

    #[test]
    fn a_trace_begins_here_where_that_is_wanted() {
        let ids = Ids::default();
        let bad = brought(&[("traceparent", "00-x"), ("tracestate", "a=1")]);
        let sampled = |share: f64| -> usize {
            let hop = || Brought::read(&bad).hop(&rules(Some(share), false), true, &ids).unwrap();
            (0..1000)
                .map(|_| hop())
                .inspect(|hop| assert!(!hop.keeps_state && hop.parent == 0))
                .filter(|hop| hop.flags == 1)
                .count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 1000));
        // Far outside of what chance would do once in the life of a universe.
        assert!((300..700).contains(&sampled(0.5)));
    }

    #[test]
    fn what_vendors_said_goes_on_within_its_limits() {
        let ids = Ids::default();
        let keeps = |state: &str| {
            let fields = [("traceparent", GOOD), ("tracestate", state)];
            let fields = brought(&fields);
            Brought::read(&fields).hop(&rules(None, false), true, &ids).unwrap().keeps_state
        };
        let entries = |count: usize| vec!["a=1"; count].join(",");
        assert!(keeps(&entries(32)) && !keeps(&entries(33)) && keeps("a=1,, ,b=2"));
        assert!(keeps(&"x".repeat(STATE_MAX)) && !keeps(&"x".repeat(STATE_MAX + 1)));
    }

    #[test]
    fn an_id_is_visible_and_not_too_long() {
        let id = |values: &[&'static str]| {
            let fields: Vec<_> = values.iter().map(|value| ("X-Request-Id", *value)).collect();
            Brought::read(&brought(&fields)).id().map(str::to_owned)
        };
        assert_eq!(id(&[" abc-1~! "]).as_deref(), Some("abc-1~!"));
        let longest: &'static str = "x".repeat(128).leak();
        assert_eq!(id(&[longest]).as_deref(), Some(longest));
        let longer: &'static str = "x".repeat(129).leak();
        for bad in [&[""][..], &["a b"], &["a\tb"], &["caf\u{e9}"], &[longer], &["a", "a"], &[]] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ids_do_not_repeat() {
        let (one, other) = (Ids::default(), Ids::default());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(new_id(&one).as_str().to_owned()) && seen.insert(new_id(&other).as_str().to_owned()));
        }
        assert!(seen.iter().all(|id| id.len() == 32 && hex(id.as_bytes()).is_some()));
    }
}
