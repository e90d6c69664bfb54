//! The system's own resolver, which blocks, on a bounded number of threads.
//!
//! The threads are plain ones, not the runtime's: a runtime waits for its blocking threads when it ends, so that one
//! `getaddrinfo` that is stuck would hold up the end of the program for as long as the system's resolver likes.

use std::{fmt, net::IpAddr, sync::Arc, thread};

use overdue_core::facts::DnsFailure;
use tokio::sync::{Semaphore, oneshot};

use super::ResolveError;
use crate::socket;

type Call = dyn Fn(&str) -> Result<Vec<IpAddr>, ResolveError> + Send + Sync;

/// At most `cap` calls at a time, each on a thread of its own.
pub(super) struct Threads {
    permits: Arc<Semaphore>,
    cap: usize,
    call: Arc<Call>,
}

impl Threads {
    /// Calls `getaddrinfo`.
    pub(super) fn system(cap: usize) -> Self {
        Self::calling(cap, system::lookup)
    }

    pub(super) fn calling(
        cap: usize,
        call: impl Fn(&str) -> Result<Vec<IpAddr>, ResolveError> + Send + Sync + 'static,
    ) -> Self {
        let cap = cap.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(cap)), cap, call: Arc::new(call) }
    }

    /// Dropping the future gives up the place in the queue; a call that has begun keeps its permit until it returns.
    pub(super) async fn lookup(&self, host: String) -> Result<Vec<IpAddr>, ResolveError> {
        let died = || ResolveError::new(DnsFailure::Unusable, "the thread of the system's resolver died".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| died())?;
        let (send, receive) = oneshot::channel();
        let call = Arc::clone(&self.call);
        let run = move || {
            let result = call(&host);
            drop(permit);
            // Nobody listens when the lookup was dropped.
            let _ = send.send(result);
        };
        if let Err(err) = thread::Builder::new().name("overdue-resolve".to_owned()).spawn(run) {
            let text = format!("no thread for the system's resolver: {err}");
            return Err(ResolveError {
                os: Some(socket::classify(&err)),
                ..ResolveError::new(DnsFailure::NoAnswer, text)
            });
        }
        receive.await.map_err(|_| died())?
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.permits.available_permits();
        f.debug_struct("Threads").field("cap", &self.cap).field("free", &free).finish_non_exhaustive()
    }
}

/// `getaddrinfo` by hand: the standard library's wrapper turns its codes into text, and with them the difference
/// between a name that does not exist and a resolver that got no answer.
#[cfg(unix)]
mod system {
    use std::{
        ffi::{CStr, CString},
        io,
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
        ptr,
    };

    use overdue_core::facts::DnsFailure;

    use super::ResolveError;
    use crate::socket;

    /// Not in every C library's headers, and not in the libc crate for Linux.
    #[cfg(any(target_os = "linux", target_os = "l4re"))]
    const EAI_NODATA: libc::c_int = -5;
    #[cfg(any(target_os = "android", target_vendor = "apple"))]
    const EAI_NODATA: libc::c_int = libc::EAI_NODATA;
    #[cfg(not(any(target_os = "linux", target_os = "l4re", target_os = "android", target_vendor = "apple")))]
    const EAI_NODATA: libc::c_int = libc::c_int::MIN;

    pub(super) fn lookup(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let Ok(name) = CString::new(host) else {
            return Err(ResolveError::new(DnsFailure::InvalidName, format!("{host:?} is no host name")));
        };
        let list = List::ask(&name).map_err(|code| error(host, code))?;
        Ok(list.addresses())
    }

    fn error(host: &str, code: libc::c_int) -> ResolveError {
        let last = io::Error::last_os_error();
        if code == libc::EAI_SYSTEM {
            let err = ResolveError::new(DnsFailure::NoAnswer, format!("{host}: getaddrinfo: {last}"));
            return ResolveError { os: Some(socket::classify(&last)), ..err };
        }
        let reason = match code {
            libc::EAI_NONAME => DnsFailure::NoSuchName,
            EAI_NODATA => DnsFailure::NoAddress,
            _ => DnsFailure::ServerError,
        };
        let hint = match code {
            libc::EAI_AGAIN => " (a server failed or none answered: the system's resolver does not say which)",
            _ => "",
        };
        ResolveError::new(reason, format!("{host}: getaddrinfo: {}{hint}", message(code)))
    }

    #[expect(unsafe_code, reason = "gai_strerror is a C function")]
    fn message(code: libc::c_int) -> String {
        // SAFETY: for any code it returns a string that is never freed nor changed.
        unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned()
    }

    /// What `getaddrinfo` returned; freed on drop.
    struct List(*mut libc::addrinfo);

    #[expect(unsafe_code, reason = "getaddrinfo is a C function that returns a linked list")]
    impl List {
        fn ask(name: &CStr) -> Result<Self, libc::c_int> {
            // SAFETY: addrinfo is plain data of integers and pointers, for which zero is "not set".
            let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
            hints.ai_family = libc::AF_UNSPEC;
            hints.ai_socktype = libc::SOCK_STREAM;
            let mut list = ptr::null_mut();
            // SAFETY: the name ends with a NUL, the hints are set up as the manual asks, and the result is written to
            // `list`, which is live.
            let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
            if code == 0 { Ok(Self(list)) } else { Err(code) }
        }

        fn addresses(&self) -> Vec<IpAddr> {
            let mut addresses = Vec::new();
            let mut next = self.0;
            // SAFETY: the list is owned by `self`, not freed before the end of this, and ends with a null pointer.
            while let Some(entry) = unsafe { next.as_ref() } {
                next = entry.ai_next;
                // SAFETY: see `address`; the entry is one of getaddrinfo's.
                addresses.extend(unsafe { address(entry) });
            }
            addresses
        }
    }

    #[expect(unsafe_code, reason = "freeaddrinfo is a C function")]
    impl Drop for List {
        fn drop(&mut self) {
            if !self.0.is_null() {
                // SAFETY: it came from getaddrinfo and is freed once.
                unsafe { libc::freeaddrinfo(self.0) }
            }
        }
    }

    /// # Safety
    /// `ai_addr` is null or points to `ai_addrlen` readable bytes.
    #[expect(unsafe_code, reason = "a socket address is read through its family")]
    unsafe fn address(entry: &libc::addrinfo) -> Option<IpAddr> {
        let len = usize::try_from(entry.ai_addrlen).ok()?;
        match entry.ai_family {
            libc::AF_INET if !entry.ai_addr.is_null() && len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: there are enough bytes for the struct, whose every bit pattern is valid.
                let addr = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                Some(Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 if !entry.ai_addr.is_null() && len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let addr = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(Ipv6Addr::from(addr.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::net::{IpAddr, ToSocketAddrs as _};

    use overdue_core::facts::DnsFailure;

    use super::ResolveError;

    /// Windows: WSAHOST_NOT_FOUND, WSANO_DATA.
    const HOST_NOT_FOUND: i32 = 11001;
    const NO_DATA: i32 = 11004;

    pub(super) fn lookup(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match (host, 0).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
            Err(err) => {
                let reason = match err.raw_os_error() {
                    Some(HOST_NOT_FOUND) => DnsFailure::NoSuchName,
                    Some(NO_DATA) => DnsFailure::NoAddress,
                    _ => DnsFailure::ServerError,
                };
                Err(ResolveError::new(reason, format!("{host}: {err}")))
            }
        }
    }
}
