//! Finds the processes that have etcd's name.
//!
//! This runs each second on nodes with hundreds of processes. So an unrelated process is checked in each scan
//! only while it is young, and then every ten seconds. A process that ends while it is being read counts as
//! absent.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use probe_ebpf::state::PF_KTHREAD;
use procfs::{
    FromRead, ProcError,
    process::{Process, Stat},
};

use crate::system::privileges;

/// The kernel truncates the name of a process to 15 bytes (`TASK_COMM_LEN` is 16).
const COMM_BYTES: usize = 15;

/// Scans between two checks of all processes, and scans for which a process counts as young: within this time
/// a shell or a container runtime has executed its program.
const SCANS_PER_RECHECK: u32 = 10;

/// More than `ARG_MAX` allows by default; bounds the bytes that a process can cause us to read.
const MAX_ARGUMENT_BYTES: u64 = 4 << 20;

/// One incarnation of a process: a pid alone may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

/// How a process was started.
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    /// The kernel's name of the process.
    pub comm: String,
    pub argv: Vec<String>,
    pub environment: HashMap<String, String>,
    /// Whether its network namespace differs from ours.
    pub foreign_network: bool,
}

/// What could not be read of a process, and why. A member may be missing because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub pid: u32,
    pub what: UnreadableItem,
    pub error: String,
}

/// What could not be read: the value of the label `what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnreadableItem {
    ProcessList,
    Arguments,
    Environment,
    NetworkNamespace,
    Root,
    ConfigFile,
    Settings,
    WalDirectory,
    Descriptors,
}

impl UnreadableItem {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProcessList => "process_list",
            Self::Arguments => "arguments",
            Self::Environment => "environment",
            Self::NetworkNamespace => "network_namespace",
            Self::Root => "root",
            Self::ConfigFile => "config_file",
            Self::Settings => "settings",
            Self::WalDirectory => "wal_directory",
            Self::Descriptors => "descriptors",
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = self.what.as_str().replace('_', " ");
        write!(f, "cannot read the {what} of process {}: {}", self.pid, self.error)
    }
}

impl ProcessId {
    /// Returns the current incarnation of a pid; `None` if there is none, or if it is a zombie or a kernel
    /// thread.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::from_read(fs::File::open(format!("/proc/{pid}/stat")).ok()?).ok()?;
        let gone = matches!(stat.state, 'Z' | 'X' | 'x') || stat.flags & PF_KTHREAD != 0;
        (!gone).then_some(Self { pid, start_ticks: stat.starttime })
    }

    /// Returns whether this incarnation still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Returns whether the kernel's name of the process is one of the names, so that the kernel programs
    /// recognize it.
    ///
    /// A process gets this name in the middle of execve(2), so call this only after the process has its
    /// arguments.
    pub fn comm_is_one_of(self, names: &[String]) -> bool {
        let comm = self.comm();
        names.iter().any(|name| comm_is(&comm, name))
    }

    /// Returns the kernel's name of the process; empty if it has ended.
    fn comm(self) -> String {
        let comm = fs::read_to_string(self.proc_path("comm")).unwrap_or_default();
        comm.trim_end_matches('\n').to_owned()
    }

    /// Returns a path below `/proc/PID`.
    pub fn proc_path(self, entry: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{entry}", self.pid))
    }

    /// Reads how the process was started; `None` if it has ended, is still starting, or is an etcd that
    /// stores no data.
    ///
    /// # Errors
    ///
    /// Returns what could not be read, in most cases because `CAP_SYS_PTRACE` is missing.
    pub fn read_info(self) -> Result<Option<ProcessInfo>, Unreadable> {
        let read = || {
            let process =
                Process::new(self.pid.cast_signed()).map_err(|error| (UnreadableItem::Arguments, error))?;
            let argv = arguments(&process).map_err(|error| (UnreadableItem::Arguments, error))?;
            let environment = process.environ().map_err(|error| (UnreadableItem::Environment, error))?;
            let foreign_network = network_namespace(&self.proc_path("ns/net"))
                .and_then(|theirs| Ok(theirs != network_namespace(Path::new("/proc/self/ns/net"))?))
                .map_err(|error| (UnreadableItem::NetworkNamespace, error.into()))?;
            Ok((argv, environment, foreign_network))
        };
        let (argv, environment, foreign_network) = match read() {
            Ok(read) => read,
            Err(_) if !self.is_alive() => return Ok(None),
            Err((what, error)) => {
                return Err(Unreadable { pid: self.pid, what, error: describe(&error) });
            }
        };
        // In the middle of execve(2) a process has its new name, but no arguments or environment yet.
        let in_exec = argv.iter().all(String::is_empty);
        if in_exec || !self.is_alive() || keeps_no_data(&argv) {
            return Ok(None);
        }
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = environment.into_iter().map(|(key, value)| (text(key), text(value))).collect();
        Ok(Some(ProcessInfo { comm: self.comm(), argv, environment, foreign_network }))
    }
}

/// Finds processes by name, and remembers unrelated ones.
#[derive(Debug, Default)]
pub struct Finder {
    unrelated: HashMap<u32, UnrelatedProcess>,
    scans: u32,
}

