//! TCP connections: non-blocking connect, several addresses as RFC 8305 has it (happy eyeballs), a limit for each
//! attempt and one for all of them.
//!
//! A [`Race`] lives outside the future that drives it. When a limit fires, the sockets that are still in `SYN_SENT`
//! are there to be asked why.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use overdue_core::{
    Deadline, Limit,
    facts::{Failure, OsFailure, SocketFacts},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep_until},
};

#[cfg(unix)]
use crate::socket;
use crate::{
    clock,
    socket::os_failure,
    tcp::{TcpOptions, in_progress},
    wire::Wire,
};

/// RFC 8305, section 5: how long one address is tried before the next is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// More addresses than this are not tried: a name that has more is no better for it.
const ADDRESSES_MAX: usize = 32;

/// An attempt that failed.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) socket: Box<SocketFacts>,
    pub(crate) source: Option<io::Error>,
}

/// Attempts on several addresses, the first to succeed wins.
pub(crate) struct Race<'a> {
    options: &'a TcpOptions,
    limit: Option<&'a Limit>,
    waiting: std::vec::IntoIter<SocketAddr>,
    running: Vec<Attempt>,
    failed: Vec<Failed>,
    /// When the next address is tried although others are still running.
    next: Option<Pin<Box<Sleep>>>,
}

struct Attempt {
    addr: SocketAddr,
    stream: TcpStream,
    limit: Option<(Deadline, Pin<Box<Sleep>>)>,
}

impl<'a> Race<'a> {
    pub(crate) fn new(addrs: Vec<SocketAddr>, options: &'a TcpOptions, limit: Option<&'a Limit>) -> Self {
        let mut addrs = addrs;
        if let Some(bind) = options.bind {
            addrs.retain(|addr| addr.is_ipv4() == bind.is_ipv4());
        }
        addrs.truncate(ADDRESSES_MAX);
        Self { options, limit, waiting: addrs.into_iter(), running: Vec::new(), failed: Vec::new(), next: None }
    }

    /// Cancel safe: what runs goes on at the next poll.
    pub(crate) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Wire, Failed>> {
        loop {
            if let Some(wire) = self.poll_running(cx) {
                return Poll::Ready(Ok(wire));
            }
            let due =
                self.running.is_empty() || self.next.as_mut().is_some_and(|next| next.as_mut().poll(cx).is_ready());
            if !due {
                return Poll::Pending;
            }
            match self.waiting.next() {
                Some(addr) => {
                    match self.start(addr) {
                        Ok(attempt) => self.running.push(attempt),
                        Err(failed) => self.failed.push(failed),
                    }
                    self.next = Some(Box::pin(sleep_until((clock::now() + ATTEMPT_DELAY).into())));
                }
                None if self.running.is_empty() => return Poll::Ready(Err(self.worst())),
                None => {
                    self.next = None;
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_running(&mut self, cx: &mut TaskContext<'_>) -> Option<Wire> {
        let mut index = 0;
        while let Some(attempt) = self.running.get_mut(index) {
            let outcome = match attempt.stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => Some(match attempt.stream.take_error() {
                    Ok(None) => Ok(()),
                    Ok(Some(err)) | Err(err) => Err(os_failure("connect", err)),
                }),
                Poll::Ready(Err(err)) => Some(Err(os_failure("connect", err))),
                Poll::Pending => match &mut attempt.limit {
                    Some((deadline, sleep)) => match sleep.as_mut().poll(cx) {
                        Poll::Ready(()) => Some(Err((Failure::DeadlinePassed(deadline.limit().clone()), None))),
                        Poll::Pending => None,
                    },
                    None => None,
                },
            };
            match outcome {
                None => index += 1,
                Some(outcome) => {
                    let attempt = self.running.swap_remove(index);
                    match outcome {
                        Ok(()) => return Some(Wire::tcp(attempt.stream, attempt.addr)),
                        Err((failure, source)) => {
                            // The next address need not wait for its turn.
                            self.next = None;
                            let socket = match &failure {
                                // An answer that explains itself.
                                Failure::Os { kind, .. } if *kind != OsFailure::KernelTimeout => {
                                    unobserved(attempt.addr)
                                }
                                _ => attempt.observe(),
                            };
                            self.failed.push(Failed { failure, socket: Box::new(socket), source });
                            if !self.waiting.as_slice().is_empty() {
                                self.next = Some(Box::pin(sleep_until(clock::now().into())));
                            }
                        }
                    }
                }
            }
        }
        None
    }

    fn start(&self, addr: SocketAddr) -> Result<Attempt, Failed> {
        let failed = |operation, err: io::Error| {
            let (failure, source) = os_failure(operation, err);
            Failed { failure, source, socket: Box::new(unobserved(addr)) }
        };
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(|err| failed("socket", err))?;
        self.options.apply(&socket, addr).map_err(|(operation, err)| failed(operation, err))?;
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(err) if in_progress(&err) => {}
            Err(err) => return Err(failed("connect", err)),
        }
        let stream = TcpStream::from_std(socket.into()).map_err(|err| failed("epoll_ctl", err))?;
        let limit = self.limit.map(|limit| {
            let deadline = Deadline::after(clock::now(), limit.clone());
            let sleep = Box::pin(sleep_until(deadline.at().into()));
            (deadline, sleep)
        });
        Ok(Attempt { addr, stream, limit })
    }

    /// What the attempt that has run longest looks like now; the last failure when none is running.
    pub(crate) fn observe(&self) -> Option<SocketFacts> {
        match self.running.first() {
            Some(attempt) => Some(attempt.observe()),
            None => self.failed.last().map(|failed| (*failed.socket).clone()),
        }
    }

    /// All attempts failed: the failure that says most. "No route" for one family means little when the other family
    /// got as far as a refusal or a silence.
    fn worst(&mut self) -> Failed {
        let says = |failed: &Failed| match &failed.failure {
            Failure::Os { kind: OsFailure::Unreachable, .. } => 0,
            Failure::Os { .. } => 1,
            _ => 2,
        };
        let index = (0..self.failed.len()).max_by_key(|index| self.failed.get(*index).map(says));
        match index {
            Some(index) => self.failed.swap_remove(index),
            None => Failed {
                failure: Failure::Other("there is no address to connect to".to_owned()),
                socket: Box::default(),
                source: None,
            },
        }
    }
}

impl Attempt {
    fn observe(&self) -> SocketFacts {
        let mut facts = observe_stream(&self.stream, self.addr);
        facts.peer = self.addr.to_string();
        facts
    }
}

fn unobserved(addr: SocketAddr) -> SocketFacts {
    SocketFacts { peer: addr.to_string(), ..SocketFacts::default() }
}

#[cfg(unix)]
fn observe_stream(stream: &TcpStream, addr: SocketAddr) -> SocketFacts {
    use std::os::fd::AsFd;
    socket::observe(stream.as_fd(), stream.local_addr().ok(), Some(addr))
}

#[cfg(not(unix))]
fn observe_stream(_: &TcpStream, _: SocketAddr) -> SocketFacts {
    SocketFacts::default()
}

#[cfg(test)]
mod tests;
