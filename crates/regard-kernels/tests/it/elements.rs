//! Numbers that are not f32.

use ndarray::Array4;
use proptest::prelude::*;
use regard_kernels::{Attention, Causal, Element, Isa, Upstream, bf16, f16, reference};

use crate::any_case::any_case;
use crate::numbers::random;
use crate::tolerance::tolerance;

/// The largest difference from the definition, and the mean of its size.
fn worst<'a, E: Element>(
    found: impl Iterator<Item = &'a E>,
    expected: impl Iterator<Item = &'a f64>,
) -> f64 {
    found
        .zip(expected)
        .map(|(found, expected)| (found.to_f64() - expected).abs())
        .fold(0.0, f64::max)
}

/// out, dq, dk, dv by the definition, with every intermediate result rounded to `E`, as a half type computes naively.
fn naively<E: Element>(
    q: &Array4<f64>,
    k: &Array4<f64>,
    v: &Array4<f64>,
    d_out: &Array4<f64>,
) -> [Array4<f64>; 4] {
    let r = |x: f64| E::from_f64(x).to_f64();
    let (batch, heads, queries, head_dim) = q.dim();
    let keys = k.dim().2;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let zeros = |array: &Array4<f64>| Array4::<f64>::zeros(array.dim());
    let (mut out, mut dq, mut dk, mut dv) = (zeros(d_out), zeros(q), zeros(k), zeros(v));
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.fold(0.0, |sum, term| r(sum + r(term)));
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        for i in 0..queries {
            let scores: Vec<f64> = (0..keys)
                .map(|j| {
                    r(scale * sum(&mut (0..head_dim).map(|c| q[[b, h, i, c]] * k[[b, h, j, c]])))
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| r(r(s - max).exp())).collect();
            let total = sum(&mut powers.iter().copied());
            let w: Vec<f64> = powers.iter().map(|p| r(p / total)).collect();
            let value_dim = v.dim().3;
            for c in 0..value_dim {
                out[[b, h, i, c]] = sum(&mut (0..keys).map(|j| w[j] * v[[b, h, j, c]]));
            }
            let dw: Vec<f64> = (0..keys)
                .map(|j| sum(&mut (0..value_dim).map(|c| d_out[[b, h, i, c]] * v[[b, h, j, c]])))
                .collect();
            let mean = sum(&mut (0..keys).map(|j| w[j] * dw[j]));
            for j in 0..keys {
                let ds = r(w[j] * r(dw[j] - mean));
                for c in 0..value_dim {
                    dv[[b, h, j, c]] = r(dv[[b, h, j, c]] + r(w[j] * d_out[[b, h, i, c]]));
                }
                for c in 0..head_dim {
                    dq[[b, h, i, c]] = r(dq[[b, h, i, c]] + r(scale * ds * k[[b, h, j, c]]));
                    dk[[b, h, j, c]] = r(dk[[b, h, j, c]] + r(scale * ds * q[[b, h, i, c]]));
                }
            }
        }
    }
    [out, dq, dk, dv]
}

/// The error is at most twice (of gradients three times) that of computing naively in the half type.
fn half_types_are_no_worse_than_computing_in_them<E: Element<Sum = f32>>() {
    for (seed, (queries, keys, head_dim, value_dim)) in [
        (5, 7, 8, 8),
        (40, 60, 64, 32),
        (130, 90, 33, 20),
        (1, 200, 64, 64),
    ]
    .into_iter()
    .enumerate()
    {
        let numbers = |shape, salt| {
            random(shape, 100 * seed as u64 + salt).mapv(|x| E::from_f64(f64::from(2.0 * x)))
        };
        let (q, k) = (
            numbers((2, 2, queries, head_dim), 1),
            numbers((2, 2, keys, head_dim), 2),
        );
        let (v, d_out) = (
            numbers((2, 2, keys, value_dim), 3),
            numbers((2, 2, queries, value_dim), 4),
        );
        let double = |array: &Array4<E>| array.mapv(E::to_f64);
        let (q64, k64, v64, d64) = (double(&q), double(&k), double(&v), double(&d_out));
        let options = reference::Options::default();
        let exact = reference::forward(q64.view(), k64.view(), v64.view(), &options).out;
        let exact_gradients = reference::backward(
            q64.view(),
            k64.view(),
            v64.view(),
            d64.view(),
            None,
            &options,
        );
        let naive = naively::<E>(&q64, &k64, &v64, &d64);
        for isa in Isa::available() {
            let attention = Attention::new().isa(isa);
            let found = attention
                .forward(q.view(), k.view(), v.view())
                .expect("a good call");
            let upstream = Upstream {
                out: found.out.view(),
                log_sum_exp: found.log_sum_exp.view(),
                d_out: d_out.view(),
                d_log_sum_exp: None,
            };
            let gradients = attention
                .backward_with(q.view(), k.view(), v.view(), &upstream)
                .expect("a good call");
            let rows = [
                ("out", &found.out, &exact, 2.0),
                ("dq", &gradients.q, &exact_gradients.q, 3.0),
                ("dk", &gradients.k, &exact_gradients.k, 3.0),
                ("dv", &gradients.v, &exact_gradients.v, 3.0),
            ];
            for ((name, found, exact, times), naive) in rows.into_iter().zip(&naive) {
                let ours = worst(found.iter(), exact.iter());
                let theirs = worst(naive.iter(), exact.iter());
                assert!(
                    ours <= times * theirs,
                    "{} {isa} {name}: {ours:e}, naively {theirs:e}",
                    E::NAME
                );
            }
        }
    }
}

