//! f64, for those who check gradients or need the digits: query by query, the scores of one query at a time, so memory
//! grows with the length. Plain code; what is fast is f32.

use ndarray::{Array3, Array4, ArrayViewMut3, ArrayViewMut4};
use rayon::prelude::*;

use super::backward::{Known, Wanted};
use super::tiles::outer;
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
use crate::weights::TopWeights;

/// Fills `out` and `log_sum_exp`, whose shapes the door has checked.
pub(crate) fn forward(
    problem: &Problem<'_>,
    out: ArrayViewMut4<'_, f64>,
    log_sum_exp: ArrayViewMut3<'_, f64>,
) {
    let mut tasks = Vec::new();
    for (b, (out, lse)) in outer(out).zip(outer(log_sum_exp)).enumerate() {
        for (h, (out, lse)) in outer(out).zip(outer(lse)).enumerate() {
            tasks.push((b, h, out, lse));
        }
    }
    tasks.into_par_iter().for_each(|(b, h, mut out, mut lse)| {
        let mut query = Query::new(problem, b, h);
        for (i, mut out) in out.outer_iter_mut().enumerate() {
            lse[i] = query.meet(i);
            out.fill(0.0);
            for pair in &query.pairs {
                for (c, out) in out.iter_mut().enumerate() {
                    // out_ic += w_ij r_ij v_jc
                    *out += pair.weight * pair.rest * query.v(pair.key, c);
                }
            }
        }
    });
}

/// Fills `into` with the gradients of `q`, `k` and `v`; gives those that are wanted.
pub(crate) fn backward(
    problem: &Problem<'_>,
    known: &Known<'_, f64>,
    wanted: Wanted,
    into: GradientsMut<'_, f64>,
) -> OptionGradients<f64> {
    let (batch, heads, queries, _) = problem.q.dim();
    let group = problem.group();
    let GradientsMut {
        q: mut dq,
        k: mut dk,
        v: mut dv,
    } = into;
    dk.fill(0.0);
    dv.fill(0.0);
    // A task owns a key head, and meets the queries of its group in order.
    let mut tasks = Vec::new();
    for (b, (dk, dv)) in outer(dk.view_mut()).zip(outer(dv.view_mut())).enumerate() {
        for (kv_head, (dk, dv)) in outer(dk).zip(outer(dv)).enumerate() {
            tasks.push((b, kv_head, dk, dv));
        }
    }
    // dq, and per head what belongs to the slopes.
    let of_heads: Vec<_> = tasks
        .into_par_iter()
        .map(|(b, kv_head, mut dk, mut dv)| {
            let mut dq = Array3::zeros((group, queries, problem.q.dim().3));
            let mut d_slopes = vec![0.0; group];
            for member in 0..group {
                let mut query = Query::new(problem, b, kv_head * group + member);
                for i in 0..queries {
                    query.meet_again(i, known);
                    for pair in &query.pairs {
                        let j = pair.key;
                        for (c, dv) in dv.row_mut(j).iter_mut().enumerate() {
                            *dv += pair.weight * pair.rest * known.d_out.at(b, query.head, i, c);
                        }
                        for (c, dk) in dk.row_mut(j).iter_mut().enumerate() {
                            *dk += pair.gradient * pair.slope * problem.scale * query.q(i, c);
                            dq[[member, i, c]] +=
                                pair.gradient * pair.slope * problem.scale * query.k(j, c);
                        }
                        d_slopes[member] -= pair.gradient * pair.distance;
                    }
                }
            }
            (dq, d_slopes)
        })
        .collect();
    let mut d_slopes = vec![0.0; heads];
    for (at, (of_group, slopes)) in of_heads.into_iter().enumerate() {
        let kv_heads = problem.k.dim().1;
        let (b, first) = (at / kv_heads, at % kv_heads * group);
        for (member, slope) in slopes.into_iter().enumerate() {
            dq.slice_mut(ndarray::s![b, first + member, .., ..])
                .assign(&of_group.index_axis(ndarray::Axis(0), member));
            d_slopes[first + member] += slope;
        }
    }
    let d_bias = wanted.bias.map(|shape| {
        let mut d_bias = Array4::zeros(shape);
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let mut query = Query::new(problem, b, h);
            for i in 0..queries {
                query.meet_again(i, known);
                for pair in &query.pairs {
                    // An axis of length 1 was read at 0 for every index, so its gradients meet there.
                    let at = |index: usize, length: usize| if length == 1 { 0 } else { index };
                    let (batches, heads, rows, columns) = shape;
                    d_bias[[
                        at(b, batches),
                        at(h, heads),
                        at(i, rows),
                        at(pair.key, columns),
                    ]] += pair.gradient;
                }
            }
        }
        d_bias
    });
    let d_sinks = problem.sinks.filter(|_| wanted.sinks).map(|sinks| {
        let of_head = |(h, &sink): (usize, &f32)| {
            let mut sum = 0.0;
            for (b, i) in (0..batch).flat_map(|b| (0..queries).map(move |i| (b, i))) {
                let lse = known.log_sum_exp[[b, h, i]];
                if lse > f64::NEG_INFINITY {
                    // The sink is one more key, whose value is 0: for it, dw = 0.
                    sum -= (f64::from(sink) - lse).exp() * mean(problem, known, (b, h, i));
                }
            }
            sum
        };
        sinks.iter().enumerate().map(of_head).collect()
    });
    OptionGradients {
        bias: d_bias,
        sinks: d_sinks,
        slopes: wanted.slopes.then_some(d_slopes),
    }
}

