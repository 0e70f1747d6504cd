//! The bill of materials: `CycloneDX` 1.5 in JSON (<https://cyclonedx.org/docs/1.5/json/>).
//!
//! It has no serial number, and the time of the commit, so that the same source has the same bill.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::parts::{Crate, Key, Library, Parts, ROOT};
use super::{Arch, Description};
use crate::process::capture;

/// The repository of this project, for crates that are in no registry.
const SOURCE: &str = "pkg:github/etcd-disk-probe/etcd-disk-probe";

pub fn of(parts: &Parts, description: &Description, arch: Arch, binary: &Path) -> Result<String> {
    let sum = capture(Command::new("sha256sum").arg(binary))?;
    let sum = sum.split_whitespace().next().context("cannot find the checksum of the binary")?;
    let bill = document(parts, description, arch, sum)?;
    Ok(serde_json::to_string_pretty(&bill).context("cannot write JSON")? + "\n")
}

fn document(parts: &Parts, description: &Description, arch: Arch, sum: &str) -> Result<Value> {
    let (root, others): (Vec<_>, Vec<_>) = parts.crates.iter().partition(|part| part.package.name == ROOT);
    let root = root.first().with_context(|| format!("cannot find {ROOT} among the crates"))?;
    let purl = |part: &Crate| purl(part, description);
    let of_key = |key: &Key| parts.crates.iter().find(|part| part.key() == *key).map(purl);
    let edges = parts.crates.iter().map(|part| {
        let mut on: Vec<_> = part.depends_on.iter().filter_map(of_key).collect();
        if part.package.name == ROOT {
            on.extend(parts.libraries.iter().map(|library| library.purl.clone()));
        }
        json!({ "ref": purl(part), "dependsOn": on })
    });
    let edges: Vec<_> = edges.collect();
    let mut components = Vec::new();
    for part in others {
        components.push(component(part, &purl(part))?);
    }
    components.extend(parts.libraries.iter().map(library));
    let mut itself = component(root, &purl(root))?;
    let own = json!({
        "type": "application",
        "name": "etcd-disk-probe",
        "hashes": [{ "alg": "SHA-256", "content": sum }],
        "properties": [{ "name": "platform", "value": format!("linux/{}", arch.name()) }],
    });
    for (field, value) in own.as_object().into_iter().flatten() {
        itself[field] = value.clone();
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": description.created_in_words(),
            "lifecycles": [{ "phase": "build" }],
            "component": itself,
        },
        "components": components,
        "dependencies": edges,
    }))
}

fn component(part: &Crate, purl: &str) -> Result<Value> {
    let (name, version) = part.key();
    let licence = part.package.license.as_ref();
    let licence = licence.with_context(|| format!("cannot find the licence of {name} {version}"))?;
    let hashes: Vec<_> =
        part.checksum.iter().map(|sum| json!({ "alg": "SHA-256", "content": sum })).collect();
    Ok(json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        // "The component is not required for runtime", as macros and build scripts are not.
        "scope": if part.linked { "required" } else { "excluded" },
        "hashes": hashes,
        // The separator from before licence expressions existed.
        "licenses": [{ "expression": licence.replace('/', " OR ") }],
        "purl": purl,
    }))
}

fn library(library: &Library) -> Value {
    json!({
        "type": "library",
        "bom-ref": library.purl,
        "name": library.name,
        "version": library.version,
        "scope": "required",
        "licenses": [{ "expression": library.licence }],
        "purl": library.purl,
    })
}

/// Returns the package URL of a crate (<https://github.com/package-url/purl-spec>); a crate of this
/// repository is in no registry.
fn purl(part: &Crate, description: &Description) -> String {
    let (name, version) = part.key();
    match part.package.source {
        Some(_) => format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
        None => format!("{SOURCE}@{}#{name}", description.revision),
    }
}