#[test]
fn bf16_is_no_worse_than_computing_in_it() {
    half_types_are_no_worse_than_computing_in_them::<bf16>();
}

#[test]
fn f16_is_no_worse_than_computing_in_it() {
    half_types_are_no_worse_than_computing_in_them::<f16>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn f64_agrees_with_the_definition_to_its_own_digits(case in any_case()) {
        let double = |view: ndarray::ArrayView4<'_, f32>| view.mapv(f64::from);
        let (q, k, v) = (double(case.q.view()), double(case.k.view()), double(case.v.view()));
        let d_out = double(case.d_out.view());
        let d_lse = case.d_log_sum_exp.as_ref().map(|d_lse| d_lse.mapv(f64::from));
        let attention = case.attention();
        let (expected, expected_gradients) = case.by_definition();
        let found = attention.forward(q.view(), k.view(), v.view()).expect("a good call");
        // As in f32, with the digits of f64, and twice: the definition rounds as much.
        let tolerance = 2.0 * tolerance(case.width()) * f64::EPSILON / f64::from(f32::EPSILON);
        let summed = case.roundings();
        let close = |what: &str, found: &[f64], expected: &[f64], roundings: f64| {
            assert_eq!(found.len(), expected.len(), "{what}");
            let largest = expected
                .iter()
                .filter(|number| number.is_finite())
                .fold(1.0, |largest: f64, number| largest.max(number.abs()));
            for (found, expected) in found.iter().zip(expected) {
                let same = (found - expected).abs() <= tolerance * roundings * largest || found == expected;
                assert!(same, "{what}: found {found}, expected {expected}");
            }
        };
        let flat = |array: &Array4<f64>| array.iter().copied().collect::<Vec<f64>>();
        close("out", &flat(&found.out), &flat(&expected.out), 1.0);
        let upstream = Upstream {
            out: found.out.view(),
            log_sum_exp: found.log_sum_exp.view(),
            d_out: d_out.view(),
            d_log_sum_exp: d_lse.as_ref().map(|d_lse| d_lse.view()),
        };
        let gradients = attention
            .backward_with(q.view(), k.view(), v.view(), &upstream)
            .expect("a good call");
        close("dq", &flat(&gradients.q), &flat(&expected_gradients.q), 1.0);
        close("dk", &flat(&gradients.k), &flat(&expected_gradients.k), summed.dk);
        close("dv", &flat(&gradients.v), &flat(&expected_gradients.v), 1.0);
        if let Some(expected) = expected_gradients.bias {
            close("d_bias", &flat(&gradients.bias.expect("asked for")), &flat(&expected), summed.d_bias);
        }
        for (name, found, expected, roundings) in [
            ("d_sinks", gradients.sinks, expected_gradients.sinks, summed.d_sinks),
            ("d_slopes", gradients.slopes, expected_gradients.slopes, summed.d_slopes),
        ] {
            if let Some(expected) = expected {
                close(name, &found.expect("asked for"), &expected, roundings);
            }
        }
    }
}

