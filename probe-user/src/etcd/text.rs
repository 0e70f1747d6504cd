//! Reads etcd's metrics out of the text it serves.
//!
//! prometheus-parse drops the lines it cannot read, keeps duplicates and believes any number. Here these are errors:
//! the cross-check compares events one by one, and a histogram with a hole would look like lost events.

use prometheus_parse::{LineInfo, Sample, Value};

use super::error::ScrapeError;

const WAL_FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";
const BACKEND_COMMIT: &str = "etcd_disk_backend_commit_duration_seconds";
const PROCESS_START: &str = "process_start_time_seconds";
const PROCESS_CPU: &str = "process_cpu_seconds_total";
const VERSION: &str = "etcd_server_version";
const IS_LEADER: &str = "etcd_server_is_leader";
const HAS_LEADER: &str = "etcd_server_has_leader";
const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";

const FAMILIES: [&str; 7] =
    [WAL_FSYNC, BACKEND_COMMIT, PROCESS_START, VERSION, IS_LEADER, HAS_LEADER, LEADER_CHANGES];

/// Integers above this are not exact in the floating point that carries them.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The bounds of both histograms, in seconds.
pub const BOUNDS_S: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// What etcd said of itself at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    pub wal_fsync: Histogram,
    pub backend_commit: Histogram,
    /// Seconds since the epoch; tells one life of etcd from the next.
    pub process_start_time_s: Option<f64>,
    /// Time on processors since the start; tells one process from another that was started with it.
    pub process_cpu_s: Option<f64>,
    pub version: Option<String>,
    pub is_leader: Option<bool>,
    pub has_leader: Option<bool>,
    pub leader_changes: Option<u64>,
}

/// One of etcd's histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    pub count: u64,
    pub sum_s: f64,
    /// How many observations were at most [`BOUNDS_S`], cumulative.
    pub at_most: [u64; BOUNDS_S.len()],
}

impl Scrape {
    /// Parses the body of `/metrics`.
    ///
    /// # Errors
    ///
    /// When it is not metrics, or not those of an etcd.
    pub fn parse(body: &[u8]) -> Result<Self, ScrapeError> {
        let text = std::str::from_utf8(body).map_err(|_| not_metrics("it is not text"))?;
        let samples = samples(text)?;
        let gauge = |family: &str| value(&samples, family);
        Ok(Self {
            wal_fsync: histogram(&samples, WAL_FSYNC)?,
            backend_commit: histogram(&samples, BACKEND_COMMIT)?,
            process_start_time_s: gauge(PROCESS_START).filter(|start| start.is_finite()),
            process_cpu_s: gauge(PROCESS_CPU).filter(|spent| spent.is_finite()),
            version: samples
                .iter()
                .find(|sample| sample.metric == VERSION)
                .and_then(|sample| sample.labels.get("server_version"))
                .map(str::to_owned),
            is_leader: gauge(IS_LEADER).map(|value| value > 0.0),
            has_leader: gauge(HAS_LEADER).map(|value| value > 0.0),
            leader_changes: gauge(LEADER_CHANGES).and_then(whole),
        })
    }
}

/// Parses the lines of our families; the other thousand only have to look like metrics.
fn samples(text: &str) -> Result<Vec<Sample>, ScrapeError> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    if !first.is_some_and(is_sample) {
        return Err(not_metrics("its first line is no metric"));
    }
    let mut ours = Vec::new();
    for line in text.lines() {
        let name = line.strip_prefix("# TYPE ").unwrap_or(line);
        if !FAMILIES.iter().any(|family| name.starts_with(family)) {
            continue;
        }
        if !line.starts_with('#') && !is_sample(line) {
            return Err(not_metrics(&format!(
                "`{}` is no metric",
                line.chars().take(120).collect::<String>()
            )));
        }
        ours.push(Ok(line.to_owned()));
    }
    let scrape = prometheus_parse::Scrape::parse(ours.into_iter());
    Ok(scrape.map_err(|error| not_metrics(&error.to_string()))?.samples)
}

fn is_sample(line: &str) -> bool {
    match LineInfo::parse(line) {
        LineInfo::Sample { value, .. } => value.to_lowercase().parse::<f64>().is_ok(),
        _ => false,
    }
}

fn value(samples: &[Sample], name: &str) -> Option<f64> {
    let mut found = samples.iter().filter(|sample| sample.metric == name);
    match (found.next()?.value.clone(), found.next()) {
        (Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value), None) => Some(value),
        _ => None,
    }
}

