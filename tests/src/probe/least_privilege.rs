//! Which capabilities the probe needs, found by trying: one is taken away at a time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::CapabilitySet;

use crate::probe::{Finished, Invocation};

/// All that any kernel and any machine asks for.
pub const ALL: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_RESOURCE, "CAP_SYS_RESOURCE"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
];

/// What every process may lock on the oldest kernels: `MLOCK_LIMIT` before Linux 5.16.
const LOCKED_BYTES: u64 = 64 << 10;

/// What a privilege that is missing makes the probe say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingCapability {
    pub capability: &'static str,
    pub sentence: String,
}

/// Returns the capabilities that starting by a hook takes here, each with what the probe says where it alone is missing.
///
/// `CAP_SYS_ADMIN` stands in for others, so it goes first. Fails if a missing one is not named, or if the exit code
/// is not that of a missing privilege.
pub fn needed_to_start(probe: &Path, directory: &Path, hook: &str) -> anyhow::Result<Vec<MissingCapability>> {
    let without_admin = ALL.iter().filter(|(_, name)| *name != "CAP_SYS_ADMIN");
    let mut held = without_admin.fold(CapabilitySet::empty(), |all, (capability, _)| all | *capability);
    let mut needed = Vec::new();
    let call = |held| check(probe, directory, hook, held);
    // tracefs, where it is not mounted, takes CAP_SYS_ADMIN, and then that one alone does instead of two others.
    let finished = call(held)?;
    if let Some(sentence) = refusal(&finished)? {
        told(&sentence, "CAP_SYS_ADMIN", &finished)?;
        needed.push(MissingCapability { capability: "CAP_SYS_ADMIN", sentence });
        return Ok(needed);
    }
    for (capability, name) in ALL.into_iter().filter(|(_, name)| *name != "CAP_SYS_ADMIN") {
        let finished = call(held.difference(capability))?;
        match refusal(&finished)? {
            Some(sentence) => {
                told(&sentence, name, &finished)?;
                needed.push(MissingCapability { capability: name, sentence });
            }
            None => held = held.difference(capability),
        }
    }
    Ok(needed)
}

/// Runs the probe for as short as it can be, with these capabilities.
fn check(probe: &Path, directory: &Path, hook: &str, held: CapabilitySet) -> anyhow::Result<Finished> {
    let call = Invocation::new(probe, directory).capabilities(held).locked_memory(LOCKED_BYTES);
    call.arguments(&["--duration", "1s", "--hook", hook]).start("check")?.wait(Duration::from_mins(1))
}

/// Returns the sentence of a probe that could not start; none if it could.
fn refusal(finished: &Finished) -> anyhow::Result<Option<String>> {
    if matches!(finished.code, Some(0..=2)) {
        return Ok(None);
    }
    let line = finished.stderr.lines().find_map(|line| line.split_once(" ERROR ")).map(|(_, line)| line);
    let line = line.with_context(|| format!("the probe says nothing of why it ended: {finished:?}"))?;
    Ok(Some(line.to_owned()))
}

fn told(sentence: &str, capability: &str, finished: &Finished) -> anyhow::Result<()> {
    if !sentence.contains(capability) || finished.code != Some(77) {
        bail!("{capability} is missing, and the probe says with exit code {:?}: {sentence}", finished.code);
    }
    Ok(())
}
