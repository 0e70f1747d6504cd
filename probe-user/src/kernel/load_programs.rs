//! Loads programs in parallel. The kernel verifies each one separately, which takes most of the start time.

use std::{collections::HashMap, num::NonZero, panic, sync::Mutex, thread};

use aya::{Ebpf, programs::Program};

use super::KernelError;

/// Programs loaded at the same time, at most. With `CAP_BPF`, a verification does not wait for others
/// (`bpf_check` in `kernel/bpf/verifier.c`).
const THREADS_MAX: usize = 4;

/// Loads the programs of these names, in any order. `load` gets the index of the name.
///
/// # Errors
/// The error of the first name whose program fails; some of the other programs may be loaded in that case.
pub(super) fn load_all(
    ebpf: &mut Ebpf,
    names: &[String],
    load: impl Fn(usize, &mut Program) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    let mut all: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted = names.iter().map(|name| all.remove(name.as_str()).ok_or_else(|| missing(name)));
    let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
    let queue = Mutex::new(wanted.into_iter().enumerate());
    let next = || queue.lock().expect("no thread panics with the lock").next();
    let work = || {
        while let Some((index, program)) = next() {
            load(index, program).map_err(|error| (index, error))?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let outcomes: Vec<Result<(), (usize, KernelError)>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|payload| panic::resume_unwind(payload)));
        [own].into_iter().chain(others).collect()
    });
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors.min_by_key(|(index, _)| *index).map_or(Ok(()), |(_, error)| Err(error))
}

/// Returns the error for a program that the object does not contain.
pub(super) fn missing(name: &str) -> KernelError {
    KernelError::NoProgram(name.to_owned())
}
