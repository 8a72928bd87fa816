//! Queries that see nothing, NaN, infinities, and axes of length zero.

use ndarray::{Array3, Array4, s};
use regard_kernels::{Attention, Causal, Forward, Gradients, Isa};

use crate::numbers::random;
use crate::tolerance::{close, tolerance};

/// Forward and backward; every gradient of the output is 1 unless it is given.
fn both(
    attention: &Attention<'_>,
    q: &Array4<f32>,
    k: &Array4<f32>,
    v: &Array4<f32>,
    d_out: Option<&Array4<f32>>,
) -> (Forward, Gradients) {
    let forward = attention
        .forward(q.view(), k.view(), v.view())
        .expect("a good call");
    let ones = Array4::ones(forward.out.dim());
    let d_out = d_out.unwrap_or(&ones);
    let gradients = attention
        .backward(
            q.view(),
            k.view(),
            v.view(),
            forward.out.view(),
            forward.log_sum_exp.view(),
            d_out.view(),
        )
        .expect("a good call");
    (forward, gradients)
}

#[test]
fn a_query_that_sees_nothing_gives_zero_and_has_no_gradient() {
    let (q, k, v) = (
        random((2, 2, 9, 8), 1),
        random((2, 2, 9, 8), 2),
        random((2, 2, 9, 8), 3),
    );
    for isa in Isa::available() {
        // The second batch row sees no key at all; in the first, the first three queries see none.
        let attention = Attention::new()
            .isa(isa)
            .visible_keys(&[9, 0])
            .causal(Causal::Offset(-3));
        let (forward, gradients) = both(&attention, &q, &k, &v, None);
        assert!(
            forward
                .out
                .slice(s![1, .., .., ..])
                .iter()
                .all(|&x| x == 0.0)
        );
        assert!(
            forward
                .out
                .slice(s![0, .., ..3, ..])
                .iter()
                .all(|&x| x == 0.0)
        );
        assert!(
            forward
                .log_sum_exp
                .slice(s![0, .., ..3])
                .iter()
                .all(|&x| x == f32::NEG_INFINITY)
        );
        assert!(
            forward
                .log_sum_exp
                .slice(s![0, .., 3..])
                .iter()
                .all(|x| x.is_finite())
        );
        assert!(
            gradients
                .q
                .slice(s![0, .., ..3, ..])
                .iter()
                .all(|&x| x == 0.0)
        );
        for gradient in [&gradients.q, &gradients.k, &gradients.v] {
            assert!(gradient.slice(s![1, .., .., ..]).iter().all(|&x| x == 0.0));
            assert!(gradient.iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn a_bias_of_minus_infinity_hides_as_a_mask_does() {
    let (q, k, v) = (
        random((1, 2, 20, 8), 1),
        random((1, 2, 140, 8), 2),
        random((1, 2, 140, 8), 3),
    );
    let mask = random((1, 2, 20, 140), 4).mapv(|x| x < 0.0);
    let mut mask = mask;
    mask.slice_mut(s![0, 1, 4, ..]).fill(false);
    let bias = mask.mapv(|visible| if visible { 0.0 } else { f32::NEG_INFINITY });
    for isa in Isa::available() {
        let by_mask = both(
            &Attention::new().isa(isa).mask(mask.view()),
            &q,
            &k,
            &v,
            None,
        );
        let by_bias = both(
            &Attention::new().isa(isa).bias(bias.view()),
            &q,
            &k,
            &v,
            None,
        );
        assert_eq!(by_mask, by_bias);
        assert!(
            by_bias
                .0
                .out
                .slice(s![0, 1, 4, ..])
                .iter()
                .all(|&x| x == 0.0)
        );
    }
}

#[test]
fn a_nan_reaches_only_the_rows_that_see_it() {
    // Key 100 is seen by the queries 100 … 139 and by no other.
    let clean = [
        random((1, 1, 140, 8), 1),
        random((1, 1, 140, 8), 2),
        random((1, 1, 140, 8), 3),
    ];
    for isa in Isa::available() {
        for odd in [f32::NAN, f32::INFINITY] {
            for which in 1..3 {
                let mut x = clean.clone();
                x[which][[0, 0, 100, 3]] = odd;
                let attention = Attention::new().isa(isa).causal(Causal::TopLeft);
                let (forward, gradients) = both(&attention, &x[0], &x[1], &x[2], None);
                let (expected, _) = both(&attention, &clean[0], &clean[1], &clean[2], None);
                let (before, after) = (s![0, 0, ..100, ..], s![0, 0, 100.., ..]);
                let what = format!("{isa} {odd} in {which}");
                close(
                    &what,
                    forward.out.slice(before),
                    expected.out.slice(before).mapv(f64::from).view(),
                    tolerance(8),
                );
                assert!(
                    gradients.q.slice(before).iter().all(|x| x.is_finite()),
                    "{isa} {odd} in {which}"
                );
                if odd.is_nan() {
                    let poisoned =
                        |row: ndarray::ArrayView1<'_, f32>| row.iter().any(|x| x.is_nan());
                    assert!(
                        forward.out.slice(after).outer_iter().all(poisoned),
                        "{isa} {odd} in {which}"
                    );
                    assert!(
                        gradients.q.slice(after).outer_iter().all(poisoned),
                        "{isa} {odd} in {which}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_nan_in_a_query_or_its_gradient_reaches_only_the_keys_it_sees() {
    // Query 70 sees the keys 0 … 70.
    let (q, k, v) = (
        random((1, 1, 140, 8), 1),
        random((1, 1, 140, 8), 2),
        random((1, 1, 140, 8), 3),
    );
    let ones = Array4::ones((1, 1, 140, 8));
    for isa in Isa::available() {
        for in_query in [true, false] {
            let (mut q, mut d_out) = (q.clone(), ones.clone());
            let odd = if in_query { &mut q } else { &mut d_out };
            odd[[0, 0, 70, 5]] = f32::NAN;
            let attention = Attention::new().isa(isa).causal(Causal::TopLeft);
            let (_, gradients) = both(&attention, &q, &k, &v, Some(&d_out));
            for gradient in [&gradients.k, &gradients.v] {
                assert!(
                    gradient
                        .slice(s![0, 0, 71.., ..])
                        .iter()
                        .all(|x| x.is_finite()),
                    "{isa}"
                );
                assert!(
                    gradient
                        .slice(s![0, 0, ..71, ..])
                        .outer_iter()
                        .all(|row| row.iter().any(|x| x.is_nan())),
                    "{isa}"
                );
            }
        }
    }
}

#[test]
fn an_infinite_score_makes_its_row_nan_and_no_other() {
    let (mut q, k, v) = (
        random((1, 1, 20, 4), 1),
        Array4::ones((1, 1, 30, 4)),
        random((1, 1, 30, 4), 3),
    );
    q[[0, 0, 7, 0]] = f32::INFINITY;
    for isa in Isa::available() {
        let out = Attention::new()
            .isa(isa)
            .forward(q.view(), k.view(), v.view())
            .expect("a good call")
            .out;
        for (i, row) in out.slice(s![0, 0, .., ..]).outer_iter().enumerate() {
            assert!(row.iter().all(|x| x.is_nan() == (i == 7)), "{isa} row {i}");
        }
    }
}

#[test]
fn every_axis_may_have_length_zero() {
    for isa in Isa::available() {
        for zero in 0..6 {
            let length = |axis: usize, length: usize| if axis == zero { 0 } else { length };
            let (batch, heads, queries) = (length(0, 2), length(1, 2), length(2, 5));
            let (keys, head_dim, value_dim) = (length(3, 6), length(4, 4), length(5, 3));
            let q = random((batch, heads, queries, head_dim), 1);
            let k = random((batch, heads, keys, head_dim), 2);
            let v = random((batch, heads, keys, value_dim), 3);
            let (forward, gradients) = both(&Attention::new().isa(isa), &q, &k, &v, None);
            assert_eq!(forward.out.dim(), (batch, heads, queries, value_dim));
            assert_eq!(
                (gradients.q.dim(), gradients.k.dim(), gradients.v.dim()),
                (q.dim(), k.dim(), v.dim())
            );
            if keys == 0 {
                assert_eq!(forward.out, Array4::zeros((2, 2, 5, 3)));
                assert_eq!(
                    forward.log_sum_exp,
                    Array3::from_elem((2, 2, 5), f32::NEG_INFINITY)
                );
            }
        }
    }
}

#[test]
fn the_output_may_lie_at_any_stride() {
    let (q, k, v) = (
        random((2, 3, 70, 8), 1),
        random((2, 3, 70, 8), 2),
        random((2, 3, 70, 8), 3),
    );
    for isa in Isa::available() {
        let attention = Attention::new().isa(isa);
        let expected = attention
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        let (mut out, mut lse) = (Array4::zeros((2, 70, 8, 3)), Array3::zeros((70, 3, 2)));
        let out_view = out.view_mut().permuted_axes([0, 3, 1, 2]);
        let lse_view = lse.view_mut().permuted_axes([2, 1, 0]);
        attention
            .forward_into(q.view(), k.view(), v.view(), out_view, lse_view)
            .expect("a good call");
        assert_eq!(out.permuted_axes([0, 3, 1, 2]), expected.out);
        assert_eq!(lse.permuted_axes([2, 1, 0]), expected.log_sum_exp);
    }
}

#[test]
fn a_query_whose_every_score_is_minus_infinity_sees_nothing() {
    let (q, v) = (Array4::ones((1, 1, 3, 4)), random((1, 1, 5, 4), 1));
    let k = Array4::from_elem((1, 1, 5, 4), f32::NEG_INFINITY);
    for isa in Isa::available() {
        let forward = Attention::new()
            .isa(isa)
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        assert_eq!(forward.out, Array4::zeros((1, 1, 3, 4)));
        assert_eq!(
            forward.log_sum_exp,
            Array3::from_elem((1, 1, 3), f32::NEG_INFINITY)
        );
    }
}

#[test]
fn what_lies_outside_the_window_may_be_anything() {
    let (q, mut k, mut v) = (
        random((1, 1, 150, 8), 1),
        random((1, 1, 150, 8), 2),
        random((1, 1, 150, 8), 3),
    );
    // Only the queries from 70 on, whose windows start after 60, are looked at.
    k.slice_mut(s![.., .., ..60, ..]).fill(f32::NAN);
    v.slice_mut(s![.., .., ..60, ..]).fill(f32::INFINITY);
    for isa in Isa::available() {
        let attention = Attention::new().isa(isa).window(Some(10), Some(0));
        let mut d_out = Array4::ones((1, 1, 150, 8));
        d_out.slice_mut(s![.., .., ..70, ..]).fill(0.0);
        let (forward, gradients) = both(&attention, &q, &k, &v, Some(&d_out));
        let finite = |array: ndarray::ArrayView4<'_, f32>| array.iter().all(|x| x.is_finite());
        assert!(finite(forward.out.slice(s![.., .., 70.., ..])), "{isa}");
        assert!(finite(gradients.q.slice(s![.., .., 70.., ..])), "{isa}");
        // The keys up to 69 were also seen by queries that saw a NaN.
        assert!(finite(gradients.k.slice(s![.., .., 70.., ..])), "{isa}");
        assert!(finite(gradients.v.slice(s![.., .., 70.., ..])), "{isa}");
    }
}

#[test]
fn a_query_that_sees_only_the_sink_gives_zero() {
    let x = random((1, 2, 5, 8), 1);
    for isa in Isa::available() {
        let sinks = [0.5, f32::NEG_INFINITY];
        let attention = Attention::new()
            .isa(isa)
            .visible_keys(&[0])
            .sinks(&sinks)
            .sinks_gradient(true);
        let (forward, gradients) = both(&attention, &x, &x, &x, None);
        assert!(forward.out.iter().all(|&x| x == 0.0), "{isa}");
        let lse = forward.log_sum_exp;
        assert!(lse.slice(s![.., 0, ..]).iter().all(|&x| x == 0.5), "{isa}");
        assert!(
            lse.slice(s![.., 1, ..])
                .iter()
                .all(|&x| x == f32::NEG_INFINITY),
            "{isa}"
        );
        assert!(gradients.k.iter().all(|&x| x == 0.0), "{isa}");
        assert_eq!(gradients.sinks, Some(vec![0.0, 0.0]), "{isa}");
    }
}

#[test]
fn no_heads_and_no_batch_give_no_result_whatever_the_lengths() {
    fn check<E: regard_kernels::Element>() {
        for (batch, heads, kv_heads) in [(0, 4, 2), (1, 0, 2), (1, 0, 0), (0, 0, 0)] {
            for (queries, keys) in [(0, 600), (1, 600), (70, 600), (70, 5)] {
                let zeros = |shape| Array4::from_elem(shape, E::default());
                let q = zeros((batch, heads, queries, 8));
                let k = zeros((batch, kv_heads, keys, 8));
                let forward = Attention::new()
                    .forward(q.view(), k.view(), k.view())
                    .expect("a good call");
                let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
                let gradients = Attention::new()
                    .backward(q.view(), k.view(), k.view(), out, lse, q.view())
                    .expect("a good call");
                assert_eq!(gradients.k, k);
            }
        }
    }
    check::<f32>();
    check::<f64>();
}
