//! Certificates from files: several by name, renewed while the server runs.
//!
//! A pair is taken only when it can be used: the chain and the key are read, they belong together, and the names are
//! names. What is doubtful is a warning: one that has expired, a chain in the wrong order. When files have changed
//! ([`Certificates::watch`], or [`Certificates::reload`] on a signal) the pairs that are good take the place of the old
//! ones for handshakes that begin from then on; of a bad one the last good one is kept, and the error is told.
//! Connections that are there are not touched.

mod load;
#[cfg(target_os = "linux")]
mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use self::load::{Loaded, load};
use super::names::{InvalidName, Names};

/// How often files are looked at without being told that they have changed: on file systems that tell nothing.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The files of one certificate, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    staple: Option<PathBuf>,
    names: Option<Vec<String>>,
}

impl CertificateFiles {
    /// The chain, with the server's own certificate first, and its private key.
    #[must_use]
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: key.into(), staple: None, names: None }
    }

    /// The OCSP response that is handed out with it, in DER. Where the file is not there, nothing is.
    #[must_use]
    pub fn staple(mut self, file: impl Into<PathBuf>) -> Self {
        self.staple = Some(file.into());
        self
    }

    /// Serves it for these names (`www.example.com`, `*.example.com`) instead of those in the certificate.
    #[must_use]
    pub fn names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.names = Some(names.into_iter().map(str::to_owned).collect());
        self
    }
}

/// Certificates by name, for rustls: see the [module](self). A clone is another handle to the same.
///
/// The first pair is the default, for clients that ask for no name or for one that no pair has. Which names are served at
/// all is for [`HelloPolicy`](super::hello::HelloPolicy) to say.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use overdue::server::certificates::{CertificateFiles, Certificates};
///
/// let provider = Arc::new(rustls::crypto::ring::default_provider());
/// let files = [CertificateFiles::new("/etc/tls/tls.crt", "/etc/tls/tls.key")];
/// let (certificates, warnings) = Certificates::load(files, &provider)?;
/// for warning in warnings {
///     eprintln!("{warning}");
/// }
/// let config = rustls::ServerConfig::builder_with_provider(provider)
///     .with_safe_default_protocol_versions()?
///     .with_no_client_auth()
///     .with_cert_resolver(Arc::new(certificates.clone()));
/// tokio::spawn(async move { certificates.watch(|reload| eprintln!("{reload}")).await });
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    provider: Arc<CryptoProvider>,
    /// Held while files are read: one at a time.
    pairs: Mutex<Vec<Pair>>,
    table: RwLock<Table>,
}

struct Pair {
    files: CertificateFiles,
    good: Loaded,
    /// What was wrong the last time, so that it is not told over and over.
    told: Option<String>,
}

#[derive(Clone, Default)]
struct Table {
    names: Names<Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

/// Something about a pair that is used all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateWarning {
    file: PathBuf,
    text: String,
}

/// Why a pair is not used.
#[derive(Debug)]
pub struct CertificateError {
    file: PathBuf,
    why: WhyUnusable,
}

/// What is wrong with the files of a pair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyUnusable {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The file is larger than a megabyte.
    #[error("is larger than 1 MiB")]
    TooLarge,
    /// What is in it is not PEM.
    #[error("is no PEM: {0}")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// It holds no certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// It holds no private key.
    #[error("holds no private key that is not encrypted")]
    NoKey,
    /// A certificate of the chain cannot be read.
    #[error("certificate {number} of it cannot be read: {why}")]
    Certificate {
        /// Its place in the file, counted from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// The key cannot be used, or belongs to another certificate.
    #[error("{0}")]
    Key(#[source] rustls::Error),
    /// A name is no host name.
    #[error(transparent)]
    Name(InvalidName),
    /// The staple is no OCSP response.
    #[error("is no OCSP response in DER")]
    Staple,
    /// No pair was given.
    #[error("no certificate is configured")]
    Nothing,
}

/// What became of a look at the files.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Reload {
    /// The chains that were renewed.
    pub renewed: Vec<PathBuf>,
    /// The pairs of which the last good one is kept.
    pub errors: Vec<CertificateError>,
    /// About those that were renewed.
    pub warnings: Vec<CertificateWarning>,
}

impl Reload {
    /// Nothing has changed, and nothing is wrong that was not said before.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.renewed.is_empty() && self.errors.is_empty() && self.warnings.is_empty()
    }
}

