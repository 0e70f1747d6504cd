//! How distributions set up etcd: how to recognize a layout, which client certificate it provides for
//! monitoring, and whether it embeds etcd.
//!
//! Each row was read in the sources of the distribution; docs/discovery.md and the tests of `identity` name
//! them.

use std::path::{Component, Path, PathBuf};

use super::{
    member_settings::{LaunchConfig, MemberSettings, Pair},
    process_info::comm_is,
};

/// How one distribution sets up etcd.
#[derive(Debug)]
pub struct DistributionLayout {
    pub name: &'static str,
    matcher: LayoutMatcher,
    /// Client certificates with their keys, as paths without extension, in order of preference. A path is
    /// relative to the directory of etcd's server certificate (`../` for its parent), or absolute.
    pairs: &'static [&'static str],
}

/// The feature by which a layout is recognized.
#[derive(Debug)]
enum LayoutMatcher {
    /// The process embeds etcd among other components: it takes none of etcd's flags, and writes etcd's
    /// configuration into the data directory.
    Embeds { comm: &'static str },
    /// A part of the path of etcd's server certificate; `*` matches any directory.
    Certificate(&'static str),
}

/// In order of precedence: the first match counts.
const LAYOUTS: [DistributionLayout; 7] = [
    // The certificate of etcd's health checks is preferred to the API server's.
    DistributionLayout {
        name: "kubeadm",
        matcher: LayoutMatcher::Certificate("kubernetes/pki/etcd"),
        pairs: &["healthcheck-client", "../apiserver-etcd-client"],
    },
    DistributionLayout {
        name: "k3s",
        matcher: LayoutMatcher::Embeds { comm: "k3s-server" },
        pairs: &["client"],
    },
    DistributionLayout {
        name: "RKE2",
        matcher: LayoutMatcher::Certificate("rke2/server/tls/etcd"),
        pairs: &["client"],
    },
    DistributionLayout {
        name: "k0s",
        matcher: LayoutMatcher::Certificate("k0s/pki/etcd"),
        pairs: &["../apiserver-etcd-client"],
    },
    DistributionLayout {
        name: "Talos",
        matcher: LayoutMatcher::Certificate("system/secrets/etcd"),
        pairs: &["admin"],
    },
    // The client certificate is in etcd's environment, for etcdctl.
    DistributionLayout {
        name: "OpenShift",
        matcher: LayoutMatcher::Certificate("kubernetes/static-pod-certs"),
        pairs: &[],
    },
    // The server certificate is also valid for clients; see `authorities`.
    DistributionLayout { name: "kOps", matcher: LayoutMatcher::Certificate("pki/*/clients"), pairs: &[] },
];

/// Certificate authorities of kOps with their keys, at their paths in etcd-manager and on the node. kOps
/// provides no other client certificate, so monitoring agents present these; the probe does so if etcd's own
/// certificate cannot be used.
const AUTHORITIES: [&str; 3] = [
    "/etc/kubernetes/pki/etcd-manager/etcd-clients-ca",
    "/etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca",
    "/etc/kubernetes/pki/etcd-manager-events/etcd-clients-ca",
];

/// The configuration file of an embedded etcd, in its data directory (k3s, `ToConfigFile`).
const EMBEDDED_CONFIG: &str = "config";

/// Suffix of the copy of the data directory on which k3s runs a temporary etcd for some seconds during
/// start-up (`StartEmbeddedTemporary`).
const COPY_SUFFIX: &str = "-tmp";

/// Returns the kernel's names (`comm`) of processes that embed etcd.
pub fn embedding_comms() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().filter_map(|layout| match layout.matcher {
        LayoutMatcher::Embeds { comm } => Some(comm),
        LayoutMatcher::Certificate(_) => None,
    })
}

/// Returns whether a process of this name embeds etcd.
pub fn embeds_etcd(comm: &str) -> bool {
    embedding_comms().any(|name| comm_is(comm, name))
}

/// Returns the layout of an etcd, if it is a known one.
pub fn find(settings: &MemberSettings, comm: &str) -> Option<&'static DistributionLayout> {
    LAYOUTS.iter().find(|layout| match layout.matcher {
        LayoutMatcher::Embeds { comm: name } => comm_is(comm, name),
        LayoutMatcher::Certificate(part) => {
            settings.client_tls.cert_file.as_deref().is_some_and(|path| has_part(path, part))
        }
    })
}

