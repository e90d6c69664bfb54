//! Signals that arrive while a thread waits, and threads that do not sleep.

use std::{
    io::{ErrorKind, Write},
    sync::{
        Once,
        atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use overdue::direct::{Events, Options, Poller};

use crate::{LONG, Waiting, ms, now, pass, read, tcp_with, timed_out};

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// The thread that its handler does not let go.
static HELD: AtomicI32 = AtomicI32::new(0);

extern "C" fn handle(_: libc::c_int) {
    HANDLED.fetch_add(1, SeqCst);
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    while HELD.load(SeqCst) == own {
        std::hint::spin_loop();
    }
}

/// A handler without SA_RESTART, once for the process.
#[expect(unsafe_code, reason = "handlers cannot be set without")]
fn handler() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        // SAFETY: an all-zero sigaction is valid; the handler touches an atomic alone.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())
        };
        assert_eq!(result, 0);
    });
}

impl<T: Send + 'static> Waiting<T> {
    /// Returns when the thread has handled it. (Other tests may send some as well.)
    #[expect(unsafe_code, reason = "no crate at hand signals a thread")]
    fn signal(&self) {
        let before = HANDLED.load(SeqCst);
        // SAFETY: signal numbers and ids are plain numbers; the thread has not been joined.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.tid, libc::SIGUSR1) };
        assert_eq!(result, 0);
        while HANDLED.load(SeqCst) == before {
            thread::yield_now();
        }
    }
}

#[test]
fn a_signal_does_not_end_what_waits() {
    handler();
    let (stream, mut peer) = tcp_with(&Options::new());
    let reading = Waiting::start(move || read(&stream));
    for _ in 0..5 {
        reading.signal();
        reading.until_asleep();
    }
    peer.write_all(b"x").unwrap();
    assert_eq!(reading.end().unwrap(), b'x');
}

#[test]
fn signals_neither_lengthen_nor_shorten_a_deadline() {
    handler();
    let (stream, _peer) = tcp_with(&Options::new());
    let deadline = now() + ms(200);
    stream.set_read_deadline(deadline);
    let reading = Waiting::start(move || (read(&stream), now()));
    // Were the whole time granted anew after each signal, it would not end before the signals do.
    let guard = deadline + LONG;
    while !reading.is_finished() && now() < guard {
        reading.signal();
    }
    let (result, at) = reading.end();
    timed_out(&result.unwrap_err());
    assert!(deadline <= at && at < guard);
}

#[test]
fn after_a_signal_only_what_is_left_of_the_time_is_waited() {
    handler();
    let (stream, _peer) = tcp_with(&Options::new());
    let (start, limit) = (now(), ms(2000));
    stream.set_read_deadline(start + limit);
    let reading = Waiting::start(move || (read(&stream).unwrap_err(), now()));
    pass(start + ms(1200));
    reading.signal();
    let (err, at) = reading.end();
    timed_out(&err);
    // Granted anew, the time would end at 3.2 s.
    assert!((limit..ms(3000)).contains(&(at - start)), "{:?}", at - start);
}

#[test]
fn what_came_while_the_thread_was_held_up_wins_over_its_deadline() {
    handler();
    for comes in [true, false] {
        let (stream, mut peer) = tcp_with(&Options::new());
        let deadline = now() + ms(300);
        stream.set_read_deadline(deadline);
        let reading = Waiting::start(move || read(&stream));
        HELD.store(reading.tid, SeqCst);
        reading.signal();
        if comes {
            peer.write_all(b"x").unwrap();
        }
        pass(deadline + ms(50));
        HELD.store(0, SeqCst);
        match reading.end() {
            Ok(byte) => assert!(comes && byte == b'x'),
            // Late was this thread, and nobody else.
            Err(err) => assert!(!comes && timed_out(&err).report().timeline.iter().any(|span| span.stage == "stall")),
        }
    }
}

#[test]
fn a_signal_ends_what_waits_where_that_is_wanted() {
    handler();
    let (stream, mut peer) = tcp_with(&Options::new().until_signal(true));
    stream.set_read_deadline(LONG);
    let reading = Waiting::start(move || {
        let first = read(&stream);
        (first, read(&stream))
    });
    reading.signal();
    peer.write_all(b"x").unwrap();
    let (first, second) = reading.end();
    let err = first.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Interrupted);
    assert_eq!(second.unwrap(), b'x');
}

#[test]
fn a_signal_does_not_end_a_poll() {
    handler();
    let mut poller = Poller::new().unwrap();
    let waker = poller.waker();
    let polling = Waiting::start(move || {
        let mut events = Events::new();
        poller.wait(&mut events, LONG).unwrap();
        events.woken()
    });
    polling.signal();
    polling.until_asleep();
    waker.wake();
    assert!(polling.end());
}

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn busy_polling_does_not_sleep_and_sees_everything() {
    for (spin, slept) in [(LONG, false), (Duration::ZERO, true)] {
        let (stream, mut peer) = tcp_with(&Options::new().spin(spin));
        let reading = Waiting::spawn(move || {
            let before = sleeps();
            let byte = read(&stream).unwrap();
            (byte, sleeps() > before)
        });
        if slept {
            reading.until_asleep();
        } else {
            pass(now() + ms(20));
        }
        peer.write_all(b"x").unwrap();
        assert_eq!(reading.end(), (b'x', slept), "spin {spin:?}");
    }
    // A deadline from elsewhere, and an interrupter.
    for by_deadline in [true, false] {
        let (stream, _peer) = tcp_with(&Options::new().spin(LONG));
        let (handle, interrupter) = (stream.handle().clone(), stream.interrupter().clone());
        let reading = Waiting::spawn(move || read(&stream).unwrap_err());
        pass(now() + ms(5));
        if by_deadline {
            handle.set_read_deadline(ms(5));
            timed_out(&reading.end());
        } else {
            interrupter.interrupt("enough");
            crate::cancelled(&reading.end());
        }
    }
}

#[test]
fn who_spins_in_vain_sleeps_until_the_deadline() {
    let (stream, _peer) = tcp_with(&Options::new().spin(ms(1)));
    stream.set_read_deadline(LONG);
    let handle = stream.handle().clone();
    let reading = Waiting::start(move || read(&stream).unwrap_err());
    handle.set_read_deadline(now());
    timed_out(&reading.end());
}
