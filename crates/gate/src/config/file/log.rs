//! Where the log goes.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{File, Source};
use crate::config::{ConfigError, Format, Log, To};

impl Source<'_> {
    /// The log, and the line that names its file.
    pub(super) fn log(&self, file: &File) -> Result<(Log, u32), ConfigError> {
        let table = &file.log;
        let format = match &table.format {
            None => Format::Json,
            Some(format) => match format.get_ref().as_str() {
                "json" => Format::Json,
                "text" => Format::Text,
                other => return Err(self.error(format.span(), format!("{other:?} is no format: json or text"))),
            },
        };
        let (to, log_line) = match (table.off, &table.file) {
            (Some(true), _) => (To::Off, 0),
            (_, Some(path)) if path.get_ref().as_os_str().is_empty() => {
                return Err(
                    self.error(path.span(), "the log has no file without a name; left out, it goes to standard output")
                );
            }
            (_, Some(path)) => {
                self.is_its_own(path, file)?;
                (To::File(path.get_ref().clone()), self.line(path.span()))
            }
            _ => (To::Stdout, 0),
        };
        let rate = table.rate.as_ref().map(|rate| self.rate(rate)).transpose()?;
        Ok((Log { format, to, rate }, log_line))
    }

    /// Lines are added to the file of the log: it is none that somebody reads as something else.
    fn is_its_own(&self, log: &Spanned<PathBuf>, file: &File) -> Result<(), ConfigError> {
        let into = if is_same(log.get_ref(), self.file) {
            "this configuration".to_owned()
        } else if let Some(other) = file.named().find(|other| is_same(log.get_ref(), other.get_ref())) {
            format!("{}, which line {} names", other.get_ref().display(), self.line(other.span()))
        } else {
            return Ok(());
        };
        let message =
            format!("the log would be written into {into}: name a file of its own, such as /var/log/overdue-gate.log");
        Err(self.error(log.span(), message))
    }
}

impl File {
    /// The certificates and keys that are read.
    fn named(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let pairs = self.listener.iter().filter_map(|table| table.get_ref().tls.as_ref());
        let pairs = pairs.flat_map(|tls| &tls.get_ref().certificates);
        let own = pairs.flat_map(|pair| [&pair.chain, &pair.key].into_iter().chain(&pair.staple));
        let servers = self.cluster.values().filter_map(|table| table.get_ref().tls.as_ref());
        own.chain(servers.map(Spanned::get_ref).flat_map(|tls| [&tls.ca, &tls.chain, &tls.key].into_iter().flatten()))
    }
}

/// Whether two names are of one file, whatever links lead there. A terminal that is read and written is no such file.
fn is_same(one: &Path, other: &Path) -> bool {
    let known = |path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|of| (of.dev(), of.ino()));
    one == other || known(one).is_some_and(|one| known(other) == Some(one))
}