#[test]
fn half_types_compose_with_the_options_as_f32_does() {
    let numbers = |shape, salt| random(shape, salt).mapv(bf16::from_f32);
    let (q, k) = (numbers((2, 4, 70, 24), 1), numbers((2, 2, 90, 24), 2));
    let v = numbers((2, 2, 90, 10), 3);
    let wide = |array: &Array4<bf16>| array.mapv(f32::from);
    let bias = numbers((1, 4, 70, 90), 4);
    let wide_bias = wide(&bias);
    let options = || {
        Attention::new()
            .causal(Causal::BottomRight)
            .window(Some(30), None)
            .softcap(2.0)
            .sinks(&[0.5, -0.5, 1.0, 0.0])
    };
    for isa in Isa::available() {
        let found = options()
            .isa(isa)
            .bias(bias.view())
            .forward(q.view(), k.view(), v.view());
        let expected = options().isa(isa).bias(wide_bias.view()).forward(
            wide(&q).view(),
            wide(&k).view(),
            wide(&v).view(),
        );
        let (found, expected) = (found.expect("a good call"), expected.expect("a good call"));
        if isa.multiplies_bf16() {
            // the products of bf16 are exact, their sums are those of another order; weights are rounded to bf16
            for (found, expected) in found.log_sum_exp.iter().zip(&expected.log_sum_exp) {
                assert!(
                    (found - expected).abs() <= 2e-5,
                    "{isa}: {found}, {expected}"
                );
            }
            for (found, expected) in found.out.iter().zip(&expected.out) {
                let error = (f32::from(*found) - expected).abs();
                assert!(error <= 2.0 / 256.0, "{isa}: {found}, {expected}");
            }
        } else {
            assert_eq!(found.log_sum_exp, expected.log_sum_exp);
            assert_eq!(found.out, expected.out.mapv(bf16::from_f32));
        }
    }
}

/// Few long heads are shared out by meeting all pairs twice, a part of the keys or of the queries at a time; of many a head is a
/// task. The sums are the same, in the same order.
#[test]
fn few_long_heads_have_the_gradients_of_many_to_the_bit() {
    few_as_many::<bf16>([700, 1100], [20, 12], 0.0);
    few_as_many::<f16>([700, 1100], [20, 12], 0.0);
}

/// Of many heads with so wide rows that a thread cannot hold the gradients of all keys, it holds those of the queries and meets the
/// keys part by part. The parts are added in f32: rounded, a sum is the same or the number beside it.
#[test]
fn heads_that_meet_their_keys_part_by_part_have_the_same_gradients() {
    few_as_many::<bf16>([9, 1800], [400, 200], 1.0 / 128.0);
    few_as_many::<f16>([9, 1800], [400, 200], 1.0 / 1024.0);
}

/// `tolerance` is a share of a number, or of the thousandth of the largest, which is rounded in f32.
fn few_as_many<E: Element<Sum = f32>>(
    [queries, keys]: [usize; 2],
    [head_dim, value_dim]: [usize; 2],
    tolerance: f64,
) {
    let one = |shape, salt| random(shape, salt).mapv(|x| E::from_f64(f64::from(x)));
    let four = |array: &Array4<E>| {
        let (_, heads, length, width) = array.dim();
        let four = array.broadcast((4, heads, length, width));
        four.expect("a row for each").to_owned()
    };
    let (q, k) = (
        one((1, 2, queries, head_dim), 1),
        one((1, 1, keys, head_dim), 2),
    );
    let (v, d_out) = (
        one((1, 1, keys, value_dim), 3),
        one((1, 2, queries, value_dim), 4),
    );
    let options = [
        Attention::new(),
        Attention::new()
            .causal(Causal::BottomRight)
            .window(Some(300), None)
            .softcap(2.0),
        Attention::new().causal(Causal::TopLeft).sinks(&[0.5, -0.5]),
    ];
    for (attention, isa) in options.iter().flat_map(|attention| {
        Isa::available()
            .into_iter()
            .map(move |isa| (attention, isa))
    }) {
        let attention = attention.clone().isa(isa);
        let gradients = |[q, k, v, d_out]: [&Array4<E>; 4]| {
            let (q, k, v) = (q.view(), k.view(), v.view());
            let forward = attention
                .forward(q.view(), k.view(), v.view())
                .expect("a good call");
            let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
            attention
                .backward(q, k, v, out, lse, d_out.view())
                .expect("a good call")
        };
        let few = gradients([&q, &k, &v, &d_out]);
        let many = gradients([&four(&q), &four(&k), &four(&v), &four(&d_out)]);
        for (name, few, many) in [
            ("dq", &few.q, &many.q),
            ("dk", &few.k, &many.k),
            ("dv", &few.v, &many.v),
        ] {
            let largest = few
                .iter()
                .fold(0.0, |largest: f64, x| largest.max(x.to_f64().abs()));
            for row in many.outer_iter() {
                for (many, few) in row.iter().zip(few) {
                    let (many, few) = (many.to_f64(), few.to_f64());
                    let allowed = tolerance * few.abs().max(largest / 1000.0);
                    assert!((many - few).abs() <= allowed, "{isa} {name}: {many}, {few}");
                }
            }
        }
    }
}
