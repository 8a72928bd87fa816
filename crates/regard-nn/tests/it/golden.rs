//! Layers and models against PyTorch: outputs, gradients, a loss curve. `tests/golden/make_golden.py` wrote the files.

use std::collections::HashMap;

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use regard_kernels::Precision;
use regard_nn::layers::{
    Cut, DecoderLayerConfig, EncoderLayerConfig, FeedForward, FeedForwardConfig, LayerNorm,
    MultiHead, MultiHeadConfig, PatchEmbedding,
};
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifier, TextClassifierConfig};
use regard_nn::operation::{Activation, Residual, cross_entropy};
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::parameters::{self, NamedTensor};
use regard_nn::{Causal, Noise, Sequences};
use safetensors::{Dtype, SafeTensors};

use crate::closeness::{TOLERANCE, assert_close_to, values};

/// A golden file: floating-point tensors, and whole numbers.
struct Golden {
    name: &'static str,
    floats: HashMap<String, NamedTensor>,
    integers: HashMap<String, (Vec<usize>, Vec<i64>)>,
    device: Device,
    /// How far results may be from it, as a share of the largest.
    tolerance: f32,
}

/// Numbers are rounded by up to 2⁻⁹ of them before every product, by autocast after it, too: a dozen times on the longest way
/// through a layer and back.
const OF_BF16: f32 = 12.0 / 512.0;

impl Golden {
    /// What autocast made.
    fn read_bf16(name: &'static str) -> Self {
        Self {
            tolerance: OF_BF16,
            ..Self::read(name)
        }
    }

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
            tolerance: TOLERANCE,
        }
    }

    fn assert_close(&self, found: &[f32], expected: &[f32], what: &str) {
        assert_close_to(found, expected, self.tolerance, what);
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let tensor = &self.floats[name];
        Tensor::from_data(
            TensorData::new(tensor.values.clone(), tensor.shape.clone()),
            &self.device,
        )
    }

    fn integer(&self, name: &str) -> Tensor<1, Int> {
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

    fn sequences(&self, name: &str) -> Sequences {
        Sequences::new(self.counts(name))
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
        self.assert_close(&values(&out), &self.floats["output.out"].values, self.name);
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
            self.assert_close(
                &gradient.values,
                &expected.values,
                &format!("{}: gradient of {}", self.name, gradient.name),
            );
        }
        gradients
    }

    fn check_input<const D: usize>(&self, name: &str, input: &Tensor<D>, gradients: &Gradients) {
        let expected = &self.floats[&format!("gradient.input.{name}")].values;
        self.assert_close(
            &values(&input.grad(gradients).unwrap()),
            expected,
            &format!("{}: gradient of {name}", self.name),
        );
    }
}

/// The attention half of a layer.
#[derive(Module, Debug)]
struct AttentionHalf {
    norm: LayerNorm,
    attention: MultiHead,
}

