//! What the kernel accounts to the running thread anyway: read before and after an operation, it splits its time without a
//! hook on the scheduler.

use probe_ebpf::{layout::ABSENT, miss::Miss, state::Account};

use crate::{
    maps::TYPED,
    offset,
    target::{load, read, task, typed_task},
};

/// Returns the running thread's account as of now.
///
/// # Errors
/// [`Miss::NoAccounting`] where the kernel keeps none (`CONFIG_SCHED_INFO`): then the time is not split.
#[inline(always)]
pub fn account() -> Result<Account, Miss> {
    if offset!(task_exec) == ABSENT as usize || offset!(task_run_delay) == ABSENT as usize {
        return Err(Miss::NoAccounting);
    }
    if TYPED.load() != 0 {
        let task = typed_task();
        return Ok(Account {
            exec_ns: load(task, offset!(task_exec)),
            run_delay_ns: load(task, offset!(task_run_delay)),
        });
    }
    Ok(Account {
        exec_ns: read(task(), offset!(task_exec)).map_err(|_| Miss::NoAccounting)?,
        run_delay_ns: read(task(), offset!(task_run_delay)).map_err(|_| Miss::NoAccounting)?,
    })
}
