//! Inspection of a process: it is an etcd member if it holds a segment of its WAL open.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use probe_ebpf::file_name;

use crate::support::logging;

use super::{
    endpoint::{self, Endpoint, KeyPair, Overrides},
    layout_matcher::{self, DistributionLayout},
    member_settings::{LaunchConfig, MAX_CONFIG_BYTES, MemberSettings, Pair},
    paths::{self, FileRef, OpenDirectory, Root},
    process_info::{ProcessId, Unreadable, UnreadableItem},
};

/// An etcd that runs on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// etcd's `--name`; with `@` and the data directory if another member of this node has the same name.
    pub name: String,
    pub id: ProcessId,
    /// Whether the kernel programs recognize the process by one of the names; otherwise they need its pid.
    pub comm_matches: bool,
    /// Absolute, inside the root of the process.
    pub data_dir: PathBuf,
    /// Absolute, inside the root of the process.
    pub wal_dir: PathBuf,
    pub wal_dir_inode: u64,
    /// As returned by `stat(2)`; on btrfs it differs from the device number in mountinfo.
    pub wal_dir_st_dev: u64,
    /// In the order in which they are tried.
    pub endpoints: Vec<Endpoint>,
    /// The name of the layout, if it is a known one.
    pub layout: Option<&'static str>,
    pub settings: MemberSettings,
}

/// Result of the inspection of a process.
#[derive(Debug)]
pub enum Inspection {
    Member(Box<Member>),
    /// It holds no WAL segment: an etcd that has just started, or another program of that name.
    NoWal,
    Gone,
}

/// Inspects a process that has etcd's name.
///
/// # Errors
///
/// Returns what could not be read, if the process still runs.
pub fn inspect(id: ProcessId, names: &[String], overrides: &Overrides) -> Result<Inspection, Unreadable> {
    let inspection = try_inspect(id, names, overrides);
    // A failure because the process ended does not count as one.
    if id.is_alive() { inspection } else { Ok(Inspection::Gone) }
}

fn try_inspect(id: ProcessId, names: &[String], overrides: &Overrides) -> Result<Inspection, Unreadable> {
    let unreadable =
        |what, error: &dyn std::error::Error| Unreadable { pid: id.pid, what, error: logging::chain(error) };
    let Some(info) = id.read_info()? else { return Ok(Inspection::Gone) };
    let root = Root::of(id).map_err(|error| unreadable(UnreadableItem::Root, &error))?;
    let launch = LaunchConfig::new(&info.argv, &info.environment);
    let config_file = if layout_matcher::embeds_etcd(&info.comm) {
        let held =
            held_segments(id, &root).map_err(|error| unreadable(UnreadableItem::Descriptors, &error))?;
        // A k3s node without etcd, or one where etcd has not started yet.
        let Some(config_file) = held.iter().find_map(|segment| layout_matcher::embedded_config(segment))
        else {
            return Ok(Inspection::Gone);
        };
        Some(config_file)
    } else {
        launch.config_file().map(Path::to_owned)
    };
    let settings = read_settings(&launch, config_file.as_deref(), &root)
        .map_err(|(what, error)| unreadable(what, &*error))?;
    let wal_path = settings.wal_path();
    let wal = match root.directory(&wal_path) {
        Ok(wal) => wal,
        // A new etcd has yet to create it; another program of the same name never does.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Inspection::NoWal);
        }
        Err(error) => return Err(unreadable(UnreadableItem::WalDirectory, &error)),
    };
    if !holds_segment(id, &wal).map_err(|error| unreadable(UnreadableItem::Descriptors, &error))? {
        return Ok(Inspection::NoWal);
    }
    let layout = layout_matcher::find(&settings, &info.comm);
    let locations = FileLocations::of(id, root);
    let client = client_pairs(
        &settings,
        &launch,
        layout,
        &locations.map_err(|error| unreadable(UnreadableItem::Root, &error))?,
    );
    Ok(Inspection::Member(Box::new(Member {
        name: settings.name.clone(),
        id,
        comm_matches: id.comm_is_one_of(names),
        data_dir: paths::absolute_path(id, &settings.data_dir),
        wal_dir: paths::absolute_path(id, &wal_path),
        wal_dir_inode: wal.inode,
        wal_dir_st_dev: wal.st_dev,
        endpoints: endpoint::endpoints(&settings, client, id, info.foreign_network, overrides),
        layout: layout.map(|layout| layout.name),
        settings,
    })))
}

