//! The modules that a virtual machine loads, in the order in which it must load them.
//!
//! Debian's packages have no `modules.dep`, which `depmod` writes where a kernel is installed. But each
//! module names its dependencies in its section `.modinfo`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run;

/// Disks, file systems, and the device mapper's target that delays I/O by an exact time.
const WANTED: [&str; 5] = ["virtio_pci", "virtio_blk", "ext4", "xfs", "dm_delay"];

/// Copies the wanted modules and their dependencies, uncompressed, as `00-name.ko`, `01-other.ko`, ….
pub fn keep(unpacked: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    let files = files_below(unpacked)?;
    let modules: BTreeMap<String, &PathBuf> =
        files.iter().filter_map(|path| Some((module_name(path)?, path))).collect();
    let built_in = files.iter().filter(|path| path.file_name().is_some_and(|name| name == "modules.builtin"));
    let mut kernel_has = String::new();
    for path in built_in {
        kernel_has += &fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let kernel_has: Vec<_> = kernel_has.lines().filter_map(|line| module_name(Path::new(line))).collect();

    let mut order = Order { modules, kernel_has, done: Vec::new() };
    for name in WANTED {
        order.add(name, into)?;
    }
    Ok(())
}

struct Order<'a> {
    /// Paths in the package, by module name.
    modules: BTreeMap<String, &'a PathBuf>,
    /// Modules that are built into the kernel.
    kernel_has: Vec<String>,
    done: Vec<String>,
}

impl Order<'_> {
    /// Copies a module after its dependencies.
    fn add(&mut self, name: &str, into: &Path) -> Result<()> {
        if self.done.iter().chain(&self.kernel_has).any(|done| done == name) {
            return Ok(());
        }
        let Some(packed) = self.modules.get(name).copied() else {
            bail!("cannot find the module {name} in the kernel's package");
        };
        let bytes = uncompressed(packed, into)?;
        for needed in dependencies(&bytes) {
            self.add(&needed, into)?;
        }
        let path = into.join(format!("{:02}-{name}.ko", self.done.len()));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        self.done.push(name.to_owned());
        Ok(())
    }
}

/// Reads a module; newer kernels have them compressed with xz.
fn uncompressed(packed: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    if packed.extension().is_none_or(|extension| extension != "xz") {
        return read(packed);
    }
    let copy = scratch.join(packed.file_name().context("a module has a name")?);
    fs::copy(packed, &copy).with_context(|| format!("cannot copy {}", packed.display()))?;
    run(Command::new("xz").arg("--decompress").arg(&copy))?;
    let plain = copy.with_extension("");
    let bytes = read(&plain)?;
    fs::remove_file(&plain).with_context(|| format!("cannot remove {}", plain.display()))?;
    Ok(bytes)
}

/// Returns the dependencies of a module: `.modinfo` is a list of `key=value`, each ending with NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    let fields = module.split(|byte| *byte == 0);
    let named = fields.filter_map(|field| std::str::from_utf8(field.strip_prefix(b"depends=")?).ok());
    named.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(canonical).collect()
}

/// Returns the name of a module from the name of its file.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?;
    Some(canonical(stem))
}

/// Names of files have dashes where names of symbols and dependencies have underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns every file below a directory; links are not followed.
pub fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(directory) = queue.pop() {
        let failed = || format!("cannot read {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let kind = entry.file_type().with_context(failed)?;
            if kind.is_dir() {
                queue.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_say_what_they_depend_on() {
        let cases: [(&[u8], &[&str], &str); 4] = [
            (
                b"\x7fELF\0license=GPL\0depends=dm-mod,libcrc32c\0retpoline=Y\0",
                &["dm_mod", "libcrc32c"],
                "two",
            ),
            (b"alias=x\0depends=\0", &[], "none"),
            (b"license=GPL\0", &[], "no dependencies"),
            (b"xdepends=a\0", &[], "another field"),
        ];
        for (module, expected, why) in cases {
            assert_eq!(dependencies(module), expected, "{why}");
        }
    }

    #[test]
    fn names_of_modules() {
        let cases = [
            ("kernel/drivers/md/dm-mod.ko", Some("dm_mod"), "a dash"),
            ("kernel/fs/xfs/xfs.ko.xz", Some("xfs"), "compressed"),
            ("modules.builtin", None, "no module"),
        ];
        for (path, expected, why) in cases {
            assert_eq!(module_name(Path::new(path)).as_deref(), expected, "{why}");
        }
    }

    #[test]
    fn what_is_needed_is_loaded_first() {
        let scratch = std::env::temp_dir().join(format!("etcd-disk-probe-modules-{}", std::process::id()));
        let (package, kept) = (scratch.join("package"), scratch.join("kept"));
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/virtio/virtio_pci.ko\n")
            .unwrap();
        for (name, depends) in [
            ("virtio_blk", ""),
            ("xfs", "libcrc32c"),
            ("libcrc32c", ""),
            ("dm-delay", "dm-mod"),
            ("dm-mod", ""),
        ] {
            fs::write(package.join(format!("{name}.ko")), format!("\0depends={depends}\0")).unwrap();
        }
        keep(&package, &kept).unwrap();
        let mut names: Vec<_> =
            files_below(&kept).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        names.sort();
        let expected = ["00-virtio_blk.ko", "01-libcrc32c.ko", "02-xfs.ko", "03-dm_mod.ko", "04-dm_delay.ko"];
        assert_eq!(names, expected);
        fs::remove_file(package.join("xfs.ko")).unwrap();
        assert!(keep(&package, &kept).is_err(), "a module that is nowhere is no module");
        fs::remove_dir_all(scratch).unwrap();
    }
}
