//! Medians and percentiles of what was measured.

use std::time::Duration;

/// The value below or at which `percent` of the samples are (nearest rank);
/// none of none.
pub(super) fn percentile(samples: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The middle one; none of none.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Milliseconds with three digits: more are noise.
pub(super) fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

/// Three digits behind the point.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// How much longer the last ports took than the first ones: the median of the
/// last 50 over that of ports 11 to 60, the ten before being the warm-up.
/// None if these would overlap.
pub(super) fn growth(samples: &[Duration]) -> Option<f64> {
    const WARM_UP: usize = 10;
    const SPAN: usize = 50;
    let first = samples.get(WARM_UP..WARM_UP + SPAN)?;
    let start = samples.len().checked_sub(SPAN)?;
    if start < WARM_UP + SPAN {
        return None;
    }
    let (first, last) = (
        percentile(first, 50)?,
        percentile(samples.get(start..)?, 50)?,
    );
    Some(rounded(last.as_secs_f64() / first.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every figure of `bench` is one of these two.
    #[test]
    fn ranks_and_growth() {
        let samples: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&samples, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&samples, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&[], 50), None);
        // 175 over 35.
        assert_eq!(growth(&samples), Some(5.0));
        assert_eq!(growth(&samples[..109]), None);
    }
}
