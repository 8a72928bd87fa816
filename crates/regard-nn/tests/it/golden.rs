//! Layers and models against PyTorch: outputs, gradients, a loss curve. `tests/golden/make_golden.py` wrote the files.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use regard_nn::layers::{EncoderLayerConfig, MultiHeadConfig, MultiHeadInput};
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifier, TextClassifierConfig};
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::parameters::{self, NamedTensor};
use regard_nn::{Causal, Noise};
use safetensors::{Dtype, SafeTensors};

use crate::closeness::{assert_close, assert_close_to, values};

/// A golden file: floating-point tensors, and whole numbers.
struct Golden {
    name: &'static str,
    floats: HashMap<String, NamedTensor>,
    integers: HashMap<String, (Vec<usize>, Vec<i64>)>,
    device: Device,
}

impl Golden {
    fn read(name: &'static str) -> Self {
        let path = format!(
            "{}/tests/golden/{name}.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut floats, mut integers) = (HashMap::new(), HashMap::new());
        for (name, view) in file.tensors() {
            let shape = view.shape().to_vec();
            if view.dtype() == Dtype::F32 {
                let values = view
                    .data()
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
                floats.insert(
                    name.clone(),
                    NamedTensor {
                        name,
                        shape,
                        values: values.collect(),
                    },
                );
            } else {
                let values = view
                    .data()
                    .chunks_exact(8)
                    .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
                integers.insert(name, (shape, values.collect()));
            }
        }
        Self {
            name,
            floats,
            integers,
            device: Device::flex().autodiff(),
        }
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let tensor = &self.floats[name];
        Tensor::from_data(
            TensorData::new(tensor.values.clone(), tensor.shape.clone()),
            &self.device,
        )
    }

    fn integer(&self, name: &str) -> Tensor<2, Int> {
        let (shape, values) = &self.integers[name];
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), &self.device)
    }

    fn counts(&self, name: &str) -> Vec<usize> {
        self.integers[name]
            .1
            .iter()
            .map(|count| *count as usize)
            .collect()
    }

    /// The model with the file's parameters.
    fn load<M: Module>(&self, model: M) -> M {
        let named = self.floats.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("parameter.")?.to_owned();
            Some(NamedTensor {
                name,
                ..tensor.clone()
            })
        });
        parameters::load(model, named.collect()).unwrap()
    }

    /// Compares the output and the gradients of every parameter; gives the gradients.
    fn check<M: Module, const D: usize>(&self, model: &M, out: Tensor<D>) -> Gradients {
        assert_close(&values(&out), &self.floats["output.out"].values, self.name);
        let gradients = (out * self.tensor("input.seed")).sum().backward();
        let found = parameters::gradients(model, &gradients);
        assert_eq!(
            found.len(),
            parameters::shapes(model).len(),
            "every parameter has a gradient"
        );
        for gradient in found {
            let expected = &self.floats[&format!("gradient.{}", gradient.name)];
            assert_eq!(gradient.shape, expected.shape);
            assert_close(
                &gradient.values,
                &expected.values,
                &format!("{}: gradient of {}", self.name, gradient.name),
            );
        }
        gradients
    }

    fn check_input(&self, name: &str, input: &Tensor<3>, gradients: &Gradients) {
        let expected = &self.floats[&format!("gradient.input.{name}")].values;
        assert_close(
            &values(&input.grad(gradients).unwrap()),
            expected,
            &format!("{}: gradient of {name}", self.name),
        );
    }
}

#[test]
fn causal_rotary_self_attention_is_pytorchs() {
    let golden = Golden::read("multi_head_self");
    let config = MultiHeadConfig {
        causal: Some(Causal::TopLeft),
        rotary: true,
        ..MultiHeadConfig::new(12, 3)
    };
    let layer = golden.load(config.init(&mut Noise::at(0, 0), &golden.device).unwrap());
    let x = golden.tensor("input.x").require_grad();
    let input =
        MultiHeadInput::self_attention(x.clone()).visible_keys(golden.counts("input.lengths"));
    let gradients = golden.check(&layer, layer.forward(input));
    golden.check_input("x", &x, &gradients);
}

