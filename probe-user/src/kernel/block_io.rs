//! Block requests on the devices under etcd's files: which devices are watched, what they did, and for whom.

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, Stack},
    programs::{Program, RawTracePoint},
};
use probe_ebpf::io::{BIOS, Bio, LAYERS, LayerTotals, OWNERS, Owner, OwnerKey};

use super::{KernelError, hash, in_map, load_programs, mapped, mmap_array::Mapped, monotonic_ns, take};

/// The tracepoints, which are called like the programs; completion first, so that whatever is seen to begin is seen to end.
const TRACEPOINTS: [&str; 4] =
    ["block_bio_complete", "block_rq_complete", "block_rq_issue", "block_bio_queue"];

/// An owner that did nothing for this long gives up its place.
const FORGOTTEN_AFTER_NS: u64 = 600_000_000_000;

/// What follows block requests.
pub struct Block {
    layer_by_device: HashMap<MapData, u32, u32>,
    layers: Mapped<LayerTotals>,
    requests: Arc<Mapped<Bio>>,
    owners: Arc<Mapped<Owner>>,
    owner_by_key: HashMap<MapData, OwnerKey, u32>,
    free_owners: Stack<MapData, u32>,
    /// Why no requests are followed, if so: then there is no evidence of devices and neighbours.
    failure: Option<String>,
}

/// Loads the programs on block tracepoints.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    load_raw(ebpf, &TRACEPOINTS)
}

/// Loads programs on raw tracepoints.
pub(super) fn load_raw(ebpf: &mut Ebpf, names: &[&str]) -> Result<(), KernelError> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    load_programs::load_all(ebpf, &names, |position, program| match program {
        Program::RawTracePoint(program) => {
            program.load().map_err(|error| KernelError::Verify(names[position].clone(), error.into()))
        }
        _ => Err(load_programs::missing(&names[position])),
    })
}

/// Attaches what was loaded.
///
/// # Errors
/// As [`load`].
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    TRACEPOINTS.into_iter().try_for_each(|name| attach_raw(ebpf, name))
}

/// Attaches one program to the raw tracepoint of its name.
pub(super) fn attach_raw(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    raw_tracepoint(ebpf, name)?.attach(name).map(drop).map_err(|error| KernelError::Attach {
        hook: "raw tracepoint",
        place: name.to_owned(),
        source: Box::new(error),
    })
}

fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut RawTracePoint, KernelError> {
    match ebpf.program_mut(name) {
        Some(Program::RawTracePoint(program)) => Ok(program),
        _ => Err(load_programs::missing(name)),
    }
}

impl Block {
    /// Takes the maps.
    ///
    /// # Errors
    /// If one cannot be opened or mapped.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut free_owners = Stack::try_from(take(ebpf, "FREE_OWNERS")?).map_err(in_map("FREE_OWNERS"))?;
        for index in (0..OWNERS).rev() {
            free_owners.push(index, 0).map_err(in_map("FREE_OWNERS"))?;
        }
        Ok(Self {
            layer_by_device: hash(ebpf, "LAYER_BY_DEVICE")?,
            layers: mapped(ebpf, "LAYER_TOTALS", LAYERS)?,
            requests: Arc::new(mapped(ebpf, "BIOS", BIOS)?),
            owners: Arc::new(mapped(ebpf, "OWNER_STATE", OWNERS)?),
            owner_by_key: hash(ebpf, "OWNER_BY_KEY")?,
            free_owners,
            failure: None,
        })
    }

    /// Says why the programs could not be loaded or attached.
    pub(super) fn fail(&mut self, error: &KernelError) {
        self.failure = Some(crate::support::logging::chain(error));
    }

    /// Returns why no requests are followed, if so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Watches a device, by the kernel's number of it, as part of a layer.
    ///
    /// # Errors
    /// If the kernel refuses; 256 numbers at most.
    pub fn watch(&mut self, dev: u32, layer: u32) -> Result<(), KernelError> {
        self.layer_by_device.insert(dev, layer, 0).map_err(in_map("LAYER_BY_DEVICE"))
    }

    /// Stops to watch a device.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unwatch(&mut self, dev: u32) -> Result<(), KernelError> {
        self.layer_by_device.remove(&dev).map_err(in_map("LAYER_BY_DEVICE"))
    }

    /// Returns what a layer did since it was first watched.
    pub fn layer(&self, layer: u32) -> LayerTotals {
        self.layers.read(layer)
    }

    /// Sets a layer to zero, for a device that had not been watched before.
    pub fn clear_layer(&self, layer: u32) {
        self.layers.clear(layer);
    }

    /// Returns who did what on a layer.
    pub fn owners(&self, layer: u32) -> Vec<Owner> {
        owners_of(&self.owners).filter(|owner| owner.key.layer == layer).collect()
    }

    /// Returns the control groups of all who did anything; 0 is none.
    pub fn cgroups(&self) -> impl Iterator<Item = u64> {
        let used = (0..self.owners.length()).filter(|index| self.owners.word(*index, USED) != 0);
        used.map(|index| self.owners.word(index, 0)).filter(|cgroup| *cgroup != 0)
    }

    /// Returns the memory that a sampler reads.
    pub(super) fn shared(&self) -> (Arc<Mapped<Bio>>, Arc<Mapped<Owner>>) {
        (self.requests.clone(), self.owners.clone())
    }

    /// Gives the places of those who did nothing for ten minutes to others.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_idle_owners(&mut self) -> Result<(), KernelError> {
        let now_ns = monotonic_ns();
        for index in 0..self.owners.length() {
            let owner = self.owners.read(index);
            if owner.used != 0 && now_ns.saturating_sub(owner.used_ns) > FORGOTTEN_AFTER_NS {
                self.owner_by_key.remove(&owner.key).map_err(in_map("OWNER_BY_KEY"))?;
                self.owners.clear(index);
                self.free_owners.push(index, 0).map_err(in_map("FREE_OWNERS"))?;
            }
        }
        Ok(())
    }
}

/// Returns the owners that there are.
pub(super) fn owners_of(owners: &Mapped<Owner>) -> impl Iterator<Item = Owner> {
    // Positions are handed out from the lowest, but some may have been given back.
    (0..owners.length()).filter(|index| owners.word(*index, USED) != 0).map(|index| owners.read(index))
}

/// The last word of an [`Owner`].
const USED: usize = size_of::<Owner>() / 8 - 1;
