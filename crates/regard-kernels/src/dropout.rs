//! Which weights are dropped: a function of the seed and of the place of the pair, and of nothing else.

/// Each weight is set to 0 with a probability, after the softmax, and the others are divided by what is left
/// (Srivastava et al. 2014).
///
/// Whether a pair is kept is computed from its place, `(seed, batch, head, query, key)`, wherever it is needed. So
/// nothing is stored between forward and backward, and neither threads nor instruction sets make a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// At least 0 and below 1.
    pub probability: f32,
    /// Another seed drops other pairs.
    pub seed: u64,
}

/// 2³² divided by the golden ratio, made odd: neighbouring keys land far apart.
pub(crate) const STRIDE: u32 = 0x9E37_79B9;
/// Shifts and factors of a hash of 32 bits in which each input bit changes each output bit about half of the time, found by
/// search (C. Wellons 2018, "Prospecting for Hash Functions"). The tests below look at what matters here.
pub(crate) const SHIFTS: [u32; 3] = [16, 15, 16];
pub(crate) const FACTORS: [u32; 2] = [0x7FEB_352D, 0x846C_A68B];

impl Dropout {
    /// Whether the weight of this pair is kept.
    pub fn keeps(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        let mut x = self.row(batch, head, query) ^ (key as u32).wrapping_mul(STRIDE);
        x ^= x >> SHIFTS[0];
        x = x.wrapping_mul(FACTORS[0]);
        x ^= x >> SHIFTS[1];
        x = x.wrapping_mul(FACTORS[1]);
        x ^= x >> SHIFTS[2];
        (x >> 8) as f32 >= self.threshold()
    }

    /// What the pairs of a query start from: the finalizer of SplitMix64 (Steele, Lea & Flood 2014) on its place.
    pub(crate) fn row(&self, batch: usize, head: usize, query: usize) -> u32 {
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let next = |state: u64, place: usize| {
            mix(state.wrapping_add((place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        };
        (next(next(next(mix(self.seed), batch), head), query) >> 32) as u32
    }

    /// A number of 24 random bits below this is dropped.
    pub(crate) fn threshold(&self) -> f32 {
        self.probability * (1 << 24) as f32
    }

    /// What the weights that are kept are multiplied by.
    pub(crate) fn factor(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_dropped_as_the_probability_says() {
        for probability in [0.0, 0.1, 0.5, 0.9] {
            let dropout = Dropout {
                probability,
                seed: 7,
            };
            let mut kept = 0;
            for row in 0..400 {
                kept += (0..1000)
                    .filter(|&key| dropout.keeps(row / 100, row % 10, row, key))
                    .count();
            }
            // 400,000 draws: five standard deviations are at most 0.4 %.
            let share = kept as f32 / 400_000.0;
            assert!((share - (1.0 - probability)).abs() < 0.004, "{share}");
        }
    }

    #[test]
    fn neighbours_are_dropped_independently() {
        let dropout = Dropout {
            probability: 0.5,
            seed: 1,
        };
        let at = |b, h, i, j| if dropout.keeps(b, h, i, j) { 1.0 } else { -1.0 };
        let count = 300;
        for (b, h, i, j) in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)] {
            let mut sum = 0.0;
            for query in 0..count {
                for key in 0..count {
                    sum += at(0, 0, query, key) * at(b, h, query + i, key + j);
                }
            }
            // The correlation of 90,000 independent pairs has a standard deviation of 1/300.
            let correlation: f64 = sum / (count * count) as f64;
            assert!(correlation.abs() < 5.0 / 300.0, "{correlation}");
        }
    }
}
