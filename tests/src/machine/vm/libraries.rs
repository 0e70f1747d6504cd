//! The files that a program needs at run time: its interpreter, its libraries, and their libraries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Architecture;
use crate::machine::command;

/// The directories with libraries of an architecture on this machine: native ones, or the ones of Debian's
/// cross compiler.
fn directories(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::Amd64 => &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64"],
        Architecture::Arm64 => &["/usr/aarch64-linux-gnu/lib"],
    }
}

/// The dynamic section and interpreter of a program, from `readelf`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// By its absolute path.
    interpreter: Option<String>,
    libraries: Vec<String>,
}

/// Returns the files that a program needs: the path in the machine and the path on this host.
pub fn closure(program: &Path, architecture: Architecture) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue = vec![program.to_owned()];
    while let Some(path) = queue.pop() {
        let text = command::run("readelf", &[Path::new("--wide"), Path::new("-ld"), &path])?;
        let needs = parse(&text);
        // The loader searches /lib on every architecture.
        let libraries = needs.libraries.into_iter().map(|name| (format!("/lib/{name}"), name));
        let interpreter = needs.interpreter.and_then(|at| {
            let name = Path::new(&at).file_name()?.to_str()?.to_owned();
            Some((at, name))
        });
        for (at, name) in libraries.chain(interpreter) {
            if found.contains_key(&at) {
                continue;
            }
            let candidates =
                directories(architecture).iter().map(|directory| Path::new(directory).join(&name));
            let here = candidates.into_iter().find(|path| path.exists());
            let here = here.with_context(|| format!("cannot find {name}, which {} needs", path.display()))?;
            queue.push(here.clone());
            found.insert(at, here);
        }
    }
    Ok(found)
}

fn parse(readelf: &str) -> Needs {
    let bracketed = |line: &str, before: &str| {
        let (_, rest) = line.split_once(before)?;
        Some(rest.split_once(']')?.0.trim().to_owned())
    };
    Needs {
        interpreter: readelf.lines().find_map(|line| bracketed(line, "[Requesting program interpreter:")),
        libraries: readelf
            .lines()
            .filter(|line| line.contains("(NEEDED)"))
            .filter_map(|line| bracketed(line, "["))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_readelf_is_parsed() {
        let text = "  INTERP 0x318\n      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n\
                    0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
                    0x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        let expected = Needs {
            interpreter: Some("/lib64/ld-linux-x86-64.so.2".to_owned()),
            libraries: vec!["libc.so.6".to_owned()],
        };
        assert_eq!(parse(text), expected);
        assert_eq!(
            parse("There is no dynamic section in this file.\n"),
            Needs::default(),
            "a static program"
        );
    }
}
