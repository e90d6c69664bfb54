//! The contract of [`overdue::direct`], after the cases that Go's tests of `net` deadlines know.
//!
//! Nothing is timed: that a thread waits is seen in /proc, what ends it and in which order is asserted, and a limit of
//! [`LONG`] stands for "never".

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod deadlines;
mod poller;
mod signals;
mod sockets;
mod stopping;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overdue::{
    Error,
    direct::{Listener, Options, Stream},
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[expect(clippy::disallowed_methods, reason = "direct waits by the kernel's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Lets time pass, up to an instant that a deadline names.
fn pass(until: Instant) {
    while now() <= until {
        thread::yield_now();
    }
}

fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn tcp_with(options: &Options) -> (Stream, TcpStream) {
    let listener = TcpListener::bind(local()).unwrap();
    let stream = options.connect(listener.local_addr().unwrap(), LONG).unwrap();
    (stream, listener.accept().unwrap().0)
}

fn tcp() -> (Stream, TcpStream) {
    tcp_with(&Options::new())
}

fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn read(mut stream: &Stream) -> io::Result<u8> {
    let mut byte = [0];
    match stream.read(&mut byte)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(byte[0]),
    }
}

/// Writes until something forbids it.
fn fill(mut stream: &Stream) -> io::Error {
    let piece = vec![0; 1 << 20];
    loop {
        if let Err(err) = stream.write(&piece) {
            return err;
        }
    }
}

/// A thread that waits in the kernel.
struct Waiting<T> {
    thread: JoinHandle<T>,
    tid: i32,
}

impl<T: Send + 'static> Waiting<T> {
    /// Returns when the work sleeps.
    #[track_caller]
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let waiting = Self::spawn(work);
        waiting.until_asleep();
        waiting
    }

    fn spawn(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            work()
        });
        Self { thread, tid: told.recv().unwrap() }
    }

    #[track_caller]
    fn until_asleep(&self) {
        let guard = now() + LONG;
        while !self.is_asleep() {
            assert!(!self.thread.is_finished() && now() < guard, "it does not wait");
            thread::yield_now();
        }
    }

    fn is_asleep(&self) -> bool {
        let path = format!("/proc/self/task/{}/syscall", self.tid);
        let call = std::fs::read_to_string(path).unwrap_or_default();
        let number = call.split(' ').next().and_then(|number| number.parse().ok());
        number.is_some_and(|number| [libc::SYS_ppoll, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].contains(&number))
    }

    fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    fn end(self) -> T {
        self.thread.join().unwrap()
    }
}

/// What an operation that failed says about itself.
#[track_caller]
fn explained(err: &io::Error) -> &Error {
    Error::find(err).unwrap_or_else(|| panic!("not explained: {err:?}"))
}

#[track_caller]
fn timed_out(err: &io::Error) -> &Error {
    assert_eq!(err.kind(), io::ErrorKind::TimedOut, "{err}");
    let error = explained(err);
    assert!(error.is_timeout(), "{error}");
    error
}

#[track_caller]
fn cancelled(err: &io::Error) -> &Error {
    assert_eq!(err.kind(), io::ErrorKind::ConnectionAborted, "{err}");
    let error = explained(err);
    assert!(error.is_cancelled(), "{error}");
    error
}
