//! Block requests on the devices below etcd's files: the watched devices, their requests, and the issuers of
//! these.

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, Stack},
    programs::{Program, RawTracePoint},
};
use probe_ebpf::io::{BIOS, Bio, LAYERS, LayerTotals, OWNERS, Owner, OwnerKey};

use super::{
    KernelError, load_programs,
    map_access::{in_map, take, take_array, take_hash},
    mmap_array::MmapArray,
    monotonic_ns,
};

/// The tracepoints, which have the names of the programs. Completion comes first, so that each request with a
/// recorded start gets its completion.
const TRACEPOINTS: [&str; 4] =
    ["block_bio_complete", "block_rq_complete", "block_rq_issue", "block_bio_queue"];

/// Idle time after which an owner's index is released.
const IDLE_AFTER_NS: u64 = 600_000_000_000;

/// The tracing of block requests.
pub struct BlockIo {
    layer_by_device: HashMap<MapData, u32, u32>,
    layers: MmapArray<LayerTotals>,
    requests: Arc<MmapArray<Bio>>,
    owners: Arc<MmapArray<Owner>>,
    owner_by_key: HashMap<MapData, OwnerKey, u32>,
    free_owners: Stack<MapData, u32>,
    /// Why no requests are traced, if so; the evidence of devices and neighbours is then absent.
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
    load_programs::load_all(ebpf, &names, |index, program| match program {
        Program::RawTracePoint(program) => {
            program.load().map_err(|error| KernelError::Verify(names[index].clone(), error.into()))
        }
        _ => Err(load_programs::missing(&names[index])),
    })
}

/// Attaches the loaded programs.
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
        point: name.to_owned(),
        source: Box::new(error),
    })
}

fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut RawTracePoint, KernelError> {
    match ebpf.program_mut(name) {
        Some(Program::RawTracePoint(program)) => Ok(program),
        _ => Err(load_programs::missing(name)),
    }
}

impl BlockIo {
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
            layer_by_device: take_hash(ebpf, "LAYER_BY_DEVICE")?,
            layers: take_array(ebpf, "LAYER_TOTALS", LAYERS)?,
            requests: Arc::new(take_array(ebpf, "BIOS", BIOS)?),
            owners: Arc::new(take_array(ebpf, "OWNER_STATE", OWNERS)?),
            owner_by_key: take_hash(ebpf, "OWNER_BY_KEY")?,
            free_owners,
            failure: None,
        })
    }

    /// Records why the programs could not be loaded or attached.
    pub(super) fn set_failure(&mut self, error: &KernelError) {
        self.failure = Some(crate::support::logging::chain(error));
    }

    /// Returns why no requests are traced, if so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Starts watching a device, by the kernel's device number, as part of a layer.
    ///
    /// # Errors
    /// If the kernel refuses; 256 device numbers at most.
    pub fn watch(&mut self, dev: u32, layer: u32) -> Result<(), KernelError> {
        self.layer_by_device.insert(dev, layer, 0).map_err(in_map("LAYER_BY_DEVICE"))
    }

    /// Stops watching a device.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unwatch(&mut self, dev: u32) -> Result<(), KernelError> {
        self.layer_by_device.remove(&dev).map_err(in_map("LAYER_BY_DEVICE"))
    }

    /// Returns the totals of a layer since it was first watched.
    pub fn layer(&self, layer: u32) -> LayerTotals {
        self.layers.read(layer)
    }

    /// Sets the totals of a layer to zero, for a device that was not watched before.
    pub fn clear_layer(&self, layer: u32) {
        self.layers.clear(layer);
    }

    /// Returns the owners with their activity on a layer.
    pub fn owners(&self, layer: u32) -> Vec<Owner> {
        owners_of(&self.owners).filter(|owner| owner.key.layer == layer).collect()
    }

    /// Returns the cgroup ids of all owners that have one.
    pub fn cgroups(&self) -> impl Iterator<Item = u64> {
        let used = (0..self.owners.length()).filter(|index| self.owners.word(*index, USED) != 0);
        used.map(|index| self.owners.word(index, 0)).filter(|cgroup| *cgroup != 0)
    }

    /// Returns the memory that a sampler reads.
    pub(super) fn shared(&self) -> (Arc<MmapArray<Bio>>, Arc<MmapArray<Owner>>) {
        (self.requests.clone(), self.owners.clone())
    }

    /// Releases the indices of owners that were idle for ten minutes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn release_idle_owners(&mut self) -> Result<(), KernelError> {
        let now_ns = monotonic_ns();
        for index in 0..self.owners.length() {
            let owner = self.owners.read(index);
            if owner.used != 0 && now_ns.saturating_sub(owner.used_ns) > IDLE_AFTER_NS {
                self.owner_by_key.remove(&owner.key).map_err(in_map("OWNER_BY_KEY"))?;
                self.owners.clear(index);
                self.free_owners.push(index, 0).map_err(in_map("FREE_OWNERS"))?;
            }
        }
        Ok(())
    }
}

/// Returns the owners whose index is in use.
pub(super) fn owners_of(owners: &MmapArray<Owner>) -> impl Iterator<Item = Owner> {
    // Indices are handed out from the lowest, but some may have been released.
    (0..owners.length()).filter(|index| owners.word(*index, USED) != 0).map(|index| owners.read(index))
}

/// Index of the last word of an [`Owner`], which is 0 while the element is free.
const USED: usize = size_of::<Owner>() / 8 - 1;
