//! Each target shows its symptom, as it is seen from outside: in /proc, which needs no privilege.
//!
//! What is asserted is what is there and in which direction it goes. How fast depends on the machine.
//!
//! Where the machine lacks a toolchain, a namespace or root, a test says so and passes; with `CI=true` it fails.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod seen;

use std::{
    collections::BTreeSet,
    env,
    io::{self, Write},
    time::Duration,
};

use overdue_lab::{
    netns,
    target::{Need, Running, Target, TargetError},
};

use self::seen::{Seen, State};

/// Makes a test of each check, and the list of them all.
macro_rules! checks {
    ($($name:ident $target:literal $check:expr;)*) => {
        $(
            #[test]
            fn $name() {
                run($target, $check);
            }
        )*

        const CHECKED: &[&str] = &[$($target),*];
    };
}

fn run(name: &str, check: fn(&Seen)) {
    let target = Target::named(name).unwrap();
    match start(target) {
        Ok(mut running) => {
            check(&Seen { pid: running.pid(), port: running.port() });
            assert_eq!(running.ended(Duration::ZERO), None, "it must go on");
        }
        Err(why) => {
            assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{name}: {why}");
            // Not eprintln, which the test harness would hide.
            let _ = writeln!(io::stderr(), "{name} is not tested: {why}");
        }
    }
}

/// The target, or what this machine lacks for it.
fn start(target: &Target) -> Result<Running, String> {
    if target.is_namespaced() {
        netns::available()?;
    }
    match target.start() {
        Ok(running) => Ok(running),
        Err(error @ (TargetError::NoTool { .. } | TargetError::Cgroup(_))) => Err(error.to_string()),
        Err(error) => panic!("{}: {error}", target.name),
    }
}

#[test]
fn every_target_is_checked() {
    let all: BTreeSet<_> = Target::all().iter().map(|target| target.name.as_str()).collect();
    assert_eq!(CHECKED.iter().copied().collect::<BTreeSet<_>>(), all);
}

#[test]
fn what_is_dropped_is_gone() {
    let target = Target::named("half-open-few").filter(|_| netns::available().is_ok());
    let target = target.unwrap_or_else(|| Target::named("spin-half-closed").unwrap());
    let Ok(running) = start(target) else { return };
    let pids = [running.pid(), running.peer_pid().unwrap()];
    assert!(pids.iter().all(|pid| Seen { pid: *pid, port: None }.is_there()));
    drop(running);
    assert!(!pids.iter().any(|pid| Seen { pid: *pid, port: None }.is_there()));
}

#[test]
fn a_target_starts_many_times() {
    let target = Target::named("idle-c").unwrap();
    let Ok(first) = start(target) else { return };
    let Ok(second) = start(target) else { return };
    assert_ne!((first.pid(), first.port()), (second.pid(), second.port()));
}

#[test]
fn no_descriptor_of_ours_is_inherited() {
    let Ok(running) = start(Target::named("cpu-busy").unwrap()) else { return };
    assert_eq!(Seen { pid: running.pid(), port: None }.descriptors().len(), 3);
}

#[test]
fn needs_are_told() {
    for target in Target::all() {
        let namespaced = target.needs.iter().any(|need| matches!(need, Need::Namespace | Need::Resolver));
        assert_eq!(target.is_namespaced(), namespaced);
    }
}

