//! Gradients against finite differences along random directions.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_nn::layers::{
    DecoderLayerConfig, Embedding, EncoderLayerConfig, FeedForward, FeedForwardConfig, LayerNorm,
    LearnedPositions, Linear, MultiHead, MultiHeadConfig,
};
use regard_nn::mechanisms::{
    AdditiveConfig, CosineConfig, Dot, GeneralConfig, Input, LearnedQuery, ScaledDot,
};
use regard_nn::operation::{Activation, Residual, gelu, rotary};
use regard_nn::parameters::{self, NamedTensor};
use regard_nn::{Causal, Noise, Sequences};

use crate::closeness::values;

pub(crate) fn random<const D: usize>(shape: [usize; D], step: u64, device: &Device) -> Tensor<D> {
    let values = Noise::at(11, step).normal(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Moves every parameter, also those that start at zero, so that nothing hides behind a zero.
fn stirred<M: Module>(model: M) -> M {
    stirred_by(model, 0.3)
}

fn stirred_by<M: Module>(model: M, size: f32) -> M {
    let count = parameters::count(&model) as f32;
    moved(model, size * count.sqrt() / LENGTH, 77)
}

/// Length of the random directions: with the step of `slope`, a move that the formula's error survives.
const LENGTH: f32 = 3.0;

/// `model + h · u` with u of random direction.
fn moved<M: Module>(model: M, h: f32, step: u64) -> M {
    let mut tensors = parameters::collect(&model);
    add(&mut tensors, h, step);
    parameters::load(model, tensors).unwrap()
}

fn add(tensors: &mut [NamedTensor], h: f32, step: u64) {
    let directions = direction(tensors, step);
    for (tensor, direction) in tensors.iter_mut().zip(directions) {
        tensor
            .values
            .iter_mut()
            .zip(direction)
            .for_each(|(value, u)| *value += h * u);
    }
}

/// Normal numbers for every tensor, all together of about that length.
fn direction(tensors: &[NamedTensor], step: u64) -> Vec<Vec<f32>> {
    let mut noise = Noise::at(5, step);
    let count: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    let scale = LENGTH / (count.max(1) as f32).sqrt();
    let scaled = |values: Vec<f32>| values.into_iter().map(|value| scale * value).collect();
    tensors
        .iter()
        .map(|tensor| scaled(noise.normal(tensor.values.len())))
        .collect()
}

/// Σ out · c in double precision, with fixed random c.
fn weigh<const D: usize>(out: &Tensor<D>) -> f64 {
    let out = values(out);
    let c = Noise::at(13, 0).normal(out.len());
    out.iter()
        .zip(c)
        .map(|(out, c)| f64::from(*out) * f64::from(c))
        .sum()
}

/// The slope of `f` at 0 by the five-point formula: its error is h⁴ f⁗ / 30, and rounding adds about 2⁻²⁴ f / h, so at
/// h = 0.02 both are near 1e-5.
fn slope(f: impl Fn(f32) -> f64) -> f64 {
    let h = 0.02_f32;
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * f64::from(h))
}

fn assert_slope(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() <= 5e-4 * (1.0 + expected.abs()),
        "{what}: gradient says {found}, differences {expected}"
    );
}