#[test]
fn grouped_cross_attention_is_pytorchs() {
    let golden = Golden::read("multi_head_cross_grouped");
    let config = MultiHeadConfig {
        kv_heads: 2,
        ..MultiHeadConfig::new(12, 4)
    };
    let layer = golden.load(config.init(&mut Noise::at(0, 0), &golden.device).unwrap());
    let (x, keys) = (
        golden.tensor("input.x").require_grad(),
        golden.tensor("input.keys").require_grad(),
    );
    let input = MultiHeadInput::cross_attention(x.clone(), keys.clone())
        .visible_keys(golden.counts("input.lengths"));
    let gradients = golden.check(&layer, layer.forward(input));
    golden.check_input("x", &x, &gradients);
    golden.check_input("keys", &keys, &gradients);
}

#[test]
fn an_encoder_layer_is_pytorchs() {
    let golden = Golden::read("encoder_layer");
    let attention = MultiHeadConfig {
        rotary: true,
        ..MultiHeadConfig::new(12, 3)
    };
    let config = EncoderLayerConfig {
        attention,
        feed_forward: 20,
        dropout: 0.5,
        stochastic_depth: 0.0,
    };
    let layer = golden.load(config.init(&mut Noise::at(0, 0), &golden.device).unwrap());
    let x = golden.tensor("input.x").require_grad();
    let lengths = golden.counts("input.lengths");
    let out = layer.forward(x.clone(), Some(&lengths), &mut Noise::off());
    let gradients = golden.check(&layer, out);
    golden.check_input("x", &x, &gradients);
}

fn model(golden: &Golden, kind: Kind) -> (TextClassifier, TextBatch) {
    // As in make_golden.py.
    let config = TextClassifierConfig {
        kind,
        vocabulary: 40,
        bigram_buckets: 16,
        classes: 5,
        width: 16,
        layers: 2,
        heads: 2,
        feed_forward: 24,
        pooling_heads: 3,
        max_tokens: 9,
        dropout: 0.5,
    };
    let batch = TextBatch {
        tokens: golden.integer("input.tokens"),
        bigrams: Some(golden.integer("input.bigrams")),
        lengths: golden.counts("input.lengths"),
    };
    (golden.load(config.init(0, &golden.device)), batch)
}

/// The output, the gradients, and the losses of twenty steps.
fn compare_model(name: &'static str, kind: Kind) {
    let golden = Golden::read(name);
    let (mut model, batch) = model(&golden, kind);
    golden.check(&model, model.forward(&batch, &mut Noise::off()));

    let labels = golden.counts("input.labels");
    let mut targets = vec![0.0_f32; labels.len() * 5];
    labels
        .iter()
        .enumerate()
        .for_each(|(row, label)| targets[row * 5 + label] = 1.0);
    let targets =
        Tensor::<2>::from_data(TensorData::new(targets, [labels.len(), 5]), &golden.device);
    let config = AdamWConfig {
        weight_decay: 0.1,
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(config);
    let mut losses = Vec::new();
    for _ in 0..20 {
        let logits = model.forward(&batch, &mut Noise::off());
        let loss = -(log_softmax(logits, 1) * targets.clone()).sum() / labels.len() as f32;
        losses.push(loss.clone().into_scalar::<f32>());
        (model, _) = optimizer.step(model, loss.backward(), 3e-3);
    }
    // Rounding differences grow from step to step: Adam's first steps are signs of gradients.
    assert_close_to(
        &losses,
        &golden.floats["output.losses"].values,
        1e-4,
        "loss curve",
    );
}

#[test]
fn the_mean_classifier_is_pytorchs_and_learns_alike() {
    compare_model("mean", Kind::Mean);
}

#[test]
fn the_pooling_classifier_is_pytorchs_and_learns_alike() {
    compare_model("pooling", Kind::Pooling);
}

#[test]
fn the_transformer_classifier_is_pytorchs_and_learns_alike() {
    compare_model("transformer", Kind::Transformer);
}
