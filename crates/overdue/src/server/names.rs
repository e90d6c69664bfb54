//! Host names as servers are configured with them: exact ones, and `*.example.com` for one label in front.

use std::{collections::HashMap, fmt};

/// The longest name of DNS, as text.
pub(super) const NAME_MAX: usize = 253;

/// What belongs to a host name. Names are compared without regard to case.
#[derive(Clone, Debug)]
pub(super) struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows the `*.`.
    wildcard: HashMap<Box<str>, T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

impl<T> Names<T> {
    /// Hands back what belonged to this name before.
    pub(super) fn insert(&mut self, name: &str, value: T) -> Result<Option<T>, InvalidName> {
        let lower = name.to_ascii_lowercase();
        let (map, host) = match lower.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, lower.as_str()),
        };
        if !is_host_name(host.as_bytes()) {
            return Err(InvalidName(name.chars().take(NAME_MAX).collect()));
        }
        Ok(map.insert(host.into(), value))
    }

    /// An exact name counts before a wildcard, which stands for one label.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        let mut lower = [0; NAME_MAX];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        let name = std::str::from_utf8(lower).ok()?;
        self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}

/// Labels of letters, digits, hyphens and underscores, with dots between them.
pub(super) fn is_host_name(name: &[u8]) -> bool {
    name.len() <= NAME_MAX
        && name.split(|byte| *byte == b'.').all(|label| {
            (1..=63).contains(&label.len())
                && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// A text that is no host name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidName(String);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no host name: write www.example.com, or *.example.com for one label in front", self.0)
    }
}

impl std::error::Error for InvalidName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_counts_before_a_wildcard_for_one_label() {
        let mut names = Names::default();
        names.insert("*.Example.com", 1).unwrap();
        names.insert("WWW.example.com", 2).unwrap();
        let get = |name| names.get(name).copied();
        assert_eq!(get("www.EXAMPLE.com"), Some(2));
        assert_eq!(get("api.example.com"), Some(1));
        for other in ["example.com", "a.b.example.com", ".example.com.evil", "com", "", "*.example.org"] {
            assert_eq!(get(other), None, "{other}");
        }
        assert_eq!(get(&"a".repeat(300)), None);
        assert_eq!(names.insert("www.example.com", 3), Ok(Some(2)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let mut names = Names::default();
        for name in ["", "*", "*.", "a..b", ".a", "a.", "*.*.com", "a b", "ä.de", &"a.".repeat(200)] {
            assert!(names.insert(name, ()).is_err(), "{name}");
        }
        assert!(names.is_empty());
    }
}
