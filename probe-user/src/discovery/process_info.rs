//! Finds the processes that go by etcd's name.
//!
//! ProgramRuns each second on nodes with hundreds of processes, so one that is nothing to us is looked at for as long as it is young, and
//! then every ten seconds. Whoever vanishes while being read was not there.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{
    FromRead, ProcError,
    process::{Process, Stat},
};

use crate::system::privileges;

/// The kernel cuts a process's name to 15 bytes (`TASK_COMM_LEN` is 16).
const COMM_BYTES: usize = 15;

/// How often everybody is looked at, and how long a process counts as young: until then a shell or a container's runtime has
/// become what it is to be.
const SCANS_PER_RECHECK: u32 = 10;

/// `PF_KTHREAD` of include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// More than `ARG_MAX` allows by default, and a bound on what a process can make us read.
const MAX_ARGUMENT_BYTES: u64 = 4 << 20;

/// One life of a process: a pid alone may be recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

/// What a process was started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel's own name of the process.
    pub comm: String,
    pub argv: Vec<String>,
    pub environment: HashMap<String, String>,
    /// Whether its network namespace is another than ours.
    pub foreign_network: bool,
}

/// What could not be read of a process, and why: a member may be missing because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub pid: u32,
    pub what: What,
    pub error: String,
}

/// The label of what could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
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

impl What {
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
    /// Returns the current life of a pid; `None` if there is none, or only its remains.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::from_read(fs::File::open(format!("/proc/{pid}/stat")).ok()?).ok()?;
        let gone = matches!(stat.state, 'Z' | 'X' | 'x') || stat.flags & KERNEL_THREAD != 0;
        (!gone).then_some(Self { pid, start_ticks: stat.starttime })
    }

    /// Tells whether this very process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Tells whether the kernel's own name of the process is one of the names, so that the kernel side knows it.
    ///
    /// A process gets that name in the middle of exec(2), so ask when it has its arguments.
    pub fn comm_is_one_of(self, names: &[String]) -> bool {
        let comm = self.comm();
        names.iter().any(|name| comm_is(&comm, name))
    }

    /// Returns the kernel's own name of the process; empty if it is gone.
    fn comm(self) -> String {
        let comm = fs::read_to_string(self.proc_path("comm")).unwrap_or_default();
        comm.trim_end_matches('\n').to_owned()
    }

    /// Returns a path below `/proc/PID`.
    pub fn proc_path(self, entry: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{entry}", self.pid))
    }

    /// Reads what the process was started with; `None` if it is gone, is about to start, or is an etcd that keeps no data.
    ///
    /// # Errors
    ///
    /// What could not be read, above all for want of `CAP_SYS_PTRACE`.
    pub fn launch(self) -> Result<Option<Launch>, Unreadable> {
        let read = || {
            let process = Process::new(self.pid.cast_signed()).map_err(|error| (What::Arguments, error))?;
            let argv = arguments(&process).map_err(|error| (What::Arguments, error))?;
            let environment = process.environ().map_err(|error| (What::Environment, error))?;
            let foreign_network = network_namespace(&self.proc_path("ns/net"))
                .and_then(|theirs| Ok(theirs != network_namespace(Path::new("/proc/self/ns/net"))?))
                .map_err(|error| (What::NetworkNamespace, error.into()))?;
            Ok((argv, environment, foreign_network))
        };
        let (argv, environment, foreign_network) = match read() {
            Ok(read) => read,
            Err(_) if !self.is_alive() => return Ok(None),
            Err((what, error)) => {
                return Err(Unreadable { pid: self.pid, what, error: plain(&error) });
            }
        };
        // In the middle of exec(2) a process has its new name, and neither arguments nor environment.
        let in_exec = argv.iter().all(String::is_empty);
        if in_exec || !self.is_alive() || keeps_no_data(&argv) {
            return Ok(None);
        }
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = environment.into_iter().map(|(key, value)| (text(key), text(value))).collect();
        Ok(Some(Launch { comm: self.comm(), argv, environment, foreign_network }))
    }
}

/// Finds processes by name, remembering who is none of ours.
#[derive(Debug, Default)]
pub struct Finder {
    nobodies: HashMap<u32, Nobody>,
    scans: u32,
}

/// Who is none of ours.
#[derive(Debug)]
struct Nobody {
    /// The name under which it was found to be that.
    comm: String,
    /// The scan that met it first.
    since: u32,
}

