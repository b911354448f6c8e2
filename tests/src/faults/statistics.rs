//! Percentiles, and how fast something grows.

use std::time::Duration;

/// The value that `share` (0 to 1) of `values` do not exceed; `None` of nothing.
pub(super) fn percentile(mut values: Vec<Duration>, share: f64) -> Option<Duration> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let position = (share * last as f64).ceil() as usize;
    values.get(position.min(last)).copied()
}

/// How much the straight line that fits `points` best rises from the first to the last of them.
pub(super) fn rise(points: &[(f64, f64)]) -> f64 {
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return 0.0 };
    let count = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count);
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if spread == 0.0 {
        return 0.0;
    }
    let together: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    together / spread * (last - first)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(values.clone(), 0.5).unwrap(), Duration::from_millis(51));
        assert_eq!(percentile(values.clone(), 0.99).unwrap(), Duration::from_millis(100));
        assert_eq!(percentile(values, 0.0).unwrap(), Duration::from_millis(1));
        assert_eq!(percentile(Vec::new(), 0.5), None);
    }

    #[test]
    fn a_rise_is_that_of_the_line_and_not_of_the_noise() {
        let noisy: Vec<_> =
            (0..100).map(f64::from).map(|x| (x, 2.0 * x + if x % 2.0 == 0.0 { 5.0 } else { -5.0 })).collect();
        assert!((rise(&noisy) - 198.0).abs() < 5.0, "{}", rise(&noisy));
        assert_eq!(rise(&[(1.0, 4.0)]), 0.0);
        assert_eq!(rise(&[]), 0.0);
    }
}