impl Certificates {
    /// Reads all pairs. The warnings are about pairs that are used all the same.
    ///
    /// # Errors
    /// [`CertificateError`] for the first pair that cannot be used, or where there is none.
    pub fn load(
        files: impl IntoIterator<Item = CertificateFiles>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Self, Vec<CertificateWarning>), CertificateError> {
        let (mut pairs, mut warnings) = (Vec::new(), Vec::new());
        for files in files {
            let good = load(&files, provider)?;
            warnings.extend(good.warnings.iter().cloned());
            pairs.push(Pair { files, good, told: None });
        }
        if pairs.is_empty() {
            return Err(CertificateError { file: PathBuf::new(), why: WhyUnusable::Nothing });
        }
        let table = RwLock::new(Table::of(&pairs));
        let inner = Inner { provider: Arc::clone(provider), pairs: Mutex::new(pairs), table };
        Ok((Self { inner: Arc::new(inner) }, warnings))
    }

    /// Looks at all files now, and takes what has changed. It reads files, and so may block for as long as that takes.
    pub fn reload(&self) -> Reload {
        self.look(false)
    }

    /// `quietly` leaves out errors that were told before.
    fn look(&self, quietly: bool) -> Reload {
        let mut reload = Reload::default();
        let mut pairs = self.inner.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        for pair in &mut *pairs {
            match load(&pair.files, &self.inner.provider) {
                Ok(loaded) => {
                    pair.told = None;
                    if loaded.digest != pair.good.digest {
                        reload.renewed.push(pair.files.chain.clone());
                        reload.warnings.extend(loaded.warnings.iter().cloned());
                        pair.good = loaded;
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if !quietly || pair.told.as_ref() != Some(&text) {
                        reload.errors.push(error);
                    }
                    pair.told = Some(text);
                }
            }
        }
        if !reload.renewed.is_empty() {
            *self.inner.table.write().unwrap_or_else(PoisonError::into_inner) = Table::of(&pairs);
        }
        reload
    }

    /// Reloads whenever a file changes, and tells what became of it; an error only once. It never ends: drop it to stop.
    ///
    /// On Linux the folders of the files, and of what they link to, are watched by inotify, so that files that are
    /// written anew, renamed into place or swapped by a link (as Kubernetes and certbot do) are noticed within some
    /// 100 ms. Elsewhere, and where inotify is not to be had, the files are looked at once a minute; so they are beside
    /// inotify, for file systems that tell nothing.
    ///
    /// # Cancel safety
    /// Dropping the future stops watching; a reload that has begun goes on to its end.
    pub async fn watch(&self, mut told: impl FnMut(Reload)) {
        #[cfg(target_os = "linux")]
        let mut watcher = watch::Watcher::new();
        loop {
            #[cfg(target_os = "linux")]
            {
                let paths = self.paths();
                let armed = tokio::task::spawn_blocking(move || watcher.arm(&paths)).await;
                watcher = armed.unwrap_or_else(|_| watch::Watcher::new());
            }
            // What changed before the watch was armed is seen now.
            let this = self.clone();
            let look = tokio::task::spawn_blocking(move || this.look(true)).await;
            match look {
                Ok(reload) if !reload.is_quiet() => told(reload),
                _ => {}
            }
            #[cfg(target_os = "linux")]
            let changed = watcher.changed();
            #[cfg(not(target_os = "linux"))]
            let changed = std::future::pending::<()>();
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn paths(&self) -> Vec<PathBuf> {
        let pairs = self.inner.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let files = pairs.iter().flat_map(|pair| {
            let CertificateFiles { chain, key, staple, .. } = &pair.files;
            [Some(chain), Some(key), staple.as_ref()]
        });
        files.flatten().cloned().collect()
    }

    /// The certificate for a client that asks for this name: an exact one before a wildcard, before the default.
    #[must_use]
    pub fn for_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.inner.table.read().unwrap_or_else(PoisonError::into_inner);
        name.and_then(|name| table.names.get(name)).or(table.default.as_ref()).cloned()
    }
}

impl Table {
    /// Of two pairs for one name the first counts.
    fn of(pairs: &[Pair]) -> Self {
        let mut table = Self::default();
        for pair in pairs.iter().rev() {
            for name in &pair.good.names {
                // They were all seen to be names.
                let _ = table.names.insert(name, Arc::clone(&pair.good.key));
            }
            table.default = Some(Arc::clone(&pair.good.key));
        }
        table
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.for_name(hello.server_name())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.inner.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(pairs.iter().map(|pair| &pair.files.chain)).finish()
    }
}

impl CertificateError {
    /// The file that cannot be used.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Why not.
    #[must_use]
    pub const fn why(&self) -> &WhyUnusable {
        &self.why
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            WhyUnusable::Nothing => self.why.fmt(f),
            why => write!(f, "{:?}: {why}", self.file),
        }
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.why.source()
    }
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.file, self.text)
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for chain in &self.renewed {
            write!(f, "{between}{chain:?} was renewed")?;
            between = "; ";
        }
        for error in &self.errors {
            write!(f, "{between}{error}; the last good one is kept")?;
            between = "; ";
        }
        for warning in &self.warnings {
            write!(f, "{between}{warning}")?;
            between = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
