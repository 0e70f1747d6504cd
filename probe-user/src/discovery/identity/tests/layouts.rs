//! The settings that distributions give to etcd, and the files that exist there.
//!
//! Flags, variables, paths and files are from the source named with each layout, at the version or time
//! named; only the addresses are invented.

pub struct LayoutCase {
    /// The source of flags and files.
    pub source: &'static str,
    /// The name in the output of `doctor`.
    pub name: Option<&'static str>,
    pub comm: &'static str,
    pub flags: &'static [&'static str],
    pub environment: &'static [(&'static str, &'static str)],
    /// Files in the root of the process.
    pub process_files: &'static [(&'static str, &'static str)],
    /// Files that only the node has.
    pub node_files: &'static [(&'static str, &'static str)],
    pub data_dir: &'static str,
    pub endpoints: &'static [&'static str],
    pub authority: Option<&'static str>,
    /// Client certificates that may be presented, in order of preference; `node:` marks files that only the
    /// node has.
    pub pairs: &'static [&'static str],
}

pub const KUBEADM: LayoutCase = LayoutCase {
    source: "kubernetes/kubernetes cmd/kubeadm/app/phases/etcd/local.go, getEtcdCommand and GetEtcdPodSpec, at 0009808f5c66",
    name: Some("kubeadm"),
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
    // The directory of the certificates is mounted, its parent is not.
    process_files: &[
        ("etc/kubernetes/pki/etcd/healthcheck-client.crt", ""),
        ("etc/kubernetes/pki/etcd/healthcheck-client.key", ""),
    ],
    node_files: &[
        ("etc/kubernetes/pki/apiserver-etcd-client.crt", ""),
        ("etc/kubernetes/pki/apiserver-etcd-client.key", ""),
    ],
    data_dir: "/var/lib/etcd",
    endpoints: &["http://127.0.0.1:2381", "https://127.0.0.1:2379", "https://10.0.0.1:2379"],
    authority: Some("/etc/kubernetes/pki/etcd/ca.crt"),
    pairs: &[
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "node:/etc/kubernetes/pki/apiserver-etcd-client.crt",
        "/etc/kubernetes/pki/etcd/server.crt",
        "/etc/kubernetes/pki/etcd/peer.crt",
    ],
};

/// In the format that `ToConfigFile` writes: the keys are Go's struct tags, in alphabetical order.
const K3S_CONFIG: &str = include_str!("../../../../testdata/layouts/k3s-config.yaml");
const RKE2_CONFIG: &str = include_str!("../../../../testdata/layouts/rke2-config.yaml");

const K3S: LayoutCase = LayoutCase {
    source: "k3s-io/k3s pkg/daemons/executor/executor.go, ETCDConfig and ToConfigFile; pkg/etcd/etcd.go, cluster and \
             listenMetricsURLs with --etcd-expose-metrics (2025)",
    name: Some("k3s"),
    comm: "k3s-server",
    // k3s hides its arguments: pkg/cli/server/server.go, SetProcTitle.
    flags: &[],
    environment: &[],
    process_files: &[
        ("var/lib/rancher/k3s/server/db/etcd/config", K3S_CONFIG),
        ("var/lib/rancher/k3s/server/tls/etcd/client.crt", ""),
        ("var/lib/rancher/k3s/server/tls/etcd/client.key", ""),
    ],
    node_files: &[],
    data_dir: "/var/lib/rancher/k3s/server/db/etcd",
    endpoints: &["http://127.0.0.1:2381", "http://10.0.0.1:2381", "https://127.0.0.1:2382"],
    authority: Some("/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt"),
    pairs: &[
        "/var/lib/rancher/k3s/server/tls/etcd/client.crt",
        "/var/lib/rancher/k3s/server/tls/etcd/server-client.crt",
    ],
};

