//! Attention of projected sequences: from vectors to mixed values, head beside head, and nothing is moved for it.
//!
//! Queries, keys and values of a position are one row, `[query heads | key heads | value heads]`, as one product gives them;
//! the kernels read and write the heads where they lie. So there is one product where there would be three, and no gradient
//! is added to another.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use ndarray::{Array3, ArrayView4, ArrayViewMut4, Axis};
use regard_kernels::{Attention, Causal, GradientsMut, Upstream};

use super::linear::Map;
use super::memory::{give_back, take};
use super::projected::Projected;
use super::rotary::Turn;
use super::storage::{FlexTensor, contiguous, elements, from_vec, register, shape};
use super::{composed, is_fused};

/// How the vectors of a position are heads, and what a head sees.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Queries per position.
    pub heads: usize,
    /// Keys and values per position; divides `heads`.
    pub kv_heads: usize,
    /// A query sees only the keys that come before it, and its own.
    pub causal: Option<Causal>,
    /// Per batch row: the keys `0..n` are visible, the others are padding.
    pub visible_keys: Option<Vec<usize>>,
    /// The base of [`rotary`](super::rotary) positions, where there are any.
    pub rotary: Option<f32>,
}

/// `out = concat_h attention(x W_q, y W_k, y W_v)`, where `y` is `source`, or `x` itself.
///
/// # Shapes
/// - `x`: `[batch, queries, width]`, `source`: `[batch, keys, width]`
/// - `query`: `width → heads · head_dim`, `key` and `value`: `width → kv_heads · head_dim`
/// - out: `[batch, queries, heads · head_dim]`
///
/// # Panics
///
/// If the shapes do not fit.
pub fn multi_head(
    x: Tensor<3>,
    source: Option<Tensor<3>>,
    [query, key, value]: [Map; 3],
    heads: &Heads,
) -> Tensor<3> {
    let width = x.dims()[2];
    let of_source = source.as_ref().map_or(width, |source| source.dims()[2]);
    let head_dim = query.0.dims()[1] / heads.heads.max(1);
    for (map, inputs, count) in [
        (&query, width, heads.heads),
        (&key, of_source, heads.kv_heads),
        (&value, of_source, heads.kv_heads),
    ] {
        let outputs = count * head_dim;
        assert_eq!(map.0.dims(), [inputs, outputs], "multi-head: a weight");
        assert_eq!(map.1.dims(), [outputs], "multi-head: a bias");
    }
    if !is_fused(&x) || !is_fused(&query.0) {
        return composed::multi_head(x, source, [query, key, value], heads);
    }
    let rules = Arc::new(Rules {
        heads: heads.clone(),
        head_dim,
    });
    let maps =
        [query, key, value].map(|(weight, bias)| (weight.into_dispatch(), bias.into_dispatch()));
    let [(query, b_query), (key, b_key), (value, b_value)] = maps;
    let x = x.into_dispatch();
    Tensor::from_dispatch(match source {
        None => <Dispatch as FusedMultiHead>::over_itself(
            x, query, b_query, key, b_key, value, b_value, rules,
        ),
        Some(source) => <Dispatch as FusedMultiHead>::over_source(
            x,
            source.into_dispatch(),
            query,
            b_query,
            key,
            b_key,
            value,
            b_value,
            rules,
        ),
    })
}

/// [`Heads`] with the size of one.
#[derive(Debug)]
struct Rules {
    heads: Heads,
    head_dim: usize,
}

impl Rules {
    fn turn(&self, x: &FlexTensor, heads: usize) -> Option<Turn> {
        let base = self.heads.rotary.filter(|_| heads > 0)?;
        Some(Turn::new(shape(x)[1], heads, self.head_dim, base))
    }

    /// Heads that are turned among those of `x`: queries and keys.
    fn turned(&self) -> [usize; 2] {
        [self.heads.heads, self.heads.kv_heads]
    }

    fn attention(&self) -> Attention<'_> {
        let mut attention = Attention::new();
        if let Some(causal) = self.heads.causal {
            attention = attention.causal(causal);
        }
        if let Some(visible_keys) = &self.heads.visible_keys {
            attention = attention.visible_keys(visible_keys);
        }
        attention
    }
}

/// `[batch, heads, sequence, head_dim]` of rows of heads.
fn heads<'a>(values: &'a [f32], x: &FlexTensor, head_dim: usize) -> ArrayView4<'a, f32> {
    let (batch, sequence) = (shape(x)[0], shape(x)[1]);
    let heads = values.len() / (batch * sequence * head_dim).max(1);
    match ArrayView4::from_shape((batch, sequence, heads, head_dim), values) {
        Ok(view) => view.permuted_axes([0, 2, 1, 3]),
        Err(error) => unreachable!("whole heads: {error}"),
    }
}

