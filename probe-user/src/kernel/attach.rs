//! Loads and attaches the programs of each kind of hook.

use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, FExit, Program, ProgramError, TracePoint},
};
use probe_ebpf::series::Op;
use procfs::KernelVersion;

use super::{
    KernelError,
    hook_kind::{Hook, syscall_function},
    load_programs,
    struct_offsets::KernelLayout,
    tracefs,
};

/// Whether a program runs on entry to a system call or on exit from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyscallPoint {
    Enter,
    Exit,
}

/// Which of the two programs on a hook: if the kernel skips one, the other records the call
/// (`probe_ebpf::state::SECONDARY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instance {
    Primary,
    Secondary,
}

/// Suffix of the name of a secondary program.
const SECONDARY_SUFFIX: &str = "_spare";

/// On older kernels, no task can be preempted within a program on a system call's tracepoint, so a secondary
/// program is never needed.
const TRACEPOINTS_PREEMPTIBLE_SINCE: KernelVersion = KernelVersion { major: 7, minor: 0, patch: 0 };

/// Exits before entries, so that each operation with a recorded entry gets its exit.
const POINTS: [SyscallPoint; 2] = [SyscallPoint::Exit, SyscallPoint::Enter];

impl Hook {
    /// Loads the programs of this kind without attaching them. Programs of the other kind are not loaded.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn load(self, ebpf: &mut Ebpf, layout: &KernelLayout) -> Result<(), KernelError> {
        // An fentry program is loaded for a function by its BTF type id.
        let btf = match self {
            Self::Fentry => Some(
                Btf::parse(&layout.functions.to_btf(), Endianness::default())
                    .map_err(|error| KernelError::NoBtf(error.to_string()))?,
            ),
            Self::Tracepoint => None,
        };
        let wanted: Vec<_> = self.programs(layout.preemptible).collect();
        let names: Vec<_> =
            wanted.iter().map(|(point, op, instance)| self.program_name(*point, *op, *instance)).collect();
        load_programs::load_all(ebpf, &names, |index, program| {
            let (function, name) = (syscall_function(wanted[index].1), &names[index]);
            let loaded = match (program, &btf) {
                (Program::FEntry(program), Some(btf)) => program.load(&function, btf),
                (Program::FExit(program), Some(btf)) => program.load(&function, btf),
                (Program::TracePoint(program), _) => program.load(),
                _ => return Err(load_programs::missing(name)),
            };
            loaded.map_err(|error| match error {
                ProgramError::Btf(_) => KernelError::NoFunction(function),
                // Without a verifier log, which would help only with a bug in the programs, the I/O error is
                // enough.
                ProgramError::LoadError { io_error, verifier_log } if verifier_log.to_string().is_empty() => {
                    KernelError::Verify(name.clone(), io_error.into())
                }
                error => KernelError::Verify(name.clone(), error.into()),
            })
        })
    }

    /// Attaches the loaded programs.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow.
    pub(super) fn attach(self, ebpf: Ebpf, layout: &KernelLayout) -> Result<Ebpf, KernelError> {
        match self {
            Self::Fentry => self.attach_all(ebpf, layout),
            Self::Tracepoint => tracefs::with(move || self.attach_all(ebpf, layout)),
        }
    }

    fn attach_all(self, mut ebpf: Ebpf, layout: &KernelLayout) -> Result<Ebpf, KernelError> {
        for (point, op, instance) in self.programs(layout.preemptible) {
            let name = self.program_name(point, op, instance);
            let tracepoint = self.program_name(point, op, Instance::Primary);
            let (attach_point, attached) = match program(&mut ebpf, &name)? {
                Program::FEntry(program) => (syscall_function(op), FEntry::attach(program).map(drop)),
                Program::FExit(program) => (syscall_function(op), FExit::attach(program).map(drop)),
                Program::TracePoint(program) => {
                    let attached = TracePoint::attach(program, "syscalls", &tracepoint).map(drop);
                    (format!("syscalls:{tracepoint}"), attached)
                }
                _ => return Err(load_programs::missing(&name)),
            };
            attached.map_err(|error| KernelError::Attach {
                hook: self.as_str(),
                point: attach_point,
                source: Box::new(error),
            })?;
        }
        Ok(ebpf)
    }

    /// Returns the programs in the order in which they are attached.
    fn programs(self, preemptible: bool) -> impl Iterator<Item = (SyscallPoint, Op, Instance)> {
        let instances = self.instances(KernelVersion::current().ok(), preemptible);
        let of_side = move |point| {
            Op::ALL
                .into_iter()
                .flat_map(move |op| instances.iter().map(move |instance| (point, op, *instance)))
        };
        POINTS.into_iter().flat_map(of_side)
    }

    /// Returns whether two programs are attached to each call.
    pub(super) fn has_secondaries(self, layout: &KernelLayout) -> bool {
        self.instances(KernelVersion::current().ok(), layout.preemptible).contains(&Instance::Secondary)
    }

    /// Returns the programs that a hook needs on a kernel; `None` is a kernel of unknown version.
    fn instances(self, kernel: Option<KernelVersion>, preemptible: bool) -> &'static [Instance] {
        let preemptible_programs =
            self == Self::Fentry || kernel.is_none_or(|kernel| kernel >= TRACEPOINTS_PREEMPTIBLE_SINCE);
        if preemptible && preemptible_programs {
            &[Instance::Primary, Instance::Secondary]
        } else {
            &[Instance::Primary]
        }
    }

    /// Returns the name of a program. The name of a tracepoint's primary program is that of the tracepoint.
    fn program_name(self, point: SyscallPoint, op: Op, instance: Instance) -> String {
        let prefix = match (self, point) {
            (Self::Fentry, SyscallPoint::Enter) => "fentry",
            (Self::Fentry, SyscallPoint::Exit) => "fexit",
            (Self::Tracepoint, SyscallPoint::Enter) => "sys_enter",
            (Self::Tracepoint, SyscallPoint::Exit) => "sys_exit",
        };
        let suffix = if instance == Instance::Secondary { SECONDARY_SUFFIX } else { "" };
        format!("{prefix}_{}{suffix}", op.as_str())
    }
}

