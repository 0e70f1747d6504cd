//! Tells whether a process is an etcd: by the WAL that it holds open.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use probe_ebpf::file_name;

use crate::support::logging;

use super::{
    endpoint::{self, Endpoint, KeyPair, Overrides},
    layout_matcher::{self, Layout},
    member_settings::{MAX_CONFIG_BYTES, Pair, Settings, Source},
    paths::{self, Directory, FileRef, Root},
    process_info::{ProcessId, Unreadable, What},
};

/// An etcd that runs here.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// etcd's `--name`; with `@` and the data directory if another member of this node has the same name.
    pub name: String,
    pub id: ProcessId,
    /// Whether the kernel knows the process by one of the names; else it must be told the pid.
    pub comm_matches: bool,
    /// As the process sees it, absolute.
    pub data_dir: PathBuf,
    /// As the process sees it, absolute.
    pub wal_dir: PathBuf,
    pub wal_dir_inode: u64,
    /// As `stat(2)` tells it, which on btrfs is not what mountinfo tells.
    pub wal_dir_st_dev: u64,
    /// In the order in which to try them.
    pub endpoints: Vec<Endpoint>,
    /// The name of the layout, if it is one that we know.
    pub layout: Option<&'static str>,
    pub settings: Settings,
}

/// What a look at a process told.
#[derive(Debug)]
pub enum Look {
    Member(Box<Member>),
    /// It holds no WAL: an etcd that has just started, or something else of that name.
    NoWal,
    Gone,
}

/// Looks at a process of etcd's name.
///
/// # Errors
///
/// What could not be read of a process that still runs.
pub fn look(id: ProcessId, names: &[String], overrides: &Overrides) -> Result<Look, Unreadable> {
    let looked = try_look(id, names, overrides);
    // Whatever failed because the process ended is no failure.
    if id.is_alive() { looked } else { Ok(Look::Gone) }
}

fn try_look(id: ProcessId, names: &[String], overrides: &Overrides) -> Result<Look, Unreadable> {
    let unreadable =
        |what, error: &dyn std::error::Error| Unreadable { pid: id.pid, what, error: logging::chain(error) };
    let Some(launch) = id.launch()? else { return Ok(Look::Gone) };
    let root = Root::of(id).map_err(|error| unreadable(What::Root, &error))?;
    let source = Source::new(&launch.argv, &launch.environment);
    let config_file = if layout_matcher::embeds_etcd(&launch.comm) {
        let held = held_segments(id, &root).map_err(|error| unreadable(What::Descriptors, &error))?;
        // On a node of k3s without etcd, or before it started.
        let Some(config_file) = held.iter().find_map(|segment| layout_matcher::embedded_config(segment))
        else {
            return Ok(Look::Gone);
        };
        Some(config_file)
    } else {
        source.config_file().map(Path::to_owned)
    };
    let settings = read_settings(&source, config_file.as_deref(), &root)
        .map_err(|(what, error)| unreadable(what, &*error))?;
    let wal_path = settings.wal_path();
    let wal = match root.directory(&wal_path) {
        Ok(wal) => wal,
        // A new etcd makes it, and a namesake never does.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Look::NoWal);
        }
        Err(error) => return Err(unreadable(What::WalDirectory, &error)),
    };
    if !holds_segment(id, &wal).map_err(|error| unreadable(What::Descriptors, &error))? {
        return Ok(Look::NoWal);
    }
    let layout = layout_matcher::of(&settings, &launch.comm);
    let places = Places::of(id, root);
    let client =
        client_pairs(&settings, &source, layout, &places.map_err(|error| unreadable(What::Root, &error))?);
    Ok(Look::Member(Box::new(Member {
        name: settings.name.clone(),
        id,
        comm_matches: id.comm_is_one_of(names),
        data_dir: paths::as_seen(id, &settings.data_dir),
        wal_dir: paths::as_seen(id, &wal_path),
        wal_dir_inode: wal.inode,
        wal_dir_st_dev: wal.st_dev,
        endpoints: endpoint::endpoints(&settings, client, id, launch.foreign_network, overrides),
        layout: layout.map(|layout| layout.name),
        settings,
    })))
}

