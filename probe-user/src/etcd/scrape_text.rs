//! Parses etcd's metrics from the text format: the metrics for the cross-check, and those to re-export.
//!
//! The former are parsed strictly: the cross-check compares individual events, and an incomplete histogram
//! would look like lost events.

use std::mem;

use super::error::ScrapeError;
use crate::analysis::reexport::AllowList;
use crate::analysis::{
    exposition::{self, FamilyType, Line, Sample, number},
    reexport::{Collector, ReexportedMetrics},
};

const WAL_FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";
const BACKEND_COMMIT: &str = "etcd_disk_backend_commit_duration_seconds";
const PROCESS_START: &str = "process_start_time_seconds";
const PROCESS_CPU: &str = "process_cpu_seconds_total";
const VERSION: &str = "etcd_server_version";
const IS_LEADER: &str = "etcd_server_is_leader";
const HAS_LEADER: &str = "etcd_server_has_leader";
const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";

const FAMILIES: [&str; 8] =
    [WAL_FSYNC, BACKEND_COMMIT, PROCESS_START, PROCESS_CPU, VERSION, IS_LEADER, HAS_LEADER, LEADER_CHANGES];

/// Maximum number of samples of [`FAMILIES`]; etcd has 40.
const MAX_SAMPLES: usize = 200;

/// Integers above 2^53 are not exact as `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The bounds of both histograms, in seconds.
pub const BOUNDS_S: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// The metrics of one scrape of etcd.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    pub wal_fsync: EtcdHistogram,
    pub backend_commit: EtcdHistogram,
    /// Seconds since the epoch; distinguishes incarnations of etcd.
    pub process_start_time_s: Option<f64>,
    /// CPU time since the start; distinguishes processes that were started at the same time.
    pub process_cpu_s: Option<f64>,
    pub version: Option<String>,
    pub is_leader: Option<bool>,
    pub has_leader: Option<bool>,
    pub leader_changes: Option<u64>,
    /// The families of the allow-list.
    pub reexported: ReexportedMetrics,
}

/// One of etcd's histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EtcdHistogram {
    pub count: u64,
    pub sum_s: f64,
    /// Cumulative number of observations up to each of [`BOUNDS_S`].
    pub at_most: [u64; BOUNDS_S.len()],
}

impl Scrape {
    /// Parses the body of `/metrics`, and collects the families to re-export.
    ///
    /// # Errors
    ///
    /// When the body is not metrics, or not the metrics of an etcd.
    pub fn parse(body: &[u8], allowed: &AllowList) -> Result<Self, ScrapeError> {
        let text = std::str::from_utf8(body).map_err(|_| not_metrics("it is not text"))?;
        let mut collector = Collector::new(allowed);
        let required = RequiredFamilies::read(text, &mut collector)?;
        Ok(Self {
            wal_fsync: required.histogram(WAL_FSYNC)?,
            backend_commit: required.histogram(BACKEND_COMMIT)?,
            process_start_time_s: required.value(PROCESS_START).filter(|start| start.is_finite()),
            process_cpu_s: required.value(PROCESS_CPU).filter(|spent| spent.is_finite()),
            version: required
                .of(VERSION)
                .next()
                .and_then(|sample| sample.label("server_version"))
                .map(str::to_owned),
            is_leader: required.value(IS_LEADER).map(|value| value > 0.0),
            has_leader: required.value(HAS_LEADER).map(|value| value > 0.0),
            leader_changes: required.value(LEADER_CHANGES).and_then(whole),
            reexported: collector.finish(),
        })
    }
}

/// The samples of [`FAMILIES`]. Of the other thousand lines, only re-exported ones must be valid metrics.
#[derive(Default)]
struct RequiredFamilies<'a> {
    samples: Vec<Sample<'a>>,
    /// Families declared as histograms.
    histograms: Vec<&'a str>,
}

