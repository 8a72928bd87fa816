//! Multi-head attention (Vaswani et al. 2017), with grouped heads (Ainslie et al. 2023) and rotary positions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use regard_kernels::Causal;

use super::{LayerNorm, Linear};
use crate::operation::{
    AttentionOptions, Heads, Residual, attention, attention_weights, multi_head, rotary,
};
use crate::{ConfigError, Noise, Sequences};

/// Sizes and kind of a [`MultiHead`].
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadConfig {
    /// Length of the vectors.
    pub width: usize,
    /// Queries per position; divides `width`.
    pub heads: usize,
    /// Keys and values per position; divides `heads`. Fewer than `heads` = grouped-query attention.
    pub kv_heads: usize,
    /// Whether later positions are hidden.
    pub causal: Option<Causal>,
    /// Whether queries and keys are turned by their positions ([`rotary`]).
    pub rotary: bool,
}

/// `head_h = attention(n W_q, y W_k, y W_v)`, `part(n) = concat(heads) W_o`; `y = n` in self-attention.
#[derive(Module, Debug)]
pub struct MultiHead {
    /// `width → heads · head_dim`
    pub query: Linear,
    /// `width → kv_heads · head_dim`
    pub key: Linear,
    /// `width → kv_heads · head_dim`
    pub value: Linear,
    /// `width → width`, starts at zero: the layer around it starts as the identity.
    pub output: Linear,
    heads: usize,
    kv_heads: usize,
    #[module(skip)]
    causal: Option<Causal>,
    rotary: bool,
}

/// What attends to what, padded: for looking.
#[derive(Clone, Debug)]
pub struct MultiHeadInput {
    queries: Tensor<3>,
    /// None where the queries' own sequence is attended over.
    source: Option<Tensor<3>>,
    visible_keys: Option<Vec<usize>>,
}

impl MultiHeadInput {
    /// A sequence attends to itself. `x`: `[batch, sequence, width]`
    pub fn self_attention(x: Tensor<3>) -> Self {
        Self {
            queries: x,
            source: None,
            visible_keys: None,
        }
    }

    /// One sequence attends to another. `queries`: `[batch, queries, width]`, `keys`: `[batch, keys, width]`
    pub fn cross_attention(queries: Tensor<3>, keys: Tensor<3>) -> Self {
        Self {
            queries,
            source: Some(keys),
            visible_keys: None,
        }
    }

    /// Per batch row: the keys `0..n` are visible, the others are padding.
    pub fn visible_keys(self, visible_keys: Vec<usize>) -> Self {
        Self {
            visible_keys: Some(visible_keys),
            ..self
        }
    }
}

/// Rotary base of the paper.
const BASE: f32 = 10_000.0;

impl MultiHeadConfig {
    /// Self-attention with as many key heads as query heads, without positions.
    pub fn new(width: usize, heads: usize) -> Self {
        Self {
            width,
            heads,
            kv_heads: heads,
            causal: None,
            rotary: false,
        }
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    ///
    /// Heads that do not divide the width, key heads that do not divide the heads, an odd head size with rotary positions.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            width,
            heads,
            kv_heads,
            ..
        } = *self;
        if width == 0 {
            return Err(ConfigError::new("width", width, "at least 1"));
        }
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(ConfigError::new(
                "heads",
                heads,
                format!("a divisor of the width {width}"),
            ));
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::new(
                "kv_heads",
                kv_heads,
                format!("a divisor of the {heads} heads"),
            ));
        }
        if self.rotary && !(width / heads).is_multiple_of(2) {
            let expected = format!(
                "a number that leaves an even size per head of the width {width}, for rotary positions"
            );
            return Err(ConfigError::new("heads", heads, expected));
        }
        Ok(())
    }

    /// A layer whose output is zero until it has learned.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, noise: &mut Noise, device: &Device) -> Result<MultiHead, ConfigError> {
        self.validate()?;
        let kv_width = self.width / self.heads * self.kv_heads;
        Ok(MultiHead {
            query: Linear::new(self.width, self.width, noise, device),
            key: Linear::new(self.width, kv_width, noise, device),
            value: Linear::new(self.width, kv_width, noise, device),
            output: Linear::normal(self.width, self.width, 0.0, noise, device),
            heads: self.heads,
            kv_heads: self.kv_heads,
            causal: self.causal,
            rotary: self.rotary,
        })
    }
}

