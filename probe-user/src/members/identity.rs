//! Tells whether a process is an etcd: by the WAL that it holds open.

use std::{ffi::OsStr, fs, io, path::PathBuf};

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
pub fn look(id: ProcessId, comm_matches: bool, overrides: &Overrides) -> Result<Look, Unreadable> {
    let looked = try_look(id, comm_matches, overrides);
    // Whatever failed because the process ended is no failure.
    if id.is_alive() { looked } else { Ok(Look::Gone) }
}

fn try_look(id: ProcessId, comm_matches: bool, overrides: &Overrides) -> Result<Look, Unreadable> {
    let unreadable =
        |what, error: &dyn std::error::Error| Unreadable { pid: id.pid, what, error: chain(error) };
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
        comm_matches,
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
        let Some(name) = target.file_name() else { continue };
        if is_segment(name) && wal.holds(name, &link) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A segment is called `16hex-16hex.wal`: sequence and first index.
fn is_segment(name: &OsStr) -> bool {
    let hex =
        |part: &str| part.len() == 16 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name.to_str()
        .and_then(|name| name.strip_suffix(".wal"))
        .and_then(|name| name.split_once('-'))
        .is_some_and(|(sequence, index)| hex(sequence) && hex(index))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_names() {
        let cases = [
            ("0000000000000000-0000000000000000.wal", true, "the first one"),
            ("000000000000001a-00000000000f4240.wal", true, "hexadecimal"),
            ("0.tmp", false, "pre-allocated, and anybody's name"),
            ("0000000000000000-0000000000000000.wal (deleted)", false, "no longer in the directory"),
            ("0000000000000000-000000000000000G.wal", false, "not hexadecimal"),
            ("journal.wal", false, "somebody else's WAL"),
        ];
        for (name, expected, why) in cases {
            assert_eq!(is_segment(OsStr::new(name)), expected, "{name}: {why}");
        }
    }
}