impl<'a> RequiredFamilies<'a> {
    fn read(text: &'a str, collector: &mut Collector<'a>) -> Result<Self, ScrapeError> {
        // Not at `\r\n`, which is not the end of a line for Prometheus either.
        let lines = || lines(text);
        let first = lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if !first.is_some_and(|line| matches!(exposition::read(line), Ok(Line::Sample(_)))) {
            return Err(not_metrics("its first line is not a metric"));
        }
        let mut required = Self::default();
        // Samples of one name are consecutive, and most names are not wanted.
        let mut skips = false;
        for line in lines() {
            if skips && collector.refuses(line) {
                continue;
            }
            let name = exposition::name_of(line).unwrap_or_default();
            let is_comment = line.starts_with('#');
            let is_required = FAMILIES.iter().any(|family| name.starts_with(family));
            let is_wanted = !name.is_empty() && collector.wants(name, is_comment);
            let is_unwanted = !is_required && !is_wanted && (is_comment || !name.is_empty());
            skips = is_unwanted && collector.refuses(line);
            if is_unwanted {
                continue;
            }
            match exposition::read(line) {
                Ok(line) => {
                    if is_wanted {
                        collector.take(&line);
                    }
                    if is_required {
                        required.take(line)?;
                    }
                }
                Err(_) if is_required && !is_comment => {
                    let begin: String = line.chars().take(120).collect();
                    return Err(not_metrics(&format!("`{begin}` is not a metric")));
                }
                Err(_) => collector.malformed(),
            }
        }
        Ok(required)
    }

    fn take(&mut self, line: Line<'a>) -> Result<(), ScrapeError> {
        match line {
            Line::Sample(sample) => self.samples.push(sample),
            Line::Type { family, kind: FamilyType::Histogram } => self.histograms.push(family),
            _ => {}
        }
        if self.samples.len() + self.histograms.len() > MAX_SAMPLES {
            return Err(ScrapeError::NotEtcd(format!(
                "it has more than {MAX_SAMPLES} samples of the families to compare"
            )));
        }
        Ok(())
    }

    fn of<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b Sample<'a>> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// Returns the value of this name; none if it occurs more than once.
    fn value(&self, name: &str) -> Option<f64> {
        let mut found = self.of(name);
        let first = found.next()?;
        found.next().is_none().then_some(first.number)
    }

    fn histogram(&self, name: &str) -> Result<EtcdHistogram, ScrapeError> {
        let wrong = |what: &str| ScrapeError::NotEtcd(format!("{name} {what}"));
        let bucket = format!("{name}_bucket");
        let buckets: Vec<&Sample<'_>> = self.of(&bucket).collect();
        if buckets.is_empty() || !self.histograms.contains(&name) {
            return Err(wrong("is missing"));
        }
        if buckets.iter().any(|sample| sample.labels.len() != 1 || sample.labels[0].0 != "le") {
            return Err(wrong("is not a single histogram without labels"));
        }
        let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]).map(Some);
        // Both sides are the `f64` nearest to the same decimal text, so equality is exact.
        if !buckets.iter().map(|sample| number(sample.labels[0].1)).eq(bounds) {
            return Err(wrong("has bounds other than etcd's"));
        }
        let counts: Option<Vec<u64>> = buckets.iter().map(|sample| whole(sample.number)).collect();
        let counts = counts.ok_or_else(|| wrong("has a count that is not a whole number"))?;
        if !counts.is_sorted() {
            return Err(wrong("has buckets that decrease"));
        }
        let count = self.value(&format!("{name}_count")).and_then(whole);
        let sum_s = self.value(&format!("{name}_sum")).filter(|sum| sum.is_finite() && *sum >= 0.0);
        let (Some(count), Some(sum_s)) = (count, sum_s) else {
            return Err(wrong("has no valid count or sum"));
        };
        if counts.last() != Some(&count) {
            return Err(wrong("has a count that differs from its last bucket"));
        }
        let mut at_most = [0; BOUNDS_S.len()];
        at_most.copy_from_slice(&counts[..BOUNDS_S.len()]);
        Ok(EtcdHistogram { count, sum_s, at_most })
    }
}

/// Splits a text at its line feeds, as `split` does.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).chain([text.len()]);
    ends.scan(0, |begin, end| Some(&text[mem::replace(begin, end + 1)..end]))
}

