//! The catalogue of targets: `targets.toml`, with a strict schema, and the sources that it names.

use std::{path::Path, sync::LazyLock};

use overdue_core::Cause;
use serde::Deserialize;

use super::{Language, Need, Settled, Target};

const CATALOGUE: &str = include_str!("../../targets.toml");

macro_rules! embedded {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../targets/", $name)))),*]
    };
}

/// Name and text of each source.
const SOURCES: &[(&str, &str)] = embedded! {
    "accept_backlog.py" "accept_queue_overflow.c" "accept_queue_overflow.py" "body_stalled.go" "body_stalled.js" "close_wait_pileup.c"
    "close_wait_pileup.py" "common.go" "common.h" "connect.c" "connect.py" "connect_refused.js" "connections_kept.rs"
    "cpu_busy.c" "cpu_throttled.c" "deadline_ignored.c" "deadline_ignored.go" "deadline_ignored.py" "deadlock.c"
    "dns_no_answer.c"
    "dns_no_answer.go" "dns_no_answer.js" "dns_no_answer.py" "dns_serialised.js" "dns_serialised.py" "fd_leak.c"
    "fd_leak.go" "fd_leak.py" "fd_leak_accept.c" "fin_wait2_pileup.c" "half_open_pileup.c" "handlers_locked.c"
    "handlers_locked.go" "handlers_locked.py" "healthy.c" "healthy.go" "healthy_last_word.rs" "healthy_news.py"
    "healthy.js" "healthy.py" "healthy.rs" "healthy_calls.go" "healthy_logger.c" "healthy_long_poll.py"
    "healthy_pool.py" "healthy_pool_idles.c"
    "healthy_subscriber.c" "healthy_ticker.c" "healthy_worker.py" "healthy_workers.rs" "io_stuck.c" "no_keepalive.py" "peer.py" "peer_not_reading.go"
    "peer_not_reading.rs" "peer_reset.py" "pool_exhausted.go" "reader_slow.rs" "requests_unread.c" "runtime_blocked.c" "runtime_blocked.js" "runtime_blocked.py"
    "runtime_blocked_tokio.rs" "server_slow.c" "server_slow.py" "spin_accept_emfile.c" "spin_accept_error.c"
    "spin_error_fd.c" "spin_half_closed.c" "spin_half_closed.py" "spin_short_timer.c" "spin_short_timer.py"
    "spin_zero_timeout.c" "spin_zero_timeout.js" "task_backlog.go" "task_backlog.py" "task_backlog_tokio.rs"
    "task_leak.go" "task_leak.rs" "tls_handshake_storm.js" "tls_peer_silent.go" "tls_peer_silent.py"
    "wait_unlimited.c" "waits_upstream.go" "waits_upstream.js"
};

/// The text of a source.
pub(super) fn source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(source, _)| *source == name).map(|(_, text)| *text)
}

/// A catalogue that does not parse has no targets; a test sees to it that this one does.
pub(super) fn targets() -> &'static [Target] {
    static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| parse(CATALOGUE).unwrap_or_default());
    &TARGETS
}

/// The whole file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    target: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    source: String,
    #[serde(default)]
    arguments: Vec<String>,
    cause: Option<Cause>,
    /// Unless the cause is one by nature.
    advisory: Option<bool>,
    #[serde(default)]
    effects: Vec<Cause>,
    #[serde(default)]
    also: Vec<Cause>,
    #[serde(default)]
    unprivileged: bool,
    #[serde(default)]
    needs: Vec<Need>,
    #[serde(default)]
    before: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    ready: Who,
    settled: Option<Settled>,
    #[serde(default)]
    tokio: bool,
    #[serde(default)]
    identity: bool,
    truth: String,
}

/// Who tells that the fault is there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Who {
    #[default]
    Target,
    Peer,
}

fn parse(text: &str) -> Result<Vec<Target>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    file.target.into_iter().map(Entry::check).collect()
}

