//! Randomness as a function of `(seed, step, draw, index)`, never of time, thread or device.
//!
//! Every number is a hash (the finalizer of SplitMix64, Steele, Lea & Flood 2014) of its coordinates. So a run that was
//! killed and resumed at a step draws what the uninterrupted run drew, any number of threads draws the same, and the
//! backward pass can draw a dropout mask again instead of storing it.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::Sequences;
use crate::operation::{self, Residual};

/// 2⁶⁴ divided by the golden ratio: the step of SplitMix64's sequence.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Numbers that are made by one thread at a time. Fixed, so that what is drawn does not depend on the threads.
const CHUNK: usize = 1 << 14;

/// A source of random numbers for one step of training, or none for answering.
#[derive(Clone, Debug)]
pub struct Noise {
    key: Option<u64>,
    draws: u64,
}

impl Noise {
    /// No randomness: dropout passes everything through, and nothing else may be drawn.
    pub fn off() -> Self {
        Self {
            key: None,
            draws: 0,
        }
    }

    /// The randomness of one step. Each draw from it takes the next counter.
    pub fn at(seed: u64, step: u64) -> Self {
        Self {
            key: Some(mix(mix(seed.wrapping_add(GAMMA)) ^ step.wrapping_mul(GAMMA))),
            draws: 0,
        }
    }

    /// Whether there is any.
    pub fn is_on(&self) -> bool {
        self.key.is_some()
    }

    /// Zeroes each element with probability `p` and scales the others so that the mean stays (Srivastava et al. 2014).
    /// Without noise, or with `p = 0`, `x` comes back as it is.
    ///
    /// # Panics
    ///
    /// If `p` is not in `0.0..1.0`.
    pub fn dropout<const D: usize>(&mut self, x: Tensor<D>, p: f64) -> Tensor<D> {
        match self.mask(p) {
            Some(mask) => operation::dropout(x, mask),
            None => x,
        }
    }

    pub(crate) fn mask(&mut self, p: f64) -> Option<DropoutMask> {
        assert!(
            (0.0..1.0).contains(&p),
            "the dropout probability is {p}, expected at least 0 and less than 1"
        );
        (self.is_on() && p > 0.0).then(|| DropoutMask::new(self.next_key(), p))
    }

    /// What the output of a part is multiplied by before it is added to what passes it by: with probability `skipped` a whole
    /// sequence skips the part (stochastic depth, Huang et al. 2016), and then each element with probability `dropped`; what
    /// is left is scaled so that the mean stays. Without noise everything is added as it is.
    ///
    /// # Panics
    ///
    /// If a probability is not in `0.0..1.0`.
    pub fn residual(&mut self, dropped: f64, skipped: f64, sequences: &Sequences) -> Residual {
        assert!(
            (0.0..1.0).contains(&skipped),
            "the probability to skip is {skipped}, expected at least 0 and less than 1"
        );
        let factors = (self.is_on() && skipped > 0.0).then(|| {
            let kept = (1.0 / (1.0 - skipped)) as f32;
            let draws = self.uniform(sequences.count());
            let factors = draws.into_iter().zip(sequences.lengths());
            let factors = factors.flat_map(|(draw, length)| {
                let factor = if f64::from(draw) < skipped { 0.0 } else { kept };
                std::iter::repeat_n(factor, length)
            });
            factors.collect()
        });
        let mask = self.mask(dropped);
        Residual { factors, mask }
    }

    /// `count` numbers, uniform in `0.0..1.0`.
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        let key = self.next_key();
        fill(count, |at, chunk| {
            for (offset, value) in chunk.iter_mut().enumerate() {
                *value = unit(word(key, (at + offset) as u64));
            }
        })
    }

    /// `count` numbers of the standard normal distribution (Box & Muller 1958).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        let key = self.next_key();
        fill(count, |at, chunk| {
            for (offset, pair) in chunk.chunks_mut(2).enumerate() {
                let word = word(key, (at / 2 + offset) as u64);
                // 1 − u is never 0, so the logarithm is finite.
                let radius = (-2.0 * (1.0 - unit(word)).ln()).sqrt();
                let (sine, cosine) = (std::f32::consts::TAU * unit(word << 32)).sin_cos();
                pair[0] = radius * cosine;
                if let Some(second) = pair.get_mut(1) {
                    *second = radius * sine;
                }
            }
        })
    }

    /// `0..count` in random order (Fisher & Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let key = self.next_key();
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            // The high half of a product is uniform below `last + 1` to one part in 2⁶⁴ / count.
            let below = ((u128::from(word(key, last as u64)) * (last as u128 + 1)) >> 64) as usize;
            order.swap(last, below);
        }
        order
    }

    fn next_key(&mut self) -> u64 {
        let Some(key) = self.key else {
            panic!("random numbers were drawn from `Noise::off()`");
        };
        self.draws += 1;
        word(key, self.draws)
    }
}

/// Which elements a dropout keeps, as a function of their index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutMask {
    key: u64,
    /// An element is dropped where its 16 random bits are below this.
    threshold: u16,
    /// What the others are multiplied by: one over the probability to be kept.
    pub(crate) scale: f32,
}

