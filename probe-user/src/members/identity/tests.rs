//! Every layout of docs/discovery.md as a tree of files: which endpoints are found, and which pairs to show there.
//!
//! Flags, variables, paths and files are those of the sources named with each; only the addresses are made up.

use super::*;
use crate::fixture::Tree;

const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 70 };

struct Layout {
    /// Where flags and files were read.
    source: &'static str,
    comm: &'static str,
    flags: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Files in the root of the process.
    theirs: &'static [(&'static str, &'static str)],
    /// Files that only the node has.
    ours: &'static [(&'static str, &'static str)],
    data_dir: &'static str,
    endpoints: &'static [&'static str],
    authority: Option<&'static str>,
    /// What may be shown, the best first; `ours:` for what only the node has.
    pairs: &'static [&'static str],
}

const KUBEADM: Layout = Layout {
    source: "kubernetes/kubernetes cmd/kubeadm/app/phases/etcd/local.go, getEtcdCommand",
    comm: "etcd",
    flags: &[
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--client-cert-auth=true",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--feature-gates=InitialCorruptCheck=true",
        "--watch-progress-notify-interval=5s",
    ],
    environment: &[],
    // The directory of the certificates is mounted, the one above it is not.
    theirs: &[
        ("etc/kubernetes/pki/etcd/healthcheck-client.crt", ""),
        ("etc/kubernetes/pki/etcd/healthcheck-client.key", ""),
    ],
    ours: &[
        ("etc/kubernetes/pki/apiserver-etcd-client.crt", ""),
        ("etc/kubernetes/pki/apiserver-etcd-client.key", ""),
    ],
    data_dir: "/var/lib/etcd",
    endpoints: &["http://127.0.0.1:2381", "https://127.0.0.1:2379", "https://10.0.0.1:2379"],
    authority: Some("/etc/kubernetes/pki/etcd/ca.crt"),
    pairs: &[
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "ours:/etc/kubernetes/pki/apiserver-etcd-client.crt",
        "/etc/kubernetes/pki/etcd/server.crt",
        "/etc/kubernetes/pki/etcd/peer.crt",
    ],
};

const RANCHER_CONFIG: &str = "\
advertise-client-urls: https://10.0.0.1:2379
client-transport-security:
  cert-file: /tls/etcd/server-client.crt
  client-cert-auth: true
  key-file: /tls/etcd/server-client.key
  trusted-ca-file: /tls/etcd/server-ca.crt
data-dir: /db/etcd
election-timeout: 5000
experimental-initial-corrupt-check: true
experimental-watch-progress-notify-interval: 5000000000
heartbeat-interval: 500
initial-advertise-peer-urls: https://10.0.0.1:2380
listen-client-http-urls: https://127.0.0.1:2382
listen-client-urls: https://127.0.0.1:2379,https://10.0.0.1:2379
listen-metrics-urls: http://127.0.0.1:2381
listen-peer-urls: https://127.0.0.1:2380,https://10.0.0.1:2380
log-outputs:
- stderr
logger: zap
name: node-1b2c3d4e
peer-transport-security:
  cert-file: /tls/etcd/peer-server-client.crt
  client-cert-auth: true
  key-file: /tls/etcd/peer-server-client.key
  trusted-ca-file: /tls/etcd/peer-ca.crt
snapshot-count: 10000
socket-options:
  reuse-address: true
  reuse-port: true
";

/// Paths are shortened: what stands in for `/var/lib/rancher/k3s/server` is the root.
const K3S: Layout = Layout {
    source: "k3s-io/k3s pkg/daemons/executor/executor.go, ETCDConfig; pkg/etcd/etcd.go, cluster",
    comm: "k3s-server",
    flags: &["server"],
    environment: &[],
    theirs: &[("db/etcd/config", RANCHER_CONFIG), ("tls/etcd/client.crt", ""), ("tls/etcd/client.key", "")],
    ours: &[],
    data_dir: "/db/etcd",
    endpoints: &["http://127.0.0.1:2381", "https://127.0.0.1:2382"],
    authority: Some("/tls/etcd/server-ca.crt"),
    pairs: &["/tls/etcd/client.crt", "/tls/etcd/server-client.crt"],
};

