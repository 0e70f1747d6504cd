//! The parts of the binary, as cargo and the compilers report them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::process::{capture, cargo, clean};
use crate::setup::Toolchain;

/// The crate that the binary is built from.
pub const ROOT: &str = "probe-user";

/// A crate by its name and version.
pub type Key = (String, String);

#[derive(Debug)]
pub struct Parts {
    /// Crates whose code is in the binary or in the kernel programs inside.
    pub crates: Vec<Crate>,
    /// Libraries of the compilers.
    pub libraries: Vec<Library>,
}

#[derive(Debug)]
pub struct Crate {
    pub package: Package,
    /// The checksum of the registry, from the lock file; `None` for a crate of this repository.
    pub checksum: Option<String>,
    pub depends_on: BTreeSet<Key>,
    /// Whether it is linked; macros and build scripts ran during the build.
    pub linked: bool,
}

#[derive(Debug)]
pub struct Library {
    pub name: &'static str,
    pub version: String,
    pub licence: &'static str,
    pub purl: String,
}

impl Parts {
    /// Finds the parts of a binary for `target`, linked by the C compiler `cc`, with kernel programs of this
    /// toolchain.
    pub fn find(target: &str, cc: &str, toolchain: &Toolchain) -> Result<Self> {
        let kernel = ["probe-ebpf", "--features=kernel", "--target=bpfel-unknown-none"];
        let user = [ROOT, "--target", target];
        let both =
            |edges: &str| -> Result<BTreeSet<Key>> { Ok(&tree(edges, &user)? | &tree(edges, &kernel)?) };
        let (linked, all) = (both("normal,no-proc-macro")?, both("normal,build")?);
        let metadata =
            capture(cargo().args(["metadata", "--format-version=1", "--locked", "--all-features"]))?;
        let metadata =
            MetadataCommand::parse(metadata).context("cannot read the output of cargo metadata")?;
        let lock = fs::read_to_string("Cargo.lock").context("cannot read Cargo.lock")?;
        let (checksums, edges) = (checksums(&lock), edges(&metadata)?);
        let crates =
            metadata.packages.into_iter().filter(|package| all.contains(&key(package))).map(|package| {
                let key = key(&package);
                let depends_on =
                    edges.get(&key).into_iter().flatten().filter(|on| all.contains(*on)).cloned().collect();
                Crate {
                    checksum: checksums.get(&key).cloned(),
                    depends_on,
                    linked: linked.contains(&key),
                    package,
                }
            });
        let mut crates: Vec<_> = crates.collect();
        crates.sort_by_key(Crate::key);
        Ok(Self { crates, libraries: libraries(cc, toolchain)? })
    }
}

impl Crate {
    pub fn key(&self) -> Key {
        key(&self.package)
    }
}

fn key(package: &Package) -> Key {
    (package.name.to_string(), package.version.to_string())
}

/// Lists a crate and its dependencies, with the features that this crate alone enables: `cargo metadata`
/// would include the features that the tests enable.
fn tree(edges: &str, of: &[&str]) -> Result<BTreeSet<Key>> {
    let mut tree = cargo();
    tree.args(["tree", "--locked", "--prefix=none", "--format={p}", "--edges", edges, "--package"]).args(of);
    Ok(capture(&mut tree)?.lines().filter_map(listed).collect())
}

/// Reads `serde v1.0.228 (proc-macro) (*)`.
fn listed(line: &str) -> Option<Key> {
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// Reads the checksums of a registry's crates from a lock file. Cargo writes it, with one field per line.
fn checksums(lock: &str) -> BTreeMap<Key, String> {
    let of_package = |package: &str| {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            value.map(|value| value.trim_end_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    };
    lock.split("[[package]]").filter_map(of_package).collect()
}

/// Returns the dependencies of each crate, for the binary and for building it; tests do not count.
fn edges(metadata: &Metadata) -> Result<BTreeMap<Key, BTreeSet<Key>>> {
    let resolve =
        metadata.resolve.as_ref().context("cannot find the dependencies in the output of cargo metadata")?;
    let edges = resolve.nodes.iter().map(|node| {
        let counts = |dependency: &&cargo_metadata::NodeDep| {
            dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
        };
        let on = node.deps.iter().filter(counts).map(|dependency| key(&metadata[&dependency.pkg])).collect();
        (key(&metadata[&node.id]), on)
    });
    Ok(edges.collect())
}

/// Returns the linked libraries that are no crates: a static binary includes its C library.
fn libraries(cc: &str, toolchain: &Toolchain) -> Result<Vec<Library>> {
    let rust = |name: &'static str, about: &str| -> Result<Library> {
        let version = about.split_whitespace().nth(1).context("cannot find the version of rustc")?;
        let purl = format!("pkg:github/rust-lang/rust@{version}#library/{name}");
        Ok(Library { name, version: version.to_owned(), licence: "MIT OR Apache-2.0", purl })
    };
    let macros =
        capture(Command::new(cc).args(["-E", "-dM", "-x", "c", "-include", "features.h", "/dev/null"]))?;
    let glibc = glibc(&macros).context("cannot find the version of the C library")?;
    let gcc = capture(Command::new(cc).arg("-dumpfullversion"))?.trim().to_owned();
    Ok(vec![
        rust("core", &toolchain.version()?)?,
        rust("std", &capture(clean("rustc").arg("--version"))?)?,
        Library {
            name: "glibc",
            licence: "LGPL-2.1-or-later",
            purl: format!("pkg:generic/glibc@{glibc}"),
            version: glibc,
        },
        // It unwinds stacks.
        Library {
            name: "libgcc",
            licence: "GPL-3.0-or-later WITH GCC-exception-3.1",
            purl: format!("pkg:generic/libgcc@{gcc}"),
            version: gcc,
        },
    ])
}

/// Reads `#define __GLIBC__ 2` and `#define __GLIBC_MINOR__ 36`.
fn glibc(macros: &str) -> Option<String> {
    let value = |name: &str| {
        macros.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '))
    };
    Some(format!("{}.{}", value("__GLIBC__")?, value("__GLIBC_MINOR__")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_tree() {
        let key = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        let cases = [
            ("aya v0.14.0", key("aya", "0.14.0"), "a crate"),
            ("aya v0.14.0 (*)", key("aya", "0.14.0"), "one that was listed before"),
            ("serde_derive v1.0.228 (proc-macro)", key("serde_derive", "1.0.228"), "a macro"),
            ("probe-ebpf v0.1.0 (/somewhere else)", key("probe-ebpf", "0.1.0"), "one of this repository"),
            ("", None, "between two trees"),
            ("[build-dependencies]", None, "a heading"),
        ];
        for (line, expected, why) in cases {
            assert_eq!(listed(line), expected, "{why}");
        }
    }

    #[test]
    fn the_lock_file_has_a_sum_for_what_is_from_a_registry() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n\
                    dependencies = [\n \"own\",\n]\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let expected = [(("a".to_owned(), "1.0.0".to_owned()), "abc".to_owned())];
        assert_eq!(checksums(lock), expected.into());
    }

    #[test]
    fn macros_have_the_version_of_the_c_library() {
        let macros = "#define __GLIBC_USE(F) 1\n#define __GLIBC_MINOR__ 36\n#define __GLIBC__ 2\n";
        assert_eq!(glibc(macros).as_deref(), Some("2.36"));
        assert_eq!(glibc("#define __MUSL__ 1\n"), None, "another one");
    }
}