/// A process that has none of the names.
#[derive(Debug)]
struct UnrelatedProcess {
    /// Its kernel name at the last check.
    comm: String,
    /// The scan that found it first.
    since: u32,
}

impl Finder {
    /// Returns the processes whose `comm`, or the last part of whose `argv[0]` or executable, is one of the
    /// names.
    ///
    /// Suspects are always checked: the kernel programs found them under one of the names.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed.
    pub fn find(&mut self, names: &[String], suspects: &[u32]) -> io::Result<Vec<ProcessId>> {
        self.scans = self.scans.wrapping_add(1);
        let is_recheck = self.scans.is_multiple_of(SCANS_PER_RECHECK);
        let mut unrelated = HashMap::with_capacity(self.unrelated.len());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let known = self.unrelated.remove(&pid);
            let since = known.as_ref().map_or(self.scans, |process| process.since);
            let is_old = self.scans.wrapping_sub(since) > SCANS_PER_RECHECK;
            let known = match known {
                Some(process) if is_old && !is_recheck && !suspects.contains(&pid) => {
                    unrelated.insert(pid, process);
                    continue;
                }
                other => other,
            };
            let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
            let comm = comm.trim_end_matches('\n');
            if !names.iter().any(|name| comm_is(comm, name)) {
                let known = known.filter(|process| process.comm == comm && !is_recheck);
                if known.is_some() || !is_named(pid, names) {
                    let process = known.unwrap_or_else(|| UnrelatedProcess { comm: comm.to_owned(), since });
                    unrelated.insert(pid, process);
                    continue;
                }
            }
            found.extend(ProcessId::of(pid));
        }
        self.unrelated = unrelated;
        found.sort_unstable();
        Ok(found)
    }
}

/// Returns whether the kernel's name of a process, which is truncated, matches a name.
pub fn comm_is(comm: &str, name: &str) -> bool {
    let name = name.as_bytes();
    comm.as_bytes() == &name[..name.len().min(COMM_BYTES)]
}

fn is_named(pid: u32, names: &[String]) -> bool {
    let matches = |path: &Path| path.file_name().is_some_and(|last| names.iter().any(|name| last == &**name));
    let executable = fs::read_link(format!("/proc/{pid}/exe"));
    if executable.is_ok_and(|path| matches(&path)) {
        return true;
    }
    let argv = Process::new(pid.cast_signed()).and_then(|process| arguments(&process));
    argv.is_ok_and(|argv| argv.first().is_some_and(|first| matches(Path::new(first))))
}

fn arguments(process: &Process) -> Result<Vec<String>, ProcError> {
    let mut bytes = Vec::new();
    process.open_relative("cmdline")?.take(MAX_ARGUMENT_BYTES).read_to_end(&mut bytes)?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect())
}

/// Returns whether this is a proxy, or an etcd that only prints information.
fn keeps_no_data(argv: &[String]) -> bool {
    let first = argv.get(1).map(String::as_str);
    matches!(first, Some("grpc-proxy" | "gateway" | "--version" | "-version" | "--help" | "-help" | "-h"))
}

fn network_namespace(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Describes an error without the paths that procfs adds to its messages: the kind of the error is what an
/// operator can act on.
fn describe(error: &ProcError) -> String {
    match error {
        ProcError::PermissionDenied(_) => match privileges::missing_read_capability() {
            Some(capability) => format!("permission denied; this needs {capability}"),
            None => "permission denied, although no capability is missing".to_owned(),
        },
        ProcError::NotFound(_) => "not found".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_the_kernel_truncates_them() {
        let cases = [
            ("etcd", "etcd", true, "the plain case"),
            ("etcd", "etcdctl", false, "a prefix does not match"),
            ("etcdctl", "etcd", false, "neither does a longer name"),
            ("a-very-long-nam", "a-very-long-name", true, "the kernel keeps 15 bytes"),
        ];
        for (comm, name, expected, why) in cases {
            assert_eq!(comm_is(comm, name), expected, "{comm} as {name}: {why}");
        }
    }

    #[test]
    fn an_etcd_that_stores_no_data_is_recognized() {
        let cases = [
            (vec!["etcd", "grpc-proxy", "start"], true, "a proxy"),
            (vec!["etcd", "gateway", "start"], true, "a TCP proxy"),
            (vec!["etcd", "--version"], true, "prints and exits"),
            (vec!["etcd", "--name", "gateway"], false, "only the first argument is a command"),
            (vec!["etcd"], false, "all defaults"),
            (vec![], false, "no arguments at all"),
        ];
        for (argv, expected, why) in cases {
            let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
            assert_eq!(keeps_no_data(&argv), expected, "{argv:?}: {why}");
        }
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me }.is_alive());
    }

    #[test]
    fn a_kernel_thread_and_a_zombie_do_not_count() {
        assert_eq!(ProcessId::of(0), None);
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // Its parent does not wait for it, so it stays a zombie.
        while ProcessId::of(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline, "`true` did not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists(), "the zombie is still listed");
        child.wait().unwrap();
    }
}