fn whole(value: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, positive, below 2^53"
    )]
    ((0.0..EXACT_MAX).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

fn not_metrics(why: &str) -> ScrapeError {
    ScrapeError::NotMetrics(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Scrape, ScrapeError> {
        Scrape::parse(body, &AllowList::nothing())
    }

    const ETCD_3_4_23: &str = include_str!("../../testdata/etcd-3.4.23-metrics.txt");

    #[test]
    fn a_real_etcd_is_parsed_completely() {
        let scrape = parse(ETCD_3_4_23.as_bytes()).unwrap();
        let expected = Scrape {
            wal_fsync: EtcdHistogram {
                count: 5,
                sum_s: 0.010_957_538_999_999_999,
                at_most: [2, 2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
            },
            backend_commit: EtcdHistogram {
                count: 6,
                sum_s: 0.020_375_598,
                at_most: [2, 2, 3, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
            },
            process_start_time_s: Some(1_795_462_806.91),
            process_cpu_s: None, // The sample contains only the relevant families, without this one.

            version: Some("3.4.23".into()),
            is_leader: Some(true),
            has_leader: Some(true),
            leader_changes: Some(1),
            reexported: ReexportedMetrics::default(),
        };
        assert_eq!(scrape, expected);
    }

    #[test]
    fn the_cpu_time_is_parsed() {
        let etcd = include_bytes!("../../testdata/etcd-3.5.30-metrics.txt");
        assert_eq!(parse(etcd).unwrap().process_cpu_s, Some(0.15));
    }

    #[test]
    fn a_histogram_that_differs_from_etcds_is_rejected() {
        let wal = "etcd_disk_wal_fsync_duration_seconds";
        let cases = [
            (format!("{wal}_bucket{{le=\"0.002\"}} 2"), String::new(), "bounds other", "a bucket is missing"),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} 1"),
                "decrease",
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
                "not a whole number",
                "half an event",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} NaN"),
                "not a whole number",
                "not a number",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\",x=\"y\"}} 2"),
                "not a single histogram",
                "labels",
            ),
            (
                format!("{wal}_bucket{{le=\"0.002\"}} 2"),
                format!("{wal}_bucket{{le=\"0.002\"}} 2\n").repeat(2),
                "bounds other",
                "twice",
            ),
            (format!("{wal}_count 5"), format!("{wal}_count 6"), "differs from its last", "count and +Inf"),
            (format!("{wal}_count 5"), String::new(), "no valid count", "no count"),
            (
                format!("{wal}_count 5"),
                format!("{wal}_count 5\n{wal}_count 5"),
                "no valid count",
                "two counts",
            ),
            (
                format!("{wal}_sum 0.010957538999999999"),
                format!("{wal}_sum -1"),
                "valid count or sum",
                "a negative sum",
            ),
            (
                format!("{wal}_bucket{{le=\"+Inf\"}} 5"),
                format!("{wal}_bucket{{le=\"+Inf\"}} 9007199254740993"),
                "not a whole number",
                "beyond 2^53",
            ),
            (format!("# TYPE {wal} histogram\n"), String::new(), "missing", "not declared a histogram"),
        ];
        for (from, to, expected, why) in cases {
            assert!(ETCD_3_4_23.contains(&from), "the fixture lacks {from}");
            let error = parse(ETCD_3_4_23.replace(&from, &to).as_bytes()).expect_err(why);
            assert!(matches!(error, ScrapeError::NotEtcd(_)), "{why}: {error:?}");
            assert!(error.to_string().contains(expected), "{why}: {error}");
        }
    }

    #[test]
    fn a_body_without_metrics_is_rejected() {
        let broken = ETCD_3_4_23.replace("_count 5", "_count five");
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (b"<html><body>It works!</body></html>", "a web page"),
            (b"{\"health\":\"true\"}", "etcd's /health"),
            (b"\xff\xfe\x00", "not text"),
            (broken.as_bytes(), "an unparsable line of a required family"),
        ];
        for (body, why) in cases {
            let error = parse(body).expect_err(why);
            assert!(matches!(error, ScrapeError::NotMetrics(_)), "{why}: {error:?}");
        }
        let other = parse(b"# TYPE up gauge\nup 1\n").expect_err("metrics of another program");
        assert!(matches!(other, ScrapeError::NotEtcd(_)), "{other:?}");
    }
}
