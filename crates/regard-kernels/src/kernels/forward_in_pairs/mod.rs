//! The forward pass in pairs of bf16: that of [`forward`](super::forward), with a **row of scores for each query**.
//!
//! The queries are the left side of both products, so they, the weights and the results lie in rows from beginning to end, as they
//! come and go, and so do a bias and a mask; the keys alone are turned. With the queries in the lanes, as in f32, queries, values and
//! results would have to be.

mod panel;
mod scores;
mod weights;

use std::f32::consts::LN_2;
use std::ops::Range;

use ndarray::ArrayViewMut1;

use panel::Panel;
use weights::Running;

use super::arithmetic::{PAIRED, blocks_of_steps, whole_steps};
use super::forward::row_factor;
use super::scores::Block;
use super::tiles::{LINE, RowsMut, from, from_mut, lines, take, transpose};
use super::words;
use crate::numbers::Head;
use crate::problem::Problem;
use crate::simd::{BLOCK, Kernel, Simd, Unit};

/// Queries of a task at most: the keys and values are packed once for each task. 256 took 4 to 6 % longer from 512 keys on.
pub(super) const QUERIES: usize = 512;
/// Keys of a block; the last may have [`PAIRED`] more. With 128 the results of a panel are loaded and stored half as often as with
/// 64, which is what a thread that shares its core has least of.
const KEYS: usize = 128;
const MOST_KEYS: usize = KEYS + PAIRED;
/// Queries whose scores exist at a time: two blocks of rows of the product.
const PANEL: usize = 2 * BLOCK;

/// Some queries of one head, at most [`QUERIES`], in room for [`room`] numbers.
pub(super) struct InPairs<'a, 'o, 'p> {
    pub(super) unit: &'a Unit,
    pub(super) problem: &'a Problem<'p>,
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) first: usize,
    /// `[queries, value_dim]`.
    pub(super) out: RowsMut<'o>,
    /// `[queries]`.
    pub(super) lse: ArrayViewMut1<'o, f32>,
    pub(super) room: &'a mut [f32],
}

/// How many numbers of room a task takes.
pub(super) fn room(problem: &Problem<'_>) -> usize {
    sizes(problem).into_iter().map(lines).sum()
}

fn sizes(problem: &Problem<'_>) -> [usize; 9] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    [
        words::spare(head_dim.max(value_dim)), // for numbers that are not bf16
        QUERIES * words::width(head_dim),      // q, of two columns a word
        QUERIES * lines(value_dim),            // out
        QUERIES,                               // m
        QUERIES * LINE,                        // l
        PANEL * MOST_KEYS,                     // scores, then weights, of two keys a word
        MOST_KEYS * words::width(head_dim),    // keys, of two columns a word
        MOST_KEYS * words::width(head_dim),    // the same, turned
        MOST_KEYS / 2 * lines(value_dim),      // values, of two keys a word
    ]
}

impl Kernel for InPairs<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let InPairs {
            unit,
            problem,
            batch,
            head,
            first,
            mut out,
            lse,
            mut room,
        } = self;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let (q_width, out_width) = (words::width(head_dim), lines(value_dim));
        let [spare, q, out_rows, m, l, scores, k, k_t, v] =
            sizes(problem).map(|size| take(&mut room, size));
        let last = first + lse.len();
        let width = lse.len().next_multiple_of(BLOCK);

        let q = &mut q[..width * q_width];
        let of_q = problem.q.head(batch, head);
        words::rows(simd, &of_q, first..last, &mut *q, q_width, spare);
        let state = Running {
            out: &mut out_rows[..width * out_width],
            out_width,
            m: &mut m[..width],
            l: &mut l[..width * S::LANES],
        };
        state.m.fill(f32::NEG_INFINITY);
        state.l.fill(0.0);

        let mut begun = [false; QUERIES / PANEL];
        let kv_head = head / problem.group();
        let of_k = problem.k.head(batch, kv_head);
        let of_v = problem.v.head(batch, kv_head);
        let seen = problem.visibility.ranges(batch, &(first..last));
        for keys in seen
            .into_iter()
            .flat_map(|seen| blocks_of_steps(seen, KEYS))
        {
            // Products read whole steps of keys: behind the last there are zeros.
            let padded = keys.len().next_multiple_of(PAIRED);
            turned_keys(
                simd,
                &of_k,
                keys.clone(),
                (k_t, padded),
                (&mut *k, &mut *spare),
            );
            let v = &mut v[..padded / 2 * out_width];
            words::pairs_of_rows(simd, &of_v, keys.clone(), &mut *v, out_width, spare);
            for lane in (0..width).step_by(PANEL) {
                let queries = first + lane..last.min(first + lane + PANEL);
                // What none of these queries sees is not computed.
                let seen = problem.visibility.part(batch, &queries, &keys);
                let seen = whole_steps(seen, &keys);
                if seen.is_empty() {
                    continue;
                }
                let skipped = seen.start - keys.start;
                begun[lane / PANEL] |= simd.run(Panel {
                    unit,
                    problem,
                    block: Block {
                        batch,
                        head,
                        queries,
                        keys: seen,
                    },
                    rows: PANEL.min(width - lane),
                    q: from(q, lane * q_width),
                    k_t: (from(k_t, skipped), padded),
                    v: from(v, skipped / 2 * out_width),
                    scores: &mut *scores,
                    begun: begun[lane / PANEL],
                    state: Running {
                        out: from_mut(state.out, lane * out_width),
                        out_width,
                        m: &mut state.m[lane..],
                        l: &mut state.l[lane * S::LANES..],
                    },
                });
            }
        }

        let panels = state.out.chunks_mut((PANEL * out_width).max(1));
        for (out, _) in panels.zip(begun).filter(|(_, begun)| !begun) {
            out.fill(0.0);
        }
        let rows = state.l.chunks_exact(S::LANES).zip(&*state.m);
        for (i, (lse, (l, &m))) in lse.into_iter().zip(rows).enumerate() {
            let l = simd.sum(simd.load(l));
            let log_sum_exp = if l == 0.0 {
                f32::NEG_INFINITY // nothing is seen
            } else {
                m * LN_2 + l.ln()
            };
            let factor;
            (factor, *lse) = row_factor(problem, head, l, log_sum_exp);
            out.write(i, &from(state.out, i * out_width)[..value_dim], factor);
        }
    }
}

/// Keys, turned, two columns a word: `[head_dim / 2, padded]`. What lies behind the last key is left over.
#[inline(always)]
fn turned_keys<S: Simd>(
    simd: S,
    head: &Head<'_>,
    keys: Range<usize>,
    (k_t, padded): (&mut [f32], usize),
    (rows, spare): (&mut [f32], &mut [f32]),
) {
    let (width, words) = (head.width(), words::width(head.width()));
    let whole = width == 2 * words && keys.len().is_multiple_of(BLOCK);
    if let Some(numbers) = head.bf16_in_place(keys.clone()).filter(|_| whole) {
        for r in (0..keys.len()).step_by(S::LANES) {
            for c in (0..words).step_by(S::LANES) {
                let from = &numbers[r * width + 2 * c..];
                simd.transpose_words(from, width, &mut k_t[c * padded + r..], padded);
            }
        }
        return;
    }
    let rows = &mut rows[..padded * words];
    words::rows(simd, head, keys, &mut *rows, words, spare);
    transpose(simd, rows, words, (padded, words), k_t, padded);
}
