//! A decoder layer that normalises first: what was written so far, then the source, then each position for itself.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_kernels::Causal;

use super::{
    FeedForward, FeedForwardConfig, KeyValueCache, LayerNorm, MultiHead, MultiHeadConfig,
    MultiHeadInput,
};
use crate::operation::{Activation, flex, is_fused, unflex};
use crate::{ConfigError, Noise, Sequences};

/// Sizes of a [`DecoderLayer`].
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderLayerConfig {
    /// Length of the vectors.
    pub width: usize,
    /// Attention heads, of both attentions.
    pub heads: usize,
    /// Inner length of the feed-forward part.
    pub feed_forward: usize,
    /// Probability that an element of a part's output is dropped.
    pub dropout: f64,
}

/// ```text
/// y   = x + dropout(self_attention(norm(x)))            a position sees itself and those before it
/// z   = y + dropout(source_attention(norm(y), source))
/// out = z + dropout(feed_forward(norm(z)))
/// ```
///
/// All parts start at zero: the layer starts as the identity.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Before the self-attention.
    pub self_norm: LayerNorm,
    /// Over the target so far.
    pub self_attention: MultiHead,
    /// Before the attention over the source.
    pub source_norm: LayerNorm,
    /// Over the encoder's output.
    pub source_attention: MultiHead,
    /// Before the feed-forward part.
    pub feed_forward_norm: LayerNorm,
    /// What each position computes for itself.
    pub feed_forward: FeedForward,
    dropout: f64,
}

/// Keys and values of the source in one layer, `[sentences, heads, sequence, head_dim]`, computed once per sentence.
#[derive(Clone, Debug)]
pub struct SourceKeys {
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl SourceKeys {
    /// Keeps these sentences, in ascending order, in the memory they lie in: as with the rows of a [`KeyValueCache`].
    ///
    /// # Panics
    ///
    /// If a sentence comes before one of a lower number.
    pub fn keep(&mut self, sentences: &[usize]) {
        assert!(sentences.is_sorted(), "sentences are kept in their order");
        for all in [&mut self.keys, &mut self.values] {
            // Taken out and put back: memory with one owner is written in place.
            let none = Tensor::zeros([0, 0, 0, 0], &all.device());
            *all = kept(std::mem::replace(all, none), sentences);
        }
    }
}

fn kept(all: Tensor<4>, sentences: &[usize]) -> Tensor<4> {
    let [_, heads, sequence, head_dim] = all.dims();
    let (each, device) = (heads * sequence * head_dim, all.device());
    if is_fused(&all)
        && let Some(mut flex) = flex(all.clone())
        && flex.layout().start_offset() == 0
        && flex.layout().strides()[0] == each as isize
    {
        drop(all);
        let storage = flex.storage_mut::<f32>();
        for (to, from) in sentences.iter().enumerate() {
            storage.copy_within(from * each..(from + 1) * each, to * each);
        }
        return unflex(flex).narrow(0, 0, sentences.len());
    }
    let sentences: Vec<i32> = sentences.iter().map(|at| *at as i32).collect();
    let count = sentences.len();
    all.select(
        0,
        Tensor::<1, Int>::from_data(TensorData::new(sentences, [count]), &device),
    )
}

impl DecoderLayerConfig {
    /// A layer that passes its input through until it has learned.
    ///
    /// # Errors
    ///
    /// As [`MultiHeadConfig::validate`].
    pub fn init(&self, noise: &mut Noise, device: &Device) -> Result<DecoderLayer, ConfigError> {
        let attention = MultiHeadConfig::new(self.width, self.heads);
        let causal = MultiHeadConfig {
            causal: Some(Causal::TopLeft),
            ..attention.clone()
        };
        let feed_forward = FeedForwardConfig {
            width: self.width,
            inner: self.feed_forward,
            activation: Activation::Gelu,
            dropout: self.dropout,
        };
        Ok(DecoderLayer {
            self_norm: LayerNorm::new(self.width, device),
            self_attention: causal.init(noise, device)?,
            source_norm: LayerNorm::new(self.width, device),
            source_attention: attention.init(noise, device)?,
            feed_forward_norm: LayerNorm::new(self.width, device),
            feed_forward: feed_forward.init(noise, device),
            dropout: self.dropout,
        })
    }
}

impl DecoderLayer {
    /// `x`: `[tokens, width]`, `source`: `[source tokens, width]` → `[tokens, width]`: one source for each target.
    pub fn forward(
        &self,
        x: Tensor<2>,
        targets: &Sequences,
        source: Tensor<2>,
        sources: &Sequences,
        noise: &mut Noise,
    ) -> Tensor<2> {
        let x = self.after_self(x, targets, noise);
        let residual = noise.residual(self.dropout, 0.0, targets);
        let (norm, source) = (&self.source_norm, Some((source, sources)));
        let x = self
            .source_attention
            .added_to(x, norm, targets, source, residual);
        self.after_feed_forward(x, targets, noise)
    }