const RKE2: LayoutCase = LayoutCase {
    source: "rancher/rke2 v1.36.4-rc1 pkg/executor/staticpod/staticpod.go, ETCD: the pod mounts these six files and its data",
    name: Some("RKE2"),
    comm: "etcd",
    flags: &["--config-file=/var/lib/rancher/rke2/server/db/etcd/config"],
    environment: &[],
    process_files: &[("var/lib/rancher/rke2/server/db/etcd/config", RKE2_CONFIG)],
    node_files: &[
        ("var/lib/rancher/rke2/server/tls/etcd/client.crt", ""),
        ("var/lib/rancher/rke2/server/tls/etcd/client.key", ""),
    ],
    data_dir: "/var/lib/rancher/rke2/server/db/etcd",
    endpoints: &["http://127.0.0.1:2381", "http://10.0.0.1:2381", "https://127.0.0.1:2382"],
    authority: Some("/var/lib/rancher/rke2/server/tls/etcd/server-ca.crt"),
    pairs: &[
        "node:/var/lib/rancher/rke2/server/tls/etcd/client.crt",
        "/var/lib/rancher/rke2/server/tls/etcd/server-client.crt",
    ],
};

const K0S: LayoutCase = LayoutCase {
    source: "k0sproject/k0s v1.37.0-alpha.1 pkg/component/controller/etcd.go, Start and setupCerts",
    name: Some("k0s"),
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
    process_files: &[
        ("var/lib/k0s/pki/apiserver-etcd-client.crt", ""),
        ("var/lib/k0s/pki/apiserver-etcd-client.key", ""),
    ],
    node_files: &[],
    data_dir: "/var/lib/k0s/etcd",
    endpoints: &["https://127.0.0.1:2379"],
    authority: Some("/var/lib/k0s/pki/etcd/ca.crt"),
    pairs: &[
        "/var/lib/k0s/pki/apiserver-etcd-client.crt",
        "/var/lib/k0s/pki/etcd/server.crt",
        "/var/lib/k0s/pki/etcd/peer.crt",
    ],
};

const KOPS_MAIN: LayoutCase = LayoutCase {
    source: "kubernetes-sigs/etcd-manager v3.0.20260707 pkg/etcd/etcdprocess.go, Start; pkg/etcd/pki.go: the server's certificate \
             is also for clients; kubernetes/kops nodeup/pkg/model/etcd_manager_tls.go",
    name: Some("kOps"),
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
    process_files: &[],
    node_files: &[
        ("etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.crt", ""),
        ("etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.key", ""),
    ],
    data_dir: "/rootfs/mnt/master-vol-0123/data/token",
    endpoints: &["https://127.0.0.1:4001"],
    authority: Some("/rootfs/mnt/master-vol-0123/pki/token/clients/ca.crt"),
    pairs: &[
        "/rootfs/mnt/master-vol-0123/pki/token/clients/server.crt",
        "node:/etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.crt",
    ],
};

const KOPS_EVENTS: LayoutCase = LayoutCase {
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
    pairs: &[
        "/rootfs/mnt/master-vol-4567/pki/token/clients/server.crt",
        "node:/etc/kubernetes/pki/etcd-manager-main/etcd-clients-ca.crt",
    ],
    ..KOPS_MAIN
};

const OPENSHIFT: LayoutCase = LayoutCase {
    source: "openshift/cluster-etcd-operator bindata/etcd/pod.gotpl.yaml; pkg/etcdenvvar/etcd_env.go, getEtcdctlEnvVars (4.19)",
    name: Some("OpenShift"),
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
    process_files: &[
        ("etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt", ""),
        ("etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.key", ""),
    ],
    node_files: &[],
    data_dir: "/var/lib/etcd",
    endpoints: &["https://127.0.0.1:9978", "https://127.0.0.1:2379", "unixs://10.0.0.1:0"],
    authority: Some("/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt"),
    pairs: &[
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
    ],
};

/// Since 2026 HTTP and gRPC have separate client listeners.
const OPENSHIFT_SEPARATE_HTTP: LayoutCase = LayoutCase {
    source: "openshift/cluster-etcd-operator b4786ae (June 2026) bindata/etcd/pod.gotpl.yaml",
    flags: &[
        "--feature-gates=InitialCorruptCheck=true",
        "--cert-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.crt",
        "--key-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-serving-m0.key",
        "--trusted-ca-file=/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "--client-cert-auth=true",
        "--peer-cert-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.crt",
        "--peer-key-file=/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-m0.key",
        "--peer-trusted-ca-file=/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "--listen-client-urls=https://[::]:2379",
        "--listen-client-http-urls=https://[::]:2381",
        "--listen-metrics-urls=https://[::]:9978",
    ],
    endpoints: &["https://[::1]:9978", "https://[::1]:2381"],
    ..OPENSHIFT
};

