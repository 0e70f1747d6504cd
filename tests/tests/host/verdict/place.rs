//! The files of a verdict case, and how the case is examined.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use probe_tests::etcd::load::Load;
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::evidence::{Evidence, Timers};
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, SlowFs, Tmpfs};
use probe_tests::probe;
use probe_tests::probe::check_report::{self, CheckReport};

use super::{DISK_MIB, ETCD, LOAD, SETTLE, WINDOW};

/// The directory of a test's files: in memory, so that only the disk under test can be slow.
pub struct Place {
    pub memory: Tmpfs,
    _scratch: Scratch,
    /// The duration of `check`.
    pub window: Duration,
}

impl Place {
    /// Makes the directory for an attempt at a case that has few syncs on a slow machine: a repeated one
    /// takes longer.
    pub fn for_attempt(attempt: u32, name: &str) -> Self {
        Self { window: WINDOW * attempt, ..Self::make(name) }
    }

    pub fn make(name: &str) -> Self {
        let scratch = Scratch::on_disk(name).unwrap();
        Self {
            memory: Tmpfs::mount(&scratch.path().join("memory"), 1024).unwrap(),
            _scratch: scratch,
            window: WINDOW,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// Returns a fast disk.
    pub fn fast_disk(&self) -> LoopFs {
        LoopFs::create(&self.at("disk"), Format::Ext4, DISK_MIB).unwrap()
    }

    /// Returns a disk that can be slowed down.
    pub fn slow_disk(&self) -> SlowFs {
        SlowFs::create(&self.at("disk"), DISK_MIB).unwrap()
    }

    /// Returns an etcd with its data in `data`; its log and the probe's output are elsewhere.
    pub fn member(&self, name: &str, data: &Path) -> Member {
        let member = Member::new(&etcd::find(ETCD).unwrap(), name, self.memory.path());
        member.data_dir(&data.join(format!("{name}.data")))
    }

    pub fn check(&self, window: Duration, arguments: &[&str]) -> CheckReport {
        check_report::check(&probe::binary().unwrap(), self.memory.path(), window, arguments).unwrap()
    }

    /// Puts load on an etcd, makes the fault, and runs `check` while it lasts.
    pub fn examine<F>(&self, etcd: &Etcd, fault: impl FnOnce() -> F) -> Examined<F> {
        self.examine_under(LOAD, etcd, fault)
    }

    pub fn examine_under<F>(&self, load: Load, etcd: &Etcd, fault: impl FnOnce() -> F) -> Examined<F> {
        let load = load.start(etcd.endpoint());
        thread::sleep(SETTLE);
        let fault = fault();
        thread::sleep(SETTLE);
        let timers = Timers::start(etcd).unwrap();
        let report = self.check(self.window, &[]);
        let evidence = timers.stop().unwrap();
        println!("{}: {:?}; {evidence}", etcd.name(), load.stop().unwrap());
        Examined { report: report.sampled_late(evidence.lateness.share), evidence, fault }
    }
}

/// The report of `check`, what the test measured meanwhile, and the fault, which still lasts.
pub struct Examined<F> {
    pub report: CheckReport,
    pub evidence: Evidence,
    pub fault: F,
}