impl Finder {
    /// Returns the processes whose `comm`, or the last part of whose `argv[0]` or executable, is one of the names.
    ///
    /// Suspects are looked at whatever is known of them: the kernel side has met them under such a name.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be listed.
    pub fn find(&mut self, names: &[String], suspects: &[u32]) -> io::Result<Vec<ProcessId>> {
        self.scans = self.scans.wrapping_add(1);
        let everybody = self.scans.is_multiple_of(SCANS_PER_RECHECK);
        let mut nobodies = HashMap::with_capacity(self.nobodies.len());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let known = self.nobodies.remove(&pid);
            let since = known.as_ref().map_or(self.scans, |nobody| nobody.since);
            let is_old = self.scans.wrapping_sub(since) > SCANS_PER_RECHECK;
            let known = match known {
                Some(nobody) if is_old && !everybody && !suspects.contains(&pid) => {
                    nobodies.insert(pid, nobody);
                    continue;
                }
                other => other,
            };
            let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
            let comm = comm.trim_end_matches('\n');
            if !names.iter().any(|name| comm_is(comm, name)) {
                let known = known.filter(|nobody| nobody.comm == comm && !everybody);
                if known.is_some() || !goes_by(pid, names) {
                    let nobody = known.unwrap_or_else(|| Nobody { comm: comm.to_owned(), since });
                    nobodies.insert(pid, nobody);
                    continue;
                }
            }
            found.extend(ProcessId::of(pid));
        }
        self.nobodies = nobodies;
        found.sort_unstable();
        Ok(found)
    }
}

/// Tells whether a process is so called; the kernel has cut its name.
pub fn comm_is(comm: &str, name: &str) -> bool {
    let name = name.as_bytes();
    comm.as_bytes() == &name[..name.len().min(COMM_BYTES)]
}

fn goes_by(pid: u32, names: &[String]) -> bool {
    let is_named =
        |path: &Path| path.file_name().is_some_and(|last| names.iter().any(|name| last == &**name));
    let executable = fs::read_link(format!("/proc/{pid}/exe"));
    if executable.is_ok_and(|path| is_named(&path)) {
        return true;
    }
    let argv = Process::new(pid.cast_signed()).and_then(|process| arguments(&process));
    argv.is_ok_and(|argv| argv.first().is_some_and(|first| is_named(Path::new(first))))
}

fn arguments(process: &Process) -> Result<Vec<String>, ProcError> {
    let mut bytes = Vec::new();
    process.open_relative("cmdline")?.take(MAX_ARGUMENT_BYTES).read_to_end(&mut bytes)?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect())
}

/// A proxy, or an etcd that only prints something.
fn keeps_no_data(argv: &[String]) -> bool {
    let first = argv.get(1).map(String::as_str);
    matches!(first, Some("grpc-proxy" | "gateway" | "--version" | "-version" | "--help" | "-help" | "-h"))
}

fn network_namespace(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The crate's own texts carry paths of its making; the kind is what an operator can act on.
fn plain(error: &ProcError) -> String {
    match error {
        ProcError::PermissionDenied(_) => match privileges::lacking_to_read() {
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
    fn names_are_compared_as_the_kernel_cuts_them() {
        let cases = [
            ("etcd", "etcd", true, "the plain case"),
            ("etcd", "etcdctl", false, "a prefix is no match"),
            ("etcdctl", "etcd", false, "nor the other way round"),
            ("a-very-long-nam", "a-very-long-name", true, "the kernel keeps 15 bytes"),
        ];
        for (comm, name, expected, why) in cases {
            assert_eq!(comm_is(comm, name), expected, "{comm} as {name}: {why}");
        }
    }

    #[test]
    fn an_etcd_without_data_is_none() {
        let cases = [
            (vec!["etcd", "grpc-proxy", "start"], true, "a proxy"),
            (vec!["etcd", "gateway", "start"], true, "a TCP proxy"),
            (vec!["etcd", "--version"], true, "prints and ends"),
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
    fn a_recycled_pid_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me }.is_alive());
    }

    #[test]
    fn a_kernel_thread_and_a_zombie_are_nobody() {
        assert_eq!(ProcessId::of(0), None);
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // Not waited for, so it stays a zombie.
        while ProcessId::of(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline, "`true` did not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists(), "the zombie is still listed");
        child.wait().unwrap();
    }
}
