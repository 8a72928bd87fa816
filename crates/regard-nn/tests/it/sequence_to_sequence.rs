//! Sequence to sequence: decoding a position at a time, batches, search, gradients of the loss.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use regard_nn::generation::{GenerationOptions, Sampling, generate, score};
use regard_nn::models::sequence_to_sequence::{SequenceToSequence, SequenceToSequenceConfig};
use regard_nn::operation::{composed, cross_entropy};
use regard_nn::{Noise, parameters};

use crate::closeness::{assert_close_to, values};

pub(crate) fn config() -> SequenceToSequenceConfig {
    SequenceToSequenceConfig {
        vocabulary: 40,
        source_vocabulary: None,
        pointer: false,
        width: 16,
        heads: 4,
        encoder_layers: 2,
        decoder_layers: 2,
        feed_forward: 24,
        max_source: 32,
        max_target: 32,
        dropout: 0.1,
    }
}

/// A model in which no part is zero, as after training.
fn model() -> SequenceToSequence {
    trained(&config())
}

pub(crate) fn trained(config: &SequenceToSequenceConfig) -> SequenceToSequence {
    let model = config.init(3, &Device::flex());
    let mut tensors = parameters::collect(&model);
    for (at, tensor) in tensors.iter_mut().enumerate() {
        let noise = Noise::at(9, at as u64).normal(tensor.values.len());
        for (value, noise) in tensor.values.iter_mut().zip(noise) {
            *value += 0.3 * noise;
        }
    }
    parameters::load(model, tensors).unwrap()
}

pub(crate) const SOURCES: [&[u32]; 4] = [
    &[5, 6, 7, 8, 9],
    &[10],
    &[30, 31, 32],
    &[2, 3, 4, 5, 6, 7, 8, 20, 21],
];

#[test]
fn the_configuration_knows_every_parameter_of_the_model() {
    for (source_vocabulary, pointer) in [(None, false), (Some(33), false), (None, true)] {
        let config = SequenceToSequenceConfig {
            source_vocabulary,
            pointer,
            ..config()
        };
        let mut built = parameters::shapes(&config.init(0, &Device::flex()));
        let mut listed = config.parameter_shapes();
        built.sort();
        listed.sort();
        assert_eq!(built, listed);
    }
}

#[test]
fn sources_with_a_table_of_their_own_are_read_from_it() {
    let config = SequenceToSequenceConfig {
        source_vocabulary: Some(50),
        ..config()
    };
    let tensors = parameters::collect(&trained(&config));
    let model = config.init(3, &Device::flex().autodiff());
    let model = parameters::load(model, tensors).unwrap();
    // The target's table has no row 49.
    let (loss, _) = model.loss(&[&[49, 2]], &[&[5, 6]], 0.1, &mut Noise::off());
    let gradients = parameters::gradients(&model, &loss.backward());
    let of = |name: &str| {
        let gradient = gradients.iter().find(|one| one.name == name).unwrap();
        let rows = gradient.values.chunks(16);
        rows.map(|row| row.iter().any(|value| *value != 0.0))
            .collect::<Vec<bool>>()
    };
    let touched: Vec<usize> = (0..50)
        .filter(|at| of("source_tokens.weight")[*at])
        .collect();
    assert_eq!(touched, [2, 49]);
    assert!(of("tokens.weight").iter().all(|touched| *touched));
}

#[test]
fn a_preset_has_the_size_it_says() {
    for (name, millions) in [("tiny", 2.4), ("small", 8.4), ("base", 27.9)] {
        let config = SequenceToSequenceConfig::preset(name).unwrap();
        config.validate().unwrap();
        let count: usize = config
            .parameter_shapes()
            .iter()
            .map(|(_, s)| s.iter().product::<usize>())
            .sum();
        assert!(
            (count as f64 / 1e6 - millions).abs() < 0.05,
            "{name}: {count}"
        );
    }
}

#[test]
fn a_position_at_a_time_gives_what_all_positions_at_once_give() {
    let model = model();
    let target: [&[u32]; 4] = [
        &[11, 12, 13, 14],
        &[15, 16, 17, 18],
        &[19, 2, 3, 4],
        &[9, 9, 9, 9],
    ];
    let full = model.forward(&SOURCES, &target, &mut Noise::off()); // 4 · 5 rows
    let mut decoding = model.start(&SOURCES, 1, 5);
    for at in 0..5 {
        let before: Vec<u32> = target
            .iter()
            .map(|target| if at == 0 { model.end() } else { target[at - 1] })
            .collect();
        let step = model.step(&mut decoding, &before);
        for row in 0..4 {
            let expected = full.clone().narrow(0, row * 5 + at, 1);
            assert_close_to(&step[row * 40..][..40], &values(&expected), 1e-4, "logits");
        }
    }
}

