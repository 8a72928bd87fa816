//! The attention half of a layer as one operation: head beside head, and nothing is moved for it.
//!
//! Queries, keys and values of a position are one row, `[query heads | key heads | value heads]`, as one product gives them;
//! the kernels read and write the heads where they lie. So there is one product where there would be three, and no gradient
//! is added to another.

mod half;

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use regard_kernels::Causal;

use half::{Parents, Rules, Saved, forward};

use super::layer_norm::Norm;
use super::linear::Map;
use super::storage::FlexTensor;
use super::{Normalisation, Residual, composed, is_fused};
use crate::Sequences;

/// How the vectors of a position are heads, and what a head sees.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Queries per position.
    pub heads: usize,
    /// Keys and values per position; divides `heads`.
    pub kv_heads: usize,
    /// A query sees only the keys that come before it, and its own. A source is always seen whole.
    pub causal: Option<Causal>,
    /// The base of [`rotary`](super::rotary()) positions, where there are any.
    pub rotary: Option<f32>,
}

/// `out = x + residual(concat_h attention(n W_q, y W_k, y W_v) W_o)` with `n = norm(x)`, where `y` is the source, or `n`
/// itself: half of a layer that normalises first. Every sequence attends to itself, or to its own source.
///
/// On the CPU nothing is computed for padding, because there is none; rows of the last product are added to `x` while they
/// are in the cache, and both ways that lead to the gradient of `x` meet in one pass.
///
/// # Shapes
/// - `x`, out: `[tokens, width]`, `source`: `[keys, source width]`, with as many sequences
/// - `query`: `width → heads · head_dim`, `key` and `value`: `width → kv_heads · head_dim`, `output`: `heads · head_dim → width`
///
/// # Panics
///
/// If the shapes do not fit, or a source is to be seen in part.
pub fn multi_head(
    x: Tensor<2>,
    sequences: &Sequences,
    source: Option<(Tensor<2>, &Sequences)>,
    norm: Normalisation,
    maps: [Map; 4],
    heads: &Heads,
    residual: Residual,
) -> Tensor<2> {
    let width = x.dims()[1];
    let of_source = source
        .as_ref()
        .map_or(width, |(source, _)| source.dims()[1]);
    let head_dim = maps[0].0.dims()[1] / heads.heads.max(1);
    let [outputs, kv_outputs] = [heads.heads, heads.kv_heads].map(|count| count * head_dim);
    let expected = [
        [width, outputs],
        [of_source, kv_outputs],
        [of_source, kv_outputs],
        [outputs, width],
    ];
    for ((weight, bias), expected) in maps.iter().zip(expected) {
        assert_eq!(weight.dims(), expected, "multi-head: a weight");
        assert_eq!(bias.dims(), [expected[1]], "multi-head: a bias");
    }
    assert_eq!(norm.weight.dims(), [width], "multi-head: the norm");
    assert_eq!(x.dims()[0], sequences.tokens(), "multi-head: rows of x");
    if let Some((source, keys)) = &source {
        assert_eq!(heads.causal, None, "multi-head: a source is seen whole");
        assert_eq!(source.dims()[0], keys.tokens(), "multi-head: rows of it");
        assert_eq!(keys.count(), sequences.count(), "multi-head: sources");
    }
    if !is_fused(&x) || !is_fused(&maps[0].0) {
        return composed::multi_head(x, sequences, source, norm, maps, heads, &residual);
    }
    let rules = Arc::new(Rules {
        heads: heads.clone(),
        head_dim,
        queries: sequences.clone(),
        keys: source.as_ref().map_or(sequences, |(_, keys)| keys).clone(),
        epsilon: norm.epsilon as f32,
        residual,
    });
    let maps = maps.map(|(weight, bias)| (weight.into_dispatch(), bias.into_dispatch()));
    let [
        (query, b_query),
        (key, b_key),
        (value, b_value),
        (output, b_output),
    ] = maps;
    let (x, norm, b_norm) = (
        x.into_dispatch(),
        norm.weight.into_dispatch(),
        norm.bias.into_dispatch(),
    );
    Tensor::from_dispatch(match source {
        None => <Dispatch as FusedMultiHead>::over_itself(
            x, norm, b_norm, query, b_query, key, b_key, value, b_value, output, b_output, rules,
        ),
        Some((source, _)) => <Dispatch as FusedMultiHead>::over_source(
            x,
            source.into_dispatch(),
            norm,
            b_norm,
            query,
            b_query,
            key,
            b_key,
            value,
            b_value,
            output,
            b_output,
            rules,
        ),
    })
}