checks! {
    spin_zero_timeout "spin-zero-timeout" spins;
    spin_zero_timeout_node "spin-zero-timeout-node" spins;
    spin_short_timer "spin-short-timer" wakes_up_often;
    spin_short_timer_python "spin-short-timer-python" wakes_up_often;
    spin_half_closed "spin-half-closed" spins_half_closed;
    spin_half_closed_python "spin-half-closed-python" spins_half_closed;
    spin_error_fd "spin-error-fd" |seen| {
        spins(seen);
        // The listener, and what was a connection.
        assert_eq!(seen.sockets().len(), 2);
        assert_eq!(seen.tcp().len(), 1);
    };
    spin_accept_error "spin-accept-error" |seen| {
        spins(seen);
        assert_eq!(seen.sockets().len(), 1);
        assert_eq!(seen.tcp().len(), 0);
    };
    spin_accept_emfile "spin-accept-emfile" |seen| {
        spins(seen);
        assert_eq!(seen.descriptors().len(), 64);
        assert!(seen.accept_queue() > 0);
    };

    fd_leak "fd-leak" |seen| {
        leaks_descriptors(seen);
        assert!(seen.open("/etc/hostname") >= 4);
    };
    fd_leak_far "fd-leak-far" |seen| {
        leaks_descriptors(seen);
        assert!(seen.open("/etc/hostname") >= 4);
    };
    fd_leak_python "fd-leak-python" leaks_connections;
    fd_leak_go "fd-leak-go" leaks_connections;
    fd_leak_accept "fd-leak-accept" |seen| {
        spins(seen);
        assert_eq!(seen.descriptors().len(), 64);
        assert!(seen.open("/etc/hostname") > 50);
        assert!(seen.accept_queue() > 0);
    };
    close_wait_pileup "close-wait-pileup" |seen| pile_up(seen, State::CloseWait);
    close_wait_pileup_python "close-wait-pileup-python" |seen| pile_up(seen, State::CloseWait);
    fin_wait2_pileup "fin-wait2-pileup" |seen| pile_up(seen, State::FinWait2);
    half_open_few "half-open-few" |seen| {
        assert_eq!(half_open(seen), 2);
    };
    half_open_many "half-open-many" |seen| {
        assert!(half_open(seen) > 50);
    };
    accept_queue_overflow "accept-queue-overflow" |seen| {
        // The kernel lets in one more than was asked for.
        seen.eventually("the queue is full", |seen| seen.accept_queue() == 5);
        seen.grows("connections that were turned away", 3, |seen| seen.counter("TcpExt", "ListenOverflows"));
    };
    accept_backlog_python "accept-backlog-python" |seen| {
        seen.eventually("all but one wait", |seen| seen.accept_queue() >= 20);
        sleeps(seen);
    };
    accept_queue_overflow_python "accept-queue-overflow-python" |seen| {
        seen.eventually("the queue is full", |seen| seen.accept_queue() == 9);
        seen.grows("connections that were turned away", 3, |seen| seen.counter("TcpExt", "ListenOverflows"));
        sleeps(seen);
    };

    tls_handshake_storm "tls-handshake-storm" |seen| {
        seen.grows("connections", 20, |seen| seen.counter("Tcp", "PassiveOpens"));
        for client in [2, 3, 4].map(|last| [127, 0, 0, last]) {
            seen.eventually("a handshake of each client", |seen| {
                seen.table().iter().any(|it| it.is_of(seen.port) && it.addresses.contains(&client))
            });
        }
        // None of them stays.
        seen.eventually("no client is left", |seen| seen.count(State::Established) <= 1);
    };
    connection_churn "connection-churn" churns;
    connection_churn_c "connection-churn-c" churns;
    no_keepalive "no-keepalive" |seen| {
        assert_eq!(seen.count(State::Established), 20);
        assert!(seen.tcp().iter().all(|socket| !socket.has_timer));
        sleeps(seen);
    };
    wait_unlimited "wait-unlimited" |seen| {
        waits_for_peer(seen, 1);
        assert!(seen.tcp().iter().all(|socket| !socket.has_timer));
    };

    io_stuck "io-stuck" |seen| {
        seen.eventually("the thread is in state D", |seen| seen.state() == 'D');
        seen.rests(|seen| i64::from(seen.state() == 'D'));
    };
    task_backlog_go "task-backlog-go" |seen| {
        seen.grows("memory, by the stacks of goroutines, in KiB", 100, Seen::resident_kib);
        assert_eq!(seen.count(State::Established), 1);
    };
    task_backlog_python "task-backlog-python" |seen| {
        seen.grows("threads", 5, Seen::threads);
        assert_eq!(seen.count(State::Established), 1);
    };
    task_leak_go "task-leak-go" |seen| {
        seen.grows("memory in KiB", 2000, Seen::resident_kib);
        assert_eq!(seen.tcp().len(), 0);
    };
    task_leak_rust "task-leak-rust" |seen| {
        seen.grows("threads", 10, Seen::threads);
        seen.grows("memory in KiB", 640, Seen::resident_kib);
    };
    deadlock "deadlock" |seen| {
        seen.eventually("two threads wait for a lock", |seen| seen.in_futex() == 2);
        seen.rests(Seen::in_futex);
    };
    deadlock_crowded "deadlock-crowded" |seen| {
        seen.eventually("all wait for a lock", |seen| seen.in_futex() == 302);
        seen.rests(Seen::in_futex);
    };
    handlers_locked "handlers-locked" locked_handlers;
    handlers_locked_rwlock "handlers-locked-rwlock" locked_handlers;
    handlers_locked_python "handlers-locked-python" locked_handlers;
    pool_exhausted_go "pool-exhausted-go" |seen| {
        assert_eq!((seen.count(State::Established), unread(seen)), (4, 0));
        sleeps(seen);
    };
    handlers_locked_go "handlers-locked-go" |seen| {
        assert_eq!((seen.count(State::Established), unread(seen)), (4, 0));
        sleeps(seen);
    };
    requests_unread "requests-unread" |seen| {
        seen.eventually("one waits, three requests lie unread", |seen| unread(seen) == 3 && seen.in_futex() == 1);
        seen.rests(Seen::in_futex);
    };
    runtime_blocked "runtime-blocked" |seen| {
        seen.eventually("requests of others are unread", |seen| unread(seen) >= 2);
        sleeps(seen);
    };
    runtime_blocked_node "runtime-blocked-node" blocked_runtime;
    runtime_blocked_python "runtime-blocked-python" blocked_runtime;
    runtime_blocked_tokio "runtime-blocked-tokio" blocked_runtime;
    task_backlog_tokio "task-backlog-tokio" |seen| {
        seen.grows("memory, by tasks, in KiB", 50, Seen::resident_kib);
        assert_eq!(seen.count(State::Established), 1);
    };
    dns_serialised_node "dns-serialised-node" |seen| {
        seen.eventually("two queries at a time", |seen| seen.udp() == 2);
        seen.rests(|seen| i64::from(seen.udp() <= 2));
    };
    dns_serialised_python "dns-serialised-python" |seen| {
        seen.eventually("two queries at a time", |seen| seen.udp() == 2);
        seen.rests(|seen| i64::from(seen.udp() <= 2));
    };
    cpu_throttled "cpu-throttled" |seen| seen.grows("periods without CPU", 5, Seen::throttled);
    cpu_busy "cpu-busy" spins;
    waits_upstream_go "waits-upstream-go" |seen| waits_for_peer(seen, 4);
    waits_upstream_node "waits-upstream-node" |seen| waits_for_peer(seen, 4);
    deadline_ignored_c "deadline-ignored-c" |seen| {
        let expired = |seen: &Seen| seen.timers().contains("it_value: (0, 0)");
        seen.eventually("the timer has fired", expired);
        // It takes 2.5 s more until the answer comes.
        waits_for_peer(seen, 1);
        seen.eventually("the timer of another call has fired", expired);
    };
    deadline_ignored_python "deadline-ignored-python" works_for_callers;
    deadline_ignored_go "deadline-ignored-go" works_for_callers;

    syn_unanswered "syn-unanswered" |seen| assert_eq!(seen.count(State::SynSent), 1);
    syn_unanswered_python "syn-unanswered-python" |seen| assert_eq!(seen.count(State::SynSent), 1);
    accept_queue_full "accept-queue-full" queue_of_peer_is_full;
    accept_queue_full_python "accept-queue-full-python" queue_of_peer_is_full;
    connect_refused_node "connect-refused-node" |seen| {
        seen.grows("attempts that failed", 5, |seen| seen.counter("Tcp", "AttemptFails"));
        assert_eq!(seen.count(State::Established), 0);
    };
    ports_exhausted_rust "ports-exhausted-rust" |seen| {
        assert_eq!(seen.count(State::Established), 48);
        seen.grows("wake-ups", 5, Seen::voluntary_switches);
        assert_eq!(seen.count(State::Established), 48);
    };
    fd_exhausted_rust "fd-exhausted-rust" |seen| {
        assert_eq!(seen.descriptors().len(), 64);
        seen.grows("wake-ups", 5, Seen::voluntary_switches);
        assert_eq!(seen.count(State::Established), 61);
    };
    tls_peer_silent_go "tls-peer-silent-go" |seen| waits_for_peer(seen, 1);
    tls_peer_silent_python "tls-peer-silent-python" |seen| waits_for_peer(seen, 1);
    tls_peer_silent_before_go "tls-peer-silent-before-go" |seen| waits_for_peer(seen, 1);
    tls_peer_silent_before_python "tls-peer-silent-before-python" |seen| waits_for_peer(seen, 1);
    server_slow "server-slow" |seen| waits_for_peer(seen, 1);
    server_slow_python "server-slow-python" |seen| waits_for_peer(seen, 1);
    body_stalled_go "body-stalled-go" |seen| waits_for_peer(seen, 1);
    body_stalled_node "body-stalled-node" |seen| waits_for_peer(seen, 1);
    peer_not_reading_rust "peer-not-reading-rust" unsent;
    peer_not_reading_go "peer-not-reading-go" unsent;
    peer_reset_python "peer-reset-python" |seen| {
        seen.grows("resets", 10, |seen| seen.counter("Tcp", "EstabResets"));
        seen.grows("connections", 10, |seen| seen.counter("Tcp", "ActiveOpens"));
    };
    reader_slow_rust "reader-slow-rust" |seen| {
        seen.eventually("much is unread", |seen| seen.tcp().iter().any(|socket| socket.unread > 10_000));
        sleeps(seen);
    };
    dns_no_answer "dns-no-answer" waits_for_names;
    dns_no_answer_python "dns-no-answer-python" waits_for_names;
    dns_no_answer_go "dns-no-answer-go" waits_for_names;
    dns_no_answer_node "dns-no-answer-node" waits_for_names;

    idle_c "idle-c" idle;
    idle_python "idle-python" idle;
    idle_go "idle-go" idle;
    idle_node "idle-node" idle;
    idle_rust "idle-rust" idle;
    busy_c "busy-c" busy;
    busy_python "busy-python" busy;
    busy_go "busy-go" busy;
    busy_node "busy-node" busy;
    busy_rust "busy-rust" busy;

    healthy_pool "healthy-pool" |seen| {
        seen.eventually("the pool is full", |seen| seen.count(State::Established) == 40);
        seen.rests(|seen| seen.count(State::Established));
    };
    healthy_pool_idles "healthy-pool-idles" |seen| {
        seen.eventually("the pool is full", |seen| seen.threads() == 41 && seen.in_futex() == 40);
        seen.rests(Seen::threads);
    };
    healthy_one_client "healthy-one-client" |seen| {
        assert_eq!(seen.count(State::Established), 1);
        seen.grows("short waits", 50, Seen::voluntary_switches);
    };
    healthy_last_word "healthy-last-word" |seen| {
        seen.eventually("all workers wait", |seen| seen.in_futex() == 8);
        assert_eq!((seen.count(State::Established), unread(seen)), (4, 0));
    };
    healthy_news "healthy-news" |seen| {
        seen.eventually("four threads wait for news, and the main one", |seen| seen.in_futex() == 5);
        assert_eq!((seen.count(State::Established), unread(seen)), (4, 0));
    };
    healthy_ticker "healthy-ticker" |seen| {
        seen.grows("wake-ups", 10, Seen::voluntary_switches);
        sleeps(seen);
    };
    healthy_workers "healthy-workers" |seen| {
        seen.eventually("all workers are there", |seen| seen.threads() == 17);
        seen.rests(Seen::threads);
    };
    healthy_subscriber "healthy-subscriber" |seen| {
        waits_for_peer(seen, 1);
        assert!(seen.tcp().iter().all(|socket| socket.has_timer));
    };
    healthy_logger "healthy-logger" |seen| {
        waits_for_peer(seen, 1);
        assert!(seen.tcp().iter().all(|socket| socket.has_timer));
    };
    healthy_long_poll "healthy-long-poll" |seen| {
        waits_for_peer(seen, 1);
        assert!(seen.tcp().iter().all(|socket| socket.has_timer));
    };
    healthy_worker "healthy-worker" |seen| {
        waits_for_peer(seen, 1);
        assert!(seen.tcp().iter().all(|socket| socket.has_timer));
    };
    healthy_calls "healthy-calls" |seen| {
        seen.eventually("a connection", |seen| seen.count(State::Established) == 1);
        seen.rests(|seen| seen.count(State::Established));
    };
}

