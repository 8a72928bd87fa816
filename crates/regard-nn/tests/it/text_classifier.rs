//! The text classifier: padding, attention, configuration.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_kernels::Attention;
use regard_nn::models::text_classifier::{
    Kind, TextBatch, TextClassifier, TextClassifierConfig, bigram_bucket,
};
use regard_nn::parameters;
use regard_nn::{Noise, Sequences};

use crate::closeness::{assert_close, values};

fn config(kind: Kind) -> TextClassifierConfig {
    TextClassifierConfig {
        kind,
        vocabulary: 50,
        bigram_buckets: 32,
        classes: 3,
        width: 16,
        layers: 2,
        heads: 4,
        feed_forward: 24,
        pooling_heads: 3,
        max_tokens: 64,
        dropout: 0.2,
    }
}

const KINDS: [Kind; 3] = [Kind::Mean, Kind::Pooling, Kind::Transformer];

/// A model whose numbers are all random, also those that start at zero or one.
fn model(kind: Kind, device: &Device) -> TextClassifier {
    let model = config(kind).init(5, device);
    let mut tensors = parameters::collect(&model);
    let mut noise = Noise::at(9, 9);
    for tensor in &mut tensors {
        let moves = noise.normal(tensor.values.len());
        tensor
            .values
            .iter_mut()
            .zip(moves)
            .for_each(|(value, u)| *value += 0.3 * u);
    }
    parameters::load(model, tensors).unwrap()
}

/// Texts one after the other.
fn batch(texts: &[&[u32]], device: &Device) -> TextBatch {
    let (mut tokens, mut bigrams) = (Vec::new(), Vec::new());
    for text in texts {
        let mut before = 0;
        for token in *text {
            tokens.push(*token as i32);
            bigrams.push(bigram_bucket(before, *token, 32) as i32);
            before = *token;
        }
    }
    let count = tokens.len();
    let tensor = |ids| Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
    TextBatch {
        tokens: tensor(tokens),
        bigrams: Some(tensor(bigrams)),
        texts: Sequences::new(texts.iter().map(|text| text.len())),
    }
}

const TEXTS: [&[u32]; 3] = [&[3, 17, 4, 49, 3, 3, 8], &[21], &[2, 9, 30, 44]];

#[test]
fn neighbours_do_not_change_an_answer() {
    let device = Device::flex();
    for kind in KINDS {
        let model = model(kind, &device);
        let together = values(&model.forward(&batch(&TEXTS, &device), &mut Noise::off()));
        for (text, together) in TEXTS.iter().zip(together.chunks(3)) {
            let alone = values(&model.forward(&batch(&[text], &device), &mut Noise::off()));
            assert_close(&alone, together, kind.name());
        }
    }
}

#[test]
fn the_words_and_their_order_do_change_it() {
    let device = Device::flex();
    let answer = |model: &TextClassifier, text: &[u32]| {
        values(&model.forward(&batch(&[text], &device), &mut Noise::off()))
    };
    for kind in KINDS {
        let model = model(kind, &device);
        assert_ne!(answer(&model, &[3, 17, 4]), answer(&model, &[3, 18, 4]));
        assert_ne!(
            answer(&model, &[3, 17, 4]),
            answer(&model, &[4, 17, 3]),
            "word pairs tell the order"
        );
    }
}

#[test]
fn the_parameters_are_those_the_configuration_says() {
    for kind in KINDS {
        for bigram_buckets in [0, 32] {
            let config = TextClassifierConfig {
                bigram_buckets,
                ..config(kind)
            };
            let model = config.init(1, &Device::flex());
            assert_eq!(config.parameter_shapes(), parameters::shapes(&model));
            let sum: usize = config
                .parameter_shapes()
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
            assert_eq!(sum, parameters::count(&model));
        }
    }
}

#[test]
fn a_model_is_a_function_of_its_seed() {
    let device = Device::flex();
    let collected = |seed| parameters::collect(&config(Kind::Transformer).init(seed, &device));
    assert_eq!(collected(3), collected(3));
    assert_ne!(collected(3), collected(4));
}

#[test]
fn dropout_is_a_function_of_seed_and_step() {
    let device = Device::flex();
    let model = model(Kind::Transformer, &device);
    let batch = batch(&TEXTS, &device);
    let answer = |noise: &mut Noise| values(&model.forward(&batch, noise));
    assert_eq!(answer(&mut Noise::at(1, 2)), answer(&mut Noise::at(1, 2)));
    assert_ne!(answer(&mut Noise::at(1, 2)), answer(&mut Noise::at(1, 3)));
    assert_ne!(answer(&mut Noise::at(1, 2)), answer(&mut Noise::off()));
}

