//! What a start would find, without one: the file, all that it names, and what is odd about it.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::Path, sync::Arc};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use tokio::{
    runtime::Builder,
    task::{JoinSet, LocalSet},
};

use crate::{
    config::{Config, Doubt, ServerAt, To},
    gate::GateError,
    log::append,
    lookout::{Looked, look_up},
    tls,
};

/// A configuration with which a gateway would start.
#[derive(Debug)]
pub struct Checked {
    /// What it says.
    pub config: Config,
    /// What can be followed, and is hardly what was meant.
    pub doubts: Vec<Doubt>,
    /// What is odd about certificates that would be used all the same.
    pub certificates: Vec<String>,
    /// Names of servers that do not resolve, or not in both families of addresses, here and now.
    pub unresolved: Vec<String>,
}

/// Reads a configuration and all files that it names, as a start would, and looks up the names of its servers, all at once
/// and within the limit that the configuration has for that. Listens nowhere, and writes nothing.
///
/// # Errors
/// What a start would end with.
pub fn check(path: &Path) -> Result<Checked, GateError> {
    let config = Config::read(path)?;
    let mut certificates = Vec::new();
    let _doors = tls::doors(&config, |warning| certificates.push(warning))?;
    can_write(&config.log.to).map_err(|source| GateError::log(&config, source))?;
    let mut doubts = config.doubts();
    let mut unresolved = Vec::new();
    for (name, looked) in look_up_all(&config).map_err(GateError::Worker)? {
        let addresses = looked.used(config.dns.family);
        for (cluster, port) in named(&config, &name) {
            let circles = addresses
                .iter()
                .filter_map(|ip| config.circle(&cluster, &format!("{name}:{port}"), SocketAddr::new(*ip, port)));
            doubts.extend(circles);
        }
        unresolved.extend(looked.failed.map(|failed| format!("{name} {}: {}", failed.why.what(), failed.why)));
    }
    Ok(Checked { config, doubts, certificates, unresolved })
}

/// The clusters that have a server of this name, and its port.
fn named(config: &Config, wanted: &str) -> Vec<(Arc<str>, u16)> {
    let clusters = config.clusters();
    let servers = clusters.values().flat_map(|cluster| cluster.servers.iter().map(move |server| (cluster, server)));
    let named = servers.filter_map(|(cluster, server)| match server {
        ServerAt::Name(name, port) if **name == *wanted => Some((Arc::clone(&cluster.name), *port)),
        _ => None,
    });
    named.collect()
}

/// Each name of a server, in order.
fn look_up_all(config: &Config) -> io::Result<Vec<(Arc<str>, Looked)>> {
    let clusters = config.clusters();
    let servers = clusters.values().flat_map(|cluster| &cluster.servers);
    let names: BTreeSet<Arc<str>> = servers
        .filter_map(|server| match server {
            ServerAt::Name(name, _) => Some(Arc::clone(name)),
            ServerAt::Address(_) => None,
        })
        .collect();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut all = LocalSet::new().block_on(&runtime, async {
        let mut lookups = JoinSet::new();
        for name in names {
            let dns = config.dns.clone();
            lookups.spawn_local(async move {
                let looked = look_up(&dns, &name).await;
                (name, looked)
            });
        }
        lookups.join_all().await
    });
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

/// Whether the log could be written. Its file is not made: that is for who writes it.
fn can_write(to: &To) -> io::Result<()> {
    let To::File(path) = to else { return Ok(()) };
    match append(path, false) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => can_make(path),
        opened => opened.map(drop),
    }
}

/// Whether a file that is not there could be made.
fn can_make(path: &Path) -> io::Result<()> {
    let mut path = path.to_owned();
    // A link to nothing: what it names is made. The kernel follows no more.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path.pop();
        path.push(target);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}
