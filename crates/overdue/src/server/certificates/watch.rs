//! Notices that files have changed, by inotify.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// Links that lead further than this are a loop.
const LINKS_MAX: usize = 16;
/// A change is over when nothing happens for so long: several files are written one after the other.
const QUIET: Duration = Duration::from_millis(50);
/// But no change takes longer than this.
const CHANGE_MAX: Duration = Duration::from_secs(1);

/// Folders are watched, and not files: those that replace files rename another into their place.
pub(super) struct Watcher(Option<AsyncFd<OwnedFd>>);

impl Watcher {
    /// Where there is no inotify, nothing is noticed.
    pub(super) fn new() -> Self {
        let Ok(fd) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) else { return Self(None) };
        // SAFETY: the descriptor is owned by the `AsyncFd`, which gives it to nobody who could close it.
        #[expect(unsafe_code, reason = "tokio offers no safe way to register a descriptor of another kind")]
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Self(registered.ok())
    }

    /// Watches the folders of these files, and of what they link to, as they are now. One that is watched already stays
    /// so; one that is gone is no longer.
    pub(super) fn arm(self, files: &[PathBuf]) -> Self {
        if let Some(fd) = &self.0 {
            let changes = WatchFlags::CREATE
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB
                | WatchFlags::ONLYDIR;
            for folder in files.iter().flat_map(|file| folders(file)).collect::<BTreeSet<_>>() {
                // One that is not there cannot be watched; the one above it, where it is a link's, is.
                let _ = inotify::add_watch(fd.get_ref(), &folder, changes);
            }
        }
        self
    }

    /// Waits until something has changed, and then until nothing does. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        something(fd).await;
        let settled = async { while tokio::time::timeout(QUIET, something(fd)).await.is_ok() {} };
        // Or never: then it is looked at all the same.
        let _ = tokio::time::timeout(CHANGE_MAX, settled).await;
    }
}

/// Waits for an event and takes all that there are. What they say does not matter.
async fn something(fd: &AsyncFd<OwnedFd>) {
    let mut events = [0; 4096];
    loop {
        let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
        let mut any = false;
        while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|bytes| bytes > 0) {
            any = true;
        }
        ready.clear_ready();
        if any {
            return;
        }
    }
}

/// The folder of a file; where a part of its path is a link, also the folder of that link and of what it leads to.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let (mut folders, mut left) = (BTreeSet::new(), vec![file.to_owned()]);
    for _ in 0..LINKS_MAX {
        let Some(path) = left.pop() else { break };
        folders.extend(parent(&path));
        for part in path.ancestors() {
            let Ok(target) = fs::read_link(part) else { continue };
            let folder = parent(part).unwrap_or_default();
            let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
            left.push(folder.join(target).join(rest));
            folders.insert(folder);
        }
    }
    folders
}

fn parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}
