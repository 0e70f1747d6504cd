//! A real Alertmanager and a webhook that receives its notifications.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::machine::cancel::Cancel;
use crate::machine::command;
use crate::machine::http::{Endpoint, free_address};
use crate::machine::process;
use crate::observability::prometheus::find;

pub mod receiver;

pub use receiver::{Notice, Receiver};

/// The time limit for its first answer.
const START_LIMIT: Duration = Duration::from_mins(1);

const STOP_LIMIT: Duration = Duration::from_secs(30);

const TAIL_LINES: usize = 12;

/// The template directory of Debian's package once it is installed.
const TEMPLATES: &str = "/usr/share/prometheus/alertmanager/default.tmpl";

/// Checks a configuration with `amtool`; fails with its output.
pub fn check_config(file: &Path) -> anyhow::Result<String> {
    let words = [find("amtool")?, "check-config".into(), file.to_owned()];
    let words = words.map(|word| word.display().to_string());
    command::run(&words[0], &[&words[1], &words[2]])
}

/// Returns the command that becomes Alertmanager.
///
/// Debian's build reads its templates from `/usr/share`, regardless of the configuration. If the package is
/// unpacked but not installed, its own `share` is mounted there for this process alone.
fn program() -> anyhow::Result<Command> {
    let program = find("prometheus-alertmanager")?;
    let share = program.parent().and_then(Path::parent).context("a program is in a directory")?.join("share");
    if Path::new(TEMPLATES).exists() || !share.join("prometheus/alertmanager/default.tmpl").exists() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount --bind \"$0\" /usr/share && exec \"$@\""])
        .arg(share)
        .arg(program);
    Ok(command)
}

/// A running Alertmanager. Stopped on drop.
#[derive(Debug)]
pub struct Alertmanager {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Alertmanager {
    /// Starts a single instance on a free port with its data in `directory`, and waits until it is ready.
    pub fn start(configuration: &str, directory: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let file = directory.join("alertmanager.yaml");
        fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))?;
        let log = directory.join("alertmanager.log");
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = program()?
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", directory.join("alertmanager.data").display()))
            .arg(format!("--web.listen-address={address}"))
            // Empty: it does not look for cluster peers.
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start Alertmanager")?;
        let mut alertmanager = Self { child, address, log };
        let endpoint = Endpoint::plain(address);
        let ready = Cancel::default().wait_for(START_LIMIT, || {
            if let Some(status) = alertmanager.child.try_wait()? {
                bail!("Alertmanager ended with {}; {}", process::describe(status), alertmanager.tail());
            }
            let ready = endpoint.get("/-/ready").is_ok_and(|response| response.status == 200);
            Ok(ready.then_some(()))
        })?;
        ready.with_context(|| format!("Alertmanager is not ready; {}", alertmanager.tail()))?;
        Ok(alertmanager)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::plain(self.address)
    }

    /// Returns the last lines of its log, for an error message.
    pub fn tail(&self) -> String {
        process::tail(&self.log, TAIL_LINES)
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let pid = self.child.id();
        if let Err(error) = process::end(&mut self.child, pid, STOP_LIMIT) {
            eprintln!("cannot stop Alertmanager: {error:#}");
        }
    }
}
