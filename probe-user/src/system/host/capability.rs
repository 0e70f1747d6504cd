//! What root is made of, and which parts of it the probe needs.

use procfs::{KernelVersion, process::Status};
use serde::Serialize;

/// `CAP_BPF` and `CAP_PERFMON` were split off `CAP_SYS_ADMIN` in Linux 5.8.
const SPLIT_SINCE: KernelVersion = KernelVersion { major: 5, minor: 8, patch: 0 };

/// The first kernel on which the limit on locked memory need not be raised.
const MEMLOCK_UNCOUNTED_SINCE: KernelVersion = super::MEMLOCK_UNCOUNTED_SINCE;

/// A capability that the probe uses; numbers are those of include/uapi/linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Capability {
    DacOverride = 1,
    DacReadSearch = 2,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    /// Returns the name that capabilities(7), container runtimes and systemd know it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// Returns which other one the kernel takes in its place.
    fn stand_in(self) -> Option<Self> {
        match self {
            // `bpf_capable` and `perfmon_capable` (include/linux/capability.h).
            Self::Bpf | Self::Perfmon => Some(Self::SysAdmin),
            // `generic_permission` (fs/namei.c).
            Self::DacReadSearch => Some(Self::DacOverride),
            _ => None,
        }
    }
}

/// The capabilities of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    /// What a program that is started can have at most, whoever starts it.
    pub bounding: u64,
}

impl Capabilities {
    /// Returns whether this process has this very one.
    pub fn has(&self, capability: Capability) -> bool {
        contains(self.effective, capability)
    }

    /// Returns whether this process has it, or another one that the kernel takes for it.
    pub fn suffice_for(&self, capability: Capability, kernel: Option<KernelVersion>) -> bool {
        let split = kernel.is_none_or(|kernel| kernel >= SPLIT_SINCE);
        let by_itself = split || !matches!(capability, Capability::Bpf | Capability::Perfmon);
        by_itself && self.has(capability) || capability.stand_in().is_some_and(|other| self.has(other))
    }

    /// Returns whether not even root can have it here: a container or a unit withholds it.
    pub fn withhold(&self, capability: Capability) -> bool {
        !contains(self.bounding, capability)
    }
}

impl From<&Status> for Capabilities {
    fn from(status: &Status) -> Self {
        // Kernels before 2.6.26 told no bounding set.
        let bounding = status.capbnd.unwrap_or(u64::MAX);
        Self { effective: status.capeff, permitted: status.capprm, bounding }
    }
}

fn contains(set: u64, capability: Capability) -> bool {
    set >> capability as u8 & 1 == 1
}

/// What becomes of the probe without a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing can be measured.
    Measure,
    /// Members may not be found, or not be asked.
    FindMembers,
    /// Only some machines need it; where they do, the line of what is missing says so.
    Sometimes,
}

/// A capability, and what it is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub capability: Capability,
    pub purpose: Purpose,
    /// Goes on from "it is needed to".
    pub to: &'static str,
}

/// Returns what the probe needs on a kernel: the one list that everything else derives from.
///
/// Tried on 5.10, 6.12 and 6.18: `CAP_BPF` and `CAP_PERFMON` are enough for fentry, and neither alone is; `CAP_SYS_ADMIN` alone
/// is, too. Tracepoints take a tracefs that is mounted and open to the user as well, and see [`super::Host::is_too_paranoid`].
pub fn needed(kernel: Option<KernelVersion>) -> impl Iterator<Item = Need> {
    use Capability::{Bpf, DacReadSearch, Perfmon, SysAdmin, SysPtrace, SysResource};
    use Purpose::{FindMembers, Measure, Sometimes};
    let needs = [
        (Bpf, Measure, "create maps and load programs"),
        (Perfmon, Measure, "load programs that trace and that read the kernel's memory"),
        (
            SysResource,
            Sometimes,
            "raise the limit on locked memory, which maps count against before Linux 5.11",
        ),
        (SysPtrace, FindMembers, "read the settings, descriptors and root directory of other processes"),
        (DacReadSearch, FindMembers, "read certificates, keys and directories of other users"),
        (
            SysAdmin,
            Sometimes,
            "mount tracefs where it is not, reach an etcd in another network namespace, and see what slow operations wait for",
        ),
    ];
    let counts_memlock = kernel.is_some_and(|kernel| kernel < MEMLOCK_UNCOUNTED_SINCE);
    needs
        .into_iter()
        .filter(move |(capability, ..)| *capability != SysResource || counts_memlock)
        .map(|(capability, purpose, to)| Need { capability, purpose, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: KernelVersion = KernelVersion { major: 6, minor: 1, patch: 0 };
    const OLD: KernelVersion = KernelVersion { major: 5, minor: 4, patch: 0 };

    fn of(capabilities: &[Capability]) -> Capabilities {
        let effective = capabilities.iter().fold(0, |set, capability| set | 1 << *capability as u8);
        Capabilities { effective, permitted: effective, bounding: effective }
    }

    #[test]
    fn what_suffices_is_what_the_kernel_takes() {
        use Capability::{Bpf, DacOverride, DacReadSearch, Perfmon, SysAdmin, SysPtrace};
        let cases = [
            (Bpf, &[Bpf][..], NEW, true, "itself"),
            (Bpf, &[SysAdmin], NEW, true, "what it was split off"),
            (Bpf, &[Bpf], OLD, false, "not split off yet, so worth nothing"),
            (Perfmon, &[SysAdmin], OLD, true, "that is where it was"),
            (Perfmon, &[Bpf], NEW, false, "its twin is no stand-in"),
            (DacReadSearch, &[DacOverride], NEW, true, "writing includes reading"),
            (SysPtrace, &[SysAdmin], NEW, false, "nothing stands in for it"),
            (SysAdmin, &[Bpf, Perfmon], NEW, false, "the parts are not the whole"),
        ];
        for (wanted, held, kernel, expected, why) in cases {
            assert_eq!(of(held).suffice_for(wanted, Some(kernel)), expected, "{wanted:?}: {why}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        // `CapEff` of a process with cap_bpf,cap_perfmon, as capsh prints it.
        let capabilities = Capabilities { effective: 0x0000_00c0_0000_0000, ..Capabilities::default() };
        assert!(capabilities.has(Capability::Bpf) && capabilities.has(Capability::Perfmon));
        assert!(!capabilities.has(Capability::SysAdmin) && capabilities.withhold(Capability::Bpf));
    }

    #[test]
    fn memory_need_not_be_unlocked_since_5_11() {
        let names = |kernel| needed(Some(kernel)).any(|need| need.capability == Capability::SysResource);
        assert!(names(KernelVersion::new(5, 10, 0)));
        assert!(!names(KernelVersion::new(5, 11, 0)));
    }
}
