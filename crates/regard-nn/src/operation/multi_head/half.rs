//! What the attention half of a layer computes, forward and backward, on Burn's memory.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::grads::Gradients;
use ndarray::{Array2, ArrayView3, ArrayViewMut3, Axis};
use regard_kernels::{Attention, PackedGradientsMut, PackedUpstream};

use super::super::Residual;
use super::super::kept::Weight;
use super::super::layer_norm::{Moments, Norm};
use super::super::linear::{by_weight_and_bias, times};
use super::super::memory::{give_back, give_back_array, take};
use super::super::projected::Projected;
use super::super::rotary::Turn;
use super::super::storage::{
    FlexTensor, contiguous, elements, from_vec, matrix, register, shape, view2,
};
use super::Heads;
use crate::Sequences;

/// [`Heads`] with the size of one, the sequences, and how the part is added.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) heads: Heads,
    pub(super) head_dim: usize,
    pub(super) queries: Sequences,
    pub(super) keys: Sequences,
    pub(super) epsilon: f32,
    pub(super) residual: Residual,
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
pub(super) struct Saved {
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
pub(super) type Maps = [[FlexTensor; 4]; 2];

/// The output, and what the backward pass needs; nothing of that where it is an answer, whose weights stay packed.
pub(super) fn forward(
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
    super::super::attention::expect(rules.attention().forward_packed_into(
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
pub(super) struct Parents {
    pub(super) x: Option<NodeId>,
    pub(super) source: Option<NodeId>,
    pub(super) norm: [Option<NodeId>; 2],
    pub(super) maps: [Option<NodeId>; 8],
}

impl Saved {
    pub(super) fn backward(self, d_out: FlexTensor, parents: &Parents, grads: &mut Gradients) {
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
        super::super::attention::expect(rules.attention().backward_packed_into(
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