const RKE2: Layout = Layout {
    source: "rancher/rke2 pkg/podexecutor/staticpod.go, ETCD: the pod has these six files and its data",
    comm: "etcd",
    flags: &["--config-file=/db/etcd/config"],
    environment: &[],
    theirs: &[("db/etcd/config", RANCHER_CONFIG)],
    ours: &[("tls/etcd/client.crt", ""), ("tls/etcd/client.key", "")],
    data_dir: "/db/etcd",
    endpoints: &["http://127.0.0.1:2381", "https://127.0.0.1:2382"],
    authority: Some("/tls/etcd/server-ca.crt"),
    pairs: &["ours:/tls/etcd/client.crt", "/tls/etcd/server-client.crt"],
};

const K0S: Layout = Layout {
    source: "k0sproject/k0s pkg/component/controller/etcd.go, Start and setupCerts",
    comm: "etcd",
    flags: &[
        "--data-dir=/var/lib/k0s/etcd",
        "--listen-client-urls=https://127.0.0.1:2379",
        "--client-cert-auth=true",
        "--tls-min-version=TLS1.2",
        "--trusted-ca-file=/var/lib/k0s/pki/etcd/ca.crt",
        "--cert-file=/var/lib/k0s/pki/etcd/server.crt",
        "--key-file=/var/lib/k0s/pki/etcd/server.key",
        "--peer-trusted-ca-file=/var/lib/k0s/pki/etcd/ca.crt",
        "--peer-cert-file=/var/lib/k0s/pki/etcd/peer.crt",
        "--peer-key-file=/var/lib/k0s/pki/etcd/peer.key",
        "--enable-pprof=false",
    ],
    environment: &[],
    theirs: &[
        ("var/lib/k0s/pki/apiserver-etcd-client.crt", ""),
        ("var/lib/k0s/pki/apiserver-etcd-client.key", ""),
    ],
    ours: &[],
    data_dir: "/var/lib/k0s/etcd",
    endpoints: &["https://127.0.0.1:2379"],
    authority: Some("/var/lib/k0s/pki/etcd/ca.crt"),
    pairs: &[
        "/var/lib/k0s/pki/apiserver-etcd-client.crt",
        "/var/lib/k0s/pki/etcd/server.crt",
        "/var/lib/k0s/pki/etcd/peer.crt",
    ],
};

const KOPS_MAIN: Layout = Layout {
    source: "kopeio/etcd-manager pkg/etcd/etcdprocess.go, Start; pkg/etcd/pki.go: the server's pair is for clients, too",
    comm: "etcd",
    flags: &[],
    environment: &[
        ("ETCD_NAME", "etcd-a"),
        ("ETCD_DATA_DIR", "/rootfs/mnt/master-vol-0123/data/token"),
        ("ETCD_LISTEN_CLIENT_URLS", "https://0.0.0.0:4001"),
        ("ETCD_ADVERTISE_CLIENT_URLS", "https://etcd-a.internal.example.com:4001"),
        ("ETCD_CLIENT_CERT_AUTH", "true"),
        ("ETCD_TRUSTED_CA_FILE", "/rootfs/mnt/master-vol-0123/pki/token/clients/ca.crt"),
        ("ETCD_CERT_FILE", "/rootfs/mnt/master-vol-0123/pki/token/clients/server.crt"),
        ("ETCD_KEY_FILE", "/rootfs/mnt/master-vol-0123/pki/token/clients/server.key"),
        ("ETCD_PEER_TRUSTED_CA_FILE", "/rootfs/mnt/master-vol-0123/pki/token/peers/ca.crt"),
        ("ETCD_PEER_CERT_FILE", "/rootfs/mnt/master-vol-0123/pki/token/peers/me.crt"),
        ("ETCD_PEER_KEY_FILE", "/rootfs/mnt/master-vol-0123/pki/token/peers/me.key"),
    ],
    theirs: &[],
    // The authority's key is there as well; nobody signs with it here.
    ours: &[("etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.crt", "")],
    data_dir: "/rootfs/mnt/master-vol-0123/data/token",
    endpoints: &["https://127.0.0.1:4001"],
    authority: Some("/rootfs/mnt/master-vol-0123/pki/token/clients/ca.crt"),
    pairs: &["/rootfs/mnt/master-vol-0123/pki/token/clients/server.crt"],
};

