//! The learning rate over a run.

/// How the learning rate falls after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to 0 at the end of the run (Loshchilov & Hutter 2017, without restarts).
    #[default]
    Cosine,
    /// With the root of the steps done (Vaswani et al. 2017): it does not know the end, so a run can be made longer.
    InverseSqrt,
}

impl Schedule {
    /// The rate where the share `done` of the run is done:
    ///
    /// ```text
    /// done < warmup:  peak · done / warmup
    /// cosine:         peak · (1 + cos(π (done − warmup) / (1 − warmup))) / 2
    /// inverse-sqrt:   peak · √(warmup / done)
    /// ```
    pub fn rate(self, peak: f64, warmup: f64, done: f64) -> f64 {
        if done < warmup {
            // Half a step ahead of 0, so that the first step moves.
            return peak * (done / warmup).max(1e-3);
        }
        match self {
            Self::Cosine => {
                let rest = ((done - warmup) / (1.0 - warmup).max(f64::EPSILON)).clamp(0.0, 1.0);
                peak * 0.5 * (1.0 + (std::f64::consts::PI * rest).cos())
            }
            Self::InverseSqrt => peak * (warmup / done).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule::{Cosine, InverseSqrt};

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        assert!(Cosine.rate(1.0, 0.1, 0.0) < 0.01);
        assert!((Cosine.rate(1.0, 0.1, 0.05) - 0.5).abs() < 1e-12);
        assert!((Cosine.rate(1.0, 0.1, 0.1) - 1.0).abs() < 1e-12);
        assert!((Cosine.rate(1.0, 0.1, 0.55) - 0.5).abs() < 1e-12);
        assert!(Cosine.rate(1.0, 0.1, 1.0).abs() < 1e-12);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        assert_eq!(Cosine.rate(0.3, 0.0, 0.0), 0.3);
    }

    #[test]
    fn after_four_times_the_warm_up_half_of_the_rate_is_left() {
        assert!((InverseSqrt.rate(1.0, 0.1, 0.05) - 0.5).abs() < 1e-12);
        assert!((InverseSqrt.rate(1.0, 0.1, 0.1) - 1.0).abs() < 1e-12);
        assert!((InverseSqrt.rate(1.0, 0.1, 0.4) - 0.5).abs() < 1e-12);
    }
}
