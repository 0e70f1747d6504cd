//! Medians, spreads, and confidence intervals of the mean of many measurements.

use serde::Serialize;

/// The summary of several measurements of one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    /// The quartiles.
    pub low: f64,
    pub high: f64,
    pub n: usize,
}

impl Spread {
    /// Returns `None` without measurements.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
            n: sorted.len(),
        })
    }
}

/// Returns the value at that rank in a sorted list: the smallest value that at least a share `q` of all does
/// not exceed.
pub fn quantile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the list")]
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
}

pub fn median(values: &[f64]) -> Option<f64> {
    Spread::of(values).map(|spread| spread.median)
}

/// An estimate from all blocks of a measurement, and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub standard_error: f64,
}

impl Estimate {
    /// Returns half the width of the 95 % confidence interval.
    pub fn within(&self) -> f64 {
        1.96 * self.standard_error
    }
}

/// The share that is trimmed at either end of a list for its mean: phases that something else disturbed.
const TRIMMED: f64 = 0.2;

/// Returns the trimmed mean of a list and its standard error by Yuen: the winsorized deviation, with both
/// tails replaced by the values at the cuts.
pub fn trimmed_mean(values: &[f64]) -> Option<Estimate> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
    let cut = (TRIMMED * sorted.len() as f64) as usize;
    let middle = &sorted[cut..sorted.len() - cut];
    let (Some(first), Some(last)) = (middle.first(), middle.last()) else { return None };
    if middle.len() < 2 {
        return None;
    }
    let value = mean(middle);
    let drawn_in: Vec<f64> = sorted.iter().map(|value| value.clamp(*first, *last)).collect();
    let center = mean(&drawn_in);
    let squares: f64 = drawn_in.iter().map(|value| (value - center).powi(2)).sum();
    let n = sorted.len() as f64;
    let deviation = (squares / (n - 1.0)).sqrt();
    Some(Estimate { value, standard_error: deviation / (middle.len() as f64 / n * n.sqrt()) })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Estimates by leaving out one of `blocks` at a time (the jackknife): valid for ratios, and for quantiles of
/// all measurements if a block contains many. Adjacent items share a block, so slow drift is not taken for
/// noise.
///
/// `estimate` receives for each item whether it is included.
pub fn jackknife(
    items: usize,
    blocks: usize,
    mut estimate: impl FnMut(&dyn Fn(usize) -> bool) -> Option<f64>,
) -> Option<Estimate> {
    let blocks = blocks.min(items);
    if blocks < 2 {
        return None;
    }
    let value = estimate(&|_| true)?;
    let without: Vec<f64> = (0..blocks)
        .map(|left_out| estimate(&|item| item * blocks / items != left_out))
        .collect::<Option<_>>()?;
    let center = mean(&without);
    let sum: f64 = without.iter().map(|value| (value - center).powi(2)).sum();
    let standard_error = (sum * (blocks - 1) as f64 / blocks as f64).sqrt();
    Some(Estimate { value, standard_error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let cases = [
            (&[1, 2, 3, 4][..], 0.5, Some(2), "half do not exceed it"),
            (&[1, 2, 3], 0.5, Some(2), "the middle"),
            (&[1, 2, 3], 0.99, Some(3), "the last"),
            (&[1, 2, 3], 0.0, Some(1), "the first"),
            (&[7], 0.999, Some(7), "the only one"),
            (&[], 0.5, None, "none"),
        ];
        for (sorted, q, expected, why) in cases {
            assert_eq!(quantile(sorted, q), expected, "{why}");
        }
    }

    #[test]
    fn a_spread_does_not_depend_on_order() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, low: 1.0, high: 3.0, n: 4 });
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_error_of_a_mean_is_the_textbooks() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let of_those = |counts: &dyn Fn(usize) -> bool| {
            let kept: Vec<f64> = (0..values.len()).filter(|n| counts(*n)).map(|n| values[n]).collect();
            Some(mean(&kept))
        };
        let estimate = jackknife(values.len(), values.len(), of_those).unwrap();
        // s = sqrt(32 / 7), and s / sqrt(8).
        assert!(
            (estimate.value - 5.0).abs() < 1e-12 && (estimate.standard_error - 0.755_928_946).abs() < 1e-6
        );
        assert_eq!(jackknife(1, 20, |_| Some(1.0)), None, "one measurement has no error");
    }

    #[test]
    fn outliers_do_not_move_a_trimmed_mean() {
        let calm: Vec<f64> = (0..10).map(f64::from).collect();
        let estimate = trimmed_mean(&calm).unwrap();
        // 2 to 7 remain; with the tails winsorized to those, the deviation is sqrt(42.5 / 9).
        let expected = (42.5_f64 / 9.0).sqrt() / (0.6 * 10_f64.sqrt());
        assert!((estimate.value - 4.5).abs() < 1e-12 && (estimate.standard_error - expected).abs() < 1e-12);
        let mut disturbed = calm;
        disturbed[9] = 1e9;
        assert_eq!(trimmed_mean(&disturbed), Some(estimate), "one that is far off");
        assert_eq!(trimmed_mean(&[1.0]), None, "one measurement has no error");
    }
}
