//! Detaches the programs and attaches them again, loaded all the while: for benchmarks, which compare with and without under one load.
//! The daemon's are attached from its start to its end.

use aya::programs::{
    FEntry, FExit, Program, ProgramError, RawTracePoint, TracePoint, fentry::FEntryLink, fexit::FExitLink,
    raw_trace_point::RawTracePointLink, trace_point::TracePointLink,
};

use super::{Kernel, attach, program_stats::Programs};

/// A kernel side that can be detached. [`Kernel::runs`] knows nothing of its programs.
pub struct Toggle {
    kernel: Kernel,
    programs: Vec<(String, Program)>,
    links: Vec<Link>,
}

/// Dropping one detaches.
#[expect(dead_code, reason = "they are held, and never looked at")]
enum Link {
    TracePoint(TracePointLink),
    RawTracePoint(RawTracePointLink),
    FEntry(FEntryLink),
    FExit(FExitLink),
}

impl Toggle {
    /// Takes an attached kernel side, and detaches it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(mut kernel: Kernel) -> Result<Self, ProgramError> {
        let mut programs = Vec::new();
        for (name, program) in kernel.ebpf.programs_mut() {
            // Those of another hook are not loaded.
            if program.fd().is_err() {
                continue;
            }
            // Its links go with a handle of a program, and their numbers are not kept. So another handle, then away with the first.
            let (info, named) = (program.info()?, name.to_owned().into());
            let again = match program {
                Program::TracePoint(_) => Program::TracePoint(TracePoint::from_program_info(info, named)?),
                Program::RawTracePoint(_) => {
                    Program::RawTracePoint(RawTracePoint::from_program_info(info, named)?)
                }
                // SAFETY: it is of the kind that the first handle says.
                Program::FEntry(_) => Program::FEntry(unsafe { FEntry::from_program_info(info, named) }?),
                // SAFETY: as above.
                Program::FExit(_) => Program::FExit(unsafe { FExit::from_program_info(info, named) }?),
                _ => return Err(ProgramError::UnexpectedProgramType),
            };
            programs.push((name.to_owned(), again));
            match program {
                Program::TracePoint(program) => program.unload()?,
                Program::RawTracePoint(program) => program.unload()?,
                Program::FEntry(program) => program.unload()?,
                Program::FExit(program) => program.unload()?,
                _ => return Err(ProgramError::UnexpectedProgramType),
            }
        }
        // Exits before entries, as `hook` has it.
        programs.sort_by_key(|(name, _)| !name.contains("exit"));
        kernel.programs = Programs::of(&kernel.ebpf);
        Ok(Self { kernel, programs, links: Vec::new() })
    }

    /// Returns the kernel side, whose maps are read as ever.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Attaches what is detached.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&mut self) -> Result<(), ProgramError> {
        if self.links.is_empty() {
            let links = self.programs.iter_mut().map(|(name, program)| attach(name, program));
            self.links = links.collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Detaches what is attached: entries before exits, so that whatever is seen to begin is seen to end.
    pub fn detach(&mut self) {
        while let Some(link) = self.links.pop() {
            drop(link);
        }
    }
}

fn attach(name: &str, program: &mut Program) -> Result<Link, ProgramError> {
    Ok(match program {
        Program::TracePoint(program) => {
            let link = program.attach("syscalls", attach::place(name))?;
            Link::TracePoint(program.take_link(link)?)
        }
        Program::RawTracePoint(program) => {
            let link = program.attach(name)?;
            Link::RawTracePoint(program.take_link(link)?)
        }
        Program::FEntry(program) => {
            let link = program.attach()?;
            Link::FEntry(program.take_link(link)?)
        }
        Program::FExit(program) => {
            let link = program.attach()?;
            Link::FExit(program.take_link(link)?)
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
}
