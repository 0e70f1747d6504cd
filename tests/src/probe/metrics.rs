//! Parses a page of metrics, from etcd or the probe, into samples that tests select by name and labels.

use std::collections::BTreeMap;

use anyhow::Context;
use prometheus_parse::{Scrape, Value};

/// One line of the page. Buckets of histograms are samples called `…_bucket` with a label `le`, as in the
/// text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|&(key, value)| self.labels.get(key).is_some_and(|held| held == value))
    }
}

/// All samples of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Parses the Prometheus text format.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).context("cannot parse the metrics")?;
        let mut samples = Vec::new();
        for sample in scrape.samples {
            let labels: BTreeMap<_, _> = sample.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let mut parts = |name: String, label: &str, rows: Vec<(f64, f64)>| {
                samples.extend(rows.into_iter().map(|(bound, value)| {
                    let mut labels = labels.clone();
                    let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
                    labels.insert(label.to_owned(), bound);
                    Sample { name: name.clone(), labels, value }
                }));
            };
            match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => {
                    samples.push(Sample { name: sample.metric, labels, value });
                }
                Value::Histogram(buckets) => {
                    let rows = buckets.iter().map(|bucket| (bucket.less_than, bucket.count)).collect();
                    parts(format!("{}_bucket", sample.metric), "le", rows);
                }
                Value::Summary(quantiles) => {
                    let rows = quantiles.iter().map(|quantile| (quantile.quantile, quantile.count)).collect();
                    parts(sample.metric, "quantile", rows);
                }
            }
        }
        Ok(Self { samples })
    }

    /// Returns every sample with this name and at least these labels.
    pub fn all<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// Returns the one sample with this name and these labels; `None` if there is none or more than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.all(name, labels);
        let first = found.next()?;
        found.next().is_none().then_some(first.value)
    }

    /// Returns the sum over all samples with this name and these labels; 0 for none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.all(name, labels).map(|sample| sample.value).sum()
    }

    /// Returns the one sample with this name and these labels.
    ///
    /// # Panics
    ///
    /// If there is none or more than one; the message lists all samples with that name.
    #[track_caller]
    pub fn expect(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.value(name, labels).unwrap_or_else(|| {
            let there: Vec<_> = self.all(name, &[]).map(|sample| (&sample.labels, sample.value)).collect();
            panic!("{name} with {labels:?} is not one sample; there are: {there:?}")
        })
    }

    /// Returns the distinct values of one label over all samples with this name, sorted.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> =
            self.all(name, &[]).filter_map(|sample| sample.labels.get(label).cloned()).collect();
        values.sort();
        values.dedup();
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Labels = &'static [(&'static str, &'static str)];

    const PAGE: &str = "\
# TYPE up gauge
up{member=\"a\"} 1
up{member=\"b\"} 0
# TYPE sync_seconds histogram
sync_seconds_bucket{member=\"a\",le=\"0.001\"} 3
sync_seconds_bucket{member=\"a\",le=\"+Inf\"} 4
sync_seconds_sum{member=\"a\"} 0.5
sync_seconds_count{member=\"a\"} 4
";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(PAGE).unwrap();
        let cases: [(&str, Labels, Option<f64>, &str); 7] = [
            ("up", &[("member", "a")], Some(1.0), "one label is enough"),
            ("up", &[], None, "two samples are not one"),
            ("up", &[("member", "c")], None, "no sample has that label"),
            ("sync_seconds_count", &[], Some(4.0), "the count is a sample of its own"),
            ("sync_seconds_sum", &[("member", "a")], Some(0.5), "so is the sum"),
            ("sync_seconds_bucket", &[("le", "0.001")], Some(3.0), "buckets keep their bound"),
            ("sync_seconds_bucket", &[("le", "+Inf")], Some(4.0), "the last one too"),
        ];
        for (name, labels, expected, why) in cases {
            assert_eq!(metrics.value(name, labels), expected, "{name} {labels:?}: {why}");
        }
        assert!((metrics.sum("up", &[]) - 1.0).abs() < f64::EPSILON);
        assert_eq!(metrics.label_values("up", "member"), ["a", "b"]);
    }
}