type Failure = (What, Box<dyn std::error::Error>);

fn read_settings(source: &Source, config_file: Option<&Path>, root: &Root) -> Result<Settings, Failure> {
    let Some(path) = config_file else { return Ok(source.settings()) };
    let bytes =
        root.read(path, MAX_CONFIG_BYTES).map_err(|error| -> Failure { (What::ConfigFile, error.into()) })?;
    Settings::from_config_file(&String::from_utf8_lossy(&bytes))
        .map_err(|error| -> Failure { (What::Settings, error.into()) })
}

/// Where files of an etcd may be.
struct Places {
    process: ProcessId,
    theirs: Root,
    /// The node's first process; none if its root is closed to us, and then the node's files are looked for in our own.
    first: Option<ProcessId>,
    nodes: Root,
}

impl Places {
    /// The root of a container is not that of its node, and neither need ours be: whoever sees the node's processes finds its
    /// files through the first of them.
    fn of(process: ProcessId, theirs: Root) -> io::Result<Self> {
        let first = ProcessId::of(1).and_then(|first| Some((first, Root::of(first).ok()?)));
        let (first, nodes) = match first {
            Some((first, root)) => (Some(first), root),
            None => (None, Root::at(Path::new("/"))?),
        };
        Ok(Self { process, theirs, first, nodes })
    }

    /// Returns a pair with whose it is, if it may be there: the process's own, or the node's if only that has it (RKE2 shows
    /// its etcd the files that it serves with, and no others).
    fn find(&self, pair: Pair) -> Option<KeyPair> {
        let holds = |root: &Root| root.may_hold(&pair.certificate) && root.may_hold(&pair.key);
        if holds(&self.theirs) {
            return Some(seen_by(pair, Some(self.process)));
        }
        holds(&self.nodes).then(|| seen_by(pair, self.first))
    }
}

fn seen_by(pair: Pair, process: Option<ProcessId>) -> KeyPair {
    let file = |path| FileRef { path, seen_by: process };
    KeyPair { certificate: file(pair.certificate), key: file(pair.key) }
}

/// Returns the pairs that may be shown to an etcd, the best first, and whose files they are.
fn client_pairs(
    settings: &Settings,
    source: &Source,
    layout: Option<&Layout>,
    places: &Places,
) -> Vec<KeyPair> {
    let find = |pair| places.find(pair);
    let kept = layout_matcher::candidates(settings, source).into_iter().filter_map(find);
    // These are where etcd says; if they are not, that is worth an error.
    let own =
        layout_matcher::last_resorts(settings).into_iter().map(|pair| seen_by(pair, Some(places.process)));
    let authorities = layout_matcher::authorities(layout).into_iter().filter_map(find);
    kept.chain(own).chain(authorities).collect()
}

/// Returns the segments of WALs that a process holds open, by their paths in its root.
fn held_segments(id: ProcessId, root: &Root) -> io::Result<Vec<PathBuf>> {
    let links = segment_links(id)?;
    Ok(links.into_iter().map(|(_, target)| root.inside(target)).collect())
}

/// Tells whether a process has a WAL segment open directly inside the directory.
///
/// Names only say which descriptors to look at; the inodes decide.
fn holds_segment(id: ProcessId, wal: &Directory) -> io::Result<bool> {
    let mut links = segment_links(id)?.into_iter();
    Ok(links.any(|(link, target)| target.file_name().is_some_and(|file| wal.holds(file, &link))))
}

/// Returns the entries of /proc/PID/fd that seem to lead to a segment of a WAL, and where to.
fn segment_links(id: ProcessId) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(id.proc_path("fd"))? {
        let link = entry?.path();
        let Ok(target) = fs::read_link(&link) else { continue };
        let named = target.file_name().and_then(|file| file_name::parse(file.as_encoded_bytes()));
        if named.is_some_and(|named| named.is_segment) {
            found.push((link, target));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