type ReadFailure = (UnreadableItem, Box<dyn std::error::Error>);

fn read_settings(
    launch: &LaunchConfig,
    config_file: Option<&Path>,
    root: &Root,
) -> Result<MemberSettings, ReadFailure> {
    let Some(path) = config_file else { return Ok(launch.settings()) };
    let bytes = root
        .read(path, MAX_CONFIG_BYTES)
        .map_err(|error| -> ReadFailure { (UnreadableItem::ConfigFile, error.into()) })?;
    MemberSettings::from_config_file(&String::from_utf8_lossy(&bytes))
        .map_err(|error| -> ReadFailure { (UnreadableItem::Settings, error.into()) })
}

/// Root directories in which files of an etcd may be.
struct FileLocations {
    process: ProcessId,
    process_root: Root,
    /// Pid 1 of the node; `None` if access to its root is denied. Then `node_root` is our own root.
    init: Option<ProcessId>,
    node_root: Root,
}

impl FileLocations {
    /// Opens the roots. A container's root differs from the node's root, and ours may differ too. With access
    /// to the processes of the node, its files are reachable through pid 1.
    fn of(process: ProcessId, process_root: Root) -> io::Result<Self> {
        let init = ProcessId::of(1).and_then(|init| Some((init, Root::of(init).ok()?)));
        let (init, node_root) = match init {
            Some((init, root)) => (Some(init), root),
            None => (None, Root::at(Path::new("/"))?),
        };
        Ok(Self { process, process_root, init, node_root })
    }

    /// Returns a certificate and key, if they may exist, with the process whose root contains them: the
    /// process itself, or pid 1 if only the node has them (RKE2 mounts only the server's files into its etcd
    /// pod).
    fn find(&self, pair: Pair) -> Option<KeyPair> {
        let holds = |root: &Root| root.may_contain(&pair.certificate) && root.may_contain(&pair.key);
        if holds(&self.process_root) {
            return Some(key_pair(pair, Some(self.process)));
        }
        holds(&self.node_root).then(|| key_pair(pair, self.init))
    }
}

fn key_pair(pair: Pair, process: Option<ProcessId>) -> KeyPair {
    let file = |path| FileRef { path, root_of: process };
    KeyPair { certificate: file(pair.certificate), key: file(pair.key) }
}

/// Returns the client certificates that may be presented to an etcd, in order of preference, each with the
/// process whose root contains its files.
fn client_pairs(
    settings: &MemberSettings,
    launch: &LaunchConfig,
    layout: Option<&DistributionLayout>,
    locations: &FileLocations,
) -> Vec<KeyPair> {
    let find = |pair| locations.find(pair);
    let kept = layout_matcher::candidates(settings, launch).into_iter().filter_map(find);
    // etcd's own settings name these files; if they are missing, an error is reported.
    let own = layout_matcher::server_pairs(settings)
        .into_iter()
        .map(|pair| key_pair(pair, Some(locations.process)));
    let authorities = layout_matcher::authorities(layout).into_iter().filter_map(find);
    kept.chain(own).chain(authorities).collect()
}

/// Returns the WAL segments that a process holds open, as paths inside its root.
fn held_segments(id: ProcessId, root: &Root) -> io::Result<Vec<PathBuf>> {
    let links = segment_links(id)?;
    Ok(links.into_iter().map(|(_, target)| root.inside(target)).collect())
}

/// Returns whether a process holds open a WAL segment that is directly inside the directory.
///
/// File names only select the descriptors to compare; the inodes decide.
fn holds_segment(id: ProcessId, wal: &OpenDirectory) -> io::Result<bool> {
    let mut links = segment_links(id)?.into_iter();
    Ok(links.any(|(link, target)| target.file_name().is_some_and(|file| wal.holds(file, &link))))
}

/// Returns the entries of /proc/PID/fd whose target has the name of a WAL segment, with the target.
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
