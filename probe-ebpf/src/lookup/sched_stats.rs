//! Statistics that the scheduler keeps of the running thread. Read before and after an operation, they split
//! its time without a hook on the scheduler.

use probe_ebpf::{miss::Miss, offsets::ABSENT, state::SchedStats};

use super::kernel_memory::{load, read, task, typed_task};
use crate::{maps::TYPED_TASK, offset};

/// Returns the running thread's statistics at this moment.
///
/// # Errors
/// [`Miss::NoAccounting`] if the kernel keeps none (`CONFIG_SCHED_INFO`); the time is not split then.
#[inline(always)]
pub fn sched_stats() -> Result<SchedStats, Miss> {
    if offset!(task_exec) == ABSENT as usize || offset!(task_run_delay) == ABSENT as usize {
        return Err(Miss::NoAccounting);
    }
    if TYPED_TASK.load() != 0 {
        let task = typed_task();
        return Ok(SchedStats {
            exec_ns: load(task, offset!(task_exec)),
            run_delay_ns: load(task, offset!(task_run_delay)),
        });
    }
    Ok(SchedStats {
        exec_ns: read(task(), offset!(task_exec)).map_err(|_| Miss::NoAccounting)?,
        run_delay_ns: read(task(), offset!(task_run_delay)).map_err(|_| Miss::NoAccounting)?,
    })
}
