//! How the programs are called: the kinds of hook, the cheapest first.

use std::env::consts::ARCH;

use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, Program, ProgramError, TracePoint},
};
use probe_ebpf::series::Op;

use super::{KernelError, tracefs};

/// Where the kernel calls the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On the entry and exit of the system calls' own functions: costs nobody else anything.
    Fentry,
    /// On `syscalls:` tracepoints: on every kernel, and slows every system call of the host.
    Tracepoint,
}

/// Whether a program is called before a system call or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Enter,
    Exit,
}

/// Exits before entries, so that whatever is seen to begin is then seen to end.
const SIDES: [Side; 2] = [Side::Exit, Side::Enter];

impl Hook {
    /// All of them, the cheapest first.
    pub const ALL: [Self; 2] = [Self::Fentry, Self::Tracepoint];

    /// Returns the value of the label `hook`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// Loads the programs of this kind, attached to nothing yet. Those of the other kind stay out of the kernel.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn load(self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        // Fentry programs are loaded for a function by its number among the kernel's types.
        let btf = match self {
            Self::Fentry => Some(Btf::from_sys_fs().map_err(|error| KernelError::NoBtf(error.to_string()))?),
            Self::Tracepoint => None,
        };
        for (side, op) in programs() {
            let function = function(op);
            let name = self.program_name(side, op);
            let loaded = match (program(ebpf, &name)?, &btf) {
                (Program::FEntry(program), Some(btf)) => program.load(&function, btf),
                (Program::FExit(program), Some(btf)) => program.load(&function, btf),
                (Program::TracePoint(program), _) => program.load(),
                _ => return Err(KernelError::NoProgram(name)),
            };
            loaded.map_err(|error| match error {
                ProgramError::Btf(_) => KernelError::NoFunction(function),
                // Without a log of the verifier's, which only a bug of ours would be worth, this says all.
                ProgramError::LoadError { io_error, verifier_log } if verifier_log.to_string().is_empty() => {
                    KernelError::Verify(name, io_error.into())
                }
                error => KernelError::Verify(name, error.into()),
            })?;
        }
        Ok(())
    }

    /// Attaches what is loaded.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn attach(self, ebpf: Ebpf) -> Result<Ebpf, KernelError> {
        match self {
            Self::Fentry => self.attach_all(ebpf),
            Self::Tracepoint => tracefs::with(move || self.attach_all(ebpf)),
        }
    }

    fn attach_all(self, mut ebpf: Ebpf) -> Result<Ebpf, KernelError> {
        for (side, op) in programs() {
            let name = self.program_name(side, op);
            let (place, attached) = match program(&mut ebpf, &name)? {
                Program::FEntry(program) => (function(op), FEntry::attach(program).map(drop)),
                Program::FExit(program) => (function(op), FExit::attach(program).map(drop)),
                Program::TracePoint(program) => {
                    (format!("syscalls:{name}"), TracePoint::attach(program, "syscalls", &name).map(drop))
                }
                _ => return Err(KernelError::NoProgram(name)),
            };
            attached.map_err(|error| KernelError::Attach { hook: self.as_str(), place, source: error })?;
        }
        Ok(ebpf)
    }

    /// Returns the name of a program; that of a tracepoint's is the tracepoint's.
    fn program_name(self, side: Side, op: Op) -> String {
        let prefix = match (self, side) {
            (Self::Fentry, Side::Enter) => "fentry",
            (Self::Fentry, Side::Exit) => "fexit",
            (Self::Tracepoint, Side::Enter) => "sys_enter",
            (Self::Tracepoint, Side::Exit) => "sys_exit",
        };
        format!("{prefix}_{}", op.as_str())
    }
}

/// Returns the programs in the order in which they are attached.
fn programs() -> impl Iterator<Item = (Side, Op)> {
    SIDES.into_iter().flat_map(|side| Op::ALL.map(|op| (side, op)))
}

/// Returns the kernel's function of a system call on this machine (`arch/*/include/asm/syscall_wrapper.h`).
fn function(op: Op) -> String {
    let prefix = if ARCH == "aarch64" { "__arm64" } else { "__x64" };
    format!("{prefix}_sys_{}", op.as_str())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| KernelError::NoProgram(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_attached_before_entries() {
        let sides: Vec<Side> = programs().map(|(side, _)| side).collect();
        assert_eq!(sides, [[Side::Exit; 6], [Side::Enter; 6]].concat());
    }

    #[test]
    fn programs_are_called_after_what_they_hook() {
        let cases = [
            (Hook::Fentry, Side::Enter, "fentry_write"),
            (Hook::Fentry, Side::Exit, "fexit_write"),
            (Hook::Tracepoint, Side::Enter, "sys_enter_write"),
            (Hook::Tracepoint, Side::Exit, "sys_exit_write"),
        ];
        for (hook, side, expected) in cases {
            assert_eq!(hook.program_name(side, Op::Write), expected, "{hook:?} {side:?}");
        }
    }
}
