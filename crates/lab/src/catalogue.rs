//! The scenarios that come with the lab, by the stage that is to blame.

use std::sync::LazyLock;

use crate::scenario::Scenario;

macro_rules! embedded {
    ($($name:literal)*) => {
        &[$((
            $name,
            concat!("crates/lab/scenarios/", $name, ".toml"),
            include_str!(concat!("../scenarios/", $name, ".toml")),
        )),*]
    };
}

/// Name, file and text of each.
const EMBEDDED: &[(&str, &str, &str)] = embedded! {
    "ok-http" "ok-https" "ok-h2" "ok-dns"
    "pool-exhausted" "h2-streams" "past-deadline"
    "dns-silent" "dns-slow" "dns-slow-past" "dns-nxdomain" "dns-servfail" "dns-refused" "dns-empty" "dns-truncated"
    "dns-truncated-silent"
    "refused" "backlog-full" "connect-slow" "fd-exhausted" "syn-dropped" "unreachable" "ports-exhausted"
    "tls-silent" "tls-slow" "tls-not-tls" "tls-alert" "tls-expired" "tls-wrong-name" "tls-untrusted-issuer"
    "tls-closed" "tls-reset" "mtu-blackhole-tls"
    "upload-not-read" "h2-no-window" "host-vanished"
    "no-head" "half-head" "early-close-head" "reset-head" "bad-status-line" "both-lengths" "two-lengths" "h2-not-h2"
    "h2-garbage" "h2-goaway" "path-lost" "answer-lost" "mtu-blackhole" "mtu-blackhole-upload" "cancelled"
    "body-stall" "body-trickle" "early-close-length" "early-close-chunked" "reset-body" "bad-chunk" "reader-slow"
    "executor-blocked"
};

/// A file that does not parse is left out here; a test sees to it that there is none.
static SCENARIOS: LazyLock<Vec<Scenario>> =
    LazyLock::new(|| EMBEDDED.iter().filter_map(|(_, file, text)| Scenario::parse(text, file).ok()).collect());

/// All scenarios that come with the lab.
#[must_use]
pub fn scenarios() -> &'static [Scenario] {
    &SCENARIOS
}

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    scenarios().iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_is_embedded_and_parses() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: BTreeSet<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let embedded: BTreeSet<_> = EMBEDDED.iter().map(|(name, ..)| format!("{name}.toml")).collect();
        assert_eq!(files, embedded);
        assert_eq!(embedded.len(), EMBEDDED.len(), "a name is there twice");
        for &(name, file, text) in EMBEDDED {
            let scenario = Scenario::parse(text, file).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, name);
            assert!(text.starts_with("# "), "{file} does not say what happens and why the truth is what it is");
            assert_eq!(find(name), Some(&scenario));
        }
    }
}
