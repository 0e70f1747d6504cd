//! Repeats a case of the guest whose fault did not occur, and reports this with its figures.

use probe_tests::faults::attempts::{ATTEMPTS, Attempt, try_attempts};
use probe_tests::machine::vm::case::Case;

/// Makes attempts until one is valid, and judges its value once.
pub fn undisturbed<T>(
    case: Case,
    mut attempt: impl FnMut() -> anyhow::Result<Attempt<T>>,
    judge: impl FnOnce(T) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let mut made = 0;
    let value = try_attempts(&case.to_string(), ATTEMPTS, |number| {
        made = number;
        attempt()
    })?;
    let figures = judge(value)?;
    Ok(if made > 1 { format!("{figures}; attempt {made} of {ATTEMPTS}") } else { figures })
}
