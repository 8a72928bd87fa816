//! The attention half of a layer as one operation: head beside head, and nothing is moved for it.
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
use ndarray::{Array2, ArrayView3, ArrayViewMut3, Axis};
use regard_kernels::{Attention, Causal, PackedGradientsMut, PackedUpstream};

use super::kept::Weight;
use super::layer_norm::{Moments, Norm};
use super::linear::{Map, by_weight_and_bias, times};
use super::memory::{give_back, give_back_array, take};
use super::projected::Projected;
use super::rotary::Turn;
use super::storage::{FlexTensor, contiguous, elements, from_vec, matrix, register, shape, view2};
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

/// [`Heads`] with the size of one, the sequences, and how the part is added.
#[derive(Debug)]
struct Rules {
    heads: Heads,
    head_dim: usize,
    queries: Sequences,
    keys: Sequences,
    epsilon: f32,
    residual: Residual,
}

impl Rules {
    /// The first heads of rows are turned: queries and keys.
    fn turn(&self, sequences: &Sequences, heads: usize) -> Option<Turn> {
        let base = self.heads.rotary?;
        let positions = sequences.positions().collect();
        Some(Turn::new(positions, heads, self.head_dim, base))
    }

    fn attention(&self) -> Attention<'_> {
        match self.heads.causal {
            Some(causal) => Attention::new().causal(causal),
            None => Attention::new(),
        }
    }
}

/// `[tokens, heads, head_dim]` of rows of heads.
fn heads<'a>(values: &'a [f32], rows: usize, head_dim: usize) -> ArrayView3<'a, f32> {
    let heads = values.len() / (rows * head_dim).max(1);
    match ArrayView3::from_shape((rows, heads, head_dim), values) {
        Ok(view) => view,
        Err(error) => unreachable!("whole heads: {error}"),
    }
}

/// The same, to be written.
fn heads_mut<'a>(values: &'a mut [f32], rows: usize, head_dim: usize) -> ArrayViewMut3<'a, f32> {
    let heads = values.len() / (rows * head_dim).max(1);
    match ArrayViewMut3::from_shape((rows, heads, head_dim), values) {
        Ok(view) => view,
        Err(error) => unreachable!("whole heads: {error}"),
    }
}

/// Queries, keys and values: rows of the queries have the keys and values too where there is no source.
fn parts<'a>(
    queries: &'a Projected,
    source: Option<&'a Projected>,
    rules: &Rules,
) -> [ArrayView3<'a, f32>; 3] {
    let all = heads(&queries.values, rules.queries.tokens(), rules.head_dim);
    let (q, keys_and_values) = match source {
        Some(source) => {
            let of_source = heads(&source.values, rules.keys.tokens(), rules.head_dim);
            (all, of_source)
        }
        None => all.split_at(Axis(1), rules.heads.heads),
    };
    let (k, v) = keys_and_values.split_at(Axis(1), rules.heads.kv_heads);
    [q, k, v]
}

/// What the backward pass needs: no scores.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    source: Option<FlexTensor>,
    norm: Norm,
    moments: Moments,
    queries: Projected,
    keys: Option<Projected>,
    /// The mixed values, `[tokens, heads, head_dim]`.
    mixed: Vec<f32>,
    log_sum_exp: Array2<f32>,
    output: FlexTensor,
    rules: Arc<Rules>,
}

/// Weights and biases of queries, keys, values and output.
type Maps = [[FlexTensor; 4]; 2];

/// The output, and what the backward pass needs; nothing of that where it is an answer, whose weights stay packed.
fn forward(
    x: FlexTensor,
    source: Option<FlexTensor>,
    norm: Norm,
    [weights, biases]: Maps,
    rules: Arc<Rules>,
    for_answer: bool,
) -> (FlexTensor, Option<Saved>) {
    let (x, source) = (contiguous(x), source.map(contiguous));
    let (rows, width) = (shape(&x)[0], shape(&x)[1]);
    let [query, key, value, output] = &weights;
    let [b_query, b_key, b_value, b_output] = &biases;
    let (normed, moments) = norm.forward(elements(&x));
    let of_x = matrix(&normed, rows, width);
    let Heads {
        heads, kv_heads, ..
    } = rules.heads;
    let (queries, keys) = match &source {
        None => {
            let maps: [&[&FlexTensor]; 2] = [&[query, key, value], &[b_query, b_key, b_value]];
            let turn = rules.turn(&rules.queries, heads + kv_heads);
            (Projected::new(&of_x, maps, turn, for_answer), None)
        }
        Some(source) => {
            let turn = rules.turn(&rules.queries, heads);
            let queries = Projected::new(&of_x, [&[query], &[b_query]], turn, for_answer);
            let turn = rules.turn(&rules.keys, kv_heads);
            let maps: [&[&FlexTensor]; 2] = [&[key, value], &[b_key, b_value]];
            let keys = Projected::new(&view2(source), maps, turn, for_answer);
            (queries, Some(keys))
        }
    };
    give_back_array(normed);
    let [q, k, v] = parts(&queries, keys.as_ref(), &rules);
    let mut mixed = take(rows * heads * rules.head_dim);
    let mut log_sum_exp = Array2::zeros((heads, rows));
    super::attention::expect(rules.attention().forward_packed_into(
        q,
        k,
        v,
        rules.queries.attending(&rules.keys),
        heads_mut(&mut mixed, rows, rules.head_dim),
        log_sum_exp.view_mut(),
    ));
    let mut out = take(rows * width);
    let bias = b_output.to_contiguous();
    Weight::new(output, for_answer).product_then(
        &matrix(&mixed, rows, heads * rules.head_dim),
        Some(elements(&bias)),
        &mut out,
        &mut [],
        |first, out, _| rules.residual.add(elements(&x), first, out, width),
    );
    let out = from_vec(out, vec![rows, width]);
    if for_answer {
        queries.give_back();
        keys.into_iter().for_each(Projected::give_back);
        give_back_array(mixed);
        give_back(x);
        return (out, None);
    }
    let [.., output] = weights;
    let saved = Saved {
        x,
        source,
        norm,
        moments,
        queries,
        keys,
        mixed,
        log_sum_exp,
        output,
        rules,
    };
    (out, Some(saved))
}

