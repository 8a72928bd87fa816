//! What a graphics processor computes is what the CPU computes. Built with the feature of a device and run for each that was
//! built in, where there is one: `cargo test -p regard-nn --features cuda --test it devices`.

use burn::tensor::Device;
use regard_nn::generation::{GenerationOptions, Hypothesis, generate, score};
use regard_nn::models::sequence_to_sequence::SequenceToSequence;
use regard_nn::{Noise, device, parameters};

use crate::closeness::assert_close_to;
use crate::fused::{assert_same_curve, curves};
use crate::sequence_to_sequence::{SOURCES, config, trained};

/// A graphics processor adds in another order, and Burn lets it round what it multiplies as matrices to the 11 bits of TF32, by
/// 2⁻¹¹ of a number at most, which is 4.9e-4. Losses and scores are sums of many such errors.
const TOLERANCE: f32 = 1e-3;
/// Ten such errors: a gradient went through the products of every layer. On an H200 one of a norm differed by 1.9e-3.
const GRADIENT_TOLERANCE: f32 = 5e-3;

const TARGETS: [&[u32]; 4] = [&[11, 12], &[15], &[], &[9, 9, 9]];

fn devices() -> Vec<(&'static str, Device)> {
    ["cuda", "rocm", "vulkan", "metal"]
        .into_iter()
        .filter_map(|name| Some((name, device(name).ok()?)))
        .collect()
}

/// The same model on another device.
fn moved(model: &SequenceToSequence, device: &Device) -> SequenceToSequence {
    let mut config = config();
    config.pointer = true;
    parameters::load(config.init(3, device), parameters::collect(model)).unwrap()
}

fn model() -> SequenceToSequence {
    let mut config = config();
    config.pointer = true;
    trained(&config)
}

#[test]
fn fifty_steps_have_the_losses_that_they_have_on_the_cpu() {
    let expected = curves(&Device::flex().autodiff());
    for (device_name, device) in devices() {
        let found = curves(&device.autodiff());
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let name = format!("{name} on {device_name}");
            assert_same_curve(&name, found, expected, TOLERANCE);
        }
    }
}

#[test]
fn every_gradient_of_the_loss_is_that_of_the_cpu() {
    let of = |device: &Device| {
        let model = moved(&model(), &device.clone().autodiff());
        let (loss, _) = model.loss(&SOURCES, &TARGETS, 0.1, &mut Noise::at(1, 1));
        parameters::gradients(&model, &loss.backward())
    };
    let expected = of(&Device::flex());
    for (device_name, device) in devices() {
        let found = of(&device);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let name = format!("{} on {device_name}", found.name);
            assert_eq!(found.name, expected.name);
            assert_close_to(&found.values, &expected.values, GRADIENT_TOLERANCE, &name);
        }
    }
}

#[test]
fn a_search_writes_what_it_writes_on_the_cpu() {
    let options = GenerationOptions {
        beam: 4,
        n_best: 2,
        max_length: 12,
        ..GenerationOptions::default()
    };
    let written = |model: &SequenceToSequence| -> Vec<Vec<Hypothesis>> {
        generate(model, &SOURCES, &options)
    };
    let model = model();
    let (expected, scores) = (written(&model), score(&model, &SOURCES, &TARGETS));
    for (device_name, device) in devices() {
        let model = moved(&model, &device);
        let found = score(&model, &SOURCES, &TARGETS);
        assert_close_to(&found.concat(), &scores.concat(), TOLERANCE, device_name);
        for (found, expected) in written(&model).concat().iter().zip(expected.concat()) {
            assert_eq!(found.tokens, expected.tokens, "{device_name}");
            assert!(
                (found.score - expected.score).abs() < TOLERANCE,
                "{device_name}"
            );
        }
    }
}
