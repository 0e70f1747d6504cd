//! Every layout of docs/discovery.md as a tree of files: which endpoints are found, and which pairs to show there.

mod layouts;

use super::*;
use crate::support::fixture::Tree;
use layouts::{KUBEADM, LAYOUTS, Layout};

const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 70 };
const FIRST: ProcessId = ProcessId { pid: 1, start_ticks: 1 };

/// What `try_look` does, but for the process itself.
fn found(layout: &Layout, places: &Places) -> (Settings, Option<&'static str>, Vec<Endpoint>) {
    let text = |text: &&str| (*text).to_owned();
    let argv: Vec<_> = ["etcd"].iter().chain(layout.flags).map(text).collect();
    let environment = layout.environment.iter().map(|(key, value)| (text(key), text(value))).collect();
    let source = Source::new(&argv, &environment);
    let config_file = if layout_matcher::embeds_etcd(layout.comm) {
        let wal = Path::new(layout.data_dir).join("member/wal");
        layout_matcher::embedded_config(&wal.join("0000000000000000-0000000000000000.wal"))
    } else {
        source.config_file().map(Path::to_owned)
    };
    let settings =
        read_settings(&source, config_file.as_deref(), &places.theirs).expect("the settings are in order");
    let known = layout_matcher::of(&settings, layout.comm);
    let client = client_pairs(&settings, &source, known, places);
    let endpoints = endpoint::endpoints(&settings, client, PROCESS, false, &Overrides::default());
    (settings, known.map(|layout| layout.name), endpoints)
}

fn places(theirs: &Tree, nodes: &Tree) -> Places {
    let root = |tree: &Tree| Root::at(tree.path()).unwrap();
    Places { process: PROCESS, theirs: root(theirs), first: Some(FIRST), nodes: root(nodes) }
}

#[test]
fn every_layout_is_understood() {
    for (case, layout) in LAYOUTS {
        let (theirs, nodes) = (Tree::with(layout.theirs), Tree::with(layout.nodes));
        let (settings, name, endpoints) = found(layout, &places(&theirs, &nodes));
        let why = format!("{case}, as in {}", layout.source);
        assert_eq!(name, layout.name, "{why}");
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
    let owner = if pair.certificate.seen_by == Some(PROCESS) { "" } else { "node:" };
    format!("{owner}{}", pair.certificate.path.display())
}

#[test]
fn half_a_pair_is_none() {
    let theirs = Tree::with(&[("etc/kubernetes/pki/etcd/healthcheck-client.crt", "")]);
    let (_, _, endpoints) = found(&KUBEADM, &places(&theirs, &Tree::with(&[])));
    let first = &endpoints[0].credentials.client[0];
    assert_eq!(first.certificate.path, Path::new("/etc/kubernetes/pki/etcd/server.crt"));
}

#[test]
fn the_nodes_files_are_found_through_its_first_process_or_ours() {
    let me = ProcessId::of(std::process::id()).unwrap();
    let places = Places::of(me, Root::of(me).unwrap()).unwrap();
    let open_to_us = ProcessId::of(1).filter(|first| Root::of(*first).is_ok());
    assert_eq!(places.first, open_to_us);
    let file = Tree::with(&[("c.crt", ""), ("c.key", "")]);
    let pair = Pair { certificate: file.join("c.crt"), key: file.join("c.key") };
    assert_eq!(
        places.find(pair.clone()),
        Some(seen_by(pair.clone(), Some(me))),
        "the process's own come first"
    );
    let nowhere = Tree::with(&[]);
    let places = Places { theirs: Root::at(nowhere.path()).unwrap(), ..places };
    assert_eq!(places.find(pair.clone()), Some(seen_by(pair, open_to_us)), "the node has them");
}
