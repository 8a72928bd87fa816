//! The algorithms, in safe Rust, generic over [`Simd`](crate::simd::Simd): nothing here knows the processor.
//!
//! Both passes work on blocks of scores that fit a cache, with the **queries in the lanes**: a block is
//! `[keys, queries]`, so the maximum, the sum and the rescaling of the softmax are plain vector operations, and keys
//! and values are read where they lie, one broadcast number at a time. Forward in pairs of bf16 alone a query has a row.
//!
//! Where a sum is cut depends on the lengths alone, never on the number of threads, and each result is
//! summed by one task in a fixed order: so results are bit-identical for any number of threads.

mod arithmetic;
mod backward;
mod backward_in_pairs;
mod decode;
pub(crate) mod double;
mod dropout;
mod exponential;
mod forward;
mod forward_in_pairs;
mod pairs;
mod part;
mod peak;
mod rounded;
mod running;
mod score_gradients;
mod scores;
mod sink_gradient;
mod small;
mod softcap;
mod tiles;
pub(crate) mod weights;
mod words;

pub(crate) use backward::{Known, Wanted, backward, backward_into};
pub use peak::peak;
pub(crate) use tiles::RowsMut;

pub(crate) use forward::forward;

use crate::threads::share_out;

/// Up to so many operations one thread does a call alone: 64 × 4 heads of 16 × 16 × 16 took it .65 ms backward, and .70 to
/// 1.1 ms two threads of a virtual machine, whose sleeping processor takes some 50 µs to wake or is not woken at all.
const WORTH_A_THREAD: usize = 1 << 23;
/// Operations that are worth asking the queue for: some microseconds.
const WORTH_A_LOOK: usize = 1 << 18;