#[allow(
    clippy::too_many_arguments,
    reason = "tensors of an operation are arguments, and the macro repeats them"
)]
#[backend_extension(Autodiff, Flex)]
trait FusedMultiHead: Backend {
    fn over_itself(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        b_norm: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        b_output: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self>;

    fn over_source(
        x: FloatTensor<Self>,
        source: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        b_norm: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        b_output: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self>;
}

fn norm_of(weight: FlexTensor, bias: FlexTensor, rules: &Rules) -> Norm {
    Norm {
        weight,
        bias,
        epsilon: rules.epsilon,
    }
}

impl FusedMultiHead for Flex {
    fn over_itself(
        x: FlexTensor,
        norm: FlexTensor,
        b_norm: FlexTensor,
        query: FlexTensor,
        b_query: FlexTensor,
        key: FlexTensor,
        b_key: FlexTensor,
        value: FlexTensor,
        b_value: FlexTensor,
        output: FlexTensor,
        b_output: FlexTensor,
        rules: Arc<Rules>,
    ) -> FlexTensor {
        let norm = norm_of(norm, b_norm, &rules);
        let maps = [
            [query, key, value, output],
            [b_query, b_key, b_value, b_output],
        ];
        forward(x, None, norm, maps, rules, true).0
    }

    fn over_source(
        x: FlexTensor,
        source: FlexTensor,
        norm: FlexTensor,
        b_norm: FlexTensor,
        query: FlexTensor,
        b_query: FlexTensor,
        key: FlexTensor,
        b_key: FlexTensor,
        value: FlexTensor,
        b_value: FlexTensor,
        output: FlexTensor,
        b_output: FlexTensor,
        rules: Arc<Rules>,
    ) -> FlexTensor {
        let norm = norm_of(norm, b_norm, &rules);
        let maps = [
            [query, key, value, output],
            [b_query, b_key, b_value, b_output],
        ];
        forward(x, Some(source), norm, maps, rules, true).0
    }
}

#[derive(Debug)]
struct MultiHeadBackward;

impl Backward<Flex, 11> for MultiHeadBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Saved, 11>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let [x, norm, b_norm, maps @ ..] = ops.parents.map(|node| node.map(|node| node.id));
        let parents = Parents {
            x,
            source: None,
            norm: [norm, b_norm],
            maps,
        };
        ops.state.backward(d_out, &parents, grads);
    }
}

impl Backward<Flex, 12> for MultiHeadBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Saved, 12>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let [x, source, norm, b_norm, maps @ ..] = ops.parents.map(|node| node.map(|node| node.id));
        let parents = Parents {
            x,
            source,
            norm: [norm, b_norm],
            maps,
        };
        ops.state.backward(d_out, &parents, grads);
    }
}

impl<C: CheckpointStrategy> FusedMultiHead for Autodiff<Flex, C> {
    fn over_itself(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        b_norm: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        b_output: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self> {
        let tensors = [
            &x, &norm, &b_norm, &query, &b_query, &key, &b_key, &value, &b_value, &output,
            &b_output,
        ];
        let nodes = tensors.map(|tensor| tensor.node());
        let norm = norm_of(norm.into_primitive(), b_norm.into_primitive(), &rules);
        let maps = [
            [query, key, value, output],
            [b_query, b_key, b_value, b_output],
        ];
        let maps = maps.map(|maps| maps.map(|tensor| tensor.into_primitive()));
        let (out, saved) = forward(x.into_primitive(), None, norm, maps, rules, false);
        let prepared = Backward::<Flex, 11>::prepare::<C>(MultiHeadBackward, nodes);
        match (prepared.compute_bound().stateful(), saved) {
            (OpsKind::Tracked(prep), Some(saved)) => prep.finish(saved, out),
            (OpsKind::UnTracked(prep), _) => prep.finish(out),
            (_, None) => unreachable!("only answers keep nothing"),
        }
    }

    fn over_source(
        x: FloatTensor<Self>,
        source: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        b_norm: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        output: FloatTensor<Self>,
        b_output: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self> {
        let tensors = [
            &x, &source, &norm, &b_norm, &query, &b_query, &key, &b_key, &value, &b_value, &output,
            &b_output,
        ];
        let nodes = tensors.map(|tensor| tensor.node());
        let norm = norm_of(norm.into_primitive(), b_norm.into_primitive(), &rules);
        let maps = [
            [query, key, value, output],
            [b_query, b_key, b_value, b_output],
        ];
        let maps = maps.map(|maps| maps.map(|tensor| tensor.into_primitive()));
        let source = Some(source.into_primitive());
        let (out, saved) = forward(x.into_primitive(), source, norm, maps, rules, false);
        let prepared = Backward::<Flex, 12>::prepare::<C>(MultiHeadBackward, nodes);
        match (prepared.compute_bound().stateful(), saved) {
            (OpsKind::Tracked(prep), Some(saved)) => prep.finish(saved, out),
            (OpsKind::UnTracked(prep), _) => prep.finish(out),
            (_, None) => unreachable!("only answers keep nothing"),
        }
    }
}
