//! The attributes of a disk, and the cloud provider that they identify.

use std::{fs, path::Path};

use serde::Serialize;

use crate::system::device_number::DeviceNumber;

/// A disk at the bottom of a device stack. `None` for attributes that its driver does not provide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Index among the layers.
    pub layer: u32,
    /// The kernel's name: `nvme0n1`.
    pub name: String,
    pub number: DeviceNumber,
    pub model: Option<String>,
    pub vendor: Option<String>,
    /// As reported by its driver: virtual disks often report true, independent of the physical disk.
    pub rotational: Option<bool>,
    /// The I/O scheduler in use: `none`, `mq-deadline`.
    pub scheduler: Option<String>,
    /// `write back`: the disk has a cache that a sync must flush. `write through`: it has none, or reports
    /// none.
    pub write_cache: Option<String>,
    /// Requests that the scheduler's queue holds before a writer must wait (`queue/nr_requests`).
    pub queue_depth: Option<u32>,
    /// The product name of a cloud provider's virtual disk, derived from vendor and model.
    pub cloud: Option<&'static str>,
}

impl Disk {
    /// Reads the attributes of a disk from its directory in sysfs.
    pub(super) fn read(directory: &Path, layer: u32, name: &str, number: DeviceNumber) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(directory.join(path)).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        // For virtio this is a PCI vendor id.
        let vendor = text("device/vendor").filter(|vendor| !vendor.starts_with("0x"));
        let model = text("device/model");
        Self {
            layer,
            name: name.to_owned(),
            number,
            rotational: text("queue/rotational").and_then(|flag| match &*flag {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            }),
            scheduler: text("queue/scheduler").and_then(|list| in_use(&list).map(str::to_owned)),
            write_cache: text("queue/write_cache"),
            queue_depth: text("queue/nr_requests").and_then(|number| number.parse().ok()),
            cloud: cloud(vendor.as_deref(), model.as_deref()),
            model,
            vendor,
        }
    }
}

/// Returns the scheduler in brackets: `none [mq-deadline] kyber`. Devices that support no scheduler report
/// `none` without brackets.
fn in_use(list: &str) -> Option<&str> {
    let Some((_, rest)) = list.split_once('[') else {
        return (!list.contains(' ')).then_some(list);
    };
    rest.split_once(']').map(|(name, _)| name)
}

/// Returns the product name of a virtual disk with this vendor and model. Models are compared by prefix,
/// because some end in a number.
///
/// - Amazon: `Amazon EBS and NVMe` in the EC2 user guide, and its section on the instance store.
/// - Google: `PersistentDisk` on SCSI, `nvme_card-pd` on `NVMe` for Persistent Disk and Hyperdisk, else
///   `nvme_card` or `nvme_card0` for a local SSD (the udev rules of Google's guest-configs).
/// - Azure: the udev rules of azure-vm-utils. SCSI disks of Hyper-V have the same name with and without
///   Azure.
/// - `DigitalOcean` and Hetzner: the names that they document, `scsi-0DO_Volume_...` and
///   `scsi-0HC_Volume_...`, which udev derives from vendor and model.
fn cloud(vendor: Option<&str>, model: Option<&str>) -> Option<&'static str> {
    const KNOWN: [(Option<&str>, &str, &str); 10] = [
        (None, "Amazon Elastic Block Store", "Amazon EBS volume"),
        (None, "Amazon EC2 NVMe Instance Storage", "Amazon EC2 instance store"),
        (Some("Google"), "PersistentDisk", "Google Cloud Persistent Disk"),
        (None, "nvme_card-pd", "Google Cloud Persistent Disk or Hyperdisk"),
        (None, "nvme_card", "Google Cloud local SSD"),
        (None, "MSFT NVMe Accelerator", "Azure managed disk"),
        (None, "Microsoft NVMe Direct Disk", "Azure local disk"),
        (Some("Msft"), "Virtual Disk", "Azure or Hyper-V virtual disk"),
        (Some("DO"), "Volume", "DigitalOcean volume"),
        (Some("HC"), "Volume", "Hetzner Cloud volume"),
    ];
    let model = model?;
    let is_it = |(owner, beginning, _): &&(Option<&str>, &str, &str)| {
        model.starts_with(beginning) && (owner.is_none() || *owner == vendor)
    };
    KNOWN.iter().find(is_it).map(|(_, _, cloud)| *cloud)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_is_the_one_in_brackets() {
        let cases = [
            ("none [mq-deadline] kyber bfq", Some("mq-deadline")),
            ("[none] mq-deadline", Some("none")),
            ("[none]", Some("none")),
            ("none", Some("none")),
            ("none [broken", None),
            ("none mq-deadline", None),
        ];
        for (list, expected) in cases {
            assert_eq!(in_use(list), expected, "{list}");
        }
    }

    #[test]
    fn clouds_are_identified_by_vendor_and_model() {
        let cases = [
            (None, Some("Amazon Elastic Block Store"), Some("Amazon EBS volume")),
            (Some("Google"), Some("PersistentDisk"), Some("Google Cloud Persistent Disk")),
            (None, Some("nvme_card-pd"), Some("Google Cloud Persistent Disk or Hyperdisk")),
            (None, Some("nvme_card12"), Some("Google Cloud local SSD")),
            (Some("Msft"), Some("Virtual Disk"), Some("Azure or Hyper-V virtual disk")),
            (Some("VMware"), Some("Virtual Disk"), None),
            (None, Some("MSFT NVMe Accelerator v1.0"), Some("Azure managed disk")),
            (Some("DO"), Some("Volume"), Some("DigitalOcean volume")),
            (None, Some("Volume"), None),
            (Some("QEMU"), Some("QEMU HARDDISK"), None),
            (Some("Google"), None, None),
        ];
        for (vendor, model, expected) in cases {
            assert_eq!(cloud(vendor, model), expected, "{vendor:?} {model:?}");
        }
    }
}
