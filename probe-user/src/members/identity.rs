//! Tells whether a process is an etcd: by the WAL that it holds open.

use std::{fs, io, path::PathBuf};

use probe_ebpf::name;

use crate::logging;

use super::{
    endpoint::{self, Endpoint, Overrides},
    paths::{self, Directory, Root},
    process::{Launch, ProcessId, Unreadable, What},
    settings::{MAX_CONFIG_BYTES, Settings, Source},
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
    let settings = read_settings(&launch, &root).map_err(|(what, error)| unreadable(what, &*error))?;
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
    Ok(Look::Member(Box::new(Member {
        name: settings.name.clone(),
        id,
        comm_matches: id.comm_is_one_of(names),
        data_dir: paths::as_seen(id, &settings.data_dir),
        wal_dir: paths::as_seen(id, &wal_path),
        wal_dir_inode: wal.inode,
        wal_dir_st_dev: wal.st_dev,
        endpoints: endpoint::endpoints(&settings, id, launch.foreign_network, overrides),
        settings,
    })))
}

type Failure = (What, Box<dyn std::error::Error>);

fn read_settings(launch: &Launch, root: &Root) -> Result<Settings, Failure> {
    let source = Source::new(&launch.argv, &launch.environment);
    let Some(path) = source.config_file() else { return Ok(source.settings()) };
    let bytes =
        root.read(path, MAX_CONFIG_BYTES).map_err(|error| -> Failure { (What::ConfigFile, error.into()) })?;
    Settings::from_config_file(&String::from_utf8_lossy(&bytes))
        .map_err(|error| -> Failure { (What::Settings, error.into()) })
}

/// Tells whether a process has a WAL segment open directly inside the directory.
///
/// Names only say which descriptors to look at; the inodes decide.
fn holds_segment(id: ProcessId, wal: &Directory) -> io::Result<bool> {
    for entry in fs::read_dir(id.proc_path("fd"))? {
        let link = entry?.path();
        let Ok(target) = fs::read_link(&link) else { continue };
        let Some(file) = target.file_name() else { continue };
        let named = name::role_of(file.as_encoded_bytes());
        if named.is_some_and(|named| named.is_segment) && wal.holds(file, &link) {
            return Ok(true);
        }
    }
    Ok(false)
}
