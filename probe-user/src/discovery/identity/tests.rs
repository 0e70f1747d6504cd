//! Every layout of docs/discovery.md as a tree of files: which endpoints are found, and which client
//! certificates may be presented there.

mod layouts;

use super::*;
use crate::support::fixture::Tree;
use layouts::{KUBEADM, LAYOUTS, LayoutCase};

const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 70 };
const INIT: ProcessId = ProcessId { pid: 1, start_ticks: 1 };

/// Does the same as `try_inspect`, without a process.
fn found(
    layout: &LayoutCase,
    locations: &FileLocations,
) -> (MemberSettings, Option<&'static str>, Vec<Endpoint>) {
    let text = |text: &&str| (*text).to_owned();
    let argv: Vec<_> = ["etcd"].iter().chain(layout.flags).map(text).collect();
    let environment = layout.environment.iter().map(|(key, value)| (text(key), text(value))).collect();
    let launch = LaunchConfig::new(&argv, &environment);
    let config_file = if layout_matcher::embeds_etcd(layout.comm) {
        let wal = Path::new(layout.data_dir).join("member/wal");
        layout_matcher::embedded_config(&wal.join("0000000000000000-0000000000000000.wal"))
    } else {
        launch.config_file().map(Path::to_owned)
    };
    let settings = read_settings(&launch, config_file.as_deref(), &locations.process_root)
        .expect("the settings are valid");
    let known = layout_matcher::find(&settings, layout.comm);
    let client = client_pairs(&settings, &launch, known, locations);
    let endpoints = endpoint::endpoints(&settings, client, PROCESS, false, &Overrides::default());
    (settings, known.map(|layout| layout.name), endpoints)
}

fn locations(process_root: &Tree, node_root: &Tree) -> FileLocations {
    let root = |tree: &Tree| Root::at(tree.path()).unwrap();
    FileLocations {
        process: PROCESS,
        process_root: root(process_root),
        init: Some(INIT),
        node_root: root(node_root),
    }
}

#[test]
fn every_layout_is_recognized() {
    for (case, layout) in LAYOUTS {
        let (process_root, node_root) = (Tree::with(layout.process_files), Tree::with(layout.node_files));
        let (settings, name, endpoints) = found(layout, &locations(&process_root, &node_root));
        let why = format!("{case}, from {}", layout.source);
        assert_eq!(name, layout.name, "{why}");
        assert_eq!(settings.data_dir, Path::new(layout.data_dir), "{why}");
        let urls: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(urls, layout.endpoints, "{why}");
        for endpoint in &endpoints {
            let credentials = &endpoint.credentials;
            let authorities: Vec<_> =
                credentials.authorities.iter().map(|file| file.path.as_path()).collect();
            assert_eq!(authorities, layout.authority.map(Path::new).into_iter().collect::<Vec<_>>(), "{why}");
            let presented: Vec<_> = credentials.client.iter().map(written).collect();
            assert_eq!(presented, layout.pairs, "{why}");
        }
    }
}

fn written(pair: &KeyPair) -> String {
    assert_eq!(pair.certificate.root_of, pair.key.root_of, "certificate and key are in one root");
    let owner = if pair.certificate.root_of == Some(PROCESS) { "" } else { "node:" };
    format!("{owner}{}", pair.certificate.path.display())
}

#[test]
fn a_certificate_without_its_key_is_not_used() {
    let process_root = Tree::with(&[("etc/kubernetes/pki/etcd/healthcheck-client.crt", "")]);
    let (_, _, endpoints) = found(&KUBEADM, &locations(&process_root, &Tree::with(&[])));
    let first = &endpoints[0].credentials.client[0];
    assert_eq!(first.certificate.path, Path::new("/etc/kubernetes/pki/etcd/server.crt"));
}

#[test]
fn files_of_the_node_are_found_through_pid_1_or_our_own_root() {
    let me = ProcessId::of(std::process::id()).unwrap();
    let locations = FileLocations::of(me, Root::of(me).unwrap()).unwrap();
    let readable_init = ProcessId::of(1).filter(|init| Root::of(*init).is_ok());
    assert_eq!(locations.init, readable_init);
    let file = Tree::with(&[("c.crt", ""), ("c.key", "")]);
    let pair = Pair { certificate: file.join("c.crt"), key: file.join("c.key") };
    assert_eq!(
        locations.find(pair.clone()),
        Some(key_pair(pair.clone(), Some(me))),
        "files of the process come first"
    );
    let nowhere = Tree::with(&[]);
    let locations = FileLocations { process_root: Root::at(nowhere.path()).unwrap(), ..locations };
    assert_eq!(locations.find(pair.clone()), Some(key_pair(pair, readable_init)), "only the node has them");
}
