//! Loads programs, several at a time: the kernel verifies each by itself, which is most of a start.

use std::{collections::HashMap, num::NonZero, panic, sync::Mutex, thread};

use aya::{Ebpf, programs::Program};

use super::KernelError;

/// How many are loaded at once, at most. Who has `CAP_BPF` does not wait for the others (`bpf_check` in `kernel/bpf/verifier.c`).
const AT_ONCE: usize = 4;

/// Loads the programs of these names, in any order.
///
/// # Errors
/// That of the first of them that fails; some of the others may be loaded then.
pub(super) fn load_all(
    ebpf: &mut Ebpf,
    names: &[String],
    load: impl Fn(usize, &mut Program) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    let mut all: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted = names.iter().map(|name| all.remove(name.as_str()).ok_or_else(|| missing(name)));
    let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
    let queue = Mutex::new(wanted.into_iter().enumerate());
    let next = || queue.lock().expect("nobody panics with the lock").next();
    let work = || {
        while let Some((position, program)) = next() {
            load(position, program).map_err(|error| (position, error))?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(AT_ONCE);
    let outcomes: Vec<Result<(), (usize, KernelError)>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|why| panic::resume_unwind(why)));
        [own].into_iter().chain(others).collect()
    });
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors.min_by_key(|(position, _)| *position).map_or(Ok(()), |(_, error)| Err(error))
}

/// Says that the object has no program of this name.
pub(super) fn missing(name: &str) -> KernelError {
    KernelError::NoProgram(name.to_owned())
}
