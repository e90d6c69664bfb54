//! The set of sockets that the kernel watches.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustix::{
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
    ready: Vec<Ready>,
}

/// Room for what the kernel writes.
type Room = [MaybeUninit<epoll::Event>; EVENTS];

/// What the kernel says about one socket.
pub(super) struct Ready {
    pub(super) data: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { set: epoll::create(epoll::CreateFlags::CLOEXEC)?, ready: Vec::new() })
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
    pub(super) fn wait(&mut self, time: Option<Duration>) -> Result<&[Ready], Errno> {
        self.ready.clear();
        let room = &mut [const { MaybeUninit::uninit() }; EVENTS];
        let events = match time.and_then(timespec) {
            Some(time) if time != AT_ONCE => {
                if HAS_PWAIT2.load(Relaxed) {
                    match wait_ns(&self.set, &time, room) {
                        Err(Errno::NOSYS | Errno::PERM) => {
                            HAS_PWAIT2.store(false, Relaxed);
                            wait_by_poll(&self.set, &time, room)
                        }
                        result => result,
                    }
                } else {
                    wait_by_poll(&self.set, &time, room)
                }
            }
            simple => epoll::wait(&self.set, room, simple.as_ref()).map(|(events, _)| events),
        }?;
        self.ready.extend(events.iter().map(|event| {
            let (flags, ended) = (event.flags, epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                data: event.data.u64(),
                readable: flags.intersects(epoll::EventFlags::IN | ended),
                writable: flags.intersects(epoll::EventFlags::OUT | ended),
            }
        }));
        Ok(&self.ready)
    }
}

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The timeout of epoll_wait counts in milliseconds, that of ppoll in nanoseconds; an epoll set can be polled.
fn wait_by_poll<'a>(set: &OwnedFd, time: &Timespec, room: &'a mut Room) -> Result<&'a mut [epoll::Event], Errno> {
    poll(&mut [PollFd::new(set, PollFlags::IN)], Some(time))?;
    epoll::wait(set, room, Some(&AT_ONCE)).map(|(events, _)| events)
}

#[expect(unsafe_code, reason = "rustix waits by milliseconds unless it is built for new kernels alone")]
fn wait_ns<'a>(set: &OwnedFd, time: &Timespec, room: &'a mut Room) -> Result<&'a mut [epoll::Event], Errno> {
    let max = libc::c_int::try_from(EVENTS).unwrap_or(libc::c_int::MAX);
    // SAFETY: the set is open. The kernel writes at most `max` events into `room`, which has as many; rustix's event
    // has the layout of the kernel's, and so has its timespec, which is read only. There is no signal mask.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            set.as_raw_fd(),
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
    // SAFETY: the kernel has filled so many, which is at most `max`.
    Ok(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), count.min(EVENTS)) })
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
        let ways = [wait_ns, wait_by_poll];
        let room = &mut [const { MaybeUninit::uninit() }; EVENTS];
        for way in ways {
            let start = Instant::now();
            assert!(way(&epoll.set, &timespec(time).unwrap(), room).unwrap().is_empty());
            assert!(start.elapsed() >= time);
        }
        alarm.ring();
        for way in ways {
            let events = way(&epoll.set, &timespec(Duration::from_secs(600)).unwrap(), room).unwrap();
            assert_eq!(events.iter().map(|event| event.data.u64()).collect::<Vec<_>>(), [7]);
        }
        for time in [None, Some(Duration::ZERO), Some(Duration::MAX), Some(Duration::from_secs(600))] {
            let ready: Vec<_> = epoll.wait(time).unwrap().iter().map(|ready| (ready.data, ready.readable)).collect();
            assert_eq!(ready, [(7, true)]);
        }
    }
}
