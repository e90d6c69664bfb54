//! Listening sockets that were opened by somebody else: systemd, or the process before this one.
//!
//! The protocol is that of systemd (`sd_listen_fds`): `LISTEN_FDS` says how many descriptors there are from 3 on,
//! `LISTEN_PID` for which process they are, and `LISTEN_FDNAMES` their names. Because the sockets stay open while one
//! process takes over from another, no connection is refused.

use std::{
    fmt, io,
    net::TcpListener,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{Domain, SockRef, Type};

const FIRST: RawFd = 3;
/// More sockets than these are a mistake.
const MOST: u16 = 1_024;

/// A listening socket that was handed over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inherited {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The socket. Make a listener of it with [`ListenOptions::from_std`](super::ListenOptions::from_std).
    pub listener: TcpListener,
}

/// Why sockets that were handed over cannot be taken.
#[derive(Debug)]
pub struct InheritError {
    what: String,
    source: Option<io::Error>,
}

impl InheritError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(err) => write!(f, ": {err}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for InheritError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|err| err as _)
    }
}

/// The TCP sockets that were handed to this process, in their order. None where there are none, where they are for
/// another process, and at every call but the first. Programs that this one starts do not get them.
///
/// # Errors
/// [`InheritError`] where the variables make no sense, or a descriptor is no listening TCP socket. What was handed over is
/// closed then.
pub fn inherited_listeners() -> Result<Vec<Inherited>, InheritError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let (pid, fds, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let names = handed_over(pid.as_deref(), fds.as_deref(), names.as_deref(), std::process::id())?;
    if names.is_empty() || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // All are taken before any is looked at, so that none is left open when one is of no use.
    let owned: Vec<_> = (FIRST..).zip(names).map(|(fd, name)| Ok((fd, name, own(fd)?))).collect();
    owned
        .into_iter()
        .map(|taken: Result<_, InheritError>| {
            let (fd, name, owned) = taken?;
            check(&owned).map_err(|source| InheritError {
                what: format!("descriptor {fd} of LISTEN_FDS is no listening TCP socket"),
                source,
            })?;
            Ok(Inherited { name, listener: owned.into() })
        })
        .collect()
}

/// The names of the sockets that are there for the process of this id.
fn handed_over(
    pid: Option<&str>,
    fds: Option<&str>,
    names: Option<&str>,
    own_pid: u32,
) -> Result<Vec<Option<String>>, InheritError> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(Vec::new()) };
    let pid: u32 = pid.parse().map_err(|_| InheritError::new(format!("LISTEN_PID={pid:?} is no process id")))?;
    if pid != own_pid {
        return Ok(Vec::new());
    }
    let count = fds.parse().ok().filter(|count: &u16| *count <= MOST);
    let count = count.ok_or_else(|| InheritError::new(format!("LISTEN_FDS={fds:?} is no number up to {MOST}")))?;
    let names: Vec<_> = match names {
        Some(names) if !names.is_empty() => names.split(':').map(|name| Some(name.to_owned())).collect(),
        _ => vec![None; count.into()],
    };
    if names.len() != usize::from(count) {
        let text = format!("LISTEN_FDNAMES has {} names for {count} descriptors", names.len());
        return Err(InheritError::new(text));
    }
    // What systemd says of one without a name.
    Ok(names.into_iter().map(|name| name.filter(|name| name != "unknown" && !name.is_empty())).collect())
}

/// Takes a descriptor that was handed over, and keeps it from programs that this one starts.
fn own(fd: RawFd) -> Result<OwnedFd, InheritError> {
    let missing =
        |source| InheritError { what: format!("descriptor {fd} of LISTEN_FDS is not open"), source: Some(source) };
    // SAFETY: the number is used for this one call, which fails where it is not open.
    #[expect(unsafe_code, reason = "descriptors are handed over by number")]
    let borrowed = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).map_err(|err| missing(err.into()))?;
    // SAFETY: it is open, and by the protocol it is ours: nothing else in this process has opened it, and it is taken once.
    #[expect(unsafe_code, reason = "descriptors are handed over by number")]
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(owned)
}

fn check(socket: &OwnedFd) -> Result<(), Option<io::Error>> {
    let reference = SockRef::from(socket);
    let domain = rustix::net::sockopt::socket_domain(socket.as_fd()).map_err(|err| Some(err.into()))?;
    let tcp = [Domain::IPV4, Domain::IPV6].contains(&Domain::from(i32::from(domain.as_raw())))
        && reference.r#type().map_err(Some)? == Type::STREAM;
    let listens = reference.is_listener().map_err(Some)?;
    if tcp && listens { Ok(()) } else { Err(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pid: &str, fds: &str, names: Option<&str>) -> Result<Vec<Option<String>>, String> {
        handed_over(Some(pid), Some(fds), names, 42).map_err(|err| err.to_string())
    }

    #[test]
    fn only_what_is_for_this_process_is_taken() {
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(names("42", "2", None), Ok(vec![None, None]));
        assert_eq!(names("42", "2", Some("http:https")), Ok(vec![some("http"), some("https")]));
        assert_eq!(names("42", "2", Some("unknown:")), Ok(vec![None, None]));
        assert_eq!(names("43", "2", None), Ok(vec![]));
        assert_eq!(names("42", "0", None), Ok(vec![]));
        assert_eq!(handed_over(None, Some("2"), None, 42).unwrap(), []);
        assert_eq!(handed_over(Some("42"), None, None, 42).unwrap(), []);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert_eq!(names("x", "1", None), Err("LISTEN_PID=\"x\" is no process id".to_owned()));
        for fds in ["-1", "1025", "99999", ""] {
            assert_eq!(names("42", fds, None), Err(format!("LISTEN_FDS={fds:?} is no number up to 1024")));
        }
        assert_eq!(names("42", "1", Some("a:b")), Err("LISTEN_FDNAMES has 2 names for 1 descriptors".to_owned()));
    }
}
