//! Detects whether the kernel preempts a task in kernel code. If it does, a preempted task may be in the
//! middle of a program, and the kernel then skips that program for other tasks on the same CPU.

use std::{fs, path::Path};

use crate::system::host::private_mount;

const DEBUGFS: &str = "/sys/kernel/debug";
/// The active preemption model of a kernel that has several (`sched_dynamic_show` in `kernel/sched/debug.c`,
/// Linux 5.13).
const MODEL: &str = "/sys/kernel/debug/sched/preempt";

/// Returns whether the running kernel may preempt a task in kernel code. For a kernel with a switchable
/// model, the active model decides. If that cannot be read, the answer is yes: debugfs is off, closed by
/// lockdown, or `CAP_SYS_ADMIN` is missing.
///
/// If preemption is switched on later, each call that a program is skipped for is counted as missed.
pub fn is_on() -> bool {
    may_preempt(&rustix::system::uname().version().to_string_lossy(), || {
        let read = || fs::read_to_string(MODEL).ok();
        read().or_else(|| private_mount::with("debugfs", Path::new(DEBUGFS), read).ok()?)
    })
}

/// Decides by `UTS_VERSION`, which `init/Makefile` generates (`#1 SMP PREEMPT_DYNAMIC Debian …`), and by the
/// model if there are several.
fn may_preempt(version: &str, model: impl FnOnce() -> Option<String>) -> bool {
    // A switchable kernel reports PREEMPT_DYNAMIC from 5.18 on, and plain PREEMPT before.
    version.contains("PREEMPT")
        && model().is_none_or(|models| !models.contains("(none)") && !models.contains("(voluntary)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_active_model_decides_for_a_switchable_kernel() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-01)";
        let cases = [
            ("#1 SMP Debian 5.10.223-1 (2024-08-10)", None, false, "it never preempts"),
            ("#1 SMP PREEMPT Debian 5.10.223-1", None, true, "it cannot be switched"),
            ("#1 SMP PREEMPT_RT Debian 6.12.117-1", None, true, "this cannot either"),
            (dynamic, None, true, "the model is unreadable"),
            (dynamic, Some("none (voluntary) full \n"), false, "as distributions ship it"),
            (dynamic, Some("(none) voluntary full \n"), false, "preempt=none"),
            (dynamic, Some("none voluntary (full) \n"), true, "preempt=full"),
            (dynamic, Some("none voluntary full (lazy)\n"), true, "6.13: as full, only later"),
            (dynamic, Some("full (lazy)\n"), true, "7.0 on has no other"),
            (dynamic, Some(""), true, "an empty file"),
        ];
        for (version, model, expected, why) in cases {
            assert_eq!(may_preempt(version, || model.map(str::to_owned)), expected, "{why}");
        }
    }
}