    /// The weights of the attention over the source for the same arguments, `[targets, heads, longest, longest source]`.
    pub fn source_weights(
        &self,
        x: Tensor<2>,
        targets: &Sequences,
        source: Tensor<2>,
        sources: &Sequences,
    ) -> Tensor<4> {
        let x = self.after_self(x, targets, &mut Noise::off());
        let queries = targets.padded(self.source_norm.forward(x));
        let input = MultiHeadInput::cross_attention(queries, sources.padded(source));
        self.source_attention
            .weights(input.visible_keys(sources.lengths().collect()))
    }

    /// What [`step`](Self::step) needs of the sources, `[sentences, longest, width]`.
    pub fn source_keys(&self, source: Tensor<3>) -> SourceKeys {
        let (keys, values) = self.source_attention.keys_and_values(source);
        SourceKeys { keys, values }
    }

    /// An empty cache for so many rows of at most so many positions.
    pub fn cache(&self, rows: usize, positions: usize, device: &Device) -> KeyValueCache {
        let width = self.self_attention.key.weight.dims()[1];
        let heads = self.self_attention.kv_heads();
        KeyValueCache::new(rows, positions, width, heads, device)
    }

    /// One position more, `[rows, 1, width]` → the same as [`forward`](Self::forward) gives there. The rows of a sentence
    /// are neighbours: its hypotheses query its keys together.
    pub fn step(
        &self,
        x: Tensor<3>,
        source: &SourceKeys,
        visible: &[usize],
        cache: &mut KeyValueCache,
    ) -> Tensor<3> {
        let shape @ [rows, _, width] = x.dims();
        let normed = self.self_norm.forward(x.clone());
        cache.push(
            self.self_attention.key.forward(normed.clone()),
            self.self_attention.value.forward(normed.clone()),
        );
        let (keys, values) = cache.seen();
        let x = x + self.self_attention.attend(normed, keys, values, None);
        let sentences = source.keys.dims()[0].max(1);
        let normed =
            self.source_norm
                .forward(x.clone())
                .reshape([sentences, rows / sentences, width]);
        let (keys, values) = (source.keys.clone(), source.values.clone());
        let mixed = self
            .source_attention
            .attend(normed, keys, values, Some(visible))
            .reshape(shape);
        let x = (x + mixed).reshape([rows, width]);
        let each = Sequences::equal(rows, 1);
        self.after_feed_forward(x, &each, &mut Noise::off())
            .reshape(shape)
    }

    fn after_self(&self, x: Tensor<2>, targets: &Sequences, noise: &mut Noise) -> Tensor<2> {
        let residual = noise.residual(self.dropout, 0.0, targets);
        let norm = &self.self_norm;
        self.self_attention
            .added_to(x, norm, targets, None, residual)
    }

    fn after_feed_forward(
        &self,
        x: Tensor<2>,
        targets: &Sequences,
        noise: &mut Noise,
    ) -> Tensor<2> {
        let residual = noise.residual(self.dropout, 0.0, targets);
        let norm = &self.feed_forward_norm;
        self.feed_forward.added_to(x, norm, residual, noise)
    }
}