/// Checks the gradient of the parameters and of the inputs of `forward`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a case builds its model in the call"
)]
fn check<M: Module, const I: usize, const O: usize>(
    what: &str,
    model: M,
    inputs: Vec<Tensor<I>>,
    forward: impl Fn(&M, &[Tensor<I>]) -> Tensor<O>,
) {
    let inputs: Vec<Tensor<I>> = inputs.into_iter().map(Tensor::require_grad).collect();
    let out = forward(&model, &inputs);
    let shape = out.dims();
    let c = Noise::at(13, 0).normal(shape.iter().product());
    let c = Tensor::<O>::from_data(TensorData::new(c, shape), &out.device());
    let gradients = (out * c).sum().backward();

    let along = |tensors: Vec<NamedTensor>, step: u64| -> f64 {
        let dots = tensors
            .iter()
            .zip(direction(&tensors, step))
            .map(|(gradient, u)| {
                gradient
                    .values
                    .iter()
                    .zip(u)
                    .map(|(g, u)| f64::from(*g) * f64::from(u))
                    .sum::<f64>()
            });
        dots.sum()
    };
    for step in 0..3 {
        let found = along(parameters::gradients(&model, &gradients), step);
        let expected = slope(|h| weigh(&forward(&moved(model.clone(), h, step), &inputs)));
        assert_slope(found, expected, &format!("{what}, parameters"));
    }
    for (index, input) in inputs.iter().enumerate() {
        let shape = input.dims();
        let u = random(shape, 900 + index as u64, &input.device()) * 0.5;
        let gradient = input
            .grad(&gradients)
            .unwrap_or_else(|| panic!("{what}: input {index} has no gradient"));
        let found: f64 = values(&gradient)
            .iter()
            .zip(values(&u))
            .map(|(g, u)| f64::from(*g) * f64::from(u))
            .sum();
        let expected = slope(|h| {
            let mut moved = inputs.clone();
            moved[index] = input.clone() + u.clone() * h;
            weigh(&forward(&model, &moved))
        });
        assert_slope(found, expected, &format!("{what}, input {index}"));
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// A model without parameters.
#[derive(Module, Debug)]
struct Nothing {
    size: usize,
}

/// Queries, keys and values of a mechanism.
fn three(query_dim: usize, key_dim: usize) -> Vec<Tensor<3>> {
    let device = device();
    vec![
        random([2, 3, query_dim], 1, &device),
        random([2, 5, key_dim], 2, &device),
        random([2, 5, 4], 3, &device),
    ]
}

fn input(x: &[Tensor<3>]) -> Input {
    Input::new(x[0].clone(), x[1].clone(), x[2].clone()).visible_keys(vec![5, 2])
}

#[test]
fn mechanisms_without_parameters() {
    check("dot", Nothing { size: 0 }, three(6, 6), |_, x| {
        Dot.forward(input(x))
    });
    check("scaled dot", Nothing { size: 0 }, three(6, 6), |_, x| {
        ScaledDot.forward(input(x))
    });
    let cosine = CosineConfig { sharpness: 3.0 }.init();
    check("cosine", Nothing { size: 0 }, three(6, 6), |_, x| {
        cosine.forward(input(x))
    });
}

#[test]
fn mechanisms_with_parameters() {
    let (noise, device) = (&mut Noise::at(1, 1), &device());
    let general = GeneralConfig {
        query_dim: 6,
        key_dim: 3,
    }
    .init(noise, device);
    check("general", stirred(general), three(6, 3), |model, x| {
        model.forward(input(x))
    });
    let additive = AdditiveConfig {
        query_dim: 6,
        key_dim: 3,
        hidden: 7,
    }
    .init(noise, device);
    check("additive", stirred(additive), three(6, 3), |model, x| {
        model.forward(input(x))
    });
    let learned = LearnedQuery::new(3, 6, 1.0, noise, device);
    check(
        "learned query",
        stirred(learned),
        vec![random([2, 5, 6], 4, device)],
        |model, x| model.forward(x[0].clone(), Some(&[5, 2])),
    );
}

#[test]
fn simple_layers() {
    let (noise, device) = (&mut Noise::at(1, 2), &device());
    let x = || vec![random([2, 5, 6], 4, device)];
    check(
        "linear",
        Linear::new(6, 4, noise, device),
        x(),
        |model, x| model.forward(x[0].clone()),
    );
    check(
        "norm",
        stirred(LayerNorm::new(6, device)),
        x(),
        |model, x| model.forward(x[0].clone()),
    );
    check(
        "positions",
        LearnedPositions::new(9, 6, noise, device),
        x(),
        |model, x| model.forward(x[0].clone()),
    );
    check("gelu", Nothing { size: 0 }, x(), |_, x| gelu(x[0].clone()));
    let ids = Tensor::<1, Int>::from_data([1, 4, 1, 0, 2, 1], device);
    check(
        "embedding",
        Embedding::new(5, 6, 1.0, noise, device),
        Vec::<Tensor<1>>::new(),
        |model, _| model.forward(ids.clone()),
    );
    check("dropout", Nothing { size: 0 }, x(), |_, x| {
        Noise::at(4, 4).dropout(x[0].clone(), 0.4)
    });
}

#[test]
fn rotary_positions() {
    check(
        "rotary",
        Nothing { size: 0 },
        vec![random([2, 3, 5, 6], 4, &device())],
        |_, x| rotary(x[0].clone(), 100.0),
    );
}

/// Half of a layer.
#[derive(Module, Debug)]
struct Half<M: Module> {
    norm: LayerNorm,
    part: M,
}

#[test]
fn both_halves_of_a_layer() {
    let (noise, device) = (&mut Noise::at(1, 3), &device());
    let (lengths, of_source) = (Sequences::new([5, 2]), Sequences::new([3, 7]));
    for (causal, over_itself) in [(None, true), (Some(Causal::TopLeft), true), (None, false)] {
        for (kv_heads, rotary) in [(4, false), (2, true), (1, false)] {
            let config = MultiHeadConfig {
                width: 16,
                heads: 4,
                kv_heads,
                causal,
                rotary,
            };
            let half: Half<MultiHead> = Half {
                norm: LayerNorm::new(16, device),
                part: config.init(noise, device).unwrap(),
            };
            let x = [random([7, 16], 4, device), random([10, 16], 5, device)];
            let x = x[..if over_itself { 1 } else { 2 }].to_vec();
            check("attention", stirred_by(half, 0.1), x, |model, x| {
                let source = (!over_itself).then(|| (x[1].clone(), &of_source));
                let residual = Noise::at(6, 6).residual(0.3, 0.0, &lengths);
                let (x, norm) = (x[0].clone(), &model.norm);
                model.part.added_to(x, norm, &lengths, source, residual)
            });
        }
    }
    // ReLU has a corner, which differences step over: it is compared with PyTorch.
    let config = FeedForwardConfig {
        width: 6,
        inner: 10,
        activation: Activation::Gelu,
        dropout: 0.2,
    };
    let half: Half<FeedForward> = Half {
        norm: LayerNorm::new(6, device),
        part: config.init(noise, device),
    };
    let x = vec![random([7, 6], 4, device)];
    check("feed-forward", stirred(half), x, |model, x| {
        let (noise, residual) = (&mut Noise::at(6, 6), Residual::default());
        let (x, norm) = (x[0].clone(), &model.norm);
        model.part.added_to(x, norm, residual, noise)
    });
}

#[test]
fn encoder_and_decoder_layers() {
    let (noise, device) = (&mut Noise::at(1, 3), &device());
    let attention = MultiHeadConfig {
        rotary: true,
        ..MultiHeadConfig::new(8, 2)
    };
    let layer = EncoderLayerConfig {
        attention,
        feed_forward: 12,
        dropout: 0.3,
        stochastic_depth: 0.2,
    }
    .init(noise, device)
    .unwrap();
    let (lengths, of_source) = (Sequences::new([5, 2]), Sequences::new([3, 7]));
    check(
        "encoder layer",
        stirred_by(layer, 0.1),
        vec![random([7, 8], 4, device)],
        |model, x| model.forward(x[0].clone(), &lengths, &mut Noise::at(6, 6)),
    );
    let layer = DecoderLayerConfig {
        width: 8,
        heads: 2,
        feed_forward: 12,
        dropout: 0.3,
    }
    .init(noise, device)
    .unwrap();
    check(
        "decoder layer",
        stirred_by(layer, 0.1),
        vec![random([7, 8], 4, device), random([10, 8], 5, device)],
        |model, x| {
            let (x, source) = (x[0].clone(), x[1].clone());
            model.forward(x, &lengths, source, &of_source, &mut Noise::at(6, 6))
        },
    );
}