#[test]
fn the_cache_follows_when_hypotheses_are_reordered_and_sentences_leave() {
    let model = model();
    let mut decoding = model.start(&SOURCES[..2], 2, 4);
    let _ = model.step(&mut decoding, &[model.end(); 4]);
    let _ = model.step(&mut decoding, &[11, 12, 13, 14]);
    // The second sentence stays, and both of its hypotheses continue its second.
    decoding.reorder(&[0, 1, 3, 3]);
    decoding.keep(&[1]);
    let logits = model.step(&mut decoding, &[20, 21]);
    for (row, last) in [20, 21].into_iter().enumerate() {
        let full = model.forward(&SOURCES[1..2], &[&[14, last]], &mut Noise::off());
        let expected = full.narrow(0, 2, 1);
        assert_close_to(
            &logits[row * 40..][..40],
            &values(&expected),
            1e-4,
            "logits",
        );
    }
}

#[test]
fn a_long_target_is_followed_through_every_change_of_its_row() {
    let model = model();
    let source = SOURCES[3];
    let mut decoding = model.start(&[source], 3, 25);
    let mut written: Vec<Vec<u32>> = vec![Vec::new(); 3];
    let mut tokens = vec![model.end(); 3];
    // Rows are taken over, swapped and dropped.
    for step in 0..24_u32 {
        let logits = model.step(&mut decoding, &tokens);
        for (row, target) in written.iter().enumerate() {
            let full = model.forward(&[source], &[target], &mut Noise::off());
            assert_close_to(
                &logits[row * 40..][..40],
                &values(&full.narrow(0, target.len(), 1)),
                1e-4,
                "logits",
            );
        }
        let order = [[2, 0, 1], [0, 0, 2], [1, 2, 1], [0, 1, 2]][step as usize % 4];
        decoding.reorder(&order);
        written = order.iter().map(|row| written[*row].clone()).collect();
        tokens = (0..3).map(|row| (step * 7 + row * 11) % 39).collect();
        for (target, token) in written.iter_mut().zip(&tokens) {
            target.push(*token);
        }
    }
}

#[test]
fn a_source_gives_the_same_alone_and_in_a_batch() {
    let model = model();
    let lots = Sampling {
        temperature: 0.9,
        top_k: 10,
        top_p: 0.9,
        seed: 4,
    };
    for (beam, sampling) in [(1, None), (4, None), (3, Some(lots))] {
        let options = GenerationOptions {
            beam,
            n_best: beam,
            sampling,
            max_length: 12,
            ..GenerationOptions::default()
        };
        let together = generate(&model, &SOURCES, &options);
        for (source, together) in SOURCES.iter().zip(&together) {
            let alone = generate(&model, &[source], &options).swap_remove(0);
            let tokens = |all: &[regard_nn::generation::Hypothesis]| -> Vec<Vec<u32>> {
                all.iter().map(|one| one.tokens.clone()).collect()
            };
            assert_eq!(tokens(&alone), tokens(together));
        }
    }
}

#[test]
fn a_hypothesis_has_the_probability_that_forced_scoring_gives_it() {
    let model = model();
    let options = GenerationOptions {
        beam: 4,
        n_best: 4,
        max_length: 8,
        forbidden: vec![],
        ..GenerationOptions::default()
    };
    for (source, found) in SOURCES.iter().zip(generate(&model, &SOURCES, &options)) {
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for one in found {
            let scores = score(&model, &[source], &[&one.tokens]);
            let expected: f32 = scores[0].iter().sum();
            assert!(
                (one.log_probability - expected).abs() < 1e-3,
                "{} {expected}",
                one.log_probability
            );
        }
    }
}

#[test]
fn a_wide_beam_finds_the_best_of_all_short_targets() {
    let model = model();
    // Every target of at most one token, scored; a beam as wide as the vocabulary must find the best.
    let options = GenerationOptions {
        beam: 40,
        n_best: 1,
        max_length: 1,
        length_penalty: 0.0,
        forbidden: vec![],
        ..GenerationOptions::default()
    };
    let found = &generate(&model, &SOURCES[..1], &options)[0][0];
    let best = (0..39_u32)
        .map(|token| vec![token])
        .chain([vec![]])
        .map(|target| {
            score(&model, &SOURCES[..1], &[&target])[0]
                .iter()
                .sum::<f32>()
        })
        .fold(f32::NEG_INFINITY, f32::max);
    assert!((found.log_probability - best).abs() < 1e-4);
}

#[test]
fn the_rules_of_generation_are_kept() {
    let model = model();
    let base = GenerationOptions {
        beam: 3,
        max_length: 14,
        ..GenerationOptions::default()
    };
    let texts = |options: &GenerationOptions| generate(&model, &SOURCES, options);
    for found in texts(&GenerationOptions {
        no_repeat: 2,
        min_length: 9,
        ..base.clone()
    }) {
        let tokens = &found[0].tokens;
        assert!((9..=14).contains(&tokens.len()));
        let pairs: Vec<&[u32]> = tokens.windows(2).collect();
        assert!((0..pairs.len()).all(|at| !pairs[..at].contains(&pairs[at])));
    }
    for found in texts(&GenerationOptions {
        prefix: vec![7, 8, 7, 8],
        no_repeat: 2,
        ..base.clone()
    }) {
        assert_eq!(found[0].tokens[..4], [7, 8, 7, 8]);
    }
    let forbidden: Vec<u32> = (0..39).filter(|token| token % 2 == 0).collect();
    for found in texts(&GenerationOptions { forbidden, ..base }) {
        assert!(found[0].tokens.iter().all(|token| token % 2 == 1));
    }
}