const KOPS_EVENTS: Layout = Layout {
    environment: &[
        ("ETCD_NAME", "etcd-a"),
        ("ETCD_DATA_DIR", "/rootfs/mnt/master-vol-4567/data/token"),
        ("ETCD_LISTEN_CLIENT_URLS", "https://0.0.0.0:4002"),
        ("ETCD_LISTEN_METRICS_URLS", "http://0.0.0.0:8082"),
        ("ETCD_CERT_FILE", "/rootfs/mnt/master-vol-4567/pki/token/clients/server.crt"),
        ("ETCD_KEY_FILE", "/rootfs/mnt/master-vol-4567/pki/token/clients/server.key"),
    ],
    data_dir: "/rootfs/mnt/master-vol-4567/data/token",
    endpoints: &["http://127.0.0.1:8082", "https://127.0.0.1:4002"],
    authority: None,
    pairs: &["/rootfs/mnt/master-vol-4567/pki/token/clients/server.crt"],
    ..KOPS_MAIN
};

const OPENSHIFT: Layout = Layout {
    source: "openshift/cluster-etcd-operator bindata/etcd/pod.gotpl.yaml; pkg/etcdenvvar, getEtcdctlEnvVars",
    comm: "etcd",
    flags: &[
        "--logger=zap",
        "--cert-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
        "--key-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.key",
        "--trusted-ca-file=/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "--client-cert-auth=true",
        "--peer-cert-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
        "--peer-key-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.key",
        "--peer-trusted-ca-file=/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "--listen-client-urls=https://0.0.0.0:2379,unixs://10.0.0.1:0",
        "--metrics=extensive",
        "--listen-metrics-urls=https://0.0.0.0:9978",
    ],
    environment: &[
        ("ETCD_NAME", "m0"),
        ("ETCD_DATA_DIR", "/var/lib/etcd"),
        ("ETCDCTL_CERT", "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt"),
        ("ETCDCTL_KEY", "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.key"),
    ],
    theirs: &[
        ("etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt", ""),
        ("etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.key", ""),
    ],
    ours: &[],
    data_dir: "/var/lib/etcd",
    endpoints: &["https://127.0.0.1:9978", "https://127.0.0.1:2379", "unixs://10.0.0.1:0"],
    authority: Some("/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt"),
    pairs: &[
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
    ],
};

const TALOS: Layout = Layout {
    source: "siderolabs/talos internal/app/machined/pkg/system/services/etcd.go, argsForControlPlane and generatePKI",
    comm: "etcd",
    flags: &[
        "--name=talos-cp-1",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=https://[::]:2379",
        "--client-cert-auth=true",
        "--cert-file=/system/secrets/etcd/server.crt",
        "--key-file=/system/secrets/etcd/server.key",
        "--trusted-ca-file=/system/secrets/etcd/ca.crt",
        "--peer-cert-file=/system/secrets/etcd/peer.crt",
        "--peer-key-file=/system/secrets/etcd/peer.key",
        "--peer-trusted-ca-file=/system/secrets/etcd/ca.crt",
    ],
    environment: &[],
    theirs: &[("system/secrets/etcd/admin.crt", ""), ("system/secrets/etcd/admin.key", "")],
    ours: &[],
    data_dir: "/var/lib/etcd",
    endpoints: &["https://[::1]:2379"],
    authority: Some("/system/secrets/etcd/ca.crt"),
    pairs: &[
        "/system/secrets/etcd/admin.crt",
        "/system/secrets/etcd/server.crt",
        "/system/secrets/etcd/peer.crt",
    ],
};

const SYSTEMD: Layout = Layout {
    source: "etcd-io/etcd contrib/systemd/etcd.service: EnvironmentFile with ETCD_*",
    comm: "etcd",
    flags: &[],
    environment: &[
        ("ETCD_NAME", "default"),
        ("ETCD_DATA_DIR", "/var/lib/etcd/default"),
        ("ETCD_LISTEN_CLIENT_URLS", "http://localhost:2379"),
        ("ETCD_LISTEN_METRICS_URLS", ""),
    ],
    theirs: &[],
    ours: &[],
    data_dir: "/var/lib/etcd/default",
    endpoints: &["http://localhost:2379"],
    authority: None,
    pairs: &[],
};

