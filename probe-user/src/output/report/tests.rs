//! Tests of the report.

mod golden;

use super::*;

fn seen(latencies_ms: &[u64]) -> Observations {
    let at_most = std::array::from_fn(|k| {
        latencies_ms.iter().filter(|latency_ms| **latency_ms <= 1 << k).count() as u64
    });
    Observations { count: latencies_ms.len() as u64, sum_s: 0.0, at_most }
}

#[test]
fn quantiles_of_etcd_equal_those_of_dashboards() {
    let half = [vec![1; 50], vec![4; 50]].concat();
    assert_eq!(interpolated(&seen(&half), 0.5), Some(0.001), "the first bucket holds half");
    assert_eq!(interpolated(&seen(&half), 0.75), Some(0.003), "half way through the bucket from 2 to 4 ms");
    assert_eq!(interpolated(&seen(&[]), 0.5), None, "no events, no quantile");
}
