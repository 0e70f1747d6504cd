//! How distributions set up their etcds: what tells one, which client pair it keeps for looking at etcd, whether it embeds it.
//!
//! Each row was read in the sources of who installs etcd so; docs/discovery.md and the tests of `identity` name them.

use std::path::{Component, Path, PathBuf};

use super::{
    member_settings::{Pair, Settings, Source},
    process_info::comm_is,
};

/// How one distribution does it.
#[derive(Debug)]
pub struct Layout {
    pub name: &'static str,
    mark: Mark,
    /// Client pairs, without extension, the best first: beside etcd's server certificate, or above it, or absolute.
    pairs: &'static [&'static str],
}

/// What tells a layout from others.
#[derive(Debug)]
enum Mark {
    /// The process is an etcd among other things: it takes no flags of etcd's, and writes etcd's configuration into the
    /// directory of the data.
    Embeds { comm: &'static str },
    /// A part of the path of etcd's server certificate; `*` stands for any directory.
    Certificate(&'static str),
}

/// The first one that fits counts.
const LAYOUTS: [Layout; 7] = [
    // The pair of etcd's health checks, before the API server's.
    Layout {
        name: "kubeadm",
        mark: Mark::Certificate("kubernetes/pki/etcd"),
        pairs: &["healthcheck-client", "../apiserver-etcd-client"],
    },
    Layout { name: "k3s", mark: Mark::Embeds { comm: "k3s-server" }, pairs: &["client"] },
    Layout { name: "RKE2", mark: Mark::Certificate("rke2/server/tls/etcd"), pairs: &["client"] },
    Layout { name: "k0s", mark: Mark::Certificate("k0s/pki/etcd"), pairs: &["../apiserver-etcd-client"] },
    Layout { name: "Talos", mark: Mark::Certificate("system/secrets/etcd"), pairs: &["admin"] },
    // Its pair is in etcd's environment, for etcdctl.
    Layout { name: "OpenShift", mark: Mark::Certificate("kubernetes/static-pod-certs"), pairs: &[] },
    // Its server's pair is for clients, too; see `authorities`.
    Layout { name: "kOps", mark: Mark::Certificate("pki/*/clients"), pairs: &[] },
];

/// Authorities of kOps with their keys, where etcd-manager sees them and where the node keeps them. Monitoring agents show
/// them for want of another pair, as kOps has no other for clients; so do we if etcd's own pair cannot be used.
const AUTHORITIES: [&str; 3] = [
    "/etc/kubernetes/pki/etcd-manager/etcd-clients-ca",
    "/etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca",
    "/etc/kubernetes/pki/etcd-manager-events/etcd-clients-ca",
];

/// The file of an embedded etcd's settings, in the directory of its data (k3s, `ToConfigFile`).
const EMBEDDED_CONFIG: &str = "config";

/// How k3s calls the copy of its data on which it runs an etcd for some seconds as it starts (`StartEmbeddedTemporary`).
const COPY_SUFFIX: &str = "-tmp";

/// Returns the kernel's names of processes that embed an etcd.
pub fn embedding() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().filter_map(|layout| match layout.mark {
        Mark::Embeds { comm } => Some(comm),
        Mark::Certificate(_) => None,
    })
}

/// Returns whether a process of this name embeds an etcd.
pub fn embeds_etcd(comm: &str) -> bool {
    embedding().any(|name| comm_is(comm, name))
}

/// Returns whose layout an etcd has, if it is one that we know.
pub fn of(settings: &Settings, comm: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| match layout.mark {
        Mark::Embeds { comm: name } => comm_is(comm, name),
        Mark::Certificate(part) => {
            settings.client_tls.cert_file.as_deref().is_some_and(|path| has_part(path, part))
        }
    })
}

/// Returns the configuration file of an etcd that is embedded, given the segment of a WAL that its process holds open.
pub fn embedded_config(segment: &Path) -> Option<PathBuf> {
    let wal = segment.parent()?;
    let data_dir = wal.parent()?.parent()?;
    let copy = data_dir.as_os_str().to_string_lossy().ends_with(COPY_SUFFIX);
    (wal.ends_with("member/wal") && !copy).then(|| data_dir.join(EMBEDDED_CONFIG))
}

