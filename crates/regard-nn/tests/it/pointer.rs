//! Sequence to sequence with a pointer: one distribution however it is computed, its gradients, its shares.

use burn::tensor::{Device, Tensor, TensorData};
use regard_nn::generation::{GenerationOptions, generate, score};
use regard_nn::models::sequence_to_sequence::SequenceToSequenceConfig;
use regard_nn::operation::{composed, copying_cross_entropy};
use regard_nn::{Noise, parameters};

use crate::closeness::{assert_close_to, values};
use crate::sequence_to_sequence::{SOURCES, config, trained};

fn pointing() -> SequenceToSequenceConfig {
    SequenceToSequenceConfig {
        pointer: true,
        ..config()
    }
}

#[test]
fn with_a_pointer_probabilities_sum_to_one_and_every_way_of_writing_gives_the_same() {
    let model = trained(&pointing());
    let targets: [&[u32]; 4] = [&[6, 12, 9], &[10, 10], &[], &[8, 2, 2, 21]];
    let logits = model.forward(&SOURCES, &targets, &mut Noise::off());
    for sum in values(&logits.clone().exp().sum_dim(1)) {
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
    // Some of it is copied: the vocabulary alone gives something else.
    let plain = {
        let tensors = parameters::collect(&model).into_iter();
        let own = tensors.filter(|tensor| !tensor.name.starts_with("pointer"));
        parameters::load(config().init(3, &Device::flex()), own.collect()).unwrap()
    };
    let own = score(&plain, &SOURCES, &targets).concat();
    let mixed = score(&model, &SOURCES, &targets).concat();
    assert!(
        own.iter()
            .zip(&mixed)
            .any(|(own, mixed)| (own - mixed).abs() > 0.1)
    );
    // The loss is that of these probabilities.
    let (loss, _) = model.loss(&SOURCES, &targets, 0.0, &mut Noise::off());
    let expected: f32 = mixed.iter().sum();
    assert!((values(&loss)[0] + expected).abs() < 1e-3);
    // So is what a step at a time gives, up to a constant for each row.
    let mut decoding = model.start(&SOURCES, 1, 5);
    let softmax = |row: &[f32]| -> Vec<f32> {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x.exp() / sum).collect()
    };
    let sevens: [&[u32]; 4] = [&[7; 4]; 4];
    let full = model.forward(&SOURCES, &sevens, &mut Noise::off());
    for at in 0..5 {
        let before = if at == 0 { model.end() } else { 7 };
        let step = model.step(&mut decoding, &[before; 4]);
        for row in 0..4 {
            let expected = values(&full.clone().narrow(0, row * 5 + at, 1).exp());
            let found = softmax(&step[row * 40..][..40]);
            assert_close_to(&found, &expected, 1e-4, "probabilities");
        }
    }
    // And what was copied is a share of them.
    let copied = model.copied(SOURCES[3], targets[3]).unwrap();
    assert_eq!(copied.weights.dims(), [5, 9]);
    assert!(
        copied
            .shares
            .iter()
            .all(|share| (0.0..=1.0).contains(share))
    );
    // The end is never copied.
    assert!(copied.shares[4] < 1e-6 && copied.shares[0] > 1e-3);
    assert!(plain.copied(SOURCES[3], targets[3]).is_none());
}

#[test]
fn a_pointer_learns_and_a_source_gives_the_same_alone_and_in_a_batch() {
    let model = trained(&pointing());
    let options = GenerationOptions {
        beam: 3,
        max_length: 10,
        ..GenerationOptions::default()
    };
    for (source, together) in SOURCES.iter().zip(generate(&model, &SOURCES, &options)) {
        let alone = generate(&model, &[source], &options).remove(0);
        assert_eq!(alone[0].tokens, together[0].tokens);
    }
    let tensors = parameters::collect(&model);
    let model = pointing().init(3, &Device::flex().autodiff());
    let model = parameters::load(model, tensors).unwrap();
    let targets: [&[u32]; 4] = [&[6, 12], &[10], &[], &[9, 9, 9]];
    let (loss, _) = model.loss(&SOURCES, &targets, 0.1, &mut Noise::at(1, 1));
    for gradient in parameters::gradients(&model, &loss.backward()) {
        let moves = gradient.values.iter().any(|value| value.abs() > 1e-8);
        // A key's bias moves all scores of a query alike, which softmax does not see.
        assert!(
            moves || gradient.name.ends_with("key.bias"),
            "{}",
            gradient.name
        );
    }
}

#[test]
fn the_loss_with_copies_is_the_composed_one_with_its_gradients() {
    let device = Device::flex().autodiff();
    let (rows, classes, width) = (70, 40_000, 3);
    let made = |step: u64, count: usize| Noise::at(1, step).normal(count);
    let targets: Vec<usize> = (0..rows).map(|row| row * 571 % classes).collect();
    let inputs = || {
        let table = |step: u64, count: usize| {
            let data = TensorData::new(made(step, count * width), [count, width]);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let of_rows = |step: u64, shift: f32| {
            let values: Vec<f32> = made(step, rows).iter().map(|x| x - shift).collect();
            Tensor::<1>::from_data(TensorData::new(values, [rows]), &device).require_grad()
        };
        // Copying is about as probable as the vocabulary's 1 in 40,000, or next to impossible.
        (
            table(2, rows),
            table(3, classes),
            of_rows(4, 2.0),
            of_rows(5, 12.0),
        )
    };
    for smoothing in [0.0, 0.1] {
        let (fused, plain) = (inputs(), inputs());
        let loss = |(h, table, own, copied): &(Tensor<2>, Tensor<2>, Tensor<1>, Tensor<1>),
                    composed: bool| {
            let chances = [own.clone(), copied.clone()];
            match composed {
                true => composed::copying_cross_entropy(
                    h.clone(),
                    table.clone(),
                    chances,
                    &targets,
                    smoothing,
                ),
                false => {
                    copying_cross_entropy(h.clone(), table.clone(), chances, &targets, smoothing)
                }
            }
        };
        let (found, expected) = (loss(&fused, false), loss(&plain, true));
        assert_close_to(
            &values(&found.clone().inner()),
            &values(&expected.clone().inner()),
            1e-4,
            "loss",
        );
        let (found, expected) = ((found * 0.3).backward(), (expected * 0.3).backward());
        for (a, b) in [(&fused.0, &plain.0), (&fused.1, &plain.1)] {
            let (a, b) = (a.grad(&found).unwrap(), b.grad(&expected).unwrap());
            assert_close_to(&values(&a), &values(&b), 1e-5, "h and table");
        }
        for (a, b) in [(&fused.2, &plain.2), (&fused.3, &plain.3)] {
            let (a, b) = (a.grad(&found).unwrap(), b.grad(&expected).unwrap());
            assert_close_to(&values(&a), &values(&b), 1e-5, "own and copied");
        }
    }
}
