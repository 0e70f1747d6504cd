//! The scrape configurations of `deploy/prometheus`, with the placeholders replaced by the addresses and
//! paths of a test.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The job name and the cluster name in the examples.
pub const JOB: &str = "etcd-disk-probe";
pub const CLUSTER: &str = "east";

/// The name in the probe's certificate in Kubernetes.
pub const SERVER_NAME: &str = "etcd-disk-probe.etcd-disk-probe.svc";

const JOBS: &str = "scrape_configs:\n";

/// The service discovery of the pods.
const DISCOVERY: &str =
    "  kubernetes_sd_configs:\n  - role: pod\n    namespaces:\n      names: [etcd-disk-probe]\n";

/// Pods as discovery with role `pod` returns them, the probe's first: application, port, phase.
const PODS: [[&str; 3]; 4] = [
    [JOB, "metrics", "Running"],
    ["etcd", "metrics", "Running"],
    [JOB, "other", "Running"],
    [JOB, "metrics", "Succeeded"],
];

/// The test's substitutes for the values in the examples.
#[derive(Clone, Debug)]
pub struct Substitutes {
    /// The probe's address; it serves TLS.
    pub probe: SocketAddr,
    /// The certificate of the authority that signed the probe's certificate.
    pub authority: PathBuf,
    /// A file with the password of the user in the examples.
    pub password: PathBuf,
}

/// Returns the path of a file of the project.
#[must_use]
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path)
}

fn read(name: &str) -> anyhow::Result<String> {
    let path = project("deploy/prometheus").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns the example for fixed addresses with a scrape interval of one second. It is followed by the same
/// job as `lean`, with every documented drop rule enabled, and by the job for Kubernetes as `kubernetes`.
pub fn all(here: &Substitutes, lean: &str, kubernetes: &str) -> anyhow::Result<String> {
    let text = replaced(
        &read("static.yaml")?,
        &[
            ("../chart", &project("deploy/chart").display().to_string()),
            ("'192.0.2.11:12381', '192.0.2.12:12381', '192.0.2.13:12381'", &format!("'{}'", here.probe)),
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("scrape_timeout: 10s", "scrape_timeout: 1s"),
        ],
    )?;
    let (head, job) = text.split_once(JOBS).context("there are no jobs")?;
    let dropping = replaced(
        &uncommented(job, "metric_relabel_configs"),
        &[(&format!("job_name: {JOB}"), &format!("job_name: {lean}"))],
    )?;
    let found = discovered(here.probe)?;
    let found = found.split_once(JOBS).context("there are no jobs")?.1;
    let found = replaced(
        &uncommented(found, "# Where it asks for a password"),
        &[(&format!("job_name: {JOB}"), &format!("job_name: {kubernetes}"))],
    )?;
    let text = [head, JOBS, job, &dropping, &found].concat();
    let text = text.replace("/etc/prometheus/etcd-disk-probe/ca.crt", &here.authority.display().to_string());
    Ok(text.replace("/etc/prometheus/etcd-disk-probe/password", &here.password.display().to_string()))
}

/// Returns the example for Kubernetes with discovery replaced by its result, since Debian's Prometheus is
/// built without Kubernetes discovery.
pub fn discovered(probe: SocketAddr) -> anyhow::Result<String> {
    let mut pods = "  static_configs:\n".to_owned();
    for (n, [application, port, phase]) in PODS.into_iter().enumerate() {
        let address = if n == 0 { probe } else { SocketAddr::from(([192, 0, 2, 11], 12381)) };
        _ = write!(
            pods,
            "  - targets: ['{address}']\n    labels:\n      __meta_kubernetes_pod_label_app_kubernetes_io_name: {application}\n      \
             __meta_kubernetes_pod_container_port_name: {port}\n      __meta_kubernetes_pod_phase: {phase}\n      \
             __meta_kubernetes_pod_node_name: node-{n}\n      __meta_kubernetes_namespace: etcd-disk-probe\n      \
             __meta_kubernetes_pod_name: etcd-disk-probe-{n}\n"
        );
    }
    replaced(
        &read("kubernetes.yaml")?,
        &[(DISCOVERY, &pods), ("../chart", &project("deploy/chart").display().to_string())],
    )
}

/// Replaces each of the words, which must occur exactly once.
fn replaced(text: &str, words: &[(&str, &str)]) -> anyhow::Result<String> {
    words.iter().try_fold(text.to_owned(), |text, (from, to)| {
        let count = text.matches(from).count();
        ensure!(count == 1, "`{from}` occurs {count} times");
        Ok(text.replace(from, to))
    })
}

/// Uncomments configuration, but not prose, from the line with `beginning` on: keys and the lines indented
/// below them.
fn uncommented(text: &str, beginning: &str) -> String {
    let mut begun = false;
    let lines = text.lines().map(|line| {
        begun |= line.contains(beginning);
        let rest = line.strip_prefix("  # ").filter(|_| begun);
        let is_yaml =
            |rest: &&str| rest.starts_with("- ") || rest.starts_with("  ") || rest.ends_with("_auth:");
        rest.filter(is_yaml).map_or_else(|| format!("{line}\n"), |rest| format!("  {rest}\n"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_stays_a_comment() {
        let text =
            "  # - before\n  begin:\n  # What it is:\n  # - key: [a]\n  #   deeper: b\n  # basic_auth:\n";
        let expected =
            "  # - before\n  begin:\n  # What it is:\n  - key: [a]\n    deeper: b\n  basic_auth:\n";
        assert_eq!(uncommented(text, "begin:"), expected);
        assert!(replaced("a b", &[("c", "d")]).is_err(), "a missing word cannot be replaced");
    }
}