impl AttentionHalf {
    fn read(golden: &Golden, config: &MultiHeadConfig) -> Self {
        let attention = config.init(&mut Noise::at(0, 0), &golden.device).unwrap();
        let norm = LayerNorm::new(12, &golden.device);
        golden.load(Self { norm, attention })
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
    let half = AttentionHalf::read(&golden, &config);
    let x = golden.tensor("input.x").require_grad();
    let sequences = golden.sequences("input.lengths");
    let (norm, residual) = (&half.norm, Residual::default());
    let out = half
        .attention
        .added_to(x.clone(), norm, &sequences, None, residual);
    let gradients = golden.check(&half, out);
    golden.check_input("x", &x, &gradients);
}

#[test]
fn grouped_cross_attention_is_pytorchs() {
    let golden = Golden::read("multi_head_cross_grouped");
    let config = MultiHeadConfig {
        kv_heads: 2,
        ..MultiHeadConfig::new(12, 4)
    };
    let half = AttentionHalf::read(&golden, &config);
    let (x, keys) = (
        golden.tensor("input.x").require_grad(),
        golden.tensor("input.keys").require_grad(),
    );
    let sequences = golden.sequences("input.lengths");
    let sources = golden.sequences("input.key_lengths");
    let source = Some((keys.clone(), &sources));
    let (norm, residual) = (&half.norm, Residual::default());
    let out = half
        .attention
        .added_to(x.clone(), norm, &sequences, source, residual);
    let gradients = golden.check(&half, out);
    golden.check_input("x", &x, &gradients);
    golden.check_input("keys", &keys, &gradients);
}

#[test]
fn an_encoder_layer_is_pytorchs() {
    compare_encoder_layer(&Golden::read("encoder_layer"));
}

#[test]
fn an_encoder_layer_in_bf16_is_pytorchs_under_autocast() {
    Precision::Bf16.run(|| compare_encoder_layer(&Golden::read_bf16("encoder_layer_bf16")));
}

fn compare_encoder_layer(golden: &Golden) {
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
    let sequences = golden.sequences("input.lengths");
    let out = layer.forward(x.clone(), &sequences, &mut Noise::off());
    let gradients = golden.check(&layer, out);
    golden.check_input("x", &x, &gradients);
}

#[test]
fn a_decoder_layer_is_pytorchs() {
    compare_decoder_layer(&Golden::read("decoder_layer"));
}

#[test]
fn a_decoder_layer_in_bf16_is_pytorchs_under_autocast() {
    Precision::Bf16.run(|| compare_decoder_layer(&Golden::read_bf16("decoder_layer_bf16")));
}

fn compare_decoder_layer(golden: &Golden) {
    let config = DecoderLayerConfig {
        width: 12,
        heads: 3,
        feed_forward: 20,
        dropout: 0.5,
    };
    let layer = golden.load(config.init(&mut Noise::at(0, 0), &golden.device).unwrap());
    let (x, source) = (
        golden.tensor("input.x").require_grad(),
        golden.tensor("input.source").require_grad(),
    );
    let targets = golden.sequences("input.lengths");
    let sources = golden.sequences("input.source_lengths");
    let noise = &mut Noise::off();
    let out = layer.forward(x.clone(), &targets, source.clone(), &sources, noise);
    let gradients = golden.check(&layer, out);
    golden.check_input("x", &x, &gradients);
    golden.check_input("source", &source, &gradients);
}

/// The feed-forward half of a layer.
#[derive(Module, Debug)]
struct FeedForwardHalf {
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
}

#[test]
fn a_feed_forward_part_with_relu_is_pytorchs() {
    let golden = Golden::read("feed_forward_relu");
    let config = FeedForwardConfig {
        width: 12,
        inner: 20,
        activation: Activation::Relu,
        dropout: 0.5,
    };
    let half = golden.load(FeedForwardHalf {
        feed_forward_norm: LayerNorm::new(12, &golden.device),
        feed_forward: config.init(&mut Noise::at(0, 0), &golden.device),
    });
    let x = golden.tensor("input.x").require_grad();
    let (norm, residual) = (&half.feed_forward_norm, Residual::default());
    let out = half
        .feed_forward
        .added_to(x.clone(), norm, residual, &mut Noise::off());
    let gradients = golden.check(&half, out);
    golden.check_input("x", &x, &gradients);
}

#[test]
fn pictures_become_vectors_as_pytorchs() {
    compare_patches("convolutions", Cut::Convolution { layers: 2 });
    compare_patches("patches", Cut::Patches { size: 2 });
}

fn compare_patches(name: &'static str, cut: Cut) {
    let golden = Golden::read(name);
    let noise = &mut Noise::at(0, 0);
    let layer = golden.load(PatchEmbedding::new(cut, 3, 8, noise, &golden.device));
    let pictures: Tensor<4> = golden.tensor("input.pictures").require_grad();
    let out = layer.forward(pictures.clone());
    let gradients = golden.check(&layer, out);
    golden.check_input("pictures", &pictures, &gradients);
}

/// What a loss scores with.
#[derive(Module, Debug)]
struct Table {
    table: Param<Tensor<2>>,
}

#[test]
fn the_smoothed_cross_entropy_of_a_table_is_pytorchs() {
    let golden = Golden::read("cross_entropy");
    let table = golden.load(Table {
        table: Param::from_tensor(Tensor::zeros([23, 12], &golden.device)),
    });
    let h = golden.tensor("input.h").require_grad();
    let targets = golden.counts("input.targets");
    let loss = cross_entropy(h.clone(), table.table.val(), &targets, 0.1);
    let gradients = golden.check(&table, loss);
    golden.check_input("h", &h, &gradients);
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
        texts: golden.sequences("input.lengths"),
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
