//! Training with the fused operations and without them (`REGARD_FUSED=0`, in another process) is the same training.

use std::process::Command;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_nn::models::sequence_to_sequence::SequenceToSequenceConfig;
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifierConfig};
use regard_nn::models::vision_transformer::VisionTransformerConfig;
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::{Noise, Sequences};

/// Losses of so many steps.
const STEPS: u64 = 50;

/// The loss before every step, with dropout.
fn curve<M: Module>(mut model: M, loss: impl Fn(&M, &mut Noise) -> Tensor<1>) -> Vec<f32> {
    let mut optimizer = AdamW::new(AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    });
    let step = |step: u64| {
        let loss = loss(&model, &mut Noise::at(3, step));
        let value = loss.clone().into_scalar::<f32>();
        model = optimizer.step(model.clone(), loss.backward(), 1e-3).0;
        value
    };
    (0..STEPS).map(step).collect()
}

/// Mean cross-entropy where row `r` is of class `r` modulo the classes.
fn negative_log(logits: Tensor<2>) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    let mut wanted = vec![0.0_f32; rows * classes];
    (0..rows).for_each(|row| wanted[row * classes + row % classes] = -1.0 / rows as f32);
    let wanted = TensorData::new(wanted, [rows, classes]);
    let wanted = Tensor::<2>::from_data(wanted, &logits.device().inner());
    (log_softmax(logits, 1) * wanted).sum()
}

fn classifier(device: &Device) -> Vec<f32> {
    let config = TextClassifierConfig {
        kind: Kind::Transformer,
        vocabulary: 40,
        bigram_buckets: 30,
        classes: 3,
        width: 16,
        layers: 2,
        heads: 4,
        feed_forward: 24,
        pooling_heads: 2,
        max_tokens: 11,
        dropout: 0.2,
    };
    let texts = Sequences::new([11, 4, 7, 1, 9, 10]);
    let count = texts.tokens();
    let ids = |below: usize| {
        let ids = (0..count).map(|at| (at * 7919 % below) as i32).collect();
        Tensor::<1, Int>::from_data(TensorData::new::<i32, _>(ids, [count]), device)
    };
    let batch = TextBatch {
        tokens: ids(40),
        bigrams: Some(ids(30)),
        texts,
    };
    curve(config.init(1, device), |model, noise| {
        negative_log(model.forward(&batch, noise))
    })
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn translator(device: &Device) -> Vec<f32> {
    let config = SequenceToSequenceConfig {
        vocabulary: 40,
        source_vocabulary: None,
        pointer: false,
        width: 16,
        heads: 2,
        encoder_layers: 1,
        decoder_layers: 2,
        feed_forward: 22,
        max_source: 9,
        max_target: 9,
        dropout: 0.1,
    };
    let texts = |seed: u32| -> Vec<Vec<u32>> {
        (0..5)
            .map(|row| {
                (0..3 + row)
                    .map(|at| (at * 31 + row * 7 + seed) % 39)
                    .collect()
            })
            .collect()
    };
    let (sources, targets) = (texts(1), texts(2));
    let texts = [sources, targets];
    curve(config.init(1, device), |model, noise| {
        let [sources, targets] = [slices(&texts[0]), slices(&texts[1])];
        let (loss, count) = model.loss(&sources, &targets, 0.1, noise);
        loss.div_scalar(count as f32)
    })
}

fn vision(device: &Device) -> Vec<f32> {
    let config = VisionTransformerConfig {
        picture_height: 12,
        picture_width: 12,
        classes: 4,
        width: 16,
        heads: 2,
        feed_forward: 20,
        dropout: 0.1,
        stochastic_depth: 0.1,
        ..VisionTransformerConfig::preset("tiny").unwrap()
    };
    let pixels = Noise::at(8, 1).normal(6 * 12 * 12);
    let pictures = Tensor::<4>::from_data(TensorData::new(pixels, [6, 12, 12, 1]), device);
    curve(config.init(1, device).unwrap(), |model, noise| {
        negative_log(model.forward(pictures.clone(), noise))
    })
}

/// Of every model; `device` with automatic differentiation.
pub(crate) fn curves(device: &Device) -> [(&'static str, Vec<f32>); 3] {
    [
        ("classifier", classifier(device)),
        ("translator", translator(device)),
        ("vision", vision(device)),
    ]
}

/// That training learns, and by the same steps.
pub(crate) fn assert_same_curve(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    assert!(found[49] < 0.9 * found[0], "{name} learns: {found:?}");
    assert_ne!(
        found, expected,
        "{name}: other operations round differently"
    );
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * expected,
            "{name}, step {step}: {found}, expected {expected}"
        );
    }
}

#[test]
#[ignore = "what the test below runs in another process"]
#[expect(clippy::print_stdout, reason = "it is read by another test")]
fn prints_its_losses() {
    for (_, curve) in curves(&Device::flex().autodiff()) {
        let losses: Vec<String> = curve.iter().map(f32::to_string).collect();
        println!("\nlosses {}", losses.join(" "));
    }
}

#[test]
fn fifty_steps_have_the_losses_that_they_have_without_fused_operations() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "fused::prints_its_losses",
            "--ignored",
            "--nocapture",
        ])
        .env("REGARD_FUSED", "0")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let plain: Vec<Vec<f32>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("losses "))
        .map(|line| line.split(' ').map(|loss| loss.parse().unwrap()).collect())
        .collect();
    let fused = curves(&Device::flex().autodiff());
    assert_eq!(plain.len(), fused.len(), "{text}");
    for ((name, fused), plain) in fused.iter().zip(&plain) {
        assert_same_curve(name, fused, plain, 1e-4);
    }
}
