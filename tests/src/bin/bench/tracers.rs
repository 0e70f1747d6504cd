//! The tracers: the probe's kernel side alone, programs at the same hooks, and the probe's peers.

mod peers;
mod shapes;

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::Context;
use aya::Ebpf;
use probe_tests::machine::command;
use probe_user::kernel::{Hook, Kernel, KernelConfig, start};

use self::peers::PEERS;

/// One tracer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracer {
    /// With the defaults.
    Probe,
    /// Without the programs on block requests.
    WithoutBlock,
    /// With `--causes exact`.
    Exact,
    /// Empty programs at the probe's hooks for three of its calls.
    Empty,
    /// Two empty programs at each hook, as the probe has on preemptible kernels: one observes the events for
    /// which the other is skipped.
    EmptyTwice,
    /// At the same hooks, the work of `ebpf_exporter`.
    Exporter,
    Bpftrace,
    Syscount,
    PerfTrace,
    Strace,
}

impl Tracer {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::WithoutBlock => "probe, no block",
            Self::Exact => "probe, exact",
            Self::Empty => "empty",
            Self::EmptyTwice => "empty, twice",
            Self::Exporter => "exporter's shape",
            Self::Bpftrace => "bpftrace",
            Self::Syscount => "syscount -L",
            Self::PerfTrace => "perf trace -s",
            Self::Strace => "strace -c",
        }
    }

    /// Returns roughly by which factor it slows down a call; the number of calls is divided by it.
    pub const fn slowness(self) -> u32 {
        match self {
            Self::PerfTrace => 20,
            Self::Strace => 100,
            _ => 1,
        }
    }

    /// Returns why it cannot be measured here, if it cannot.
    pub fn missing(self, stage: &Stage) -> Option<String> {
        match self {
            Self::Empty | Self::EmptyTwice | Self::Exporter if stage.shapes.is_none() => {
                Some("their object is not given; `cargo xtask bench` builds it".to_owned())
            }
            _ => {
                let peer = PEERS.iter().find(|peer| peer.tracer == self)?;
                command::find(peer.program).is_none().then(|| format!("cannot find {}", peer.program))
            }
        }
    }

    /// Starts tracing a process; ends on drop.
    pub fn start(self, stage: &Stage, pid: u32) -> anyhow::Result<Tracing> {
        Ok(match self {
            Self::Probe | Self::WithoutBlock | Self::Exact => {
                let (block, exact_causes) = (self != Self::WithoutBlock, self == Self::Exact);
                let config = KernelConfig { block, exact_causes, ..always_on(stage.max_targets) };
                let mut kernel = start(stage.hook.into(), &config).context("cannot start the probe")?;
                if let Some(device) = stage.device {
                    kernel.block_mut().watch(device, 0)?;
                }
                Tracing::Probe(Box::new(kernel))
            }
            Self::Empty | Self::EmptyTwice | Self::Exporter => {
                let object = stage.shapes.as_ref().context("cannot find the object of the programs")?;
                let prefix = if self == Self::Exporter { "exporter" } else { "empty" };
                let times = if self == Self::EmptyTwice { 2 } else { 1 };
                let attached = (0..times).map(|_| shapes::attach(object, prefix, stage.hook));
                Tracing::Shapes(attached.collect::<anyhow::Result<_>>()?)
            }
            _ => {
                let peer = PEERS.iter().find(|peer| peer.tracer == self).context("it is a program")?;
                Tracing::Process(peer.start(pid)?)
            }
        })
    }
}

/// Returns the daemon's default configuration.
pub fn always_on(max_targets: u32) -> KernelConfig {
    KernelConfig {
        process_names: vec!["etcd".to_owned()],
        max_targets,
        slow: Some(Duration::from_millis(10)),
        block: true,
        ..KernelConfig::default()
    }
}

/// The surroundings of the tracers.
#[derive(Clone, Debug)]
pub struct Stage {
    pub hook: Hook,
    /// The object with the programs that the probe's are compared with.
    pub shapes: Option<PathBuf>,
    /// A device whose requests the probe traces.
    pub device: Option<u32>,
    pub max_targets: u32,
}

impl Stage {
    pub fn new(hook: Hook) -> Self {
        let shapes = std::env::var_os("ETCD_DISK_PROBE_SHAPES").map(PathBuf::from);
        Self { hook, shapes: shapes.filter(|path| path.is_file()), device: None, max_targets: 16 }
    }
}

/// An attached tracer.
pub enum Tracing {
    Probe(Box<Kernel>),
    #[expect(dead_code, reason = "dropping it detaches")]
    Shapes(Vec<Ebpf>),
    Process(Child),
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Self::Process(child) = self {
            peers::stop(child);
        }
    }
}
