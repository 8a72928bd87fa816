//! One parameter's step: a single pass in place on the CPU, tensor operations elsewhere.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::{Moments, Update};

/// Numbers a thread takes at once: 64 KiB of each of four arrays, which the second-level cache holds. Fixed, so that
/// sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// `Σ g²` in f64, chunk by chunk in a fixed order.
pub(super) fn sum_of_squares(gradient: &Tensor<1>) -> f64 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    match on_cpu(gradient.clone()) {
        Ok(flat) => {
            let chunks = flat.storage::<f32>().par_chunks(CHUNK).map(|chunk| chunk.iter().map(square).sum::<f64>());
            chunks.collect::<Vec<_>>().into_iter().sum()
        }
        Err(gradient) => f64::from(gradient.powi_scalar(2).sum().into_scalar::<f32>()),
    }
}

/// The parameter and its moments after the step.
pub(super) fn update(values: Tensor<1>, gradient: Tensor<1>, moments: Moments, update: Update) -> (Tensor<1>, Moments) {
    let Moments { first, second } = moments;
    match (on_cpu(values), on_cpu(gradient), on_cpu(first), on_cpu(second)) {
        (Ok(mut values), Ok(gradient), Ok(mut first), Ok(mut second)) => {
            in_place(
                values.storage_mut(),
                gradient.storage(),
                first.storage_mut(),
                second.storage_mut(),
                update,
            );
            let back = Tensor::from_primitive::<Flex>;
            (back(values), Moments { first: back(first), second: back(second) })
        }
        (values, gradient, first, second) => {
            composed(tensor(values), tensor(gradient), tensor(first), tensor(second), update)
        }
    }
}

fn in_place(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], update: Update) {
    let chunks = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    chunks.zip(moments).for_each(|((values, gradient), (first, second))| {
        for (((value, gradient), first), second) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let gradient = gradient * update.scale;
            *first = update.beta1 * *first + (1.0 - update.beta1) * gradient;
            *second = update.beta2 * *second + (1.0 - update.beta2) * gradient * gradient;
            let length = (*second * update.unbias).sqrt() + update.epsilon;
            *value -= update.decay * *value + update.rate * *first / length;
        }
    });
}

/// The same lines as tensor operations.
fn composed(
    values: Tensor<1>,
    gradient: Tensor<1>,
    first: Tensor<1>,
    second: Tensor<1>,
    update: Update,
) -> (Tensor<1>, Moments) {
    let gradient = gradient * update.scale;
    let first = first * update.beta1 + gradient.clone() * (1.0 - update.beta1);
    let second = second * update.beta2 + gradient.clone() * gradient * (1.0 - update.beta2);
    let length = (second.clone() * update.unbias).sqrt() + update.epsilon;
    let moved = values.clone() * update.decay + first.clone() * update.rate / length;
    (values - moved, Moments { first, second })
}

/// The CPU tensor behind `tensor`, contiguous from its first element; or `tensor` itself if it is elsewhere.
fn on_cpu(tensor: Tensor<1>) -> Result<FlexTensor, Tensor<1>> {
    if tensor.dtype() != DType::F32 {
        return Err(tensor);
    }
    let flat = tensor.clone().try_into_primitive::<Flex>().map_err(|_| tensor.clone())?;
    drop(tensor);
    let whole = flat.is_contiguous() && flat.storage::<f32>().len() == flat.layout().num_elements();
    Ok(if whole { flat } else { FlexTensor::from_data(flat.into_data()) })
}

fn tensor(either: Result<FlexTensor, Tensor<1>>) -> Tensor<1> {
    either.unwrap_or_else(Tensor::from_primitive::<Flex>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn the_fused_pass_and_the_composed_operations_agree() {
        let values = |seed: u64| crate::Noise::at(seed, 0).normal(1000);
        let tensor = |values: Vec<f32>| Tensor::<1>::from_data(TensorData::new(values, [1000]), &Device::flex());
        let squares = |values: Vec<f32>| values.into_iter().map(|value| value * value).collect();
        let update = Update { scale: 0.7, beta1: 0.9, beta2: 0.98, epsilon: 1e-8, decay: 1e-3, rate: 0.02, unbias: 1.3 };
        let moments = || Moments { first: tensor(values(3)), second: tensor(squares(values(4))) };
        let fused = super::update(tensor(values(1)), tensor(values(2)), moments(), update);
        let Moments { first, second } = moments();
        let plain = composed(tensor(values(1)), tensor(values(2)), first, second, update);
        let close = |a: Tensor<1>, b: Tensor<1>| assert!((a - b).abs().max().into_scalar::<f32>() < 1e-6);
        close(fused.0, plain.0);
        close(fused.1.first, plain.1.first);
        close(fused.1.second, plain.1.second);
    }
}