/// A third of a second of CPU, during which the thread hardly ever slept.
fn spins(seen: &Seen) {
    let switches = seen.voluntary_switches();
    seen.grows("CPU in ms", 300, Seen::cpu_ms);
    assert!(seen.voluntary_switches() - switches < 30, "it sleeps");
}

fn spins_half_closed(seen: &Seen) {
    spins(seen);
    assert_eq!(seen.count(State::CloseWait), 1);
}

fn wakes_up_often(seen: &Seen) {
    seen.grows("wake-ups", 500, Seen::voluntary_switches);
}

fn sleeps(seen: &Seen) {
    let before = seen.cpu_ms();
    seen.rests(|_| 0);
    assert!(seen.cpu_ms() - before < 200, "it works");
}

/// It grows, and the limit of 256 is far away still.
fn leaks_descriptors(seen: &Seen) {
    assert!(seen.descriptors().len() < 64);
    seen.grows("descriptors", 4, |seen| i64::try_from(seen.descriptors().len()).unwrap());
}

fn leaks_connections(seen: &Seen) {
    leaks_descriptors(seen);
    assert!(seen.count(State::Established) >= 8);
}

fn pile_up(seen: &Seen, state: State) {
    seen.eventually("50 sockets in this state", |seen| seen.count(state) >= 50);
    seen.grows("sockets in this state", 3, |seen| seen.count(state));
}