/// The same, to be written.
fn heads_mut<'a>(values: &'a mut [f32], x: &FlexTensor, head_dim: usize) -> ArrayViewMut4<'a, f32> {
    let (batch, sequence) = (shape(x)[0], shape(x)[1]);
    let heads = values.len() / (batch * sequence * head_dim).max(1);
    match ArrayViewMut4::from_shape((batch, sequence, heads, head_dim), values) {
        Ok(view) => view.permuted_axes([0, 2, 1, 3]),
        Err(error) => unreachable!("whole heads: {error}"),
    }
}

/// What the backward pass needs: no scores. Without a source the queries' sequence has the keys and values too.
#[derive(Clone, Debug)]
struct Saved {
    queries: Projected,
    source: Option<Projected>,
    out: FlexTensor,
    log_sum_exp: Array3<f32>,
    rules: Arc<Rules>,
}

/// Queries, keys and values of one or two sequences.
fn parts<'a>(
    queries: &'a Projected,
    source: Option<&'a Projected>,
    rules: &Rules,
) -> [ArrayView4<'a, f32>; 3] {
    let view = |of: &'a Projected| heads(&of.values, &of.x, rules.head_dim);
    let (q, keys_and_values) = match source {
        Some(source) => (view(queries), view(source)),
        None => view(queries).split_at(Axis(1), rules.heads.heads),
    };
    let (k, v) = keys_and_values.split_at(Axis(1), rules.heads.kv_heads);
    [q, k, v]
}

fn forward(
    queries: &Projected,
    source: Option<&Projected>,
    rules: &Rules,
) -> (FlexTensor, Array3<f32>) {
    let [q, k, v] = parts(queries, source, rules);
    let (batch, count, sequence, head_dim) = q.dim();
    let mut out = take(batch * sequence * count * head_dim);
    let mut log_sum_exp = Array3::zeros((batch, count, sequence));
    let done = rules.attention().forward_into(
        q,
        k,
        v,
        heads_mut(&mut out, &queries.x, head_dim),
        log_sum_exp.view_mut(),
    );
    super::attention::expect(done);
    let out = from_vec(out, vec![batch, sequence, count * head_dim]);
    (out, log_sum_exp)
}

impl Saved {
    fn new(queries: Projected, source: Option<Projected>, rules: Arc<Rules>) -> Self {
        let (out, log_sum_exp) = forward(&queries, source.as_ref(), &rules);
        Self {
            queries,
            source,
            out,
            log_sum_exp,
            rules,
        }
    }

    /// Without a backward pass: what is left is the output.
    fn finish(self) -> FlexTensor {
        self.queries.give_back();
        if let Some(source) = self.source {
            source.give_back();
        }
        self.out
    }

