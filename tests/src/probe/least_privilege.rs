//! The capabilities that the probe needs, determined by removing one at a time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::CapabilitySet;

use crate::probe::{Finished, Invocation};

/// All capabilities that any kernel and any machine requires.
pub const ALL: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_RESOURCE, "CAP_SYS_RESOURCE"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
];

/// The locked-memory limit of every process on the oldest kernels: `MLOCK_LIMIT` before Linux 5.16.
const LOCKED_BYTES: u64 = 64 << 10;

/// A missing capability and the probe's error about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingCapability {
    pub capability: &'static str,
    pub sentence: String,
}

/// Returns the capabilities that starting with a hook requires here, each with the probe's error if it alone
/// is missing.
///
/// `CAP_SYS_ADMIN` implies others, so it is removed first. Fails if the error does not name the missing
/// capability, or if the exit code is not that of a missing privilege.
pub fn needed_to_start(probe: &Path, directory: &Path, hook: &str) -> anyhow::Result<Vec<MissingCapability>> {
    let without_admin = ALL.iter().filter(|(_, name)| *name != "CAP_SYS_ADMIN");
    let mut held = without_admin.fold(CapabilitySet::empty(), |all, (capability, _)| all | *capability);
    let mut needed = Vec::new();
    let call = |held| check(probe, directory, hook, held);
    // If tracefs is not mounted, the probe needs CAP_SYS_ADMIN, which then replaces two others.
    let finished = call(held)?;
    if let Some(sentence) = refusal(&finished)? {
        expect_named(&sentence, "CAP_SYS_ADMIN", &finished)?;
        needed.push(MissingCapability { capability: "CAP_SYS_ADMIN", sentence });
        return Ok(needed);
    }
    for (capability, name) in ALL.into_iter().filter(|(_, name)| *name != "CAP_SYS_ADMIN") {
        let finished = call(held.difference(capability))?;
        match refusal(&finished)? {
            Some(sentence) => {
                expect_named(&sentence, name, &finished)?;
                needed.push(MissingCapability { capability: name, sentence });
            }
            None => held = held.difference(capability),
        }
    }
    Ok(needed)
}

/// Runs the probe for the shortest possible time with these capabilities.
fn check(probe: &Path, directory: &Path, hook: &str, held: CapabilitySet) -> anyhow::Result<Finished> {
    let call = Invocation::new(probe, directory).capabilities(held).locked_memory(LOCKED_BYTES);
    call.arguments(&["--duration", "1s", "--hook", hook]).start("check")?.wait(Duration::from_mins(2))
}

/// Returns the error of a probe that could not start; `None` if it could.
fn refusal(finished: &Finished) -> anyhow::Result<Option<String>> {
    if matches!(finished.code, Some(0..=2)) {
        return Ok(None);
    }
    let line = finished.stderr.lines().find_map(|line| line.split_once(" ERROR ")).map(|(_, line)| line);
    let line = line.with_context(|| format!("the probe ended without an error: {finished:?}"))?;
    Ok(Some(line.to_owned()))
}

fn expect_named(sentence: &str, capability: &str, finished: &Finished) -> anyhow::Result<()> {
    if !sentence.contains(capability) || finished.code != Some(77) {
        bail!("without {capability} the probe fails with exit code {:?}: {sentence}", finished.code);
    }
    Ok(())
}
