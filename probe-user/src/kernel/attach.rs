//! How the programs are called: the kinds of hook, the cheapest first.

use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, FExit, Program, ProgramError, TracePoint},
};
use probe_ebpf::series::Op;
use procfs::KernelVersion;

use super::{
    KernelError,
    hook_kind::{Hook, function},
    load_programs,
    struct_offsets::Layout,
    tracefs,
};

/// Whether a program is called before a system call or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Enter,
    Exit,
}

/// Which of the two programs on a hook: where the kernel skips one, the other sees the call (`probe_ebpf::state::SECONDARY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    Spare,
}

/// What the name of a spare ends with.
const SPARE_SUFFIX: &str = "_spare";

/// Before this kernel nobody can be preempted within a program on a system call's tracepoint: its spare would never be needed.
const TRACEPOINTS_PREEMPTIBLE_SINCE: KernelVersion = KernelVersion { major: 7, minor: 0, patch: 0 };

/// Exits before entries, so that whatever is seen to begin is then seen to end.
const SIDES: [Side; 2] = [Side::Exit, Side::Enter];

impl Hook {
    /// Loads the programs of this kind, attached to nothing yet. Those of the other kind stay out of the kernel.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn load(self, ebpf: &mut Ebpf, layout: &Layout) -> Result<(), KernelError> {
        // Fentry programs are loaded for a function by its number among the kernel's types.
        let btf = match self {
            Self::Fentry => Some(
                Btf::parse(&layout.functions.as_types(), Endianness::default())
                    .map_err(|error| KernelError::NoBtf(error.to_string()))?,
            ),
            Self::Tracepoint => None,
        };
        let wanted: Vec<_> = self.programs(layout.preemptible).collect();
        let names: Vec<_> =
            wanted.iter().map(|(side, op, turn)| self.program_name(*side, *op, *turn)).collect();
        load_programs::load_all(ebpf, &names, |position, program| {
            let (function, name) = (function(wanted[position].1), &names[position]);
            let loaded = match (program, &btf) {
                (Program::FEntry(program), Some(btf)) => program.load(&function, btf),
                (Program::FExit(program), Some(btf)) => program.load(&function, btf),
                (Program::TracePoint(program), _) => program.load(),
                _ => return Err(load_programs::missing(name)),
            };
            loaded.map_err(|error| match error {
                ProgramError::Btf(_) => KernelError::NoFunction(function),
                // Without a log of the verifier's, which only a bug of ours would be worth, this says all.
                ProgramError::LoadError { io_error, verifier_log } if verifier_log.to_string().is_empty() => {
                    KernelError::Verify(name.clone(), io_error.into())
                }
                error => KernelError::Verify(name.clone(), error.into()),
            })
        })
    }

    /// Attaches what is loaded.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn attach(self, ebpf: Ebpf, layout: &Layout) -> Result<Ebpf, KernelError> {
        match self {
            Self::Fentry => self.attach_all(ebpf, layout),
            Self::Tracepoint => tracefs::with(move || self.attach_all(ebpf, layout)),
        }
    }

    fn attach_all(self, mut ebpf: Ebpf, layout: &Layout) -> Result<Ebpf, KernelError> {
        for (side, op, turn) in self.programs(layout.preemptible) {
            let name = self.program_name(side, op, turn);
            let tracepoint = self.program_name(side, op, Turn::First);
            let (place, attached) = match program(&mut ebpf, &name)? {
                Program::FEntry(program) => (function(op), FEntry::attach(program).map(drop)),
                Program::FExit(program) => (function(op), FExit::attach(program).map(drop)),
                Program::TracePoint(program) => {
                    let attached = TracePoint::attach(program, "syscalls", &tracepoint).map(drop);
                    (format!("syscalls:{tracepoint}"), attached)
                }
                _ => return Err(load_programs::missing(&name)),
            };
            attached.map_err(|error| KernelError::Attach {
                hook: self.as_str(),
                place,
                source: Box::new(error),
            })?;
        }
        Ok(ebpf)
    }

    /// Returns the programs in the order in which they are attached.
    fn programs(self, preemptible: bool) -> impl Iterator<Item = (Side, Op, Turn)> {
        let turns = self.turns(KernelVersion::current().ok(), preemptible);
        let of_side = move |side| {
            Op::ALL.into_iter().flat_map(move |op| turns.iter().map(move |turn| (side, op, *turn)))
        };
        SIDES.into_iter().flat_map(of_side)
    }

    /// Returns whether two programs see each call.
    pub(super) fn has_spares(self, layout: &Layout) -> bool {
        self.turns(KernelVersion::current().ok(), layout.preemptible).contains(&Turn::Spare)
    }

    /// Returns which programs a hook takes on a kernel, or on one that does not tell its version.
    fn turns(self, kernel: Option<KernelVersion>, preemptible: bool) -> &'static [Turn] {
        let within_programs =
            self == Self::Fentry || kernel.is_none_or(|kernel| kernel >= TRACEPOINTS_PREEMPTIBLE_SINCE);
        if preemptible && within_programs { &[Turn::First, Turn::Spare] } else { &[Turn::First] }
    }

    /// Returns the name of a program; that of a tracepoint's first is the tracepoint's.
    fn program_name(self, side: Side, op: Op, turn: Turn) -> String {
        let prefix = match (self, side) {
            (Self::Fentry, Side::Enter) => "fentry",
            (Self::Fentry, Side::Exit) => "fexit",
            (Self::Tracepoint, Side::Enter) => "sys_enter",
            (Self::Tracepoint, Side::Exit) => "sys_exit",
        };
        let suffix = if turn == Turn::Spare { SPARE_SUFFIX } else { "" };
        format!("{prefix}_{}{suffix}", op.as_str())
    }
}