const TALOS: LayoutCase = LayoutCase {
    source: "siderolabs/talos v1.13 internal/app/machined/pkg/system/services/etcd.go, argsForControlPlane; \
             pkg/machinery/constants/constants.go",
    name: Some("Talos"),
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
    process_files: &[("system/secrets/etcd/admin.crt", ""), ("system/secrets/etcd/admin.key", "")],
    node_files: &[],
    data_dir: "/var/lib/etcd",
    endpoints: &["https://[::1]:2379"],
    authority: Some("/system/secrets/etcd/ca.crt"),
    pairs: &[
        "/system/secrets/etcd/admin.crt",
        "/system/secrets/etcd/server.crt",
        "/system/secrets/etcd/peer.crt",
    ],
};

/// Since 1.14 HTTP and gRPC have separate client listeners; metrics have their own listener if `extraArgs`
/// configures it.
const TALOS_SEPARATE_HTTP: LayoutCase = LayoutCase {
    source: "siderolabs/talos v1.14.0-rc.1 internal/app/machined/pkg/system/services/etcd.go, argsForControlPlane",
    flags: &[
        "--auto-tls=false",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=https://0.0.0.0:2379",
        "--listen-client-http-urls=https://0.0.0.0:2383",
        "--listen-metrics-urls=http://0.0.0.0:2381",
        "--client-cert-auth=true",
        "--cert-file=/system/secrets/etcd/server.crt",
        "--key-file=/system/secrets/etcd/server.key",
        "--trusted-ca-file=/system/secrets/etcd/ca.crt",
        "--feature-gates=InitialCorruptCheck=true",
        "--feature-gates=CompactHashCheck=true",
        "--tls-min-version=TLS1.3",
        "--peer-cert-file=/system/secrets/etcd/peer.crt",
        "--peer-key-file=/system/secrets/etcd/peer.key",
        "--peer-trusted-ca-file=/system/secrets/etcd/ca.crt",
    ],
    endpoints: &["http://127.0.0.1:2381", "https://127.0.0.1:2383"],
    ..TALOS
};

const SYSTEMD: LayoutCase = LayoutCase {
    source: "etcd-io/etcd v3.6 contrib/systemd/etcd.service: EnvironmentFile with ETCD_*",
    name: None,
    comm: "etcd",
    flags: &[],
    environment: &[
        ("ETCD_NAME", "default"),
        ("ETCD_DATA_DIR", "/var/lib/etcd/default"),
        ("ETCD_LISTEN_CLIENT_URLS", "http://localhost:2379"),
        ("ETCD_LISTEN_METRICS_URLS", ""),
    ],
    process_files: &[],
    node_files: &[],
    data_dir: "/var/lib/etcd/default",
    endpoints: &["http://localhost:2379"],
    authority: None,
    pairs: &[],
};

const CONFIG_FILE: LayoutCase = LayoutCase {
    source: "etcd-io/etcd v3.5 etcd.conf.yml.sample",
    name: None,
    comm: "etcd",
    flags: &["--config-file", "/etc/etcd/etcd.yaml", "--name", "ignored"],
    environment: &[],
    process_files: &[(
        "etc/etcd/etcd.yaml",
        "name: 'from-file'\ndata-dir: /data\nwal-dir:\nlisten-client-urls: https://10.0.0.1:2379\n\
         listen-metrics-urls: https://10.0.0.1:2381, http://10.0.0.1:2391,http://[::1]:2391\n\
         client-transport-security:\n  auto-tls: true\n  client-cert-auth: false\ncors:\nquota-backend-bytes: 0\n",
    )],
    node_files: &[],
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

pub const LAYOUTS: [(&str, &LayoutCase); 12] = [
    ("kubeadm", &KUBEADM),
    ("k3s", &K3S),
    ("RKE2", &RKE2),
    ("k0s", &K0S),
    ("kOps, main", &KOPS_MAIN),
    ("kOps, events", &KOPS_EVENTS),
    ("OpenShift", &OPENSHIFT),
    ("OpenShift with separate HTTP", &OPENSHIFT_SEPARATE_HTTP),
    ("Talos", &TALOS),
    ("Talos with separate HTTP", &TALOS_SEPARATE_HTTP),
    ("systemd", &SYSTEMD),
    ("a configuration file", &CONFIG_FILE),
];