/// From how many addresses handshakes are under way, of which there are more and more.
fn half_open(seen: &Seen) -> usize {
    let all = |seen: &Seen| {
        let table = seen.table().into_iter();
        table.filter(|it| it.is_of(seen.port) && it.state == State::SynReceived as u8).collect::<Vec<_>>()
    };
    assert!(all(seen).len() >= 50);
    seen.grows("handshakes", 5, |seen| i64::try_from(all(seen).len()).unwrap());
    all(seen).iter().map(|half_open| half_open.addresses[1]).collect::<BTreeSet<_>>().len()
}

fn churns(seen: &Seen) {
    seen.grows("connections", 50, |seen| seen.counter("Tcp", "PassiveOpens"));
    seen.grows("resets", 50, |seen| seen.counter("Tcp", "EstabResets"));
    seen.eventually("no client stays", |seen| seen.count(State::Established) <= 2);
}

/// All is sent and acknowledged, nothing is unread, and the process sleeps.
fn waits_for_peer(seen: &Seen, connections: i64) {
    let waits = |seen: &Seen| {
        let all_done = |socket: &seen::Socket| socket.unsent == 0 && socket.unread == 0;
        // A client asks again before it knows that its connection is free, and then has one more.
        seen.count(State::Established) >= connections && seen.tcp().iter().all(all_done)
    };
    seen.eventually("it waits", waits);
    sleeps(seen);
}

