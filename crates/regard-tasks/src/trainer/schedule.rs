//! The learning rate over a run.

/// Warm-up, then half a cosine down to 0.
///
/// `rate(x) = peak · x / warmup` for `x < warmup`, else `peak · (1 + cos(π (x − warmup) / (1 − warmup))) / 2`, where
/// `x` is the share of the run that is done (Loshchilov & Hutter 2017, without restarts).
pub fn learning_rate(peak: f64, warmup: f64, done: f64) -> f64 {
    if done < warmup {
        // Half a step ahead of 0, so that the first step moves.
        return peak * (done / warmup).max(1e-3);
    }
    let rest = ((done - warmup) / (1.0 - warmup).max(f64::EPSILON)).clamp(0.0, 1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * rest).cos())
}

#[cfg(test)]
mod tests {
    use super::learning_rate;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        assert!(learning_rate(1.0, 0.1, 0.0) < 0.01);
        assert!((learning_rate(1.0, 0.1, 0.05) - 0.5).abs() < 1e-12);
        assert!((learning_rate(1.0, 0.1, 0.1) - 1.0).abs() < 1e-12);
        assert!((learning_rate(1.0, 0.1, 0.55) - 0.5).abs() < 1e-12);
        assert!(learning_rate(1.0, 0.1, 1.0).abs() < 1e-12);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        assert_eq!(learning_rate(0.3, 0.0, 0.0), 0.3);
    }
}
