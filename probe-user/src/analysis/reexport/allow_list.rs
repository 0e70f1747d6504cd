//! The allow-list of etcd's families to re-export.

use wildmatch::WildMatch;

use crate::analysis::exposition::is_name_byte;

/// The families that operators watch: leadership, proposals, the disk, snapshots, the database's size, the
/// round trips to the peers, slow applies and reads, versions. The names are the same from etcd 3.4 to 3.6.
/// `etcd_disk_wal_write_*` has the bytes since 3.4.23 at the latest, and the duration since 3.5.14. 3.4 also
/// has the database's size under its older name, but never without the newer one.
pub const DEFAULT: [&str; 20] = [
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_*",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_*",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_snap_*",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_server_quota_backend_bytes",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_version",
    "etcd_cluster_version",
    "process_start_time_seconds",
];

/// Prefix of the probe's own metrics; families of etcd with this prefix are not re-exported.
const RESERVED: &str = "etcd_disk_probe_";

/// Patterns of names; a family must match one of them.
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    patterns: Vec<WildMatch>,
}

impl AllowList {
    /// Returns the list that permits no family.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Parses the value of `--etcd-metrics`: patterns that replace [`DEFAULT`], or extend it if the first
    /// starts with a `+`; `none`, or an empty value, permits no family.
    ///
    /// # Errors
    /// One sentence that names the pattern and the way out.
    pub fn parse(patterns: &[String]) -> Result<Self, String> {
        let given: Vec<&str> = patterns.iter().map(|pattern| pattern.trim()).collect();
        if matches!(given.as_slice(), [] | ["" | "none"]) {
            return Ok(Self::nothing());
        }
        let extends = given[0].starts_with('+');
        let mut all = if extends { DEFAULT.to_vec() } else { Vec::new() };
        for pattern in given {
            let name = match pattern.strip_prefix('+') {
                Some(_) if !extends => {
                    return Err(format!(
                        "`{pattern}` follows patterns without a +; put the + first to extend the default"
                    ));
                }
                Some(name) => name,
                None => pattern,
            };
            if name == "none" {
                return Err("`none` cannot be combined with patterns".to_owned());
            }
            let is_pattern = name.bytes().all(|byte| is_name_byte(byte) || byte == b'*');
            if name.is_empty() || !is_pattern || name.as_bytes()[0].is_ascii_digit() {
                return Err(format!(
                    "`{pattern}` is not a metric name such as etcd_server_has_leader, with * for any part of it"
                ));
            }
            all.push(name);
        }
        Ok(Self { patterns: all.into_iter().map(WildMatch::new).collect() })
    }

    /// Returns whether a family is re-exported.
    pub fn allows(&self, family: &str) -> bool {
        !family.starts_with(RESERVED) && self.patterns.iter().any(|pattern| pattern.matches(family))
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(given: &[&str]) -> Result<AllowList, String> {
        AllowList::parse(&given.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn patterns_extend_replace_or_disable_the_default() {
        let cases: [(&[&str], &str, bool, &str); 14] = [
            (&DEFAULT, "etcd_server_has_leader", true, "a name"),
            (&DEFAULT, "etcd_server_has_leader_2", false, "a name must match as a whole"),
            (&DEFAULT, "etcd_server_proposals_failed_total", true, "a pattern"),
            (
                &DEFAULT,
                "etcd_debugging_mvcc_db_total_size_in_bytes",
                false,
                "the older name next to the newer one",
            ),
            (&DEFAULT, "go_goroutines", false, "not etcd's own"),
            (&["+grpc_*"], "grpc_server_handled_total", true, "the addition"),
            (&["+grpc_*"], "etcd_server_has_leader", true, "to the default"),
            (&["+grpc_*", "go_*"], "go_goroutines", true, "all of them"),
            (&["go_*"], "etcd_server_has_leader", false, "in place of the default"),
            (&["*"], "anything", true, "everything"),
            (&["*"], "etcd_disk_probe_verdict", false, "but not the probe's own prefix"),
            (&["*_seconds"], "etcd_disk_wal_fsync_duration_seconds", true, "an ending"),
            (&["none"], "etcd_server_has_leader", false, "nothing"),
            (&[""], "etcd_server_has_leader", false, "nothing, too"),
        ];
        for (given, family, expected, why) in cases {
            assert_eq!(list(given).expect(why).allows(family), expected, "{given:?}, {family}: {why}");
        }
        assert!(list(&[]).expect("nothing").is_empty());
    }

    #[test]
    fn the_default_is_as_documented() {
        let documented = include_str!("../../../../docs/etcd-metrics.md");
        let table = documented.split("\n\n").find(|part| part.contains("| families |")).expect("a table");
        let mut listed: Vec<_> = table.split('`').skip(1).step_by(2).collect();
        let mut default = DEFAULT.to_vec();
        listed.sort_unstable();
        default.sort_unstable();
        assert_eq!(listed, default);
    }

    #[test]
    fn errors_name_the_invalid_pattern() {
        let cases: [(&[&str], &str); 7] = [
            (&["etcd-server"], "`etcd-server` is not a metric name"),
            (&["etcd_?"], "`etcd_?` is not a metric name"),
            (&["9lives"], "`9lives` is not a metric name"),
            (&["+"], "`+` is not a metric name"),
            (&["a", "", "b"], "`` is not a metric name"),
            (&["a", "+b"], "put the + first"),
            (&["a", "none"], "cannot be combined"),
        ];
        for (given, expected) in cases {
            let error = list(given).expect_err(expected);
            assert!(error.contains(expected), "{given:?}: {error}");
        }
    }
}
