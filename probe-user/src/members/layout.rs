//! Where distributions keep a client certificate that is meant for looking at etcd, and which of them embed etcd.
//!
//! Each row was read in the sources of who installs etcd so; docs/discovery.md names them.

use std::path::{Path, PathBuf};

use super::settings::{Pair, Settings, Source};

/// Processes that are an etcd among other things. They take no flags of etcd's, and write its configuration into the
/// directory of its data (k3s, pkg/daemons/executor/executor.go, `ToConfigFile`).
pub const EMBEDDING: [&str; 1] = ["k3s-server"];

/// The file of an embedded etcd's settings, in the directory of its data.
const EMBEDDED_CONFIG: &str = "config";

/// Pairs beside etcd's server certificate, by their name without extension.
const BESIDE: [&str; 3] = [
    "healthcheck-client", // kubeadm: the pair of etcd's liveness probe
    "client",             // k3s and RKE2
    "admin",              // Talos
];

/// Pairs in the directory above that of etcd's server certificate.
const ABOVE: [&str; 1] = [
    "apiserver-etcd-client", // k0s, and kubeadm too: what the API server shows
];

/// Returns the configuration file of an etcd that is embedded, given the segment of a WAL that its process holds open.
pub fn embedded_config(segment: &Path) -> Option<PathBuf> {
    let wal = segment.parent()?;
    let data_dir = wal.parent()?.parent()?;
    wal.ends_with("member/wal").then(|| data_dir.join(EMBEDDED_CONFIG))
}

/// Returns the pairs that may be there to be shown to this etcd, the best first: what its environment has for etcdctl
/// (`OpenShift`), what the layout has for monitoring, and what etcd shows to itself.
pub fn candidates(settings: &Settings, source: &Source) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let set = |key: &str| source.variable(key).map(PathBuf::from);
    let pair = |certificate: Option<PathBuf>, key: Option<PathBuf>| {
        Some(Pair { certificate: certificate?, key: key? })
    };
    let named = |directory: Option<&Path>, stems: &[&str]| -> Vec<Pair> {
        let of = |directory: &Path, stem: &str| Pair {
            certificate: directory.join(format!("{stem}.crt")),
            key: directory.join(format!("{stem}.key")),
        };
        directory.map(|directory| stems.iter().map(|stem| of(directory, stem)).collect()).unwrap_or_default()
    };
    let beside = tls.cert_file.as_deref().and_then(Path::parent);
    let etcdctl = pair(set("ETCDCTL_CERT"), set("ETCDCTL_KEY"));
    let to_itself = pair(tls.client_cert_file.clone(), tls.client_key_file.clone());
    etcdctl
        .into_iter()
        .chain(named(beside, &BESIDE))
        .chain(named(beside.and_then(Path::parent), &ABOVE))
        .chain(to_itself)
        .collect()
}

/// Returns the pairs of the server's own, for a layout that has no other: whether a client may show them, their usage tells.
pub fn last_resorts(settings: &Settings) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let server = tls.cert_file.clone().zip(tls.key_file.clone());
    let server = server.map(|(certificate, key)| Pair { certificate, key });
    server.into_iter().chain(settings.peer_pair.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_an_embedded_etcd_lies_beside_its_data() {
        let segment = "0000000000000000-0000000000000000.wal";
        let cases = [
            (
                "/var/lib/rancher/k3s/server/db/etcd/member/wal",
                Some("/var/lib/rancher/k3s/server/db/etcd/config"),
            ),
            ("/data/etcd/wal", None),
            ("/member/wal", Some("/config")),
            ("", None),
        ];
        for (wal, expected) in cases {
            let found = embedded_config(&Path::new(wal).join(segment));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{wal}");
        }
    }
}
