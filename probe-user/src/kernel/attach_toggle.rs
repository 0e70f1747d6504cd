//! Detaches the programs and attaches them again without unloading them, for benchmarks that compare both
//! states under the same load. The daemon's programs are attached from its start to its end.

use aya::programs::{
    FEntry, FExit, Program, ProgramError, RawTracePoint, TracePoint, fentry::FEntryLink, fexit::FExitLink,
    raw_trace_point::RawTracePointLink, trace_point::TracePointLink,
};

use super::{Kernel, attach, program_stats::ProgramStats};

/// A kernel half that can be detached. [`Kernel::runs`] does not include its programs.
pub struct Toggle {
    kernel: Kernel,
    programs: Vec<(String, Program)>,
    links: Vec<Link>,
}

/// A link of an attached program. Dropping it detaches the program.
#[expect(dead_code, reason = "they are held for their drop, and never read")]
enum Link {
    TracePoint(TracePointLink),
    RawTracePoint(RawTracePointLink),
    FEntry(FEntryLink),
    FExit(FExitLink),
}

impl Toggle {
    /// Takes an attached kernel half, and detaches it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(mut kernel: Kernel) -> Result<Self, ProgramError> {
        let mut programs = Vec::new();
        for (name, program) in kernel.ebpf.programs_mut() {
            // Programs of another hook are not loaded.
            if program.fd().is_err() {
                continue;
            }
            // A program handle of aya owns its links, and the link ids were not stored. So open a second
            // handle of the program, then unload the first, which detaches.
            let (info, named) = (program.info()?, name.to_owned().into());
            let again = match program {
                Program::TracePoint(_) => Program::TracePoint(TracePoint::from_program_info(info, named)?),
                Program::RawTracePoint(_) => {
                    Program::RawTracePoint(RawTracePoint::from_program_info(info, named)?)
                }
                // SAFETY: the first handle has the same type, so `info` describes an fentry program.
                Program::FEntry(_) => Program::FEntry(unsafe { FEntry::from_program_info(info, named) }?),
                // SAFETY: the first handle has the same type, so `info` describes an fexit program.
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
        // Exits before entries, as in `attach`.
        programs.sort_by_key(|(name, _)| !name.contains("exit"));
        kernel.programs = ProgramStats::of(&kernel.ebpf);
        Ok(Self { kernel, programs, links: Vec::new() })
    }

    /// Returns the kernel half. Its maps can be read in either state.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Attaches the programs, if they are detached.
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

    /// Detaches the programs: entries before exits, so that each operation with a recorded entry gets its
    /// exit.
    pub fn detach(&mut self) {
        while let Some(link) = self.links.pop() {
            drop(link);
        }
    }
}

fn attach(name: &str, program: &mut Program) -> Result<Link, ProgramError> {
    Ok(match program {
        Program::TracePoint(program) => {
            let link = program.attach("syscalls", attach::primary_name(name))?;
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
