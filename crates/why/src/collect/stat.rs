//! `/proc/PID/stat`, of a process or of a thread.

use crate::observation::ThreadState;

/// What is used of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) state: char,
    /// Who started it, or took it over; 0 for nobody in this namespace.
    pub(super) parent: u32,
    /// Its session: whoever it forked is in it, unless it made one of its own.
    pub(super) session: u32,
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    pub(super) threads: u64,
    /// Ticks since the machine started.
    pub(super) started_ticks: u64,
    pub(super) rss_pages: u64,
    /// Where its stack begins: another one after each `execve`. 0 to those who may not know.
    pub(super) stack_at: u64,
}

impl Stat {
    /// Whether nothing of it runs any more. A first thread that has ended is a zombie while others go on.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    pub(super) const fn thread_state(&self) -> ThreadState {
        match self.state {
            'R' => ThreadState::Running,
            'S' | 'I' => ThreadState::Sleeping,
            'D' => ThreadState::Uninterruptible,
            'T' | 't' => ThreadState::Stopped,
            'Z' | 'X' | 'x' => ThreadState::Zombie,
            _ => ThreadState::Other,
        }
    }
}

/// Reads the line. The name in it is the process's own choice and may hold anything: parentheses, spaces, newlines.
pub(super) fn parse(text: &str) -> Option<Stat> {
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbered from 1 in proc(5), of which the first two are before `rest`.
    let number = |at: usize| fields.get(at.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Stat {
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: number(4).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        session: number(6).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        threads: number(20)?,
        started_ticks: number(22)?,
        rss_pages: number(24)?,
        stack_at: number(28).unwrap_or_default(),
    })
}

/// Ticks of the kernel's accounting in microseconds.
pub(super) fn ticks_us(ticks: u64) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(per_second)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_looks_like_the_rest() {
        let line = "77 (a) R (\n1 2 3) S 1 77 77 0 -1 4194304 99 0 0 0 5 7 0 0 20 0 3 0 3322168 3133440 359 18446744073709551615 1 2 140726498414976 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.name.as_str(), stat.state), ("a) R (\n1 2 3", 'S'));
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads), (5, 7, 3));
        assert_eq!((stat.started_ticks, stat.rss_pages, stat.stack_at), (3_322_168, 359, 140_726_498_414_976));
        assert_eq!(stat.thread_state(), ThreadState::Sleeping);
    }

    #[test]
    fn a_first_thread_that_ended_is_not_the_end() {
        let of = |state: char, threads: u64| {
            parse(&format!("1 (x) {state} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {threads} 0 1 2 3 4 5 6 7 8")).unwrap()
        };
        assert!(of('Z', 1).has_ended());
        assert!(!of('Z', 2).has_ended());
        assert!(!of('R', 1).has_ended());
    }

    proptest! {
        #[test]
        fn garbage_is_no_stat(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn any_name_is_kept(name in "[^\0]{0,15}") {
            let line = format!("1 ({name}) S 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1 2 3");
            prop_assert_eq!(parse(&line).unwrap().name, name);
        }
    }
}