/// Runs `f` on every task, as [`share_out`] does. `operations` is the work of all of them.
fn for_each<T: Send>(tasks: Vec<T>, operations: usize, f: impl Fn(T) + Send + Sync) {
    let threads = rayon::current_num_threads().min(tasks.len());
    if threads < 2 || operations <= WORTH_A_THREAD {
        tasks.into_iter().for_each(f);
        return;
    }
    // Some tasks at a time: enough to be worth asking for, few enough to leave no thread waiting at the end.
    let bundle = (tasks.len() * WORTH_A_LOOK / operations).clamp(1, tasks.len() / threads);
    share_out(tasks, bundle, f);
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ndarray::{Array4, Axis, s};

    use crate::{Attention, Causal, Dropout, Element, Forward, Gradients, Isa, Precision};

    fn numbers(shape: (usize, usize, usize, usize), salt: usize) -> Array4<f32> {
        Array4::from_shape_fn(shape, |(b, h, i, c)| {
            ((salt + 7 * b + 13 * h + 31 * i * (c + 1) + 3 * c) % 101) as f32 / 50.0 - 1.0
        })
    }

    fn close(a: &Array4<f32>, b: &Array4<f32>) {
        let largest = a.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()));
        a.iter()
            .zip(b)
            .for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * largest, "{a} and {b}"));
    }

    /// Both passes, which the door takes.
    fn passes<E: Element>(
        attention: &Attention<'_>,
        [q, k, v, d_out]: [&Array4<E>; 4],
    ) -> (Forward<E>, Gradients<E>) {
        let (q, k, v) = (q.view(), k.view(), v.view());
        let forward = attention
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
        let gradients = attention
            .backward(q, k, v, out, lse, d_out.view())
            .expect("a good call");
        (forward, gradients)
    }

    #[test]
    fn vectors_of_sixteen_and_tiles_of_fourteen_rows_give_the_same() {
        for (queries, keys, head_dim, value_dim) in [
            (1, 1, 1, 1),
            (65, 130, 17, 33),
            (31, 200, 64, 15),
            (128, 97, 14, 80),
        ] {
            let q = numbers((2, 2, queries, head_dim), 1);
            let k = numbers((2, 1, keys, head_dim), 2);
            let v = numbers((2, 1, keys, value_dim), 3);
            let d_out = numbers((2, 2, queries, value_dim), 4);
            let bias = numbers((1, 2, queries, keys), 5);
            let both = |isa: Isa| {
                let attention = Attention::new()
                    .isa(isa)
                    .causal(Causal::BottomRight)
                    .bias(bias.view())
                    .bias_gradient(true);
                passes(&attention, [&q, &k, &v, &d_out])
            };
            let ((wide, wide_gradients), (forward, gradients)) =
                (both(Isa::Wide), both(Isa::Scalar));
            close(&wide.out, &forward.out);
            close(&wide_gradients.q, &gradients.q);
            close(&wide_gradients.k, &gradients.k);
            close(&wide_gradients.v, &gradients.v);
            close(
                &wide_gradients.bias.expect("asked for"),
                &gradients.bias.expect("asked for"),
            );
        }
    }

    /// Forward and backward in pairs of bf16 and, of the same numbers, in f32; the errors of rounding weights to bf16.
    fn in_pairs_as_in_f32(
        isa: Isa,
        batch: usize,
        (queries, keys, head_dim, value_dim): (usize, usize, usize, usize),
        attention: &Attention<'_>,
    ) {
        let half = |shape, salt| numbers(shape, salt).mapv(bf16::from_f32);
        let (q, k) = (
            half((batch, 2, queries, head_dim), 1),
            half((batch, 1, keys, head_dim), 2),
        );
        let (v, d_out) = (
            half((batch, 1, keys, value_dim), 3),
            half((batch, 2, queries, value_dim), 4),
        );
        let attention = attention.clone();
        let pairs = attention.clone().isa(isa);
        let (found, gradients) = passes(&pairs, [&q, &k, &v, &d_out]);
        let wide = |array: &Array4<bf16>| array.mapv(f32::from);
        let plain = attention.isa(Isa::Scalar);
        let (q, k, v, d_out) = (wide(&q), wide(&k), wide(&v), wide(&d_out));
        let (expected, expected_gradients) = passes(&plain, [&q, &k, &v, &d_out]);
        for (name, found, expected) in [
            ("out", &found.out, &expected.out),
            ("dq", &gradients.q, &expected_gradients.q),
            ("dk", &gradients.k, &expected_gradients.k),
            ("dv", &gradients.v, &expected_gradients.v),
        ] {
            let largest = expected
                .iter()
                .fold(0.1, |largest: f32, x| largest.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                let error = (f32::from(*found) - expected).abs();
                assert!(
                    error <= largest / 64.0,
                    "{isa} {name} of {queries} x {keys}: {found} and {expected}"
                );
            }
        }
        for (found, expected) in found.log_sum_exp.iter().zip(&expected.log_sum_exp) {
            let same = found == expected || (found - expected).abs() <= 1e-4;
            assert!(
                same,
                "{isa} lse of {queries} x {keys}: {found} and {expected}"
            );
        }
    }

    #[test]
    fn pairs_of_bf16_give_what_f32_gives_with_any_option() {
        let all = Isa::available().into_iter().chain([Isa::WidePairs]);
        for isa in all.filter(|isa| isa.multiplies_bf16()) {
            for size in [
                (1, 1, 1, 1),
                (3, 700, 33, 20), // decoding
                (65, 130, 17, 33),
                (300, 96, 64, 15),
                (128, 97, 80, 64),
                (600, 700, 16, 24), // few long heads
            ] {
                let bias = numbers((1, 2, size.0, size.1), 5);
                let plain = Attention::new();
                for attention in [
                    plain.clone(),
                    plain.clone().causal(Causal::BottomRight),
                    plain.clone().window(Some(40), Some(3)),
                    plain.clone().softcap(1.5),
                    plain.clone().scale(-0.3),
                    plain.clone().scale(1e-46).causal(Causal::BottomRight), // 0 in f32
                    plain.clone().dropout(Dropout {
                        probability: 0.3,
                        seed: 7,
                    }),
                    plain.clone().bias(bias.view()),
                    plain.clone().bias(bias.view()).scale(1e-7),
                    plain.clone().bias(bias.view()).slopes(&[0.1, 0.02]),
                    plain.clone().sinks(&[0.5, -1.0]),
                ] {
                    in_pairs_as_in_f32(isa, 2, size, &attention);
                }
            }
        }
    }

    /// As many heads, and so wide, that their gradients are summed part by part of the keys.
    #[test]
    fn pairs_of_bf16_give_what_f32_gives_in_long_heads() {
        let all = Isa::available().into_iter().chain([Isa::WidePairs]);
        for isa in all.filter(|isa| isa.multiplies_bf16()) {
            in_pairs_as_in_f32(isa, 4, (9, 1800, 400, 200), &Attention::new());
        }
    }

    /// Some queries meet scores that rise from block to block, by hundreds, others scores that do not, and some see nothing at first.
    #[test]
    fn pairs_of_bf16_keep_up_with_rising_scores_whatever_the_neighbours_do() {
        let (queries, keys) = (40, 300);
        let q = Array4::from_shape_fn((1, 1, queries, 2), |(_, _, i, c)| match c {
            0 => [-1.0, 0.0, 0.3, 1.0, 4.0][i % 5],
            _ => (i % 7) as f32 / 8.0,
        });
        let k = Array4::from_shape_fn((1, 1, keys, 2), |(_, _, j, c)| match c {
            0 => (j / 4) as f32,
            _ => (j % 11) as f32 / 4.0,
        });
        let (q, k) = (q.mapv(bf16::from_f32), k.mapv(bf16::from_f32));
        let v = numbers((1, 1, keys, 5), 3).mapv(bf16::from_f32);
        let hidden = Array4::from_shape_fn((1, 1, queries, keys), |(_, _, i, j)| j >= 90 * (i % 3));
        let all = Isa::available().into_iter().chain([Isa::WidePairs]);
        for isa in all.filter(|isa| isa.multiplies_bf16()) {
            for mask in [None, Some(&hidden)] {
                let forward = |isa: Isa, order: &[usize]| {
                    let q = q.select(Axis(2), order);
                    let mask = mask.map(|mask| mask.select(Axis(2), order));
                    let mut attention = Attention::new().isa(isa).scale(1.0);
                    if let Some(mask) = &mask {
                        attention = attention.mask(mask.view());
                    }
                    let forward = attention.forward(q.view(), k.view(), v.view());
                    forward.expect("a good call")
                };
                let order: Vec<usize> = (0..queries).collect();
                let found = forward(isa, &order);
                let expected = forward(Isa::Scalar, &order);
                for (found, expected) in found.log_sum_exp.iter().zip(&expected.log_sum_exp) {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 1e-5 * expected.abs().max(1.0),
                        "{isa}: {found}, {expected}"
                    );
                }
                for (found, expected) in found.out.iter().zip(&expected.out) {
                    let error = (found.to_f32() - expected.to_f32()).abs();
                    assert!(error <= 1.0 / 64.0, "{isa}: {found} and {expected}");
                }
                let others: Vec<usize> = (0..queries).map(|i| i * 17 % queries).collect();
                let exchanged = forward(isa, &others);
                for (at, &query) in others.iter().enumerate() {
                    let row =
                        |forward: &Forward<bf16>, i| forward.out.slice(s![0, 0, i, ..]).to_owned();
                    assert_eq!(
                        row(&exchanged, at),
                        row(&found, query),
                        "{isa} query {query}"
                    );
                }
            }
        }
    }

    #[test]
    fn f32_is_rounded_to_pairs_inside_the_scope_of_bf16_only() {
        let (q, k) = (numbers((2, 2, 70, 64), 1), numbers((2, 2, 90, 64), 2));
        let (v, d_out) = (numbers((2, 2, 90, 40), 3), numbers((2, 2, 70, 40), 4));
        let all = Isa::available().into_iter().chain([Isa::WidePairs]);
        for isa in all.filter(|isa| isa.multiplies_bf16()) {
            let attention = Attention::new().isa(isa).causal(Causal::BottomRight);
            let both = || {
                let (forward, gradients) = passes(&attention, [&q, &k, &v, &d_out]);
                [forward.out, gradients.q, gradients.k, gradients.v]
            };
            let (exact, rounded) = (both(), Precision::Bf16.run(both));
            for (exact, rounded) in exact.iter().zip(&rounded) {
                assert_ne!(exact, rounded, "{isa}");
                let largest = exact
                    .iter()
                    .fold(0.1, |largest: f32, x| largest.max(x.abs()));
                for (exact, rounded) in exact.iter().zip(rounded) {
                    let error = (exact - rounded).abs();
                    assert!(error <= largest / 32.0, "{isa}: {exact} and {rounded}");
                }
            }
        }
    }
}
