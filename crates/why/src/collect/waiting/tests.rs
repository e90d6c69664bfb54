//! Real processes, watched.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio, id},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::*;
use crate::{
    collect::need::skip,
    observation::{Call, PollCall, PollLoop, Stack},
};

/// One at a time: windows count the calls of the whole machine.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What C programs begin with.
const HEAD: &str = "
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>
static void ready(void) { puts(\"ready\"); fflush(stdout); }
static void add(int epfd, int fd, unsigned events, unsigned long data) {
    struct epoll_event event = { .events = events, .data.u64 = data };
    epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event);
}
";

/// A running program, killed on drop.
struct Program {
    child: Child,
    file: Option<PathBuf>,
}

impl Program {
    fn c(body: &str) -> Self {
        Self::c_with(body, &["-O1", "-g", "-fno-omit-frame-pointer"])
    }

    fn c_with(body: &str, flags: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("overdue-waiting-{}-{number}", id()));
        let source = file.with_extension("c");
        fs::write(&source, format!("{HEAD}{body}")).unwrap();
        let built = Command::new("cc").args(flags).arg("-pthread").arg("-o").arg(&file).arg(&source).status().unwrap();
        fs::remove_file(&source).unwrap();
        assert!(built.success());
        let mut program = Self::start(Command::new(&file));
        program.file = Some(file);
        program
    }

    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, file: None }
    }

    fn target(&self) -> Target {
        Target::new(self.child.id()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Where BPF is not allowed nothing can be tested, and CI must not pass for it.
fn attach_to(target: &Target) -> Option<Waiting> {
    let attached = Kernel::new().and_then(|kernel| Waiting::attach(&kernel, target));
    match attached {
        Ok(waiting) => {
            assert_eq!(waiting.hidden, []);
            Some(waiting)
        }
        Err(hidden) => {
            skip(hidden.why);
            None
        }
    }
}

fn pass(time: Duration) {
    let (_sender, receiver) = mpsc::channel::<()>();
    assert_eq!(receiver.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
}

/// Watches as the real watch does, only faster.
fn watch(program: &Program, rounds: u64) -> Option<Observation> {
    let mut waiting = attach_to(&program.target())?;
    for round in 0..rounds {
        waiting.look(round * 200_000);
        waiting.window(true);
        pass(Duration::from_millis(40));
        waiting.window(false);
        pass(Duration::from_millis(160));
    }
    waiting.look(rounds * 200_000);
    let mut observation = Observation::default();
    waiting.observed(&mut observation);
    Some(observation)
}

fn loop_of(observation: &Observation, call: PollCall) -> PollLoop {
    let polling = observation.polling.as_ref().unwrap();
    assert!(polling.looked_us >= 40_000, "{polling:?}");
    polling.loops.iter().find(|it| it.call == call).unwrap_or_else(|| panic!("{polling:#?}")).clone()
}

fn has(stack: Option<&Stack>, functions: &[&str]) {
    let stack = stack.unwrap();
    let found: Vec<&str> = stack.functions().collect();
    let mut all = found.iter();
    assert!(functions.iter().all(|wanted| all.any(|name| name == wanted)), "{functions:?} in {stack:#?}");
}

#[test]
fn a_zero_timeout_spins() {
    let _alone = alone();
    let program = Program::c(
        "static void spin(int epfd) { struct epoll_event e[4]; for (;;) epoll_wait(epfd, e, 4, 0); }
         int main(void) { int epfd = epoll_create1(0); ready(); spin(epfd); return 0; }",
    );
    let Some(observation) = watch(&program, 5) else { return };
    let it = loop_of(&observation, PollCall::EpollWait);
    assert_eq!(it.tid, program.child.id());
    assert!(it.returns > 1000 && it.empty == it.returns && it.failed == 0, "{it:#?}");
    assert!(it.returns - it.timeouts.zero <= 5 && it.timeouts.long == 0, "{it:#?}");
    has(it.stack.as_ref(), &["epoll_wait", "spin", "main"]);
}

#[test]
fn a_short_timer_spins() {
    let _alone = alone();
    let program = Program::c(
        "int main(void) { struct pollfd none = { .fd = -1 }; struct timespec ms = { 0, 1000000 };
         ready(); for (;;) { poll(&none, 1, 1); ppoll(&none, 1, &ms, 0); } }",
    );
    let Some(observation) = watch(&program, 5) else { return };
    let it = loop_of(&observation, PollCall::Poll);
    assert!(it.returns > 50 && it.empty == it.returns, "{it:#?}");
    assert!(it.timeouts.short + 10 >= it.returns && it.timeouts.zero == 0, "{it:#?}");
    assert!(it.inside_us > observation.polling.unwrap().looked_us / 2, "{it:#?}");
}

#[test]
fn a_listener_without_descriptors_left() {
    let _alone = alone();
    let program = Program::c(
        "static int listener; static struct { int fd; long more[10]; } connection;
         static void accept_all(int epfd) { struct epoll_event e[4];
           for (;;) { epoll_wait(epfd, e, 4, -1); accept(listener, 0, 0); } }
         int main(void) {
           struct sockaddr_in to = { .sin_family = AF_INET }; socklen_t length = sizeof(to);
           to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
           listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
           bind(listener, (void *)&to, length); listen(listener, 8);
           getsockname(listener, (void *)&to, &length);
           int epfd = epoll_create1(0);
           add(epfd, listener, EPOLLIN, (unsigned long)&connection);
           connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, length);
           struct rlimit none = { 0, 1024 }; setrlimit(RLIMIT_NOFILE, &none);
           ready(); accept_all(epfd); return listener; }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let it = loop_of(&observation, PollCall::EpollWait);
    assert!(it.returns > 1000 && it.empty == 0, "{it:#?}");
    assert!(it.timeouts.unlimited + 5 >= it.returns, "{it:#?}");
    let ready = &it.ready[0];
    // Descriptor 3, whatever the program gave as its data.
    assert_eq!((ready.fd, ready.events, ready.used), (Some(3), 1, Some(0)), "{it:#?}");
    assert_eq!(ready.what.as_deref(), Some("socket"));
    assert!(ready.times + 5 > it.returns, "{it:#?}");
    let failed = it.failed_calls.iter().find(|(call, ..)| call == "accept").unwrap();
    assert!(failed.1 == libc::EMFILE && failed.2 > 1000, "{it:#?}");
    let calls = observation.calls.unwrap();
    let accept = calls.counts.iter().find(|it| it.call == Call::Accept && it.errno == libc::EMFILE).unwrap();
    assert!(accept.count > 1000 && accept.fd == Some(3), "{accept:#?}");
    has(accept.stack.as_ref(), &["accept_all", "main"]);
}

#[test]
fn a_peer_that_has_gone_is_never_read() {
    let _alone = alone();
    let program = Program::c(
        "int main(void) { int pair[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, pair); close(pair[1]);
         int epfd = epoll_create1(0); add(epfd, pair[0], EPOLLIN | EPOLLRDHUP, pair[0]);
         ready(); struct epoll_event e; for (;;) epoll_wait(epfd, &e, 1, 1000); }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let it = loop_of(&observation, PollCall::EpollWait);
    let ready = &it.ready[0];
    assert!(it.empty == 0 && it.timeouts.long + 5 >= it.returns, "{it:#?}");
    assert_eq!(
        (ready.fd, ready.events & 0x2000, ready.used, ready.ends),
        (Some(3), 0x2000, Some(0), Some(0)),
        "{it:#?}"
    );
}

#[test]
fn the_end_is_read_again_and_again() {
    let _alone = alone();
    let program = Program::c(
        "int main(void) { int pair[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, pair); close(pair[1]); char c;
         ready(); for (;;) { fd_set set; FD_ZERO(&set); FD_SET(pair[0], &set);
           struct timeval second = { 1, 0 }; select(pair[0] + 1, &set, 0, 0, &second); read(pair[0], &c, 1); } }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let it = loop_of(&observation, PollCall::Select);
    let ready = &it.ready[0];
    assert_eq!((ready.fd, ready.used), (Some(3), Some(0)), "{it:#?}");
    assert!(ready.ends.unwrap() > 1000 && it.timeouts.long > 1000 && it.timeouts.zero == 0, "{it:#?}");
}

#[test]
fn a_healthy_loop_is_busy() {
    let _alone = alone();
    let program = Program::c(
        "static int pair[2];
         static void *feed(void *x) { char c = 0; for (;;) { write(pair[1], &c, 1); read(pair[1], &c, 1); } return x; }
         int main(void) { socketpair(AF_UNIX, SOCK_STREAM, 0, pair); pthread_t t; pthread_create(&t, 0, feed, 0);
         int epfd = epoll_create1(0); add(epfd, pair[0], EPOLLIN, pair[0]); ready(); char c;
         for (;;) { struct epoll_event e; if (epoll_wait(epfd, &e, 1, -1) == 1) {
           read(pair[0], &c, 1); write(pair[0], &c, 1); } } }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let it = loop_of(&observation, PollCall::EpollWait);
    assert!(it.returns > 100 && it.empty == 0 && it.failed == 0, "{it:#?}");
    let ready = &it.ready[0];
    assert_eq!((ready.fd, ready.ends), (Some(3), Some(0)));
    // One read and one write for each event.
    assert!(ready.used.unwrap().abs_diff(2 * it.returns) <= 20, "{it:#?}");
    let calls: Vec<&str> = it.other_calls.iter().map(|(call, _)| call.as_str()).collect();
    assert!(calls.contains(&"read") && calls.contains(&"write"), "{it:#?}");
    assert_eq!(it.failed_calls, []);
}

#[test]
fn windows_count_what_fell_into_them() {
    let _alone = alone();
    // 100 polls a second that wait, of which each lasts a quarter of a window.
    let program = Program::c(
        "int main(void) { int epfd = epoll_create1(0); struct epoll_event e; ready();
         for (;;) epoll_wait(epfd, &e, 1, 10); }",
    );
    let Some(mut waiting) = attach_to(&program.target()) else { return };
    for _ in 0..5 {
        waiting.window(true);
        pass(Duration::from_millis(200));
        waiting.close();
    }
    let mut observation = Observation::default();
    waiting.observed(&mut observation);
    let looked_us = observation.polling.as_ref().unwrap().looked_us;
    let it = loop_of(&observation, PollCall::EpollWait);
    // Nearly all of the time is spent inside, and not more than all of it, whatever was cut at either end.
    assert!(it.inside_us <= looked_us && it.inside_us > looked_us * 9 / 10, "{looked_us} {it:#?}");
    let expected = looked_us / 10_100;
    assert!(it.returns <= expected + 5 && it.returns > expected / 2, "{looked_us} {it:#?}");
    assert_eq!(it.timeouts.long, it.returns, "a limit given by value is known of partial calls, too");
}

#[test]
fn one_that_never_returns_is_inside() {
    let _alone = alone();
    let program = Program::c(
        "static void wait_for_ever(int epfd) { struct epoll_event e; epoll_wait(epfd, &e, 1, -1); }
         int main(void) { ready(); wait_for_ever(epoll_create1(0)); return 0; }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let it = loop_of(&observation, PollCall::EpollWait);
    assert_eq!((it.returns, it.inside_us), (0, observation.polling.as_ref().unwrap().looked_us));
    has(it.stack.as_ref(), &["wait_for_ever", "main"]);
}

const BLOCKED: &str = "
    static __attribute__((noinline)) void wait_for_answer(int fd) { char c; read(fd, &c, 1); __asm__(\"\"); }
    static __attribute__((noinline)) void *serve(void *x) {
      int pair[2]; pipe(pair); wait_for_answer(pair[0]); return x; }
    int main(void) { pthread_t t; pthread_create(&t, 0, serve, 0); ready(); pthread_join(t, 0); return 0; }";

#[test]
fn a_blocked_thread_is_named() {
    let _alone = alone();
    for flags in [&["-O1", "-fno-omit-frame-pointer"][..], &["-O2", "-fomit-frame-pointer"]] {
        let program = Program::c_with(BLOCKED, flags);
        let Some(observation) = watch(&program, 3) else { return };
        let waits = observation.threads.unwrap().waits.unwrap();
        assert_eq!(waits.len(), 2, "{waits:#?}");
        let wait = waits.iter().find(|wait| wait.stack.functions().any(|it| it == "serve"));
        let wait = wait.unwrap_or_else(|| panic!("{waits:#?}"));
        has(Some(&wait.stack), &["wait_for_answer", "serve"]);
        assert_eq!((wait.waited_us, wait.times, wait.longest_us), (600_000, 1, 600_000));
        assert_eq!(wait.stack.cut, None, "{wait:#?}");
    }
}

#[test]
fn a_hot_function_is_named() {
    let _alone = alone();
    let program = Program::c(
        "static __attribute__((noinline)) void burn(volatile unsigned *n) { for (int i = 0; i < 1000; i++) *n += i; }
         int main(void) { unsigned n = 0; ready(); for (;;) burn(&n); }",
    );
    let Some(observation) = watch(&program, 5) else { return };
    let cpu = observation.cpu.unwrap();
    let hot = cpu.hot.unwrap();
    assert!(cpu.samples >= 20, "{}", cpu.samples);
    has(hot.first().map(|it| &it.stack), &["burn", "main"]);
    assert!(hot[0].samples * 10 >= cpu.samples * 8, "{hot:#?}");
    assert!(hot[0].stack.frames[0].at.as_ref().unwrap().contains(".c:"), "{hot:#?}");
}

#[test]
fn who_opens_is_named() {
    let _alone = alone();
    let program = Program::c(
        "static __attribute__((noinline)) void leak(void) { int fd = socket(AF_INET, SOCK_STREAM, 0); (void)fd; }
         static __attribute__((noinline)) void fine(void) { int pair[2]; pipe(pair); close(pair[0]); close(pair[1]); }
         int main(void) { ready(); for (;;) { leak(); fine(); usleep(2000); } }",
    );
    let Some(observation) = watch(&program, 4) else { return };
    let openers = observation.fds.unwrap().openers.unwrap();
    assert_eq!(openers[0].call, "socket", "{openers:#?}");
    assert!(openers[0].still_open >= 20, "{openers:#?}");
    has(Some(&openers[0].stack), &["leak", "main"]);
    assert!(openers.iter().all(|it| it.call == "socket" || it.still_open <= 2), "{openers:#?}");
}

#[test]
fn failures_carry_their_peer() {
    let _alone = alone();
    let program = Program::c(
        "int main(void) { struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(1) };
         to.sin_addr.s_addr = htonl(INADDR_LOOPBACK); ready();
         for (;;) { int fd = socket(AF_INET, SOCK_STREAM, 0); connect(fd, (void *)&to, sizeof(to)); close(fd);
           open(\"/nowhere\", O_RDONLY); usleep(1000); } }",
    );
    let Some(observation) = watch(&program, 3) else { return };
    let calls = observation.calls.unwrap();
    let connect = calls.counts.iter().find(|it| it.call == Call::Connect).unwrap();
    assert_eq!((connect.errno, connect.peer.as_deref()), (libc::ECONNREFUSED, Some("127.0.0.1:1")), "{calls:#?}");
    let open = calls.counts.iter().find(|it| it.call == Call::Open).unwrap();
    assert!(open.errno == libc::ENOENT && open.count.abs_diff(connect.count) <= 3, "{calls:#?}");
}

#[test]
fn one_that_dies_or_becomes_another_is_no_problem() {
    let _alone = alone();
    let program = Program::c(
        "int main(int n, char **v) { if (n > 1) { for (;;) pause(); } ready();
         if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) pause(); }
         char c; read(0, &c, 1); char *const argv[] = { v[0], \"again\", 0 }; execv(v[0], argv); return 1; }",
    );
    let mut program = program;
    let Some(mut waiting) = attach_to(&program.target()) else { return };
    waiting.window(true);
    waiting.look(100_000);
    drop(program.child.stdin.take());
    pass(Duration::from_millis(60));
    waiting.look(200_000);
    waiting.window(false);
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    waiting.window(true);
    waiting.look(300_000);
    waiting.window(false);
    let mut observation = Observation::default();
    waiting.observed(&mut observation);
    let waits = observation.threads.unwrap().waits.unwrap();
    has(waits.iter().map(|it| &it.stack).find(|it| it.functions().any(|name| name == "read")), &["read", "main"]);
    has(waits.iter().map(|it| &it.stack).find(|it| it.functions().any(|name| name == "pause")), &["pause", "main"]);
}

#[test]
fn nothing_is_left_behind() {
    let _alone = alone();
    let program = Program::c("int main(void) { ready(); for (;;) getppid(); }");
    let target = program.target();
    let Some(_) = attach_to(&target) else { return };
    let kernel = Kernel::new().unwrap();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let held = || {
        let fds = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        let infos = fds.filter_map(|fd| fs::read_to_string(fd.path()).ok());
        infos.filter(|info| ["map_id:", "prog_id:", "link_id:"].iter().any(|id| info.contains(id))).count()
    };
    for round in 0..200_u64 {
        let mut waiting = Waiting::attach(&kernel, &target).unwrap();
        assert!(held() > 10);
        waiting.look(round);
        // Opening waits for the whole machine each time: some of them are enough.
        if round % 20 == 0 {
            waiting.window(true);
        }
    }
    assert_eq!(held(), 0);
    assert_eq!(count(), before);
}
