//! Control groups that bound processor time: the own one and all above it, of either version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{collect::window::Overlap, observation::Throttling};

/// Groups above each other that are looked at.
const DEPTH: usize = 32;

/// A group with the counters of its first reading.
#[derive(Clone, Debug)]
pub(super) struct Group {
    path: String,
    folder: PathBuf,
    version: Version,
    first: Overlap<Counters>,
    last: Counters,
    quota: Quota,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// What may be used in each period; no quota is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Quota {
    quota_us: Option<u64>,
    period_us: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counters {
    periods: u64,
    throttled: u64,
    throttled_us: u64,
}

impl Group {
    /// Reads it again.
    pub(super) fn look(&mut self) {
        if let Some((quota, counters)) = read(&self.folder, self.version) {
            self.quota = quota;
            self.last = counters;
        }
    }

    /// Processors that it leaves its members.
    pub(super) fn processors(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one period")]
        let ratio = |quota: u64, period: u64| quota as f64 / period as f64;
        Some(ratio(self.quota.quota_us?, self.quota.period_us.filter(|&period| period > 0)?))
    }

    /// Another window begins.
    pub(super) fn turn(&mut self) {
        self.first.turn(self.last);
    }

    /// What it took away in the window.
    pub(super) fn throttling(&self) -> Throttling {
        let first = self.first.shown();
        Throttling {
            group: self.path.clone(),
            quota_us: self.quota.quota_us,
            period_us: self.quota.period_us,
            periods: self.last.periods.saturating_sub(first.periods),
            throttled_periods: self.last.throttled.saturating_sub(first.throttled),
            throttled_us: self.last.throttled_us.saturating_sub(first.throttled_us),
        }
    }
}

/// The groups of a process that bound its processor time and could be read. `cgroup` is its `/proc/PID/cgroup`,
/// `mounts` the watcher's own `/proc/self/mountinfo`.
pub(super) fn of(cgroup: &str, mounts: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for (version, path) in paths(cgroup) {
        let Some(mount) = mounts.lines().find_map(|line| parse_mount(line, version)) else { continue };
        // Within a namespace of groups a path may lead out of what is mounted here.
        if path.split('/').any(|part| part == "..") {
            continue;
        }
        let below = if mount.root == "/" { path } else { path.strip_prefix(mount.root).unwrap_or_default() };
        let below = below.trim_start_matches('/');
        for relative in Path::new(below).ancestors().take(DEPTH) {
            let folder = Path::new(mount.at).join(relative);
            if let Some((quota, counters)) = read(&folder, version) {
                found.push(Group {
                    path: format!("/{}", relative.display()),
                    folder,
                    version,
                    first: Overlap::new(counters),
                    last: counters,
                    quota,
                });
            }
        }
    }
    found
}

/// `/proc/PID/cgroup`: of the first version the group of the controller `cpu`, and that of the second.
fn paths(text: &str) -> impl Iterator<Item = (Version, &str)> {
    text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match (number, controllers) {
            ("0", "") => Some((Version::Two, path)),
            _ if controllers.split(',').any(|name| name == "cpu") => Some((Version::One, path)),
            _ => None,
        }
    })
}

struct Mount<'a> {
    root: &'a str,
    at: &'a str,
}

/// A line of `mountinfo`, when it is the hierarchy that is looked for.
fn parse_mount(line: &str, version: Version) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let is_it = match version {
        Version::Two => kind == "cgroup2",
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
    };
    is_it.then_some(Mount { root, at })
}

/// `None` of a group without the controller: there is nothing that it bounds.
fn read(folder: &Path, version: Version) -> Option<(Quota, Counters)> {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let counters = parse_counters(&text("cpu.stat")?);
    let quota = match version {
        // The root has none.
        Version::Two => text("cpu.max").map(|text| parse_max(&text)).unwrap_or_default(),
        Version::One => {
            let number = |file: &str| text(file)?.trim().parse().ok();
            Quota { quota_us: number("cpu.cfs_quota_us"), period_us: number("cpu.cfs_period_us") }
        }
    };
    (quota != Quota::default()).then_some((quota, counters))
}

/// `cpu.max`: `50000 100000`, or `max 100000`.
fn parse_max(text: &str) -> Quota {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Quota { quota_us: words.next().flatten(), period_us: words.next().flatten() }
}

/// `cpu.stat`. The first version counts nanoseconds, the second microseconds.
fn parse_counters(text: &str) -> Counters {
    let field = |name: &str| {
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok());
        value.unwrap_or_default()
    };
    Counters {
        periods: field("nr_periods"),
        throttled: field("nr_throttled"),
        throttled_us: field("throttled_usec") + field("throttled_time") / 1000,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(file), text).unwrap();
    }

    #[test]
    fn the_quota_of_a_group_above_counts() {
        let root = std::env::temp_dir().join(format!("overdue-groups-{}", std::process::id()));
        let (above, own) = (root.join("pod"), root.join("pod/app"));
        write(&above, "cpu.max", "50000 100000\n");
        write(&above, "cpu.stat", "usage_usec 1\nnr_periods 10\nnr_throttled 5\nthrottled_usec 700\n");
        write(&own, "cpu.max", "max 100000\n");
        write(&own, "cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n");
        let mounts = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw\n", root.display());
        let mut groups = of("3:cpuset:/\n0::/pod/app\n", &mounts);
        write(&above, "cpu.stat", "nr_periods 30\nnr_throttled 20\nthrottled_usec 9700\n");
        groups.iter_mut().for_each(Group::look);
        fs::remove_dir_all(&root).unwrap();
        let [own, above] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((own.processors(), own.throttling().group.as_str()), (None, "/pod/app"));
        assert_eq!(above.processors(), Some(0.5));
        let expected = Throttling {
            group: "/pod".to_owned(),
            quota_us: Some(50_000),
            period_us: Some(100_000),
            periods: 20,
            throttled_periods: 15,
            throttled_us: 9_000,
        };
        assert_eq!(above.throttling(), expected);
    }

    #[test]
    fn the_first_version_has_no_limit_below_zero() {
        let root = std::env::temp_dir().join(format!("overdue-groups-one-{}", std::process::id()));
        write(&root, "cpu.cfs_quota_us", "-1\n");
        write(&root, "cpu.cfs_period_us", "100000\n");
        write(&root, "cpu.stat", "nr_periods 1\nnr_throttled 0\nthrottled_time 2000\n");
        let mounts = format!("1 2 0:3 / {} rw - cgroup cgroup rw,cpu,cpuacct\n", root.display());
        let groups = of("1:cpuacct,cpu:/\n", &mounts);
        fs::remove_dir_all(&root).unwrap();
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((group.processors(), group.first.shown().throttled_us), (None, 2));
    }

    proptest! {
        #[test]
        fn garbage_is_no_group(text in "\\PC*", max in "[0-9a-z \n]*", line in "([0-9:/a-z,.]* ){0,12}- [a-z2 ]*") {
            let _ = (parse_max(&max), parse_counters(&text), paths(&text).count());
            let _ = (parse_mount(&line, Version::Two).is_some(), parse_mount(&text, Version::One).is_some());
        }
    }
}
