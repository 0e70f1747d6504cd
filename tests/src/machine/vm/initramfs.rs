//! The initramfs of a machine: its `/init` and the programs that it runs, in one archive for the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use cpio::newc::{self, ModeFileType};

use super::{Architecture, DMSETUP, ETCD, FAULTY_PROBE, Kernel, MODULES, PROBE, Programs, libraries};
use crate::machine::command;

/// Writes the initramfs for one kernel, with some additional files.
pub fn write(
    path: &Path,
    kernel: &Kernel,
    programs: &Programs,
    more: &[(&str, &Path)],
) -> anyhow::Result<()> {
    let mut files = vec![
        ("/init".to_owned(), programs.guest.clone()),
        (PROBE.to_owned(), programs.probe.clone()),
        (FAULTY_PROBE.to_owned(), programs.faulty_probe.clone()),
        (ETCD.to_owned(), programs.etcd.clone()),
    ];
    files.extend(more.iter().map(|(path, from)| ((*path).to_owned(), (*from).to_owned())));
    files.extend(libraries::closure(&programs.etcd, kernel.architecture)?);
    // Device mapper's tool, which slows disks down. The host's binary runs only in a machine of the same
    // architecture.
    if kernel.architecture == Architecture::Amd64 {
        let dmsetup = command::find("dmsetup").context("cannot find dmsetup; `cargo xtask setup` gets it")?;
        files.extend(libraries::closure(&dmsetup, kernel.architecture)?);
        files.push((DMSETUP.to_owned(), dmsetup));
    }
    files.extend(modules(kernel)?);
    write_archive(path, files)
}

/// Writes the initramfs of a machine whose system is on a disk: it only finds that disk.
pub fn write_to_find_root(path: &Path, kernel: &Kernel, guest: &Path) -> anyhow::Result<()> {
    let mut files = modules(kernel)?;
    files.push(("/init".to_owned(), guest.to_owned()));
    write_archive(path, files)
}

fn modules(kernel: &Kernel) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let modules = kernel.directory.join("modules");
    let failed = || format!("cannot read {}", modules.display());
    let named = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.with_context(failed)?;
        Ok((format!("{MODULES}/{}", entry.file_name().to_string_lossy()), entry.path()))
    };
    fs::read_dir(&modules).with_context(failed)?.map(named).collect()
}

fn write_archive(path: &Path, files: Vec<(String, PathBuf)>) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    archive(files, BufWriter::new(file))
}

/// Writes an archive of files by their paths in it, with the directories that contain them.
fn archive(mut files: Vec<(String, PathBuf)>, mut out: impl Write) -> anyhow::Result<()> {
    files.sort();
    files.dedup();
    let directories: BTreeSet<_> = files
        .iter()
        .flat_map(|(path, _)| Path::new(path).ancestors().skip(1).map(Path::to_owned))
        .filter(|path| path.parent().is_some())
        .collect();
    for directory in directories {
        let entry = newc::Builder::new(name(&directory)?).mode(0o755);
        let entry = entry.set_mode_file_type(ModeFileType::Directory).nlink(2);
        out = entry.write(out, 0).finish().context("cannot write the archive")?;
    }
    for (path, from) in files {
        let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        let size = u32::try_from(bytes.len()).with_context(|| format!("{} is too large", from.display()))?;
        let entry = newc::Builder::new(name(Path::new(&path))?).mode(0o755);
        let mut writer = entry.set_mode_file_type(ModeFileType::Regular).write(out, size);
        writer.write_all(&bytes).context("cannot write the archive")?;
        out = writer.finish().context("cannot write the archive")?;
    }
    newc::trailer(out).and_then(|mut out| out.flush()).context("cannot write the archive")
}

/// Paths in the archive have no leading slash.
fn name(path: &Path) -> anyhow::Result<&str> {
    let name = path.to_str().and_then(|path| path.strip_prefix('/'));
    name.ok_or_else(|| anyhow!("cannot name {} in the archive", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_precede_their_content() {
        let mut bytes = Vec::new();
        let here = PathBuf::from(file!()).with_file_name("case.rs");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("").join(here);
        archive(vec![("/usr/bin/etcd".to_owned(), here.clone()), ("/init".to_owned(), here)], &mut bytes)
            .unwrap();
        let mut reader = &bytes[..];
        let mut names = Vec::new();
        loop {
            let entry = newc::Reader::new(reader).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            names.push((entry.entry().name().to_owned(), entry.entry().file_size() > 0));
            reader = entry.finish().unwrap();
        }
        let expected = [("usr", false), ("usr/bin", false), ("init", true), ("usr/bin/etcd", true)];
        assert_eq!(names, expected.map(|(name, is_file)| (name.to_owned(), is_file)));
    }
}