#[test]
fn the_attention_shown_is_the_attention_used() {
    let device = Device::flex();
    for kind in KINDS {
        let model = model(kind, &device);
        let batch = batch(&TEXTS, &device);
        let attended = model.forward_with_attention(&batch);
        assert_eq!(
            values(&attended.logits),
            values(&model.forward(&batch, &mut Noise::off()))
        );
        assert_eq!(
            attended.layers.len(),
            if kind == Kind::Transformer { 2 } else { 0 }
        );
        let heads = if kind == Kind::Mean { 1 } else { 3 };
        assert_eq!(attended.pooling.dims(), [3, heads, 7]);
        for (row, weights) in values(&attended.pooling).chunks(7).enumerate() {
            let length = batch.texts.lengths().nth(row / heads).unwrap();
            assert!(
                (weights.iter().sum::<f32>() - 1.0).abs() < 1e-5,
                "the weights of a text sum to 1"
            );
            assert!(
                weights[length..].iter().all(|weight| *weight == 0.0),
                "padding has no weight"
            );
            if kind == Kind::Mean {
                assert!(
                    weights[..length]
                        .iter()
                        .all(|weight| *weight == 1.0 / length as f32)
                );
            }
        }
    }
}

#[test]
fn pooling_weights_are_the_kernels_reference() {
    let device = Device::flex();
    let model = model(Kind::Pooling, &device);
    let batch = batch(&TEXTS, &device);
    // Without encoder layers, what is pooled is the sum of the table rows.
    let x = model.tokens.forward(batch.tokens.clone())
        + model
            .bigrams
            .as_ref()
            .unwrap()
            .forward(batch.bigrams.clone().unwrap());
    let x = batch.texts.padded(x);
    let x = ndarray::Array4::from_shape_vec((3, 1, 7, 16), values(&x)).unwrap();
    let queries = values(&model.pooling.as_ref().unwrap().attention.queries.val());
    let q = ndarray::Array4::from_shape_vec((1, 1, 3, 16), queries).unwrap();
    let q = q.broadcast((3, 1, 3, 16)).unwrap();
    let lengths: Vec<usize> = batch.texts.lengths().collect();
    let reference = Attention::new()
        .scale(32.0)
        .visible_keys(&lengths)
        .weights(q, x.view())
        .unwrap();
    let found = values(&model.forward_with_attention(&batch).pooling);
    assert_close(&found, reference.as_slice().unwrap(), "pooling weights");
}

#[test]
fn hostile_numbers_are_refused_before_anything_is_allocated() {
    type Change = fn(&mut TextClassifierConfig);
    let cases: [(&str, Change); 14] = [
        ("vocabulary", |c| c.vocabulary = usize::MAX),
        ("vocabulary", |c| c.vocabulary = 0),
        ("bigram_buckets", |c| c.bigram_buckets = usize::MAX / 2),
        ("classes", |c| c.classes = 0),
        ("width", |c| c.width = 0),
        ("width", |c| c.width = 1 << 40),
        ("max_tokens", |c| c.max_tokens = 0),
        ("layers", |c| c.layers = usize::MAX),
        ("feed_forward", |c| c.feed_forward = usize::MAX),
        ("pooling_heads", |c| c.pooling_heads = 0),
        ("heads", |c| c.heads = 5),
        ("heads", |c| c.heads = 16),
        ("number of parameters", |c| {
            (c.vocabulary, c.width, c.heads) = (1 << 30, 1 << 16, 4)
        }),
        ("dropout", |c| c.dropout = f64::NAN),
    ];
    for (field, change) in cases {
        let mut config = config(Kind::Transformer);
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().field, field);
    }
    assert_eq!(
        TextClassifierConfig {
            heads: 5,
            ..config(Kind::Transformer)
        }
        .validate()
        .unwrap_err()
        .to_string(),
        "`heads` is 5, expected a divisor of the width 16"
    );
    KINDS
        .into_iter()
        .for_each(|kind| config(kind).validate().unwrap());
}

#[test]
fn a_configuration_survives_json_and_an_unknown_field_does_not() {
    let config = config(Kind::Pooling);
    let mut json = serde_json::to_value(&config).unwrap();
    assert_eq!(json["kind"], "pooling");
    assert_eq!(
        serde_json::from_value::<TextClassifierConfig>(json.clone()).unwrap(),
        config
    );
    json["colour"] = 3.into();
    assert!(serde_json::from_value::<TextClassifierConfig>(json).is_err());
}

#[test]
fn training_and_answering_agree() {
    let training = model(Kind::Transformer, &Device::flex().autodiff());
    let answering = training.valid();
    let logits = |model: &TextClassifier, device| {
        values(&model.forward(&batch(&TEXTS, device), &mut Noise::off()))
    };
    assert_eq!(
        logits(&training, &Device::flex().autodiff()),
        logits(&answering, &Device::flex())
    );
}