/// Returns the pairs that may be there to be shown to this etcd, the best first: what its environment has for etcdctl
/// (`OpenShift`), what the layouts have for monitoring, and what etcd shows to itself.
///
/// Wherever its certificates are: who moves a distribution's directory keeps the names in it.
pub fn candidates(settings: &Settings, source: &Source) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let set = |key: &str| source.variable(key).map(PathBuf::from);
    let etcdctl = set("ETCDCTL_CERT").zip(set("ETCDCTL_KEY"));
    let to_itself = tls.client_cert_file.clone().zip(tls.client_key_file.clone());
    let beside = tls.cert_file.as_deref().and_then(Path::parent);
    let mut stems = Vec::new();
    for path in LAYOUTS.iter().flat_map(|layout| layout.pairs) {
        let stem = beside.and_then(|directory| match path.strip_prefix("../") {
            Some(name) => Some(directory.parent()?.join(name)),
            None => Some(directory.join(path)),
        });
        stems.extend(stem.filter(|stem| !stems.contains(stem)));
    }
    let of_layouts = stems.iter().map(|stem| pair(stem));
    etcdctl.into_iter().map(named).chain(of_layouts).chain(to_itself.map(named)).collect()
}

/// Returns the pairs of the server's own, for a layout that has no other: whether a client may show them, their usage tells.
pub fn last_resorts(settings: &Settings) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let server = tls.cert_file.clone().zip(tls.key_file.clone());
    server.map(named).into_iter().chain(settings.peer_pair.clone()).collect()
}

/// Returns the pairs of authorities that may be there, and are shown if nothing else can be.
pub fn authorities(layout: Option<&Layout>) -> Vec<Pair> {
    let has = layout.is_some_and(|layout| layout.name == "kOps");
    AUTHORITIES.iter().filter(|_| has).map(|stem| pair(Path::new(stem))).collect()
}

fn named((certificate, key): (PathBuf, PathBuf)) -> Pair {
    Pair { certificate, key }
}

fn pair(stem: &Path) -> Pair {
    Pair { certificate: stem.with_extension("crt"), key: stem.with_extension("key") }
}

fn has_part(path: &Path, part: &str) -> bool {
    let directories: Vec<_> = path.components().filter(|part| *part != Component::RootDir).collect();
    let wanted: Vec<_> = part.split('/').collect();
    directories.windows(wanted.len()).any(|directories| {
        directories.iter().zip(&wanted).all(|(found, wanted)| *wanted == "*" || found.as_os_str() == *wanted)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_configuration_of_an_embedded_etcd_lies_beside_its_data() {
        let segment = "0000000000000000-0000000000000000.wal";
        let db = "/var/lib/rancher/k3s/server/db/etcd";
        let cases = [
            (format!("{db}/member/wal"), Some(format!("{db}/config")), "as k3s has it"),
            (format!("{db}-tmp/member/wal"), None, "a copy that is used for some seconds"),
            ("/data/etcd/wal".to_owned(), None, "no etcd's directory"),
            ("/member/wal".to_owned(), Some("/config".to_owned()), "at the root"),
            (String::new(), None, "nowhere"),
        ];
        for (wal, expected, why) in cases {
            let found = embedded_config(&Path::new(&wal).join(segment));
            assert_eq!(found, expected.map(PathBuf::from), "{why}");
        }
    }

    #[test]
    fn a_layout_is_told_by_its_certificate_or_its_name() {
        let cases = [
            ("k3s-server", "/anywhere.crt", Some("k3s"), "by the name of the process"),
            ("etcd", "/var/lib/rancher/rke2/server/tls/etcd/server-client.crt", Some("RKE2"), "its place"),
            ("etcd", "/data/rke2/server/tls/etcd/server-client.crt", Some("RKE2"), "another --data-dir"),
            ("etcd", "/etc/kubernetes/pki/etcd/server.crt", Some("kubeadm"), "its place"),
            ("etcd", "/var/lib/k0s/pki/etcd/server.crt", Some("k0s"), "its place"),
            ("etcd", "/system/secrets/etcd/server.crt", Some("Talos"), "its place"),
            (
                "etcd",
                "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
                Some("OpenShift"),
                "its place",
            ),
            ("etcd", "/rootfs/mnt/v/pki/token/clients/server.crt", Some("kOps"), "a directory of any name"),
            ("etcd", "/etc/etcd/server.crt", None, "somebody's own"),
            ("etcd", "", None, "no certificate"),
        ];
        for (comm, certificate, expected, why) in cases {
            let argv = ["etcd".to_owned(), format!("--cert-file={certificate}")];
            let settings = Source::new(&argv, &HashMap::new()).settings();
            assert_eq!(of(&settings, comm).map(|layout| layout.name), expected, "{certificate}: {why}");
        }
    }
}
