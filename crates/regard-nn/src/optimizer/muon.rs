//! Muon: the step of a matrix made orthogonal, so that it moves every direction by the same length and not mostly the few
//! in which the gradients agree.

use burn::tensor::Tensor;

use super::update::sum_of_squares;
use crate::operation::table_scores;

/// How much of the mean gradient is kept from step to step (Jordan et al. 2024).
const MOMENTUM: f32 = 0.95;

/// Size of a step, beside AdamW's: the mean square of an orthogonal matrix's numbers is 1 / its longer side, that of
/// AdamW's steps is about 0.2² (Liu et al. 2025, "Muon is Scalable for LLM Training"). So both share a learning rate.
const LIKE_ADAM: f64 = 0.2;

/// One step of Newton and Schulz, `s ↦ a s + b s³ + c s⁵` for every singular value s: these three bring small ones up
/// fastest (Jordan et al. 2024), …
const ROUND: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// … and as often as this, every one above 1/500 of the matrix' length lies between 0.68 and 1.21.
const ROUNDS: usize = 5;

/// Where a matrix goes.
pub(super) struct Turn {
    /// The mean gradient after this step.
    mean: Tensor<2>,
    direction: Tensor<2>,
}

impl Turn {
    /// ```text
    /// mean      ← 0.95 mean + 0.05 g
    /// direction = orthogonal(0.95 mean + 0.05 g)
    /// ```
    pub(super) fn new(g: Tensor<2>, mean: Tensor<2>) -> Self {
        let g = g * (1.0 - MOMENTUM);
        let mean = mean * MOMENTUM + g.clone();
        let direction = orthogonal(mean.clone() * MOMENTUM + g);
        Self { mean, direction }
    }

    /// Parameter and mean gradient after the step, flat: `p − rate · (decay · p + 0.2 √(longer side) · direction)`, where
    /// `keep` is 1 − rate · decay.
    pub(super) fn step(self, p: Tensor<1>, rate: f64, keep: f32) -> [Tensor<1>; 2] {
        let [rows, columns] = self.direction.dims();
        let length = rate * LIKE_ADAM * (rows.max(columns) as f64).sqrt();
        let flat = |matrix: Tensor<2>| matrix.reshape([rows * columns]);
        [
            p * keep - flat(self.direction) * length as f32,
            flat(self.mean),
        ]
    }
}

/// Nearly `U Vᵀ`, where `x = U S Vᵀ` with orthogonal U and V: every direction is as long as any other.
fn orthogonal(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    // The small square of the two: x xᵀ of a matrix that is wider than high.
    let turned = rows > columns;
    let x = if turned { x.transpose() } else { x };
    // No singular value is above the length of all together. The smallest float keeps a matrix of zeros what it is.
    let length = sum_of_squares(&x.clone().reshape([rows * columns])).sqrt() as f32;
    let [a, b, c] = ROUND;
    let mut x = x / length.max(f32::MIN_POSITIVE);
    for _ in 0..ROUNDS {
        // The square is symmetric: its own transpose.
        let square = table_scores(x.clone(), x.clone());
        let both = square.clone() * b + table_scores(square.clone(), square) * c;
        x = x.clone() * a + table_scores(both, x.transpose());
    }
    if turned { x.transpose() } else { x }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::Noise;

    fn values(x: &Tensor<2>) -> Vec<f32> {
        x.to_data().iter::<f32>().collect()
    }

    fn matrix(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// Known singular vectors: those of a cosine transform, which is orthogonal.
    fn with_singular_values(singular: &[f64]) -> Tensor<2> {
        let n = singular.len();
        let cosine = |row: usize, at: usize| {
            let scale = if row == 0 { 1.0 } else { 2.0 } / n as f64;
            let angle = std::f64::consts::PI * row as f64 * (at as f64 + 0.5) / n as f64;
            scale.sqrt() * angle.cos()
        };
        let element = |row: usize, column: usize| -> f32 {
            let sum: f64 = (0..n)
                .map(|k| cosine(k, row) * singular[k] * cosine((k + 1) % n, column))
                .sum();
            sum as f32
        };
        let values = (0..n * n).map(|at| element(at / n, at % n)).collect();
        matrix(values, [n, n])
    }

    #[test]
    fn every_singular_value_ends_near_one_and_the_directions_stay() {
        let singular: Vec<f64> = (0..16).map(|k| 0.8_f64.powi(k)).collect();
        let x = with_singular_values(&singular);
        let out = orthogonal(x);
        // out = U S' Vᵀ with the same U and V, so U' out V is diagonal and holds the new singular values.
        let ones = with_singular_values(&[1.0; 16]);
        let inside = table_scores(out, ones);
        // inside = U S' Uᵀ: its trace is the sum of the new values, its squares sum to the sum of their squares.
        let values = values(&inside);
        let trace: f32 = (0..16).map(|at| values[at * 16 + at]).sum();
        let squares: f32 = values.iter().map(|value| value * value).sum();
        assert!(
            (0.68..1.21).contains(&(trace / 16.0)),
            "mean {}",
            trace / 16.0
        );
        let spread = squares / 16.0 - (trace / 16.0).powi(2);
        assert!(spread < 0.07, "variance of the singular values: {spread}");
    }

    #[test]
    fn a_matrix_and_its_transpose_take_the_same_step() {
        let x = matrix(Noise::at(1, 1).normal(12 * 40), [12, 40]);
        let turned = orthogonal(x.clone().transpose()).transpose();
        for (a, b) in values(&orthogonal(x)).iter().zip(values(&turned)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    /// The parameter after one step from zero momentum, without decay.
    fn stepped(p: Tensor<2>, g: Tensor<2>, rate: f64) -> Vec<f32> {
        let zeros = Tensor::<2>::zeros(g.dims(), &Device::flex());
        let [rows, columns] = p.dims();
        let [p, _] = Turn::new(g, zeros).step(p.reshape([rows * columns]), rate, 1.0);
        p.to_data().iter::<f32>().collect()
    }

    #[test]
    fn no_gradient_is_no_step() {
        let p = matrix(Noise::at(2, 1).normal(15), [3, 5]);
        let after = stepped(p.clone(), p.clone().zeros_like(), 0.1);
        assert_eq!(after, values(&p));
    }

    #[test]
    fn a_step_is_as_long_as_one_of_adamw() {
        let g = matrix(Noise::at(3, 1).normal(64 * 128), [64, 128]);
        let numbers = stepped(g.clone().zeros_like(), g, 1.0);
        let size = numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32;
        // 0.2 of AdamW, times singular values between 0.68 and 1.21.
        assert!((0.14..0.24).contains(&size.sqrt()), "{}", size.sqrt());
    }
}