impl Entry {
    fn check(self) -> Result<Target, String> {
        let name = &self.name;
        let language = Path::new(&self.source)
            .extension()
            .and_then(|extension| Language::of_extension(extension.to_str()?))
            .ok_or_else(|| format!("{name}: {:?} is in no language that the lab knows", self.source))?;
        if source(&self.source).is_none() {
            return Err(format!("{name}: there is no source {:?}", self.source));
        }
        if self.cause.is_none() && (self.advisory.is_some() || !self.effects.is_empty()) {
            return Err(format!("{name}: what is healthy has no effects and is no advisory"));
        }
        if !self.before.is_empty() && !self.after.is_empty() {
            return Err(format!("{name}: a target has one peer"));
        }
        if self.ready == Who::Peer && self.before.is_empty() && self.after.is_empty() {
            return Err(format!("{name}: no peer that could tell that the fault is there"));
        }
        if self.tokio && language != Language::Rust {
            return Err(format!("{name}: tokio is for programs in Rust"));
        }
        if self.truth.trim().is_empty() || self.truth.contains('\n') {
            return Err(format!("{name}: say in one line what happens"));
        }
        Ok(Target {
            language,
            cause: self.cause,
            advisory: self.advisory.unwrap_or_else(|| self.cause.is_some_and(Cause::is_advisory)),
            effects: self.effects,
            also: self.also,
            unprivileged: self.unprivileged,
            needs: self.needs,
            truth: self.truth,
            source: self.source,
            arguments: self.arguments,
            before: self.before,
            after: self.after,
            ready_by_peer: self.ready == Who::Peer,
            settled: self.settled,
            tokio: self.tokio,
            identity: self.identity,
            name: self.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use overdue_core::Group;

    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        let targets = parse(CATALOGUE).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(targets, Target::all());
        let names: BTreeSet<_> = targets.iter().map(|target| &target.name).collect();
        assert_eq!(names.len(), targets.len(), "a name is there twice");
        for target in &targets {
            assert_eq!(Target::named(&target.name), Some(target));
        }
        // Some are always the effect of another.
        let shows = |target: &Target, cause| target.cause == Some(cause) || target.effects.contains(&cause);
        let missing: Vec<_> = Cause::ALL
            .iter()
            .filter(|cause| cause.group() == Group::Process && **cause != Cause::Unknown)
            .filter(|cause| !targets.iter().any(|target| shows(target, **cause)))
            .collect();
        assert_eq!(missing, [] as [&Cause; 0], "no target shows these");
    }

    #[test]
    fn every_source_is_embedded_and_used() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        let files: BTreeSet<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let embedded: BTreeSet<_> = SOURCES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, embedded);
        let shared = ["common.h", "common.go", "peer.py"];
        let unused: Vec<_> = SOURCES
            .iter()
            .filter(|(name, _)| !shared.contains(name) && !targets().iter().any(|target| target.source == *name))
            .collect();
        assert_eq!(unused, [] as [&(&str, &str); 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = "[[target]]\nname = \"a\"\nsource = \"fd_leak.c\"\ntruth = \"A leak.\"\n";
        assert_eq!(parse(good).unwrap().len(), 1);
        for (more, complaint) in [
            ("speed = 3", "unknown field"),
            ("cause = \"fd-leek\"", "fd-leek"),
            ("effects = [\"fd-leak\"]", "healthy"),
            ("ready = \"peer\"", "no peer"),
            ("before = [\"stay\"]\nafter = [\"stay\"]", "one peer"),
            ("tokio = true", "in Rust"),
            ("needs = [\"luck\"]", "unknown variant"),
        ] {
            let error = parse(&format!("{good}{more}\n")).unwrap_err();
            assert!(error.contains(complaint), "{more}: {error}");
        }
        assert!(parse(&good.replace("fd_leak.c", "fd_leak.f90")).unwrap_err().contains("language"));
        assert!(parse(&good.replace("fd_leak.c", "nothing.c")).unwrap_err().contains("no source"));
    }
}
