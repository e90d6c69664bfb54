//! Files that the user names: one that is written is there as a whole or not at all, and one that is read keeps nobody
//! waiting.

use std::{
    env,
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{Gid, OFlags, Uid, fchown},
    process::geteuid,
};
use tempfile::NamedTempFile;

use crate::screen::harmless;

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readers {
    /// Its owner alone: it tells what a process says and to whom. Under `sudo` that is who called it.
    Owner,
    /// Whoever the umask allows.
    Umask,
}

/// Whether a file can be written there, as far as that shows beforehand: whoever watches for an hour learns it now.
///
/// Only files are replaced. A pipe that nobody reads would keep the report waiting, and a device is no place to keep
/// anything. A link is not followed: as root, and in a folder that others may write to, it leads where they want.
pub(crate) fn has_a_place(path: &Path) -> anyhow::Result<()> {
    beside(path, Readers::Owner).map(drop)
}

/// Writes beside the file and puts it in its place then: nobody sees a part of it, and a disk that is full costs
/// nothing that was there.
pub(crate) fn write(path: &Path, readers: Readers, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = beside(path, readers)?;
    let written = file.write_all(bytes).and_then(|()| {
        if let (Readers::Owner, Some((user, group))) = (readers, caller_of_sudo()) {
            // On a file system without owners it is readable as it is.
            _ = fchown(file.as_file().as_fd(), Some(user), Some(group));
        }
        // Some file systems find no room only now.
        file.as_file().sync_all()
    });
    let placed = written.and_then(|()| file.persist(path).map_err(|error| error.error));
    placed.map(drop).with_context(|| format!("cannot write {}", shown(path)))
}

/// Opens a file to read it, and nothing that would keep the reader waiting.
pub(crate) fn open(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened.with_context(|| format!("cannot open {}", shown(path)))?;
    let there = file.metadata().with_context(|| format!("cannot read {}", shown(path)))?;
    if !there.is_file() {
        bail!("cannot read {}: it is {}, and only a file can be read", shown(path), kind(&there));
    }
    Ok(file)
}

/// A file with a name of its own in the folder of the one that will be.
fn beside(path: &Path, readers: Readers) -> anyhow::Result<NamedTempFile> {
    let name = shown(path);
    if path == Path::new("-") {
        bail!("cannot write -: stdout has the report; name a file");
    }
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => {
            let to = fs::read_link(path).map(|to| format!(" to {}", shown(&to))).unwrap_or_default();
            bail!("cannot write {name}: it is a symbolic link{to}, and links are not followed; name the file itself")
        }
        Ok(there) if !there.is_file() => {
            bail!("cannot write {name}: it is {}, and only a file is written or replaced", kind(&there))
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot write {name}")),
    }
    let folder = folder(path);
    if !folder.is_dir() {
        bail!("cannot write {name}: there is no folder {}", shown(&folder));
    }
    tempfile::Builder::new()
        .prefix(".overdue-")
        // The umask takes from it what it takes from every new file.
        .permissions(Permissions::from_mode(if readers == Readers::Owner { 0o600 } else { 0o666 }))
        .tempfile_in(&folder)
        // Whose own text has the whole name of a file that nobody has heard of.
        .map_err(|error| match error.kind() {
            kind @ (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull) => {
                kind.into()
            }
            _ => error,
        })
        .with_context(|| format!("cannot write {name}: no file can be made in {}", shown(&folder)))
}

fn folder(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Whether two paths name one place, however they are written.
pub(crate) fn are_one(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| Some((fs::canonicalize(folder(path)).ok()?, path.file_name()?.to_owned()));
    place(one).is_some_and(|one| place(other) == Some(one))
}

/// What it is in words, when it is no file.
fn kind(there: &Metadata) -> &'static str {
    let kind = there.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Who called `sudo`, where this runs under it.
fn caller_of_sudo() -> Option<(Uid, Gid)> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    let (user, group) = geteuid().is_root().then(|| Some((number("SUDO_UID")?, number("SUDO_GID")?)))??;
    Some((Uid::from_raw(user), Gid::from_raw(group)))
}

fn shown(path: &Path) -> String {
    harmless(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt as _, net::UnixListener};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn said<T>(result: anyhow::Result<T>) -> String {
        result.map(drop).map_err(|error| crate::exit::words(&error)).unwrap_err()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        write(&path, Readers::Umask, b"one").unwrap();
        // Whoever has the old one open, or another name of it, keeps it: it is never written to.
        let other = folder.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        has_a_place(&path).unwrap();
        write(&path, Readers::Umask, b"two").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), fs::read(&other).unwrap().as_slice()),
            ("two", &b"one"[..])
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_may_hold_secrets_is_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        fs::write(&path, "for everybody").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write(&path, Readers::Owner, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_file_is_refused_and_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("file"), "kept").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", at("dangling")).unwrap();
        let before = fs::read_dir(folder.path()).unwrap().count();
        for (path, what) in [
            (at("pipe"), "it is a pipe"),
            (at("socket"), "it is a socket"),
            (folder.path().to_owned(), "it is a folder"),
            (PathBuf::from("/dev/null"), "it is a device"),
            (at("link"), "it is a symbolic link to file"),
            (at("dangling"), "it is a symbolic link to /nowhere/at/all"),
            (at("no/such"), "there is no folder"),
            (PathBuf::from("-"), "stdout has the report"),
            (PathBuf::from("/proc/x"), "no file can be made in /proc"),
        ] {
            for said in [said(has_a_place(&path)), said(write(&path, Readers::Umask, b"x"))] {
                assert!(said.starts_with("cannot write") && said.contains(what), "{said}");
            }
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
        for (name, what) in
            [("pipe", "it is a pipe"), ("socket", "cannot open"), (".", "a folder"), ("none", "No such")]
        {
            let said = said(open(&at(name)));
            assert!(said.contains(what), "{name}: {said}");
        }
        // To read, a link is as good as what it leads to.
        assert_eq!(std::io::read_to_string(open(&at("link")).unwrap()).unwrap(), "kept");
    }

    /// A full disk, as a limit on the size of files.
    #[test]
    fn what_does_not_fit_costs_nothing_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::write(&path, "kept").unwrap();
        let output = std::process::Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "file::tests::within_no_room", "--nocapture"])
            .env("OVERDUE_TEST_FILE", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Only run by the test above.
    #[test]
    #[ignore = "run by what_does_not_fit_costs_nothing_that_was_there"]
    fn within_no_room() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(4096), ..limit }).unwrap();
        // The signal that comes with it would end the test.
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default()).unwrap();
        let path = PathBuf::from(env::var("OVERDUE_TEST_FILE").unwrap());
        let refused = said(write(&path, Readers::Owner, &[0; 10_000]));
        assert!(refused.starts_with("cannot write") && refused.contains("too large"), "{refused}");
    }
}