#[test]
fn what_was_left_out_of_the_source_costs_by_the_attention_over_it() {
    let model = model();
    let options = GenerationOptions {
        beam: 4,
        n_best: 4,
        max_length: 10,
        coverage_penalty: 0.5,
        ..GenerationOptions::default()
    };
    for (source, found) in SOURCES.iter().zip(generate(&model, &SOURCES, &options)) {
        let tokens = |found: &[regard_nn::generation::Hypothesis]| -> Vec<Vec<u32>> {
            found.iter().map(|one| one.tokens.clone()).collect()
        };
        let alone = generate(&model, &[*source], &options).remove(0);
        assert_eq!(tokens(&found), tokens(&alone));
        assert!(found.is_sorted_by(|a, b| a.score >= b.score));
        for one in found {
            let layers = model.source_weights(source, &one.tokens);
            let mean = |at: usize| {
                let sums = layers.iter().map(|weights| {
                    let heads = weights.dims()[1];
                    let of_one = weights.clone().narrow(3, at, 1).sum();
                    of_one.into_scalar::<f32>() / heads as f32
                });
                sums.sum::<f32>() / layers.len() as f32
            };
            let left_out: f32 = (0..source.len()).map(|at| mean(at).min(1.0).ln()).sum();
            let length = (one.tokens.len() + 1) as f32;
            let expected = one.log_probability / length + 0.5 * left_out;
            assert!(
                (one.score - expected).abs() < 1e-3,
                "{} {expected}",
                one.score
            );
        }
    }
}

#[test]
fn the_weights_over_the_source_sum_to_one_and_padding_has_none() {
    let model = model();
    let layers = model.source_weights(SOURCES[0], &[11, 12]);
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(layer.dims(), [1, 4, 3, 5]);
        for sum in values(&layer.sum_dim(3)) {
            assert!((sum - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn the_loss_in_parts_is_the_composed_one_with_its_gradients() {
    let device = Device::flex().autodiff();
    // More rows than a part has for as many classes.
    let (rows, classes, width) = (70, 40_000, 3);
    let made = |step: u64, count: usize| Noise::at(1, step).normal(count);
    let tensors = || {
        let tensor = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values, shape), &device).require_grad()
        };
        (
            tensor(made(2, rows * width), [rows, width]),
            tensor(made(3, classes * width), [classes, width]),
        )
    };
    let targets: Vec<usize> = (0..rows).map(|row| row * 571 % classes).collect();
    for smoothing in [0.0, 0.1] {
        let ((h, table), (same_h, same_table)) = (tensors(), tensors());
        let fused = cross_entropy(h.clone(), table.clone(), &targets, smoothing);
        let plain =
            composed::cross_entropy(same_h.clone(), same_table.clone(), &targets, smoothing);
        assert_close_to(
            &values(&fused.clone().inner()),
            &values(&plain.clone().inner()),
            1e-4,
            "loss",
        );
        // Not the sum itself, so that the factor is tested as well.
        let (found, expected) = ((fused * 0.3).backward(), (plain * 0.3).backward());
        for (found, expected, name) in [
            (h.grad(&found), same_h.grad(&expected), "h"),
            (table.grad(&found), same_table.grad(&expected), "table"),
        ] {
            assert_close_to(
                &values(&found.unwrap()),
                &values(&expected.unwrap()),
                1e-5,
                name,
            );
        }
    }
}

#[test]
fn the_loss_of_the_model_is_that_of_its_logits() {
    let model = model();
    let targets: [&[u32]; 4] = [&[11, 12], &[15], &[], &[9, 9, 9]];
    let (loss, tokens) = model.loss(&SOURCES, &targets, 0.0, &mut Noise::off());
    assert_eq!(tokens, 10);
    let expected: f32 = score(&model, &SOURCES, &targets).concat().iter().sum();
    assert!((values(&loss)[0] + expected).abs() < 1e-3);
}

#[test]
fn every_parameter_learns() {
    let device = Device::flex().autodiff();
    let tensors = parameters::collect(&model());
    let model = parameters::load(config().init(3, &device), tensors).unwrap();
    let targets: [&[u32]; 4] = [&[11, 12], &[15], &[], &[9, 9, 9]];
    let (loss, _) = model.loss(&SOURCES, &targets, 0.1, &mut Noise::at(1, 1));
    let gradients = loss.backward();
    let found = parameters::gradients(&model, &gradients);
    assert_eq!(found.len(), parameters::shapes(&model).len());
    for gradient in found {
        // A key's bias moves all scores of a query alike, which softmax does not see.
        if !gradient.name.ends_with("key.bias") {
            assert!(
                gradient.values.iter().any(|value| value.abs() > 1e-8),
                "{}",
                gradient.name
            );
        }
    }
    let _ = model.valid();
}