impl MultiHead {
    /// `x + residual(part(norm(x)))`, `[tokens, width]` → the same. Each sequence attends to itself, or to its own `source`,
    /// `[keys, width]`.
    ///
    /// # Panics
    ///
    /// If there are not as many sources as sequences, or a source is to be attended over causally.
    pub fn added_to(
        &self,
        x: Tensor<2>,
        norm: &LayerNorm,
        sequences: &Sequences,
        source: Option<(Tensor<2>, &Sequences)>,
        residual: Residual,
    ) -> Tensor<2> {
        let heads = Heads {
            heads: self.heads,
            kv_heads: self.kv_heads,
            causal: self.causal,
            rotary: self.rotary.then_some(BASE),
        };
        let maps = [&self.query, &self.key, &self.value, &self.output].map(Linear::map);
        let norm = norm.parameters();
        multi_head(x, sequences, source, norm, maps, &heads, residual)
    }

    /// Keys and values of `x`, `[batch, sequence, width]`, for [`attend`](Self::attend): each
    /// `[batch, kv_heads, sequence, head_dim]`. They know no position: not for a layer with rotary positions.
    pub fn keys_and_values(&self, x: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        (
            self.split(self.key.forward(x.clone()), self.kv_heads),
            self.split(self.value.forward(x), self.kv_heads),
        )
    }

    /// The part alone, for queries `x`, `[batch, queries, width]`, where keys and values are known.
    /// All of the first `visible_keys` of each row are seen: causality is the caller's.
    pub fn attend(
        &self,
        x: Tensor<3>,
        keys: Tensor<4>,
        values: Tensor<4>,
        visible_keys: Option<&[usize]>,
    ) -> Tensor<3> {
        let shape = x.dims();
        let query = self.split(self.query.forward(x), self.heads);
        let options = AttentionOptions {
            visible_keys: visible_keys.map(<[usize]>::to_vec),
            ..AttentionOptions::default()
        };
        let mixed = attention(query, keys, values, &options);
        self.output.forward(mixed.swap_dims(1, 2).reshape(shape))
    }

    /// Key heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// The weights that the values are mixed with, `[batch, heads, queries, keys]`.
    pub fn weights(&self, input: MultiHeadInput) -> Tensor<4> {
        let (query, key, options) = self.prepare(input);
        attention_weights(query, key, &options)
    }

    /// Queries and keys as the attention sees them: `[batch, heads, …, head_dim]`, turned by position.
    pub fn prepare(&self, input: MultiHeadInput) -> (Tensor<4>, Tensor<4>, AttentionOptions) {
        let keys = input.source.unwrap_or_else(|| input.queries.clone());
        let mut query = self.split(self.query.forward(input.queries), self.heads);
        let mut key = self.split(self.key.forward(keys), self.kv_heads);
        if self.rotary {
            (query, key) = (rotary(query, BASE), rotary(key, BASE));
        }
        let options = AttentionOptions {
            causal: self.causal,
            visible_keys: input.visible_keys,
            ..AttentionOptions::default()
        };
        (query, key, options)
    }

    /// `[batch, sequence, heads · head_dim]` → `[batch, heads, sequence, head_dim]`, a view.
    fn split(&self, x: Tensor<3>, heads: usize) -> Tensor<4> {
        let [batch, sequence, width] = x.dims();
        x.reshape([batch, sequence, heads, width / heads])
            .swap_dims(1, 2)
    }
}
