//! Linux capabilities, and which of them the probe requires.

use procfs::{KernelVersion, process::Status};
use serde::Serialize;

/// `CAP_BPF` and `CAP_PERFMON` were split off `CAP_SYS_ADMIN` in Linux 5.8.
const SPLIT_SINCE: KernelVersion = KernelVersion { major: 5, minor: 8, patch: 0 };

/// The first kernel on which the probe does not need to raise the limit on locked memory.
const MEMLOCK_UNCOUNTED_SINCE: KernelVersion = super::MEMLOCK_UNCOUNTED_SINCE;

/// A capability that the probe uses; numbers are from include/uapi/linux/capability.h.
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
    /// Returns the name used by capabilities(7), container runtimes and systemd.
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

    /// Returns the capability that the kernel accepts instead.
    fn substitute(self) -> Option<Self> {
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
    /// The bounding set: the most that an executed program can have, for any user.
    pub bounding: u64,
}

impl Capabilities {
    /// Returns whether this process has exactly this capability.
    pub fn has(&self, capability: Capability) -> bool {
        contains(self.effective, capability)
    }

    /// Returns whether this process has it, or another one that the kernel accepts instead.
    pub fn suffice_for(&self, capability: Capability, kernel: Option<KernelVersion>) -> bool {
        let split = kernel.is_none_or(|kernel| kernel >= SPLIT_SINCE);
        let by_itself = split || !matches!(capability, Capability::Bpf | Capability::Perfmon);
        by_itself && self.has(capability) || capability.substitute().is_some_and(|other| self.has(other))
    }

    /// Returns whether the bounding set excludes it, by a container or a systemd unit: then even root cannot
    /// have it.
    pub fn withholds(&self, capability: Capability) -> bool {
        !contains(self.bounding, capability)
    }
}

impl From<&Status> for Capabilities {
    fn from(status: &Status) -> Self {
        // Kernels before 2.6.26 report no bounding set.
        let bounding = status.capbnd.unwrap_or(u64::MAX);
        Self { effective: status.capeff, permitted: status.capprm, bounding }
    }
}

fn contains(set: u64, capability: Capability) -> bool {
    set >> capability as u8 & 1 == 1
}

/// The effect of a missing capability on the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing can be measured.
    Measure,
    /// Some members may not be found, or their endpoints may not be scraped.
    FindMembers,
    /// Only some hosts require it; on these, the line of the missing facility in the output of `doctor`
    /// reports it.
    Sometimes,
}

/// A capability and its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub capability: Capability,
    pub purpose: Purpose,
    /// Completes the sentence "it is required to".
    pub to: &'static str,
}

/// Returns the capabilities that the probe requires on a kernel: the single list from which everything else
/// derives.
///
/// Tested on 5.10, 6.12 and 6.18: fentry requires `CAP_BPF` and `CAP_PERFMON`, and one of them alone is not
/// enough; `CAP_SYS_ADMIN` alone is. Tracepoints also require a tracefs that is mounted and accessible to the
/// user; see [`super::Host::is_too_paranoid`] as well.
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
            "mount tracefs if it is not mounted, reach an etcd in another network namespace, and find out what slow operations wait on",
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
    fn the_same_capabilities_suffice_as_for_the_kernel() {
        use Capability::{Bpf, DacOverride, DacReadSearch, Perfmon, SysAdmin, SysPtrace};
        let cases = [
            (Bpf, &[Bpf][..], NEW, true, "itself"),
            (Bpf, &[SysAdmin], NEW, true, "the capability that it was split off"),
            (Bpf, &[Bpf], OLD, false, "not split off yet, so without effect"),
            (Perfmon, &[SysAdmin], OLD, true, "not split off yet"),
            (Perfmon, &[Bpf], NEW, false, "the other new capability is no substitute"),
            (DacReadSearch, &[DacOverride], NEW, true, "writing includes reading"),
            (SysPtrace, &[SysAdmin], NEW, false, "there is no substitute"),
            (SysAdmin, &[Bpf, Perfmon], NEW, false, "the capabilities split off do not replace it"),
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
        assert!(!capabilities.has(Capability::SysAdmin) && capabilities.withholds(Capability::Bpf));
    }

    #[test]
    fn sys_resource_is_not_required_since_5_11() {
        let names = |kernel| needed(Some(kernel)).any(|need| need.capability == Capability::SysResource);
        assert!(names(KernelVersion::new(5, 10, 0)));
        assert!(!names(KernelVersion::new(5, 11, 0)));
    }
}
