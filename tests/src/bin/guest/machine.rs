//! The work of a system's init: mounts, loopback, modules, disks.

use std::ffi::CString;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::command;
use probe_tests::machine::vm::case::{BUSY, Case, DISKS, FileSystem, NARROW};
use probe_tests::machine::vm::{Architecture, DMSETUP, Kernel, MODULES};
use rustix::ioctl;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::system::{RebootCommand, finit_module, reboot, uname};

/// The duration of a write to the slow disk.
pub const DELAY: Duration = Duration::from_millis(20);

const SLOW: &str = "/slow";

/// The directory for the processes that are not measured.
pub const BUSY_DISK: &str = "/busy";

/// The disk for the queueing cases.
pub const NARROW_DISK: &str = "/narrow";

/// The kernel's file that shows the preemption model and accepts another one.
const DEBUGFS: &str = "/sys/kernel/debug";

/// The time limit for the kernel to find its disks.
const DISKS_LIMIT: Duration = Duration::from_mins(1);

/// Brings an interface up (`include/uapi/linux/sockios.h`, `if.h`).
const SIOCSIFFLAGS: ioctl::Opcode = 0x8914;
const IFF_UP: i16 = 1;

/// `struct ifreq` as that request reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// A machine with its file systems.
pub struct Machine {
    /// Whether its third disk can be slowed down.
    has_slow_disk: bool,
}

impl Machine {
    /// Sets up a system from the unpacked initramfs.
    pub fn prepare() -> anyhow::Result<Self> {
        for (kind, point) in [
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("cgroup2", "/sys/fs/cgroup"),
            ("devtmpfs", "/dev"),
            ("securityfs", "/sys/kernel/security"),
            ("tmpfs", "/tmp"),
        ] {
            mount_at(kind, kind, Path::new(point))?;
        }
        raise_loopback().context("cannot raise the loopback interface")?;
        load_modules()?;
        let disks = wait_for_disks()?;
        mount_at("ext4", &disks[0], &place(FileSystem::Ext4))?;
        mount_at("xfs", &disks[1], &place(FileSystem::Xfs))?;
        let has_slow_disk = Path::new(DMSETUP).exists();
        if has_slow_disk {
            mount_at("ext4", &slow_down(&disks[2])?, Path::new(SLOW))?;
        }
        mount_at("ext4", &disks[BUSY], Path::new(BUSY_DISK))?;
        mount_at("ext4", &disks[NARROW], Path::new(NARROW_DISK))?;
        Ok(Self { has_slow_disk })
    }

    /// Returns the cases on the kernel's command line.
    #[expect(clippy::unused_self, reason = "`/proc` exists only in a machine that is set up")]
    pub fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let line = fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
        let names = line.split_whitespace().find_map(|word| word.strip_prefix("probe.cases="));
        names
            .context("cannot find probe.cases= on the kernel's command line")?
            .split(',')
            .map(str::parse)
            .collect()
    }

    /// Returns whether this kernel supports fentry programs.
    #[expect(clippy::unused_self, reason = "it is this machine's kernel")]
    pub fn has_fentry(&self) -> bool {
        let name = uname().release().to_string_lossy().into_owned();
        let architecture =
            if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };
        Kernel { name, architecture, directory: PathBuf::new() }.has_fentry()
    }

    /// Switches the kernel to a preemption model; returns the previous one.
    #[expect(clippy::unused_self, reason = "it is this machine's kernel")]
    pub fn preempt(&self, model: &str) -> anyhow::Result<String> {
        // Mounted only during this, so that the probe must find its own way.
        mount_at("debugfs", "debugfs", Path::new(DEBUGFS))?;
        let path = Path::new(DEBUGFS).join("sched/preempt");
        let models = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, model).with_context(|| format!("cannot make the kernel's preemption {model}"))?;
        unmount(DEBUGFS, UnmountFlags::empty()).context("cannot unmount debugfs")?;
        let before = models.split(['(', ')']).nth(1);
        before.map(str::to_owned).with_context(|| format!("cannot find the current model in {models:?}"))
    }

    /// Returns a directory on a fast disk.
    #[expect(clippy::unused_self, reason = "disks are mounted only in a machine that is ready")]
    pub fn disk(&self, file_system: FileSystem) -> PathBuf {
        place(file_system)
    }

    /// Returns a directory on the disk that takes [`DELAY`] for each write.
    pub fn slow_disk(&self) -> Option<&Path> {
        self.has_slow_disk.then_some(Path::new(SLOW))
    }
}

/// Switches the machine off, and reports why if it cannot.
pub fn switch_off() {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("guest: cannot switch the machine off: {error}");
    }
}

fn place(file_system: FileSystem) -> PathBuf {
    Path::new("/").join(file_system.as_str())
}

pub fn mount_at(kind: &str, source: &str, point: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot mount {source} at {}", point.display());
    fs::create_dir_all(point).with_context(failed)?;
    mount(source, point, kind, MountFlags::empty(), None).with_context(failed)
}

fn raise_loopback() -> anyhow::Result<()> {
    // The kernel assigns its addresses when it comes up. Any socket is suitable for the request.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`, which is its argument, and writes nothing.
    unsafe { ioctl::ioctl(socket, ioctl::Setter::<SIOCSIFFLAGS, _>::new(request)) }?;
    Ok(())
}

/// Loads the modules that setup put into the image, in the order of their names.
pub fn load_modules() -> anyhow::Result<()> {
    let entries = fs::read_dir(MODULES).with_context(|| format!("cannot read {MODULES}"))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let parameters = CString::default();
    for path in paths {
        let failed = || format!("cannot load the module {}", path.display());
        let file = File::open(&path).with_context(failed)?;
        finit_module(&file, &parameters, 0).with_context(failed)?;
    }
    Ok(())
}

/// Returns the disks in the order of the machine's command line.
fn wait_for_disks() -> anyhow::Result<Vec<String>> {
    let names: Vec<_> = ('a'..).take(DISKS.len()).map(|letter| format!("/dev/vd{letter}")).collect();
    let there = Cancel::default()
        .wait_for(DISKS_LIMIT, || Ok(names.iter().all(|name| Path::new(name).exists()).then_some(())))?;
    if there.is_none() {
        bail!("cannot find the disks {names:?}");
    }
    Ok(names)
}

/// Creates a device in front of a disk that delays every write, but no read.
fn slow_down(disk: &str) -> anyhow::Result<String> {
    let name = Path::new(disk).file_name().context("a device has a name")?.to_string_lossy();
    let path = format!("/sys/block/{name}/size");
    let sectors = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let table = format!("0 {} delay {disk} 0 0 {disk} 0 {}", sectors.trim(), DELAY.as_millis());
    command::run(DMSETUP, &["create", "slow", "--noudevsync", "--table", &table])?;
    // Links by name are created by udev; this is the kernel's name for its first device of that kind.
    Ok("/dev/dm-0".to_owned())
}
