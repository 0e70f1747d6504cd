//! Facts about the host and its limits, read from `/proc` and `/sys`: mounts, devices, cgroups, capabilities.

pub mod host;
pub mod permission;
pub mod thread_capabilities;
pub mod netns_spawner;
pub mod privileges;
pub mod device_number;
pub mod mount_info;
pub mod devices;
pub mod cgroups;
pub mod cpu_starvation;
pub mod io_limits;
pub mod file_fingerprint;