/// D_i = ⟨do_i, o_i⟩ − dlse_i.
fn mean(problem: &Problem<'_>, known: &Known<'_, f64>, (b, h, i): (usize, usize, usize)) -> f64 {
    let inner: f64 = (0..problem.v.dim().3)
        .map(|c| known.d_out.at(b, h, i, c) * known.out.at(b, h, i, c))
        .sum();
    inner - known.d_log_sum_exp.map_or(0.0, |d_lse| d_lse[[b, h, i]])
}

/// A key that a query sees.
struct Pair {
    key: usize,
    /// How many keys lie between, with slopes.
    distance: f64,
    /// The derivative of the soft cap.
    slope: f64,
    /// At first the score, then the weight.
    weight: f64,
    /// What dropout leaves of the weight.
    rest: f64,
    /// Of the score after the cap.
    gradient: f64,
}

/// One query after the other of a head, and the keys that it sees.
struct Query<'a, 'p> {
    problem: &'a Problem<'p>,
    batch: usize,
    head: usize,
    pairs: Vec<Pair>,
}

impl<'a, 'p> Query<'a, 'p> {
    fn new(problem: &'a Problem<'p>, batch: usize, head: usize) -> Self {
        Self {
            problem,
            batch,
            head,
            pairs: Vec::new(),
        }
    }

    fn q(&self, i: usize, c: usize) -> f64 {
        self.problem.q.at(self.batch, self.head, i, c)
    }

    fn k(&self, j: usize, c: usize) -> f64 {
        let kv_head = self.head / self.problem.group();
        self.problem.k.at(self.batch, kv_head, j, c)
    }

    fn v(&self, j: usize, c: usize) -> f64 {
        let kv_head = self.head / self.problem.group();
        self.problem.v.at(self.batch, kv_head, j, c)
    }

    /// The pairs of query `i`, with their scores.
    fn score(&mut self, i: usize) {
        let Problem {
            visibility,
            softcap,
            bias,
            slopes,
            dropout,
            ..
        } = self.problem;
        let (b, h) = (self.batch, self.head);
        self.pairs.clear();
        for range in visibility.ranges(b, &(i..i + 1)) {
            for key in range.filter(|&key| self.problem.sees(b, h, i, key)) {
                let dot: f64 = (0..self.problem.q.dim().3)
                    .map(|c| self.q(i, c) * self.k(key, c))
                    .sum();
                let mut score = self.problem.scale * dot;
                let mut slope = 1.0;
                if let Some(cap) = softcap {
                    slope = (score / cap).cosh().powi(-2);
                    score = cap * (score / cap).tanh();
                }
                if let Some(bias) = bias {
                    score += bias.at(b, h, i, key);
                }
                let distance = visibility.key_of(b, i).abs_diff(key as isize) as f64;
                if let Some(slopes) = slopes {
                    score -= f64::from(slopes[h]) * distance;
                }
                let rest = dropout.map_or(1.0, |dropout| {
                    let left = 1.0 / (1.0 - f64::from(dropout.probability));
                    let row = self.problem.first_row + b;
                    if dropout.keeps(row, h, i, key) {
                        left
                    } else {
                        0.0
                    }
                });
                self.pairs.push(Pair {
                    key,
                    distance,
                    slope,
                    weight: score,
                    rest,
                    gradient: 0.0,
                });
            }
        }
    }