const CONFIG_FILE: Layout = Layout {
    source: "etcd-io/etcd etcd.conf.yml.sample",
    comm: "etcd",
    flags: &["--config-file", "/etc/etcd/etcd.yaml", "--name", "ignored"],
    environment: &[],
    theirs: &[(
        "etc/etcd/etcd.yaml",
        "name: 'from-file'\ndata-dir: /data\nwal-dir:\nlisten-client-urls: https://10.0.0.1:2379\n\
         listen-metrics-urls: https://10.0.0.1:2381, http://10.0.0.1:2391,http://[::1]:2391\n\
         client-transport-security:\n  auto-tls: true\n  client-cert-auth: false\ncors:\nquota-backend-bytes: 0\n",
    )],
    ours: &[],
    data_dir: "/data",
    endpoints: &[
        "http://10.0.0.1:2391",
        "http://[::1]:2391",
        "https://10.0.0.1:2381",
        "https://10.0.0.1:2379",
    ],
    authority: None,
    pairs: &["/data/fixtures/client/cert.pem"],
};

const LAYOUTS: [(&str, &Layout); 10] = [
    ("kubeadm", &KUBEADM),
    ("k3s", &K3S),
    ("RKE2", &RKE2),
    ("k0s", &K0S),
    ("kOps, main", &KOPS_MAIN),
    ("kOps, events", &KOPS_EVENTS),
    ("OpenShift", &OPENSHIFT),
    ("Talos", &TALOS),
    ("systemd", &SYSTEMD),
    ("a configuration file", &CONFIG_FILE),
];

/// What `try_look` does, but for the process itself.
fn found(layout: &Layout, theirs: &Root, ours: &Root) -> (Settings, Vec<Endpoint>) {
    let text = |text: &&str| (*text).to_owned();
    let launch = Launch {
        comm: layout.comm.to_owned(),
        argv: ["etcd"].iter().chain(layout.flags).map(text).collect(),
        environment: layout.environment.iter().map(|(key, value)| (text(key), text(value))).collect(),
        foreign_network: false,
    };
    let source = Source::new(&launch.argv, &launch.environment);
    let segment = Path::new("/db/etcd/member/wal/0000000000000000-0000000000000000.wal");
    let config_file = if embeds_etcd(&launch) {
        layout::embedded_config(segment)
    } else {
        source.config_file().map(Path::to_owned)
    };
    let settings = read_settings(&source, config_file.as_deref(), theirs).expect("the settings are in order");
    let client = client_pairs(&settings, &source, PROCESS, theirs, ours);
    let endpoints = endpoint::endpoints(&settings, client, PROCESS, false, &Overrides::default());
    (settings, endpoints)
}

#[test]
fn every_layout_is_understood() {
    for (name, layout) in LAYOUTS {
        let (theirs, ours) = (Tree::with(layout.theirs), Tree::with(layout.ours));
        let root = |tree: &Tree| Root::at(tree.path()).unwrap();
        let (settings, endpoints) = found(layout, &root(&theirs), &root(&ours));
        let why = format!("{name}, as in {}", layout.source);
        assert_eq!(settings.data_dir, Path::new(layout.data_dir), "{why}");
        let urls: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(urls, layout.endpoints, "{why}");
        for endpoint in &endpoints {
            let credentials = &endpoint.credentials;
            let authorities: Vec<_> =
                credentials.authorities.iter().map(|file| file.path.as_path()).collect();
            assert_eq!(authorities, layout.authority.map(Path::new).into_iter().collect::<Vec<_>>(), "{why}");
            let shown: Vec<_> = credentials.client.iter().map(told).collect();
            assert_eq!(shown, layout.pairs, "{why}");
        }
    }
}

fn told(pair: &KeyPair) -> String {
    assert_eq!(pair.certificate.seen_by, pair.key.seen_by, "a pair is somebody's");
    let owner = if pair.certificate.seen_by.is_some() { "" } else { "ours:" };
    format!("{owner}{}", pair.certificate.path.display())
}

#[test]
fn half_a_pair_is_none() {
    let theirs = Tree::with(&[("etc/kubernetes/pki/etcd/healthcheck-client.crt", "")]);
    let ours = Tree::with(&[]);
    let root = |tree: &Tree| Root::at(tree.path()).unwrap();
    let (_, endpoints) = found(&KUBEADM, &root(&theirs), &root(&ours));
    let first = &endpoints[0].credentials.client[0];
    assert_eq!(first.certificate.path, Path::new("/etc/kubernetes/pki/etcd/server.crt"));
}
