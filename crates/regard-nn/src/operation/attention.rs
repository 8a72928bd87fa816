//! Attention: `regard-kernels` as a differentiable operation of Burn.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use ndarray::Array3;
use regard_kernels::{Attention, Causal, Error};

use super::storage::{FlexTensor, flex, from_array, unflex, view4};
use super::{composed, is_fused};

/// What a query sees, and how it scores it. All of it composes.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// What the dot products are multiplied by; `None` = 1/√head_dim.
    pub scale: Option<f32>,
    /// A query sees only the keys that come before it, and its own.
    pub causal: Option<Causal>,
    /// Per batch row: the keys `0..n` are visible, the others are padding.
    pub visible_keys: Option<Vec<usize>>,
    /// Added to the scaled scores; broadcasts to `[batch, heads, queries, keys]`. Differentiable.
    pub bias: Option<Tensor<4>>,
}

/// Attention of every query over the keys that it may see: `out = softmax(q kᵀ · scale + bias) v`.
///
/// On the CPU the scores are never stored, forward or backward: memory grows with the length, not with its square.
///
/// # Shapes
/// - `q`: `[batch, heads, queries, head_dim]`
/// - `k`: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`, head `h` reads `h / (heads / kv_heads)`
/// - `v`: `[batch, kv_heads, keys, value_dim]`
/// - out: `[batch, heads, queries, value_dim]`
///
/// A query that sees nothing gives 0, and its gradients are 0.
///
/// # Panics
///
/// If the shapes do not fit; the message names the argument, what was found, and what was expected.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Tensor<4> {
    if !is_fused(&q) {
        return composed::attention(q, k, v, options);
    }
    let rules = Rules::of(options);
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(match &options.bias {
        Some(bias) => <Dispatch as FusedAttention>::biased_attention(
            q,
            k,
            v,
            bias.clone().into_dispatch(),
            rules,
        ),
        None => <Dispatch as FusedAttention>::plain_attention(q, k, v, rules),
    })
}

/// The weights of [`attention`], `[batch, heads, queries, keys]`, by the definition: stored in full, so only for looking
/// at. Without automatic differentiation the CPU computes them in double precision.
///
/// # Panics
///
/// As [`attention`].
pub fn attention_weights(q: Tensor<4>, k: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    if !is_fused(&q) || q.is_autodiff() || k.is_autodiff() {
        return composed::attention_weights(q, k, options);
    }
    let (Some(q), Some(k)) = (flex(q), flex(k)) else {
        unreachable!("both tensors are on the CPU without automatic differentiation");
    };
    let bias = options.bias.clone().and_then(|bias| flex(bias.inner()));
    let rules = Rules::of(options);
    unflex(from_array(expect(
        rules.attention(bias.as_ref()).weights(view4(&q), view4(&k)),
    )))
}

/// The options that are not tensors.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    scale: Option<f32>,
    causal: Option<Causal>,
    visible_keys: Option<Arc<[usize]>>,
}

impl Rules {
    fn of(options: &AttentionOptions) -> Self {
        Self {
            scale: options.scale,
            causal: options.causal,
            visible_keys: options.visible_keys.as_deref().map(Arc::from),
        }
    }

    fn attention<'a>(&'a self, bias: Option<&'a FlexTensor>) -> Attention<'a> {
        let mut attention = Attention::new();
        if let Some(scale) = self.scale {
            attention = attention.scale(scale);
        }
        if let Some(causal) = self.causal {
            attention = attention.causal(causal);
        }
        if let Some(visible_keys) = &self.visible_keys {
            attention = attention.visible_keys(visible_keys);
        }
        if let Some(bias) = bias {
            attention = attention.bias(view4(bias));
        }
        attention
    }

    fn forward(
        &self,
        q: &FlexTensor,
        k: &FlexTensor,
        v: &FlexTensor,
        bias: Option<&FlexTensor>,
    ) -> (FlexTensor, Array3<f32>) {
        let forward = expect(self.attention(bias).forward(view4(q), view4(k), view4(v)));
        (from_array(forward.out), forward.log_sum_exp)
    }
}

/// The kernels refuse only what a programmer got wrong: users' data never chooses shapes.
pub(super) fn expect<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("attention: {error}"),
    }
}

/// The operation of each back end. The macro gives the one that looks at the device.
#[backend_extension(Autodiff, Flex)]
pub(super) trait FusedAttention: Backend {
    fn plain_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self>;

    fn biased_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self>;
}

impl FusedAttention for Flex {
    fn plain_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, rules: Rules) -> FlexTensor {
        rules.forward(&q, &k, &v, None).0
    }

    fn biased_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        bias: FlexTensor,
        rules: Rules,
    ) -> FlexTensor {
        rules.forward(&q, &k, &v, Some(&bias)).0
    }
}

/// What the backward pass needs of the forward pass: no scores.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    bias: Option<FlexTensor>,
    out: FlexTensor,
    log_sum_exp: Array3<f32>,
    rules: Rules,
}

impl Saved {
    fn backward(&self, d_out: &FlexTensor, bias_gradient: bool) -> regard_kernels::Gradients {
        let attention = self
            .rules
            .attention(self.bias.as_ref())
            .bias_gradient(bias_gradient);
        expect(attention.backward(
            view4(&self.q),
            view4(&self.k),
            view4(&self.v),
            view4(&self.out),
            self.log_sum_exp.view(),
            view4(d_out),
        ))
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let gradients = ops.state.backward(&d_out, false);
        for (parent, gradient) in ops
            .parents
            .iter()
            .zip([gradients.q, gradients.k, gradients.v])
        {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, from_array(gradient));
            }
        }
    }
}

impl Backward<Flex, 4> for AttentionBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let gradients = ops.state.backward(&d_out, ops.parents[3].is_some());
        let all = [
            Some(gradients.q),
            Some(gradients.k),
            Some(gradients.v),
            gradients.bias,
        ];
        for (parent, gradient) in ops.parents.iter().zip(all) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, from_array(gradient));
            }
        }
    }
}

impl<C: CheckpointStrategy> FusedAttention for Autodiff<Flex, C> {
    fn plain_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (out, log_sum_exp) = rules.forward(&q, &k, &v, None);
        match AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let saved = Saved {
                    q,
                    k,
                    v,
                    bias: None,
                    out: out.clone(),
                    log_sum_exp,
                    rules,
                };
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn biased_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node(), bias.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let bias = bias.into_primitive();
        let (out, log_sum_exp) = rules.forward(&q, &k, &v, Some(&bias));
        match AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let saved = Saved {
                    q,
                    k,
                    v,
                    bias: Some(bias),
                    out: out.clone(),
                    log_sum_exp,
                    rules,
                };
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
