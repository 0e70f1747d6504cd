//! Boots a machine and reads its console line by line until it ends or reaches its time limit.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Architecture, Kernel, case};

/// Boots a kernel with this command line.
pub fn boot(
    kernel: &Kernel,
    image: &Path,
    disks: &[PathBuf],
    parameters: &str,
    limit: Duration,
    take: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let mut command = command(kernel);
    // `panic=-1` restarts at once, which ends a machine that must not be restarted.
    let line = format!("console={} quiet panic=-1 {parameters}", serial(kernel.architecture));
    command.arg("-kernel").arg(kernel.directory.join("vmlinuz")).arg("-initrd").arg(image);
    command.args(["-append", &line]);
    for (n, disk) in disks.iter().enumerate() {
        // Writes need not survive the machine; the guest sees a disk without a cache, where every write is a
        // round trip.
        let throttle = case::writes_per_second(n);
        let throttle = throttle.map(|writes| format!(",throttling.iops-write={writes}")).unwrap_or_default();
        let drive = format!("if=none,id=disk{n},format=raw,cache=unsafe,file={}{throttle}", disk.display());
        command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive=disk{n},write-cache=off")]);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut running =
        Running(child.with_context(|| format!("cannot start {}", program(kernel.architecture)))?);
    let stdout = running.0.stdout.take().context("the child has a pipe")?;
    let stderr = running.0.stderr.take().context("the child has a pipe")?;
    let (send, lines) = mpsc::channel();
    let complaints = send.clone();
    thread::spawn(move || pass_on(BufReader::new(stdout), &send));
    thread::spawn(move || pass_on(BufReader::new(stderr), &complaints));

    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => take(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!("the machine has not ended after {limit:?}"),
        }
    }
    let status = running.0.wait().context("cannot wait for the machine")?;
    if !status.success() {
        bail!("{} ended with {status}", program(kernel.architecture));
    }
    Ok(())
}

fn pass_on(reader: impl BufRead, lines: &mpsc::Sender<String>) {
    for line in reader.split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line);
        if lines.send(line.trim_end().to_owned()).is_err() {
            return;
        }
    }
}

/// Returns a machine with two CPUs and no other devices.
fn command(kernel: &Kernel) -> Command {
    let mut command = Command::new(program(kernel.architecture));
    let (machine, cpu) = match kernel.architecture {
        Architecture::Amd64 => ("q35", "max"),
        // `max` would enable pointer authentication for every return address, which is slow to emulate.
        Architecture::Arm64 => ("virt", "cortex-a72"),
    };
    command.args(["-machine", machine, "-cpu", cpu, "-smp", "2", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    // Always emulated: virtualization may be broken (nested, or forbidden), and the speed is the same on
    // every host. One thread for both CPUs: with two, kernels occasionally die while they patch their text.
    command.args(["-accel", "tcg,thread=single"]);
    command
}

fn program(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "qemu-system-x86_64",
        Architecture::Arm64 => "qemu-system-aarch64",
    }
}

fn serial(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "ttyS0",
        Architecture::Arm64 => "ttyAMA0",
    }
}

/// A running machine. Ended on drop, by its pid.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let ended = self.0.kill().and_then(|()| self.0.wait());
            if let Err(error) = ended {
                eprintln!("cannot end a machine: {error}");
            }
        }
    }
}