fn blocked_runtime(seen: &Seen) {
    seen.eventually("requests of two clients are unread", |seen| unread(seen) == 2);
    sleeps(seen);
}

/// Connections with a request that nobody has read.
fn unread(seen: &Seen) -> usize {
    seen.tcp().iter().filter(|socket| socket.state == State::Established as u8 && socket.unread > 0).count()
}

fn locked_handlers(seen: &Seen) {
    seen.eventually("four handlers wait for a lock", |seen| seen.in_futex() == 4);
    assert_eq!((seen.count(State::Established), unread(seen)), (4, 0));
    seen.rests(Seen::in_futex);
}

fn works_for_callers(seen: &Seen) {
    seen.eventually("two callers wait", |seen| seen.count(State::Established) == 2);
    sleeps(seen);
}

fn queue_of_peer_is_full(seen: &Seen) {
    assert_eq!(seen.count(State::SynSent), 1);
    assert_eq!(seen.accept_queue(), 2);
    sleeps(seen);
}

fn unsent(seen: &Seen) {
    seen.eventually("much is unsent", |seen| seen.tcp().iter().any(|socket| socket.unsent > 10_000));
    sleeps(seen);
}

fn waits_for_names(seen: &Seen) {
    seen.eventually("a query is under way", |seen| seen.udp() > 0);
    sleeps(seen);
}

fn idle(seen: &Seen) {
    assert_eq!(seen.count(State::Listen), 1);
    assert_eq!(seen.count(State::Established), 0);
    sleeps(seen);
}

fn busy(seen: &Seen) {
    seen.eventually("four clients", |seen| seen.count(State::Established) == 4);
    seen.grows("CPU in ms", 10, Seen::cpu_ms);
    seen.eventually("nothing is unread", |seen| seen.tcp().iter().all(|socket| socket.unread == 0));
    assert_eq!(seen.count(State::CloseWait), 0);
    assert_eq!(seen.accept_queue(), 0);
}