/// Returns what a program and its spare have in common: they see the same calls.
pub(super) fn place(program: &str) -> &str {
    program.strip_suffix(SPARE_SUFFIX).unwrap_or(program)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| load_programs::missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_attached_before_entries() {
        let sides: Vec<Side> = Hook::Fentry.programs(true).map(|(side, _, _)| side).collect();
        let half = sides.len() / 2;
        assert_eq!(sides, [vec![Side::Exit; half], vec![Side::Enter; half]].concat());
    }

    #[test]
    fn a_spare_is_taken_where_a_program_may_be_preempted() {
        let cases = [
            (Hook::Fentry, Some((5, 10)), true, 2, "a preemptible kernel can be any"),
            (Hook::Fentry, Some((5, 10)), false, 1, "nobody is preempted in the kernel"),
            (Hook::Tracepoint, Some((6, 18)), true, 1, "preemption is off in the program"),
            (Hook::Tracepoint, Some((7, 2)), true, 2, "it is on"),
            (Hook::Tracepoint, Some((7, 2)), false, 1, "it is on, and means nothing"),
            (Hook::Tracepoint, None, true, 2, "who knows"),
        ];
        for (hook, kernel, preemptible, expected, why) in cases {
            let kernel = kernel.map(|(major, minor)| KernelVersion::new(major, minor, 0));
            assert_eq!(hook.turns(kernel, preemptible).len(), expected, "{hook:?}: {why}");
        }
    }

    #[test]
    fn programs_are_called_after_what_they_hook() {
        let cases = [
            (Hook::Fentry, Side::Enter, Turn::First, "fentry_write"),
            (Hook::Fentry, Side::Exit, Turn::Spare, "fexit_write_spare"),
            (Hook::Tracepoint, Side::Enter, Turn::Spare, "sys_enter_write_spare"),
            (Hook::Tracepoint, Side::Exit, Turn::First, "sys_exit_write"),
        ];
        for (hook, side, turn, expected) in cases {
            assert_eq!(hook.program_name(side, Op::Write, turn), expected, "{hook:?} {side:?} {turn:?}");
        }
    }
}