    /// The pairs of query `i`, with their weights; and the log-sum-exp.
    fn meet(&mut self, i: usize) -> f64 {
        self.score(i);
        let sink = self
            .problem
            .sinks
            .map_or(f64::NEG_INFINITY, |sinks| sinks[self.head].into());
        let max = self
            .pairs
            .iter()
            .map(|pair| pair.weight)
            .fold(sink, f64::max);
        let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
        let sum = self
            .pairs
            .iter()
            .map(|pair| (pair.weight - shift).exp())
            .sum::<f64>()
            + (sink - shift).exp();
        let seen = sum != 0.0; // a NaN is no 0, and goes into the row
        for pair in &mut self.pairs {
            pair.weight = if seen {
                (pair.weight - shift).exp() / sum
            } else {
                0.0
            };
        }
        if seen {
            shift + sum.ln()
        } else {
            f64::NEG_INFINITY
        }
    }

    /// The same by the log-sum-exp that the forward pass gave, and the gradients of the scores.
    fn meet_again(&mut self, i: usize, known: &Known<'_, f64>) {
        self.score(i);
        let at = (self.batch, self.head, i);
        let lse = known.log_sum_exp[[at.0, at.1, at.2]];
        let mean = mean(self.problem, known, at);
        let mut pairs = std::mem::take(&mut self.pairs);
        for pair in &mut pairs {
            // w_ij = exp(s_ij − lse_i)
            pair.weight = if lse == f64::NEG_INFINITY {
                0.0
            } else {
                (pair.weight - lse).exp()
            };
            // dw_ij = r_ij ⟨do_i, v_j⟩
            let d_weight: f64 = (0..self.problem.v.dim().3)
                .map(|c| known.d_out.at(at.0, at.1, i, c) * self.v(pair.key, c))
                .sum();
            // ds_ij = w_ij (dw_ij − D_i)
            pair.gradient = pair.weight * (pair.rest * d_weight - mean);
        }
        self.pairs = pairs;
    }
}

/// `sums[b, h, j] = Σ_i w_ij`; they are 0 before.
pub(crate) fn key_sums(problem: &Problem<'_>, sums: ArrayViewMut3<'_, f64>) {
    let mut tasks = Vec::new();
    for (b, sums) in outer(sums).enumerate() {
        tasks.extend(outer(sums).enumerate().map(|(h, sums)| (b, h, sums)));
    }
    tasks.into_par_iter().for_each(|(b, h, mut sums)| {
        let mut query = Query::new(problem, b, h);
        for i in 0..problem.q.dim().2 {
            query.meet(i);
            query
                .pairs
                .iter()
                .for_each(|pair| sums[pair.key] += pair.weight);
        }
    });
}

/// Fills `top`, whose weights are 0 before.
pub(crate) fn top_weights(problem: &Problem<'_>, top: &mut TopWeights<f64>) {
    let mut tasks = Vec::new();
    let (keys, weights) = (top.keys.view_mut(), top.weights.view_mut());
    for (b, (keys, weights)) in outer(keys).zip(outer(weights)).enumerate() {
        let heads = outer(keys).zip(outer(weights)).enumerate();
        tasks.extend(heads.map(|(h, (keys, weights))| (b, h, keys, weights)));
    }
    tasks
        .into_par_iter()
        .for_each(|(b, h, mut keys, mut weights)| {
            let mut query = Query::new(problem, b, h);
            for i in 0..problem.q.dim().2 {
                query.meet(i);
                // Neither 0 nor NaN is a large weight.
                query.pairs.retain(|pair| pair.weight > 0.0);
                let order =
                    |a: &Pair, b: &Pair| b.weight.total_cmp(&a.weight).then(a.key.cmp(&b.key));
                query.pairs.sort_by(order);
                for (c, pair) in query.pairs.iter().take(weights.ncols()).enumerate() {
                    (keys[[i, c]], weights[[i, c]]) = (pair.key, pair.weight);
                }
            }
        });
}
