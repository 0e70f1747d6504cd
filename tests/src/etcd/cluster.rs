//! A three-member etcd cluster on this node, with mutual TLS between members and for clients.

use std::path::Path;
use std::thread;

use anyhow::Context;

use crate::etcd::certs::Mutual;
use crate::etcd::{Etcd, Member};
use crate::machine::http::free_address;

/// Starts `<name>-a`, `<name>-b` and `<name>-c` concurrently: a single member has no quorum and would never
/// become healthy.
pub fn start(binary: &Path, name: &str, directory: &Path, tls: &Mutual) -> anyhow::Result<Vec<Etcd>> {
    let mut members = Vec::new();
    for letter in ["a", "b", "c"] {
        members.push((format!("{name}-{letter}"), format!("https://{}", free_address()?)));
    }
    let cluster: Vec<_> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
    let cluster = cluster.join(",");
    thread::scope(|scope| {
        let starting: Vec<_> = members
            .iter()
            .map(|(member, url)| {
                let member = Member::new(binary, member, directory)
                    .tls(tls)
                    .set("listen-peer-urls", url)
                    .set("initial-advertise-peer-urls", url)
                    .set("initial-cluster", &cluster)
                    .set("initial-cluster-token", name)
                    .set("peer-cert-file", tls.server.certificate.display().to_string())
                    .set("peer-key-file", tls.server.key.display().to_string())
                    .set("peer-trusted-ca-file", tls.authority.display().to_string())
                    .set("peer-client-cert-auth", "true");
                scope.spawn(move || member.start())
            })
            .collect();
        let panicked = |_| anyhow::anyhow!("a thread that starts a member panicked");
        let started = starting.into_iter().map(|thread| thread.join().map_err(panicked)?);
        started.collect::<anyhow::Result<Vec<Etcd>>>().context("cannot start a cluster")
    })
}
