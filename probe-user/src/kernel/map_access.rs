//! Takes maps out of the loaded object by name and type.

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::{KernelError, mmap_array::MmapArray};

/// Takes a map out of the loaded object.
pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| missing(name))
}

pub(super) fn take_hash<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(in_map(name))
}

/// Takes an array and maps it into our memory.
pub(super) fn take_array<T: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    length: u32,
) -> Result<MmapArray<T>, KernelError> {
    MmapArray::new(name, &take_array_data(ebpf, name)?, length)
}

/// Takes an array without mapping it.
pub(super) fn take_array_data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, KernelError> {
    match take(ebpf, name)? {
        Map::Array(map) => Ok(map),
        _ => Err(missing(name)),
    }
}

/// Returns a conversion of map errors that adds the map's name.
pub(super) fn in_map(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |error| KernelError::Map(name, error)
}

fn missing(name: &'static str) -> KernelError {
    KernelError::Map(name, MapError::InvalidName { name: name.to_owned() })
}