/// Returns the configuration file of an embedded etcd, given a WAL segment that its process holds open.
pub fn embedded_config(segment: &Path) -> Option<PathBuf> {
    let wal = segment.parent()?;
    let data_dir = wal.parent()?.parent()?;
    let copy = data_dir.as_os_str().to_string_lossy().ends_with(COPY_SUFFIX);
    (wal.ends_with("member/wal") && !copy).then(|| data_dir.join(EMBEDDED_CONFIG))
}

/// Returns the client certificates that may exist for this etcd, in order of preference: the one that its
/// environment names for etcdctl (`OpenShift`), the ones that the layouts provide for monitoring, and the one
/// that etcd presents to itself.
///
/// The names of all layouts are tried, in the directory of etcd's certificates wherever it is: if an operator
/// moves a distribution's directory, the names in it stay the same.
pub fn candidates(settings: &MemberSettings, launch: &LaunchConfig) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let set = |key: &str| launch.variable(key).map(PathBuf::from);
    let etcdctl = set("ETCDCTL_CERT").zip(set("ETCDCTL_KEY"));
    let to_itself = tls.client_cert_file.clone().zip(tls.client_key_file.clone());
    let certificate_dir = tls.cert_file.as_deref().and_then(Path::parent);
    let mut stems = Vec::new();
    for path in LAYOUTS.iter().flat_map(|layout| layout.pairs) {
        let stem = certificate_dir.and_then(|directory| match path.strip_prefix("../") {
            Some(name) => Some(directory.parent()?.join(name)),
            None => Some(directory.join(path)),
        });
        stems.extend(stem.filter(|stem| !stems.contains(stem)));
    }
    let of_layouts = stems.iter().map(|stem| pair(stem));
    etcdctl.into_iter().map(named).chain(of_layouts).chain(to_itself.map(named)).collect()
}

/// Returns the server's own certificates, for a layout that provides no other. Whether a client may present
/// them depends on their extended key usage.
pub fn server_pairs(settings: &MemberSettings) -> Vec<Pair> {
    let tls = &settings.client_tls;
    let server = tls.cert_file.clone().zip(tls.key_file.clone());
    server.map(named).into_iter().chain(settings.peer_pair.clone()).collect()
}

/// Returns the certificates of authorities that may exist; they are presented only if no other can be.
pub fn authorities(layout: Option<&DistributionLayout>) -> Vec<Pair> {
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
    fn the_configuration_of_an_embedded_etcd_is_in_its_data_directory() {
        let segment = "0000000000000000-0000000000000000.wal";
        let db = "/var/lib/rancher/k3s/server/db/etcd";
        let cases = [
            (format!("{db}/member/wal"), Some(format!("{db}/config")), "k3s"),
            (format!("{db}-tmp/member/wal"), None, "a copy in use for some seconds"),
            ("/data/etcd/wal".to_owned(), None, "not a directory of etcd"),
            ("/member/wal".to_owned(), Some("/config".to_owned()), "at the root"),
            (String::new(), None, "nowhere"),
        ];
        for (wal, expected, why) in cases {
            let found = embedded_config(&Path::new(&wal).join(segment));
            assert_eq!(found, expected.map(PathBuf::from), "{why}");
        }
    }

    #[test]
    fn a_layout_is_recognized_by_certificate_path_or_process_name() {
        let cases = [
            ("k3s-server", "/anywhere.crt", Some("k3s"), "by process name"),
            ("etcd", "/var/lib/rancher/rke2/server/tls/etcd/server-client.crt", Some("RKE2"), "by path"),
            ("etcd", "/data/rke2/server/tls/etcd/server-client.crt", Some("RKE2"), "another --data-dir"),
            ("etcd", "/etc/kubernetes/pki/etcd/server.crt", Some("kubeadm"), "by path"),
            ("etcd", "/var/lib/k0s/pki/etcd/server.crt", Some("k0s"), "by path"),
            ("etcd", "/system/secrets/etcd/server.crt", Some("Talos"), "by path"),
            (
                "etcd",
                "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
                Some("OpenShift"),
                "by path",
            ),
            ("etcd", "/rootfs/mnt/v/pki/token/clients/server.crt", Some("kOps"), "a directory of any name"),
            ("etcd", "/etc/etcd/server.crt", None, "an operator's own path"),
            ("etcd", "", None, "no certificate"),
        ];
        for (comm, certificate, expected, why) in cases {
            let argv = ["etcd".to_owned(), format!("--cert-file={certificate}")];
            let settings = LaunchConfig::new(&argv, &HashMap::new()).settings();
            assert_eq!(find(&settings, comm).map(|layout| layout.name), expected, "{certificate}: {why}");
        }
    }
}
