//! Whether the kernel preempts a task in its own code: then somebody else may be in the middle of a program, and the kernel skips
//! that program on the same CPU.

use std::{fs, path::Path};

use crate::system::host::private_mount;

const DEBUGFS: &str = "/sys/kernel/debug";
/// Which of its models a kernel follows that has several (`sched_dynamic_show` in `kernel/sched/debug.c`, Linux 5.13).
const MODEL: &str = "/sys/kernel/debug/sched/preempt";

/// Returns whether the running kernel may preempt a task in its own code. One that can be switched counts by what it is switched to
/// now, or as if it did where that cannot be read: where debugfs is off, closed by lockdown, or for want of `CAP_SYS_ADMIN`.
///
/// Who switches it on later gets every call that a program is skipped for counted as missed.
pub fn is_on() -> bool {
    may_be(&rustix::system::uname().version().to_string_lossy(), || {
        let read = || fs::read_to_string(MODEL).ok();
        read().or_else(|| private_mount::with("debugfs", Path::new(DEBUGFS), read).ok()?)
    })
}

/// Judges by `UTS_VERSION`, made in `init/Makefile`: `#1 SMP PREEMPT_DYNAMIC Debian …`, and by the model if there are several.
fn may_be(version: &str, model: impl FnOnce() -> Option<String>) -> bool {
    // Kernels that can be switched called themselves so from 5.18 on, and plain PREEMPT before.
    version.contains("PREEMPT")
        && model().is_none_or(|models| !models.contains("(none)") && !models.contains("(voluntary)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_can_be_switched_is_what_it_is_switched_to() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-01)";
        let cases = [
            ("#1 SMP Debian 5.10.223-1 (2024-08-10)", None, false, "it never does"),
            ("#1 SMP PREEMPT Debian 5.10.223-1", None, true, "it cannot be switched"),
            ("#1 SMP PREEMPT_RT Debian 6.12.117-1", None, true, "no more can this"),
            (dynamic, None, true, "nobody can tell"),
            (dynamic, Some("none (voluntary) full \n"), false, "as distributions ship it"),
            (dynamic, Some("(none) voluntary full \n"), false, "preempt=none"),
            (dynamic, Some("none voluntary (full) \n"), true, "preempt=full"),
            (dynamic, Some("none voluntary full (lazy)\n"), true, "6.13: as full, only later"),
            (dynamic, Some("full (lazy)\n"), true, "7.0 on has no other"),
            (dynamic, Some(""), true, "a file that says nothing"),
        ];
        for (version, model, expected, why) in cases {
            assert_eq!(may_be(version, || model.map(str::to_owned)), expected, "{why}");
        }
    }
}
