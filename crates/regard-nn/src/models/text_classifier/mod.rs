//! A text classifier in three sizes of ambition.
//!
//! ```text
//! x_i    = dropout(token_row(t_i) + bigram_row(hash(t_{i−1}, t_i)))
//! x      = encoder(x)                                     transformer only
//! z      = Σ_h mix_h ⊙ Σ_i a_{h,i} x_i,  a_h = softmax_i(32 q_h · x_i)      mean: a_i = 1 / length
//! logits = output(dropout(norm(z)))
//! ```
//!
//! Softmax and sums run over the text's own words: padding has no weight. The hashed word pairs (Joulin et al. 2017)
//! tell "not good" from "good, not"; the learned queries (Yang et al. 2016) tell which words matter; `mix` starts at
//! 1/heads and the queries near 0, so that pooling starts as the mean and has to earn its keep.

mod config;
mod pooling;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

pub use config::{Kind, TextClassifierConfig};
pub use pooling::Pooling;

use crate::layers::{
    Embedding, EncoderLayer, EncoderLayerConfig, LayerNorm, Linear, MultiHeadConfig,
};
use crate::{Noise, Sequences};

/// Texts as numbers, one after the other.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// `[tokens]`
    pub tokens: Tensor<1, Int>,
    /// `[tokens]`: at position `i` of a text the [`bigram_bucket`] of its tokens `i − 1` and `i`.
    pub bigrams: Option<Tensor<1, Int>>,
    /// Where the texts begin and end.
    pub texts: Sequences,
}

/// The table row of a pair of neighbouring tokens; the first token of a text pairs with 0.
///
/// # Panics
///
/// If there are no buckets.
pub fn bigram_bucket(before: u32, token: u32, buckets: usize) -> u32 {
    assert!(buckets > 0, "a word pair needs at least one bucket");
    let pair = u64::from(before)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(token));
    ((pair.wrapping_mul(0xC2B2_AE3D_27D4_EB4F) >> 33) % buckets as u64) as u32
}

/// What [`TextClassifier::forward_with_attention`] gives.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// Weight of each word for the answer, `[batch, pooling_heads, longest]`; each text's sum to 1. Uniform for `mean`.
    pub pooling: Tensor<3>,
    /// What each encoder layer looked at, `[batch, heads, longest, longest]`.
    pub layers: Vec<Tensor<4>>,
}

/// The model; see the [module](self).
#[derive(Module, Debug)]
pub struct TextClassifier {
    /// A vector for each token.
    pub tokens: Embedding,
    /// A vector for each bucket of word pairs.
    pub bigrams: Option<Embedding>,
    /// Layers of self-attention; empty but for `transformer`.
    pub encoder: Vec<EncoderLayer>,
    /// The learned queries; none for `mean`.
    pub pooling: Option<Pooling>,
    /// On the pooled vector: makes long and short texts alike in size.
    pub norm: LayerNorm,
    /// `width → classes`
    pub output: Linear,
    dropout: f64,
}

/// Standard deviation of the vectors at the start. Large ones (0.3) cost 1 % of accuracy on Reuters R8: the random part of
/// a rare word's vector is never unlearned.
const EMBEDDING_DEVIATION: f32 = 0.05;