    /// Gradients of `values` of the queries and of the source.
    fn backward(&self, d_out: &FlexTensor) -> [Option<Vec<f32>>; 2] {
        let Self {
            queries,
            source,
            rules,
            ..
        } = self;
        let [q, k, v] = parts(queries, source.as_ref(), rules);
        let size = rules.head_dim;
        let mut d_queries = take(queries.values.len());
        let mut d_source = source.as_ref().map(|source| take(source.values.len()));
        let all = heads_mut(&mut d_queries, &queries.x, size);
        let (dq, of_keys_and_values) = match (&mut d_source, source) {
            (Some(d_source), Some(source)) => (all, heads_mut(d_source, &source.x, size)),
            _ => all.split_at(Axis(1), rules.heads.heads),
        };
        let (dk, dv) = of_keys_and_values.split_at(Axis(1), rules.heads.kv_heads);
        let upstream = Upstream {
            out: heads(elements(&self.out), &queries.x, size),
            log_sum_exp: self.log_sum_exp.view(),
            d_out: heads(elements(d_out), &queries.x, size),
            d_log_sum_exp: None,
        };
        let into = GradientsMut {
            q: dq,
            k: dk,
            v: dv,
        };
        super::attention::expect(rules.attention().backward_into(q, k, v, &upstream, into));
        [Some(d_queries), d_source]
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "tensors of an operation are arguments, and the macro repeats them"
)]
#[backend_extension(Autodiff, Flex)]
trait FusedMultiHead: Backend {
    fn over_itself(
        x: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self>;

    fn over_source(
        x: FloatTensor<Self>,
        source: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self>;
}

/// Both sequences projected and attended over.
fn attended(
    x: FlexTensor,
    source: Option<FlexTensor>,
    [weights, biases]: [[&FlexTensor; 3]; 2],
    rules: Arc<Rules>,
    for_answer: bool,
) -> Saved {
    let [turned_queries, turned_keys] = rules.turned();
    match source {
        None => {
            let turned = turned_queries + turned_keys;
            let turn = rules.turn(&x, turned);
            let all = Projected::new(x, [&weights, &biases], turn, for_answer);
            Saved::new(all, None, rules)
        }
        Some(source) => {
            let queries = [&weights[..1], &biases[..1]];
            let turn = rules.turn(&x, turned_queries);
            let queries = Projected::new(x, queries, turn, for_answer);
            let keys = [&weights[1..], &biases[1..]];
            let turn = rules.turn(&source, turned_keys);
            let source = Projected::new(source, keys, turn, for_answer);
            Saved::new(queries, Some(source), rules)
        }
    }
}

impl FusedMultiHead for Flex {
    fn over_itself(
        x: FlexTensor,
        query: FlexTensor,
        b_query: FlexTensor,
        key: FlexTensor,
        b_key: FlexTensor,
        value: FlexTensor,
        b_value: FlexTensor,
        rules: Arc<Rules>,
    ) -> FlexTensor {
        let maps = [[&query, &key, &value], [&b_query, &b_key, &b_value]];
        attended(x, None, maps, rules, true).finish()
    }

    fn over_source(
        x: FlexTensor,
        source: FlexTensor,
        query: FlexTensor,
        b_query: FlexTensor,
        key: FlexTensor,
        b_key: FlexTensor,
        value: FlexTensor,
        b_value: FlexTensor,
        rules: Arc<Rules>,
    ) -> FlexTensor {
        let maps = [[&query, &key, &value], [&b_query, &b_key, &b_value]];
        attended(x, Some(source), maps, rules, true).finish()
    }
}

#[derive(Debug)]
struct MultiHeadBackward;

/// Registers the gradients of one or two sequences, and of the maps in their order.
fn propagate(
    saved: Saved,
    d_out: FlexTensor,
    sequences: [Option<NodeId>; 2],
    maps: [Option<NodeId>; 6],
    grads: &mut Gradients,
) {
    let d_out = contiguous(d_out);
    let d_values = saved.backward(&d_out);
    give_back(d_out);
    give_back(saved.out);
    let mut maps = maps.chunks_exact(2);
    let projected = [Some(saved.queries), saved.source];
    for ((projected, d_values), parent) in projected.into_iter().zip(d_values).zip(sequences) {
        let (Some(projected), Some(d_values)) = (projected, d_values) else {
            continue;
        };
        let (dx, of_each) = projected.backward(d_values, parent.is_some());
        if let (Some(parent), Some(dx)) = (parent, dx) {
            grads.register::<Flex>(parent, dx);
        }
        for (gradients, parents) in of_each.into_iter().zip(&mut maps) {
            register(grads, [parents[0], parents[1]], gradients);
        }
    }
}

impl Backward<Flex, 7> for MultiHeadBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 7>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let [of_x, of_maps @ ..] = ops.parents.map(|node| node.map(|node| node.id));
        propagate(ops.state, d_out, [of_x, None], of_maps, grads);
    }
}

impl Backward<Flex, 8> for MultiHeadBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 8>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let [of_x, of_source, of_maps @ ..] = ops.parents.map(|node| node.map(|node| node.id));
        propagate(ops.state, d_out, [of_x, of_source], of_maps, grads);
    }
}

impl<C: CheckpointStrategy> FusedMultiHead for Autodiff<Flex, C> {
    fn over_itself(
        x: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self> {
        let tensors = [&x, &query, &b_query, &key, &b_key, &value, &b_value];
        let nodes = tensors.map(|tensor| tensor.node());
        let maps = [[&query, &key, &value], [&b_query, &b_key, &b_value]];
        let maps = maps.map(|maps| maps.map(|tensor| tensor.primitive()));
        let saved = attended(x.primitive().clone(), None, maps, rules, false);
        drop(x);
        match Backward::<Flex, 7>::prepare::<C>(MultiHeadBackward, nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let out = saved.out.clone();
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(saved.finish()),
        }
    }

    fn over_source(
        x: FloatTensor<Self>,
        source: FloatTensor<Self>,
        query: FloatTensor<Self>,
        b_query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        b_key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        b_value: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self> {
        let tensors = [
            &x, &source, &query, &b_query, &key, &b_key, &value, &b_value,
        ];
        let nodes = tensors.map(|tensor| tensor.node());
        let maps = [[&query, &key, &value], [&b_query, &b_key, &b_value]];
        let maps = maps.map(|maps| maps.map(|tensor| tensor.primitive()));
        let source = Some(source.primitive().clone());
        let saved = attended(x.primitive().clone(), source, maps, rules, false);
        drop(x);
        match Backward::<Flex, 8>::prepare::<C>(MultiHeadBackward, nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let out = saved.out.clone();
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(saved.finish()),
        }
    }
}