impl DropoutMask {
    fn new(key: u64, p: f64) -> Self {
        // 16 bits are enough to tell probabilities 0.0015 % apart, and one hash serves four elements.
        let threshold = (p * 65536.0).round().min(65535.0) as u16;
        Self {
            key,
            threshold,
            scale: (65536.0 / (65536.0 - f64::from(threshold))) as f32,
        }
    }

    /// 0 or the scale, by the lowest 16 bits.
    #[inline(always)]
    fn factor(&self, bits: u64) -> f32 {
        if (bits & 0xFFFF) as u16 >= self.threshold {
            self.scale
        } else {
            0.0
        }
    }

    /// Values of which the first has index `start`, each times 0 or the scale, in place.
    #[inline(always)]
    pub(crate) fn apply_to(&self, start: usize, values: &mut [f32]) {
        // One hash serves four neighbours; those before the first whole four are done one by one.
        let ahead = (start.next_multiple_of(4) - start).min(values.len());
        let (ahead, rest) = values.split_at_mut(ahead);
        for (at, value) in (start..).zip(ahead) {
            *value *= self.factor(word(self.key, (at / 4) as u64) >> (16 * (at % 4)));
        }
        let first = start.div_ceil(4);
        for (offset, values) in rest.chunks_mut(4).enumerate() {
            let bits = word(self.key, (first + offset) as u64);
            for (lane, value) in values.iter_mut().enumerate() {
                *value *= self.factor(bits >> (16 * lane));
            }
        }
    }

    /// `values`, whose first element has index `start` (a multiple of 4), each times 0 or the scale.
    #[inline(always)]
    pub(crate) fn apply(&self, start: usize, values: &[f32], out: &mut [f32]) {
        for (offset, (values, out)) in values.chunks(4).zip(out.chunks_mut(4)).enumerate() {
            let bits = word(self.key, (start / 4 + offset) as u64);
            for (lane, (value, out)) in values.iter().zip(out).enumerate() {
                *out = value * self.factor(bits >> (16 * lane));
            }
        }
    }
}

fn fill(count: usize, make: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut values = vec![0.0; count];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(index, chunk)| make(index * CHUNK, chunk));
    values
}

/// The number at `index` of the sequence `key`.
#[inline(always)]
fn word(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
}

#[inline(always)]
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// The upper 24 bits as a number in `0.0..1.0`.
#[inline(always)]
fn unit(word: u64) -> f32 {
    (word >> 40) as f32 * (1.0 / (1 << 24) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_coordinates_give_the_same_numbers_and_others_give_others() {
        assert_eq!(Noise::at(7, 3).uniform(100), Noise::at(7, 3).uniform(100));
        assert_ne!(Noise::at(7, 3).uniform(100), Noise::at(7, 4).uniform(100));
        assert_ne!(Noise::at(7, 3).uniform(100), Noise::at(8, 3).uniform(100));
        let mut noise = Noise::at(7, 3);
        assert_ne!(noise.uniform(100), noise.uniform(100));
    }

    #[test]
    fn a_draw_does_not_depend_on_the_number_of_threads() {
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let count = 5 * CHUNK + 3;
        assert_eq!(
            alone.install(|| Noise::at(1, 2).normal(count)),
            Noise::at(1, 2).normal(count)
        );
    }

    #[test]
    fn uniform_and_normal_numbers_have_the_moments_they_should() {
        let count = 200_000;
        let moments = |values: &[f32]| {
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count as f64;
            (
                mean,
                values
                    .iter()
                    .map(|v| (f64::from(*v) - mean).powi(2))
                    .sum::<f64>()
                    / count as f64,
            )
        };
        let (mean, variance) = moments(&Noise::at(1, 1).uniform(count));
        assert!(
            (mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002,
            "{mean} {variance}"
        );
        let (mean, variance) = moments(&Noise::at(1, 1).normal(count));
        assert!(
            mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02,
            "{mean} {variance}"
        );
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Noise::at(3, 9).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_mask_is_the_same_in_place_and_from_any_start() {
        let mask = DropoutMask::new(9, 0.4);
        let values: Vec<f32> = (1..=103).map(|x| x as f32).collect();
        let mut out = vec![0.0; values.len()];
        mask.apply(0, &values, &mut out);
        for start in [0, 1, 2, 3, 4, 7, 100, 102, 103] {
            let mut part = values[start..].to_vec();
            mask.apply_to(start, &mut part);
            assert_eq!(part, out[start..], "from {start}");
        }
    }

    #[test]
    fn dropout_keeps_the_share_it_should_and_the_mean() {
        let mask = DropoutMask::new(5, 0.3);
        let mut out = vec![0.0; 100_000];
        mask.apply(0, &vec![1.0; 100_000], &mut out);
        let kept = out.iter().filter(|value| **value != 0.0).count() as f64 / 1e5;
        assert!((kept - 0.7).abs() < 0.01, "{kept}");
        assert!((out.iter().sum::<f32>() / 1e5 - 1.0).abs() < 0.01);
    }
}
