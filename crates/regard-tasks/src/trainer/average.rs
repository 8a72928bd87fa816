//! An exponential average of the weights, which wobbles less than they do (Polyak & Juditsky 1992; Tarvainen & Valpola 2017,
//! "Mean teachers").

use burn::module::Module;
use regard_nn::parameters::{self, NamedTensor, ParameterError};

/// `average ← d · average + (1 − d) · weights` after every step, `d = min(decay, (1 + step) / (10 + step))`: the first
/// steps, which are far from the last, are forgotten fast.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    pub(super) tensors: Vec<NamedTensor>,
}

impl Average {
    /// An average that has seen `tensors`, in whatever order; none without a decay above 0.
    pub(super) fn new(decay: f64, tensors: Vec<NamedTensor>) -> Option<Self> {
        let tensors = by_name(tensors);
        (decay > 0.0).then_some(Self { decay, tensors })
    }

    /// Takes in the weights after `step` steps.
    pub(super) fn take<M: Module>(&mut self, model: &M, step: u64) {
        let weights = by_name(parameters::collect(model));
        if self.tensors.is_empty() {
            self.tensors = weights;
            return;
        }
        let step = step as f64;
        let kept = self.decay.min((1.0 + step) / (10.0 + step)) as f32;
        for (average, new) in self.tensors.iter_mut().zip(weights) {
            for (average, new) in average.values.iter_mut().zip(new.values) {
                *average = kept * *average + (1.0 - kept) * new;
            }
        }
    }

    /// The model with the average as its weights.
    ///
    /// # Errors
    ///
    /// When the average belongs to another model.
    pub(super) fn model<M: Module>(&self, model: &M) -> Result<M, ParameterError> {
        parameters::load(model.clone(), self.tensors.clone())
    }
}

/// A file gives them back in another order than the model has them.
fn by_name(mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use regard_nn::Noise;
    use regard_nn::layers::Linear;

    use super::*;

    fn filled(value: f32) -> Linear {
        let layer = Linear::new(2, 3, &mut Noise::at(1, 1), &Device::flex());
        let mut tensors = parameters::collect(&layer);
        tensors
            .iter_mut()
            .for_each(|tensor| tensor.values.fill(value));
        parameters::load(layer, tensors).expect("the layer's own tensors")
    }

    #[test]
    fn it_follows_the_weights_fast_at_first_and_slowly_later() {
        assert!(Average::new(0.0, Vec::new()).is_none());
        let mut average = Average::new(0.9, Vec::new()).expect("a decay");
        average.take(&filled(1.0), 1);
        average.take(&filled(0.0), 2);
        // 3 / 12 of 1, then 0.9 of it.
        assert!((average.tensors[0].values[0] - 0.25).abs() < 1e-6);
        average.take(&filled(0.0), 1000);
        assert!((average.tensors[0].values[0] - 0.225).abs() < 1e-6);
        let model = average.model(&filled(5.0)).expect("the same model");
        assert_eq!(by_name(parameters::collect(&model)), average.tensors);
    }
}
