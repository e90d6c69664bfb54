//! The set of sockets that the kernel watches.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::Errno,
};

use super::Interest;
use crate::direct::wait::timespec;

/// How many events one wait may bring. What is left comes with the next.
const EVENTS: usize = 256;

/// Whether the kernel has `epoll_pwait2` (Linux 5.11), and no filter of system calls refuses it.
static HAS_PWAIT2: AtomicBool = AtomicBool::new(true);

pub(super) struct Epoll {
    set: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What the kernel says about one socket.
pub(super) struct Ready {
    pub(super) data: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { set: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    pub(super) fn add(&self, fd: impl AsFd, data: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.set, fd, epoll::EventData::new_u64(data), flags(interest))?)
    }

    pub(super) fn modify(&self, fd: impl AsFd, data: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.set, fd, epoll::EventData::new_u64(data), flags(interest))?)
    }

    /// To be called before the descriptor is closed. Closing alone removes nothing while a duplicate keeps what the
    /// descriptor stood for open, and then nobody can remove it any more.
    pub(super) fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.set, fd)?)
    }

    /// Waits for events; for `None`, without end. A signal ends it with EINTR.
    pub(super) fn wait(&mut self, time: Option<Duration>) -> Result<impl Iterator<Item = Ready>, Errno> {
        self.events.clear();
        match time.and_then(timespec) {
            None => self.wait_ms(-1),
            Some(Timespec { tv_sec: 0, tv_nsec: 0 }) => self.wait_ms(0),
            Some(time) if HAS_PWAIT2.load(Relaxed) => match self.wait_ns(&time) {
                Err(Errno::NOSYS | Errno::PERM) => {
                    HAS_PWAIT2.store(false, Relaxed);
                    self.wait_by_poll(&time)
                }
                result => result,
            },
            Some(time) => self.wait_by_poll(&time),
        }?;
        Ok(self.events.iter().map(|event| {
            let (flags, ended) = (event.flags, epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                data: event.data.u64(),
                readable: flags.intersects(epoll::EventFlags::IN | ended),
                writable: flags.intersects(epoll::EventFlags::OUT | ended),
            }
        }))
    }

    fn wait_ms(&mut self, ms: i64) -> Result<(), Errno> {
        let time = (ms >= 0).then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        epoll::wait(&self.set, spare_capacity(&mut self.events), time.as_ref()).map(drop)
    }

    /// The timeout of epoll_wait counts in milliseconds, that of ppoll in nanoseconds; an epoll set can be polled.
    fn wait_by_poll(&mut self, time: &Timespec) -> Result<(), Errno> {
        poll(&mut [PollFd::new(&self.set, PollFlags::IN)], Some(time))?;
        self.wait_ms(0)
    }

    #[expect(unsafe_code, reason = "rustix waits by milliseconds unless it is built for new kernels alone")]
    fn wait_ns(&mut self, time: &Timespec) -> Result<(), Errno> {
        let room: &mut [MaybeUninit<epoll::Event>] = self.events.spare_capacity_mut();
        let max = libc::c_int::try_from(room.len().min(EVENTS)).unwrap_or(libc::c_int::MAX);
        // SAFETY: the set is open. The kernel writes at most `max` events into `room`, which has as many; rustix's
        // event has the layout of the kernel's, and so has its timespec, which is read only. There is no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.set.as_raw_fd(),
                room.as_mut_ptr(),
                max,
                std::ptr::from_ref(time),
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
        };
        // SAFETY: the vector was empty, and the kernel has filled so many of its places.
        unsafe { self.events.set_len(count) };
        Ok(())
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Read => epoll::EventFlags::IN,
        Interest::Write => epoll::EventFlags::OUT,
        Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the kernel's time")]

    use std::time::Instant;

    use super::*;
    use crate::direct::alarm::Alarm;

    #[test]
    fn every_way_to_wait_sees_what_is_ready_and_never_returns_early() {
        let mut epoll = Epoll::new().unwrap();
        let alarm = Alarm::new().unwrap();
        epoll.add(&alarm, 7, Interest::Read).unwrap();
        let time = Duration::from_micros(1500);
        let ways = [Epoll::wait_ns, Epoll::wait_by_poll];
        for way in ways {
            epoll.events.clear();
            let start = Instant::now();
            way(&mut epoll, &timespec(time).unwrap()).unwrap();
            assert!(epoll.events.is_empty() && start.elapsed() >= time);
        }
        alarm.ring();
        for way in ways {
            epoll.events.clear();
            way(&mut epoll, &timespec(Duration::from_secs(600)).unwrap()).unwrap();
            assert_eq!(epoll.events.iter().map(|event| event.data.u64()).collect::<Vec<_>>(), [7]);
        }
        for time in [None, Some(Duration::ZERO), Some(Duration::MAX), Some(Duration::from_secs(600))] {
            let ready: Vec<_> = epoll.wait(time).unwrap().map(|ready| (ready.data, ready.readable)).collect();
            assert_eq!(ready, [(7, true)]);
        }
    }
}
