//! The pass itself: reads four arrays and writes three.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::operation::{FlexTensor, contiguous, flex, give_back, is_fused, unflex, widest};

/// Elements of one task: 64 KiB an array, so that a task's arrays stay in the second-level cache.
const CHUNK: usize = 1 << 14;

/// What every element of a parameter shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factors {
    pub(super) clip: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    /// 1 − rate · decay
    pub(super) keep: f32,
    /// rate / (1 − β₁ᵗ)
    pub(super) rate: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub(super) root: f32,
    pub(super) epsilon: f32,
}

/// `Σ x²` in double precision, in an order that does not depend on the threads.
pub(super) fn sum_of_squares(x: &Tensor<1>) -> f64 {
    let Some(tensor) = is_fused(x).then(|| flex(x.clone())).flatten() else {
        return f64::from(x.clone().square().sum().into_scalar::<f32>());
    };
    let tensor = tensor.to_contiguous();
    let partial: Vec<f64> = slice(&tensor)
        .par_chunks(CHUNK)
        .map(|chunk| {
            widest!({
                let mut sums = [0.0_f64; 8];
                for lanes in chunk.chunks(8) {
                    for (sum, x) in sums.iter_mut().zip(lanes) {
                        *sum += f64::from(*x) * f64::from(*x);
                    }
                }
                sums.iter().sum::<f64>()
            })
        })
        .collect();
    partial.iter().sum()
}

/// Parameter and moments after one step.
pub(super) fn update(
    p: Tensor<1>,
    g: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    factors: &Factors,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    if !is_fused(&p) {
        return composed(p, g, m, v, factors);
    }
    let (Some(p), Some(g), Some(m), Some(v)) = (flex(p), flex(g), flex(m), flex(v)) else {
        unreachable!(
            "parameter, gradient and moments are on the same device, without automatic differentiation"
        );
    };
    let g = contiguous(g);
    let (p, m, v) = in_place(p, &g, m, v, factors);
    give_back(g);
    (unflex(p), unflex(m), unflex(v))
}

/// Memory that is not shared is written where it lies.
fn in_place(
    p: FlexTensor,
    g: &FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    factors: &Factors,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (mut p, mut m, mut v) = (whole(p), whole(m), whole(v));
    let Factors {
        clip,
        beta1,
        beta2,
        keep,
        rate,
        root,
        epsilon,
    } = *factors;
    p.storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(slice(g).par_chunks(CHUNK))
        .zip(m.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(v.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .for_each(|(((p, g), m), v)| {
            widest!({
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * clip;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *p = *p * keep - rate * *m / (v.sqrt() * root + epsilon);
                }
            });
        });
    (p, m, v)
}

/// The same with Burn's operations, for other devices.
pub(super) fn composed(
    p: Tensor<1>,
    g: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    factors: &Factors,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let Factors {
        clip,
        beta1,
        beta2,
        keep,
        rate,
        root,
        epsilon,
    } = *factors;
    let g = g * clip;
    let m = m * beta1 + g.clone() * (1.0 - beta1);
    let v = v * beta2 + g.square() * (1.0 - beta2);
    let p = p * keep - m.clone() / (v.clone().sqrt() * root + epsilon) * rate;
    (p, m, v)
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or_default()
}

/// A tensor whose storage holds exactly its elements, in order; a view of something larger is copied.
fn whole(tensor: FlexTensor) -> FlexTensor {
    let is_whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.storage::<f32>().len() == tensor.layout().num_elements();
    if is_whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::Noise;

    fn random(step: u64, count: usize) -> Tensor<1> {
        Tensor::from_data(
            TensorData::new(Noise::at(3, step).normal(count), [count]),
            &Device::flex(),
        )
    }

    fn values(x: &Tensor<1>) -> Vec<f32> {
        x.to_data().iter::<f32>().collect()
    }

    #[test]
    fn one_pass_and_the_composition_agree() {
        let count = 40_001;
        let (p, g, m, v) = (
            random(1, count),
            random(2, count),
            random(3, count),
            random(4, count).square(),
        );
        let factors = Factors {
            clip: 0.7,
            beta1: 0.9,
            beta2: 0.98,
            keep: 0.999,
            rate: 0.01,
            root: 1.3,
            epsilon: 1e-8,
        };
        let fused = update(p.clone(), g.clone(), m.clone(), v.clone(), &factors);
        let plain = composed(p, g, m, v, &factors);
        for (fused, plain) in [(fused.0, plain.0), (fused.1, plain.1), (fused.2, plain.2)] {
            for (fused, plain) in values(&fused).iter().zip(values(&plain)) {
                assert!(
                    (fused - plain).abs() <= 1e-6 * (1.0 + plain.abs()),
                    "{fused} {plain}"
                );
            }
        }
    }

    #[test]
    fn memory_with_one_owner_is_written_in_place() {
        let factors = Factors {
            clip: 1.0,
            beta1: 0.9,
            beta2: 0.98,
            keep: 1.0,
            rate: 0.01,
            root: 1.0,
            epsilon: 1e-8,
        };
        let p = flex(random(1, 1000)).unwrap();
        let before = p.bytes().as_ptr();
        let [g, m, v] = [2, 3, 4].map(|step| flex(random(step, 1000)).unwrap());
        assert_eq!(in_place(p, &g, m, v, &factors).0.bytes().as_ptr(), before);
    }
}