/// Returns the name of the primary program on the same hook; both observe the same calls.
pub(super) fn primary_name(program: &str) -> &str {
    program.strip_suffix(SECONDARY_SUFFIX).unwrap_or(program)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| load_programs::missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_attached_before_entries() {
        let points: Vec<SyscallPoint> = Hook::Fentry.programs(true).map(|(point, _, _)| point).collect();
        let half = points.len() / 2;
        assert_eq!(points, [vec![SyscallPoint::Exit; half], vec![SyscallPoint::Enter; half]].concat());
    }

    #[test]
    fn a_secondary_program_is_used_where_a_program_may_be_preempted() {
        let cases = [
            (Hook::Fentry, Some((5, 10)), true, 2, "a preemptible kernel can be any"),
            (Hook::Fentry, Some((5, 10)), false, 1, "no task is preempted in the kernel"),
            (Hook::Tracepoint, Some((6, 18)), true, 1, "preemption is off in programs"),
            (Hook::Tracepoint, Some((7, 2)), true, 2, "preemption is on in programs"),
            (Hook::Tracepoint, Some((7, 2)), false, 1, "the kernel is not preemptible"),
            (Hook::Tracepoint, None, true, 2, "unknown version"),
        ];
        for (hook, kernel, preemptible, expected, why) in cases {
            let kernel = kernel.map(|(major, minor)| KernelVersion::new(major, minor, 0));
            assert_eq!(hook.instances(kernel, preemptible).len(), expected, "{hook:?}: {why}");
        }
    }

    #[test]
    fn a_program_is_named_after_its_hook() {
        let cases = [
            (Hook::Fentry, SyscallPoint::Enter, Instance::Primary, "fentry_write"),
            (Hook::Fentry, SyscallPoint::Exit, Instance::Secondary, "fexit_write_spare"),
            (Hook::Tracepoint, SyscallPoint::Enter, Instance::Secondary, "sys_enter_write_spare"),
            (Hook::Tracepoint, SyscallPoint::Exit, Instance::Primary, "sys_exit_write"),
        ];
        for (hook, point, instance, expected) in cases {
            assert_eq!(
                hook.program_name(point, Op::Write, instance),
                expected,
                "{hook:?} {point:?} {instance:?}"
            );
        }
    }
}
