//! AdamW and Muon: exact resume, clipping, non-finite gradients, any number of threads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use regard_nn::Noise;
use regard_nn::layers::Linear;
use regard_nn::optimizer::{AdamW, AdamWConfig, StepFacts};
use regard_nn::parameters::{self, NamedTensor};

use crate::closeness::assert_close;
use crate::gradients::random;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Large enough for several tasks of the optimizer.
fn layer() -> Linear {
    Linear::new(300, 200, &mut Noise::at(1, 1), &device())
}

fn step(optimizer: &mut AdamW, model: Linear, at: u64, scale: f32) -> (Linear, StepFacts) {
    let x = random::<2>([8, 300], at, &device());
    let loss = model.forward(x).square().mean() * scale;
    optimizer.step(model, loss.backward(), 1e-2)
}

fn train(optimizer: &mut AdamW, mut model: Linear, steps: std::ops::Range<u64>) -> Linear {
    for at in steps {
        model = step(optimizer, model, at, 1.0).0;
    }
    model
}

fn bits(tensors: &[NamedTensor]) -> Vec<Vec<u32>> {
    tensors
        .iter()
        .map(|tensor| tensor.values.iter().map(|value| value.to_bits()).collect())
        .collect()
}

/// Without and with Muon for the layer's matrix.
fn both(config: AdamWConfig) -> [AdamW; 2] {
    let muon = AdamW::new(config.clone()).with_muon(["weight".to_owned()].into());
    [AdamW::new(config), muon]
}

#[test]
fn a_restored_run_ends_with_the_same_bits() {
    let config = AdamWConfig {
        clip_norm: Some(0.5),
        ..AdamWConfig::default()
    };
    for fresh in both(config) {
        let whole = train(&mut fresh.clone(), layer(), 0..6);
        let mut first = fresh.clone();
        let half = train(&mut first, layer(), 0..3);
        let mut second = fresh;
        second.restore(first.state(), first.steps());
        let model = parameters::load(layer(), parameters::collect(&half)).unwrap();
        let resumed = train(&mut second, model, 3..6);
        assert_eq!(
            bits(&parameters::collect(&resumed)),
            bits(&parameters::collect(&whole))
        );
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let optimizers = both(AdamWConfig {
                clip_norm: Some(0.1),
                ..AdamWConfig::default()
            });
            optimizers.map(|mut optimizer| {
                let model = train(&mut optimizer, layer(), 0..2);
                (bits(&parameters::collect(&model)), bits(&optimizer.state()))
            })
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_state_is_named_by_parameter() {
    let names = both(AdamWConfig::default()).map(|mut optimizer| {
        train(&mut optimizer, layer(), 0..1);
        let tensors = optimizer.state().into_iter();
        tensors.map(|tensor| tensor.name).collect::<Vec<_>>()
    });
    let [adamw, muon] = names;
    assert_eq!(
        adamw,
        ["first.bias", "second.bias", "first.weight", "second.weight"]
    );
    assert_eq!(muon, ["first.bias", "second.bias", "first.weight"]);
}

#[test]
fn muon_moves_a_matrix_along_its_singular_vectors_and_adamw_the_rest() {
    let [mut adamw, mut muon] = both(AdamWConfig::default());
    let before = parameters::collect(&layer());
    let after = parameters::collect(&step(&mut muon, layer(), 0, 1.0).0);
    let other = parameters::collect(&step(&mut adamw, layer(), 0, 1.0).0);
    assert_eq!(bits(&after[1..]), bits(&other[1..]), "the bias is AdamW's");

    // Eight rows of input: the gradient has eight singular values that are not 0, all of them made about 1.
    let moved: Vec<f32> = after[0]
        .values
        .iter()
        .zip(&before[0].values)
        .map(|(a, b)| a - 0.999_9 * b)
        .collect();
    let square: f32 = moved.iter().map(|x| x * x).sum();
    let of_one = 1e-2 * 0.2 * 300_f32.sqrt();
    let values = square / (of_one * of_one);
    assert!(
        (8.0 * 0.68 * 0.68..8.0 * 1.21 * 1.21).contains(&values),
        "{values}"
    );
    // Downhill: against the gradient.
    let x = random::<2>([8, 300], 0, &device());
    let loss = |tensors: Vec<NamedTensor>| {
        let model = parameters::load(layer(), tensors).unwrap();
        model
            .forward(x.clone())
            .square()
            .mean()
            .into_scalar::<f32>()
    };
    assert!(loss(after) < loss(before));
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_and_is_named() {
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let before = parameters::collect(&layer());
    let (model, facts) = step(&mut optimizer, layer(), 0, f32::INFINITY);
    assert_eq!(facts.non_finite.as_deref(), Some("weight"));
    assert_eq!(bits(&parameters::collect(&model)), bits(&before));
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn a_long_gradient_is_scaled_down_and_a_short_one_is_not() {
    // Adam itself is blind to scale, so the moments tell.
    let first_moments = |clip_norm| {
        let mut optimizer = AdamW::new(AdamWConfig {
            clip_norm,
            ..AdamWConfig::default()
        });
        let (_, facts) = step(&mut optimizer, layer(), 0, 1.0);
        (optimizer.state().swap_remove(2).values, facts.gradient_norm)
    };
    let (free, norm) = first_moments(None);
    let (clipped, same) = first_moments(Some(norm / 2.0));
    assert_eq!(norm, same);
    let halved: Vec<f32> = free.iter().map(|value| value / 2.0).collect();
    assert_close(&clipped, &halved, "clipped");
    assert_eq!(first_moments(Some(2.0 * norm)).0, free);
}

#[test]
fn parameters_of_one_axis_do_not_decay() {
    let config = AdamWConfig {
        weight_decay: 0.5,
        ..AdamWConfig::default()
    };
    let model = layer();
    let model = parameters::load(model.clone(), {
        let mut tensors = parameters::collect(&model);
        tensors
            .iter_mut()
            .for_each(|tensor| tensor.values.fill(1.0));
        tensors
    });
    let model = model.unwrap();
    // A gradient of zero everywhere: only decay is left.
    let loss = (model.forward(Tensor::<2>::zeros([1, 300], &device())) * 0.0).sum();
    let (model, _) = AdamW::new(config).step(model, loss.backward(), 0.1);
    let tensors = parameters::collect(&model);
    assert!(
        tensors[0]
            .values
            .iter()
            .all(|value| (value - 0.95).abs() < 1e-6),
        "the weight decays"
    );
    assert!(
        tensors[1].values.iter().all(|value| *value == 1.0),
        "the bias does not"
    );
}

#[test]
fn a_stepped_model_still_learns_and_still_answers() {
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let model = train(&mut optimizer, layer(), 0..2);
    assert!(model.weight.val().is_require_grad());
    assert!(!model.valid().weight.val().is_autodiff());
}

#[test]
fn a_step_writes_the_parameters_where_they_lie() {
    let address = |model: &Linear| {
        let weight = model
            .weight
            .val()
            .inner()
            .try_into_primitive::<burn::backend::Flex>()
            .unwrap();
        weight.bytes().as_ptr()
    };
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let model = layer();
    let before = address(&model);
    // The loss is still alive during the step, as in a training loop.
    let loss = model
        .forward(random::<2>([8, 300], 0, &device()))
        .square()
        .mean();
    let gradients = loss.backward();
    let (model, _) = optimizer.step(model, gradients, 1e-2);
    assert_eq!(address(&model), before);
    drop(loss);
}