impl TextClassifierConfig {
    /// A model whose numbers are a function of the configuration and the seed.
    ///
    /// # Panics
    ///
    /// If [`validate`](Self::validate) refuses the configuration.
    pub fn init(&self, seed: u64, device: &Device) -> TextClassifier {
        let built = self.validate().and_then(|()| {
            // Step u64::MAX is no step of training.
            let mut noise = Noise::at(seed, u64::MAX);
            let embedding = |rows, noise: &mut Noise| {
                Embedding::new(rows, self.width, EMBEDDING_DEVIATION, noise, device)
            };
            let layer = EncoderLayerConfig {
                attention: MultiHeadConfig {
                    rotary: true,
                    ..MultiHeadConfig::new(self.width, self.heads)
                },
                feed_forward: self.feed_forward,
                dropout: self.dropout / 2.0,
                stochastic_depth: 0.0,
            };
            let layers = if self.kind == Kind::Transformer {
                self.layers
            } else {
                0
            };
            Ok(TextClassifier {
                tokens: embedding(self.vocabulary, &mut noise),
                bigrams: (self.bigram_buckets > 0)
                    .then(|| embedding(self.bigram_buckets, &mut noise)),
                encoder: (0..layers)
                    .map(|_| layer.init(&mut noise, device))
                    .collect::<Result<_, _>>()?,
                pooling: (self.kind != Kind::Mean)
                    .then(|| Pooling::new(self.pooling_heads, self.width, &mut noise, device)),
                norm: LayerNorm::new(self.width, device),
                output: Linear::normal(self.width, self.classes, 0.02, &mut noise, device),
                dropout: self.dropout,
            })
        });
        match built {
            Ok(model) => model,
            Err(error) => panic!("text classifier: {error}"),
        }
    }
}

impl TextClassifier {
    /// Logits, `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// If the batch does not fit the model: an id beyond its table, word pairs missing or unexpected, texts of other lengths.
    pub fn forward(&self, batch: &TextBatch, noise: &mut Noise) -> Tensor<2> {
        let x = self.encode(batch, noise, |_, _| ());
        let lengths: Vec<usize> = batch.texts.lengths().collect();
        let z = match &self.pooling {
            Some(pooling) => pooling.forward(x, &lengths),
            None => pooling::mean(x, &lengths),
        };
        self.classify(z, noise)
    }

    /// Logits without dropout, and what the model looked at: the weights by their definition, computed only here.
    pub fn forward_with_attention(&self, batch: &TextBatch) -> Attended {
        let noise = &mut Noise::off();
        let mut layers = Vec::with_capacity(self.encoder.len());
        let x = self.encode(batch, noise, |layer, x| {
            layers.push(layer.weights(x.clone(), &batch.texts))
        });
        let lengths: Vec<usize> = batch.texts.lengths().collect();
        let (z, pooling) = match &self.pooling {
            Some(pooling) => (
                pooling.forward(x.clone(), &lengths),
                pooling.weights(x, &lengths),
            ),
            None => {
                let uniform = pooling::uniform(&x, &lengths);
                (pooling::mean(x, &lengths), uniform)
            }
        };
        Attended {
            logits: self.classify(z, noise),
            pooling,
            layers,
        }
    }

    /// The vectors that are pooled, `[batch, longest, width]`; `look` sees every layer with its input.
    fn encode(
        &self,
        batch: &TextBatch,
        noise: &mut Noise,
        mut look: impl FnMut(&EncoderLayer, &Tensor<2>),
    ) -> Tensor<3> {
        let (found, expected) = (batch.tokens.dims(), [batch.texts.tokens()]);
        assert_eq!(found, expected, "a batch has the tokens of its texts");
        let mut x = self.tokens.forward(batch.tokens.clone());
        match (&self.bigrams, &batch.bigrams) {
            (Some(table), Some(bigrams)) => x = x + table.forward(bigrams.clone()),
            (None, None) => {}
            (table, _) => {
                let (found, expected) = if table.is_some() {
                    ("no", "some")
                } else {
                    ("some", "no")
                };
                panic!("the batch has {found} word pairs, the model expects {expected}");
            }
        }
        let mut x = noise.dropout(x, self.dropout / 2.0);
        for layer in &self.encoder {
            look(layer, &x);
            x = layer.forward(x, &batch.texts, noise);
        }
        batch.texts.padded(x)
    }

    fn classify(&self, z: Tensor<2>, noise: &mut Noise) -> Tensor<2> {
        self.output
            .forward(noise.dropout(self.norm.forward(z), self.dropout))
    }
}