/// Where the gradients go: `x`, the source, weight and bias of the norm, and of queries, keys, values and output.
struct Parents {
    x: Option<NodeId>,
    source: Option<NodeId>,
    norm: [Option<NodeId>; 2],
    maps: [Option<NodeId>; 8],
}

impl Saved {
    fn backward(self, d_out: FlexTensor, parents: &Parents, grads: &mut Gradients) {
        let d_out = contiguous(d_out);
        let Self {
            x, source, rules, ..
        } = self;
        let (rows, width) = (shape(&x)[0], shape(&x)[1]);
        let [of_queries, of_keys, of_values, of_output] = pairs(parents.maps);
        // out = x + residual(mixed W_o + b_o)
        let scaled = rules.residual.backward(elements(&d_out), width);
        let d_part = matrix(scaled.as_deref().unwrap_or(elements(&d_out)), rows, width);
        let mixed = matrix(&self.mixed, rows, rules.heads.heads * rules.head_dim);
        register(grads, of_output, by_weight_and_bias(&mixed, &d_part));
        let d_mixed = times(&d_part, &view2(&self.output).t(), None);
        scaled.into_iter().for_each(give_back_array);
        // mixed = attention(q, k, v)
        let [q, k, v] = parts(&self.queries, self.keys.as_ref(), &rules);
        let mut d_queries = take(self.queries.values.len());
        let mut d_keys = self.keys.as_ref().map(|keys| take(keys.values.len()));
        let all = heads_mut(&mut d_queries, rows, rules.head_dim);
        let (dq, d_keys_and_values) = match &mut d_keys {
            Some(d_keys) => (all, heads_mut(d_keys, rules.keys.tokens(), rules.head_dim)),
            None => all.split_at(Axis(1), rules.heads.heads),
        };
        let (dk, dv) = d_keys_and_values.split_at(Axis(1), rules.heads.kv_heads);
        let upstream = PackedUpstream {
            out: heads(&self.mixed, rows, rules.head_dim),
            log_sum_exp: self.log_sum_exp.view(),
            d_out: heads(&d_mixed, rows, rules.head_dim),
        };
        super::attention::expect(rules.attention().backward_packed_into(
            q,
            k,
            v,
            rules.queries.attending(&rules.keys),
            &upstream,
            PackedGradientsMut {
                q: dq,
                k: dk,
                v: dv,
            },
        ));
        give_back_array(d_mixed);
        give_back_array(self.mixed);
        // q = norm(x) W_q + b_q; k and v likewise, or of the source
        let normed = self.norm.again(elements(&x), &self.moments);
        let of_x = matrix(&normed, rows, width);
        let (d_normed, of_maps) = self.queries.backward(&of_x, d_queries, true);
        let maps = [of_queries, of_keys, of_values];
        let first_of_keys = of_maps.len();
        for (gradients, parents) in of_maps.into_iter().zip(maps) {
            register(grads, parents, gradients);
        }
        if let (Some(keys), Some(source), Some(d_keys)) = (self.keys, source, d_keys) {
            let wanted = parents.source.is_some();
            let (d_source, of_maps) = keys.backward(&view2(&source), d_keys, wanted);
            for (gradients, parents) in of_maps.into_iter().zip(&maps[first_of_keys..]) {
                register(grads, *parents, gradients);
            }
            if let Some(d_source) = d_source {
                let d_source = from_vec(d_source, shape(&source));
                register(grads, [parents.source], [d_source]);
            }
            give_back(source);
        }
        give_back_array(normed);
        let Some(d_normed) = d_normed else {
            unreachable!("it was asked for");
        };
        let passed = Some(elements(&d_out));
        let (dx, of_norm) = self
            .norm
            .backward(elements(&x), &self.moments, d_normed, passed);
        register(grads, parents.norm, of_norm);
        register(grads, [parents.x], [from_vec(dx, shape(&x))]);
        give_back(d_out);
        give_back(x);
    }
}

/// Weight and bias of each map.
fn pairs(maps: [Option<NodeId>; 8]) -> [[Option<NodeId>; 2]; 4] {
    let (pairs, _) = maps.as_chunks::<2>();
    std::array::from_fn(|map| pairs[map])
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