fn histogram(samples: &[Sample], name: &str) -> Result<Histogram, ScrapeError> {
    let wrong = |what: &str| ScrapeError::NotEtcd(format!("{name} {what}"));
    let mut found = samples.iter().filter(|sample| sample.metric == name);
    let buckets = match (found.next().map(|sample| (&sample.value, &sample.labels)), found.next()) {
        (Some((Value::Histogram(buckets), labels)), None) if labels.is_empty() => buckets,
        (None, None) => return Err(wrong("is missing")),
        _ => return Err(wrong("is not one histogram without labels")),
    };
    let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
    // Both sides are the nearest doubles to the same decimal texts, so equality is exact.
    if !buckets.iter().map(|bucket| bucket.less_than).eq(bounds) {
        return Err(wrong("has bounds other than etcd's"));
    }
    let counts: Option<Vec<u64>> = buckets.iter().map(|bucket| whole(bucket.count)).collect();
    let counts = counts.ok_or_else(|| wrong("has a count that is no count"))?;
    if !counts.is_sorted() {
        return Err(wrong("has buckets that fall"));
    }
    let count = value(samples, &format!("{name}_count")).and_then(whole);
    let sum_s = value(samples, &format!("{name}_sum")).filter(|sum| sum.is_finite() && *sum >= 0.0);
    let (Some(count), Some(sum_s)) = (count, sum_s) else {
        return Err(wrong("lacks its count or its sum"));
    };
    if counts.last() != Some(&count) {
        return Err(wrong("has a count that differs from its last bucket"));
    }
    let mut at_most = [0; BOUNDS_S.len()];
    at_most.copy_from_slice(&counts[..BOUNDS_S.len()]);
    Ok(Histogram { count, sum_s, at_most })
}

fn whole(value: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, positive, below 2^53"
    )]
    ((0.0..EXACT).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

fn not_metrics(why: &str) -> ScrapeError {
    ScrapeError::NotMetrics(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETCD_3_4_23: &str = include_str!("../../testdata/etcd-3.4.23-metrics.txt");

    #[test]
    fn a_real_etcd_is_read_in_full() {
        let scrape = Scrape::parse(ETCD_3_4_23.as_bytes()).unwrap();
        let expected = Scrape {
            wal_fsync: Histogram {
                count: 5,
                sum_s: 0.010_957_538_999_999_999,
                at_most: [2, 2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
            },
            backend_commit: Histogram {
                count: 6,
                sum_s: 0.020_375_598,
                at_most: [2, 2, 3, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
            },
            process_start_time_s: Some(1_795_462_806.91),
            process_cpu_s: None, // The sample holds the families that matter, and this one is new among them.

            version: Some("3.4.23".into()),
            is_leader: Some(true),
            has_leader: Some(true),
            leader_changes: Some(1),
        };
        assert_eq!(scrape, expected);
    }

    #[test]
    fn what_is_not_exactly_etcds_is_refused() {
        let wal = "etcd_disk_wal_fsync_duration_seconds";
        let cases = [
            (format!("{wal}_bucket{{le=\"0.002\"}} 2"), String::new(), "bounds other", "a bucket is missing"),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} 1"),
                "fall",
                "not monotone",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.003\"}} 2"),
                "bounds other",
                "another bound",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} 2.5"),
                "no count",
                "half an event",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} NaN"),
                "no count",
                "not a number",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\",x=\"y\"}} 2"),
                "not one histogram",
                "labels",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} 2\n").repeat(2),
                "bounds other",
                "twice",
            ),
            (format!("{wal}_count 5"), format!("{wal}_count 6"), "differs from its last", "count and +Inf"),
            (format!("{wal}_count 5"), String::new(), "lacks its count", "no count"),
            (
                format!("{wal}_count 5"),
                format!("{wal}_count 5\n{wal}_count 5"),
                "lacks its count",
                "two counts",
            ),
            (
                format!("{wal}_sum 0.010957538999999999"),
                format!("{wal}_sum -1"),
                "or its sum",
                "a sum that is none",
            ),
            (
                format!("{wal}_bucket{{le=\"+Inf\"}} 5"),
                format!("{wal}_bucket{{le=\"+Inf\"}} 9007199254740993"),
                "no count",
                "beyond 2^53",
            ),
            (format!("# TYPE {wal} histogram\n"), String::new(), "missing", "not declared a histogram"),
        ];
        for (from, to, expected, why) in cases {
            assert!(ETCD_3_4_23.contains(&from), "the fixture lacks {from}");
            let error = Scrape::parse(ETCD_3_4_23.replace(&from, &to).as_bytes()).expect_err(why);
            assert!(matches!(error, ScrapeError::NotEtcd(_)), "{why}: {error:?}");
            assert!(error.to_string().contains(expected), "{why}: {error}");
        }
    }

    #[test]
    fn what_is_no_metrics_at_all_says_so() {
        let broken = ETCD_3_4_23.replace("_count 5", "_count five");
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (b"<html><body>It works!</body></html>", "a web page"),
            (b"{\"health\":\"true\"}", "etcd's /health"),
            (b"\xff\xfe\x00", "not text"),
            (broken.as_bytes(), "a line of ours that cannot be read"),
        ];
        for (body, why) in cases {
            let error = Scrape::parse(body).expect_err(why);
            assert!(matches!(error, ScrapeError::NotMetrics(_)), "{why}: {error:?}");
        }
        let other = Scrape::parse(b"# TYPE up gauge\nup 1\n").expect_err("somebody else's metrics");
        assert!(matches!(other, ScrapeError::NotEtcd(_)), "{other:?}");
    }
}
