//! Sequences of different lengths without padding.

use ndarray::{Array2, Array3, Axis, s};
use regard_kernels::{Attention, Causal, Dropout, Isa, Packed, PackedUpstream, Upstream};

use crate::numbers::random;

const QUERIES: [usize; 5] = [0, 7, 7, 40, 41];
const KEYS: [usize; 5] = [0, 9, 12, 60, 60];

fn tokens(count: usize, heads: usize, width: usize, seed: u64) -> Array3<f32> {
    random((count, heads, width, 1), seed).remove_axis(Axis(3))
}

#[test]
fn every_sequence_gets_what_it_gets_alone() {
    Isa::available()
        .into_iter()
        .for_each(gets_what_it_gets_alone);
}

fn gets_what_it_gets_alone(isa: Isa) {
    let (q, k, v) = (
        tokens(41, 4, 8, 1),
        tokens(60, 2, 8, 2),
        tokens(60, 2, 5, 3),
    );
    let d_out = tokens(41, 4, 5, 4);
    let packed = Packed {
        queries: &QUERIES,
        keys: &KEYS,
    };
    let attention = Attention::new()
        .isa(isa)
        .causal(Causal::BottomRight)
        .window(Some(12), None)
        .sinks(&[0.3, -0.2, 0.1, 0.0])
        .sinks_gradient(true)
        .slopes(&[0.1, 0.2, 0.0, 0.4])
        .slopes_gradient(true);
    let found = attention
        .forward_packed(q.view(), k.view(), v.view(), packed)
        .expect("a good call");
    let upstream = PackedUpstream {
        out: found.out.view(),
        log_sum_exp: found.log_sum_exp.view(),
        d_out: d_out.view(),
    };
    let gradients = attention
        .backward_packed(q.view(), k.view(), v.view(), packed, &upstream)
        .expect("a good call");
    let (mut sinks, mut slopes) = ([0.0f32; 4], [0.0f32; 4]);
    for sequence in 0..4 {
        let (i, j) = (
            QUERIES[sequence]..QUERIES[sequence + 1],
            KEYS[sequence]..KEYS[sequence + 1],
        );
        let alone = |tokens: &Array3<f32>, range: &std::ops::Range<usize>| {
            let tokens = tokens
                .slice(s![range.clone(), .., ..])
                .permuted_axes([1, 0, 2]);
            tokens.insert_axis(Axis(0)).to_owned()
        };
        let (q, k, v, d_out) = (
            alone(&q, &i),
            alone(&k, &j),
            alone(&v, &j),
            alone(&d_out, &i),
        );
        let expected = attention
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        assert_eq!(alone(&found.out, &i), expected.out, "sequence {sequence}");
        let upstream = Upstream {
            out: expected.out.view(),
            log_sum_exp: expected.log_sum_exp.view(),
            d_out: d_out.view(),
            d_log_sum_exp: None,
        };
        let expected = attention
            .backward_with(q.view(), k.view(), v.view(), &upstream)
            .expect("a good call");
        assert_eq!(alone(&gradients.q, &i), expected.q, "sequence {sequence}");
        assert_eq!(alone(&gradients.k, &j), expected.k, "sequence {sequence}");
        assert_eq!(alone(&gradients.v, &j), expected.v, "sequence {sequence}");
        let add = |sums: &mut [f32; 4], part: Option<Vec<f32>>| {
            sums.iter_mut()
                .zip(part.expect("asked for"))
                .for_each(|(sum, part)| *sum += part);
        };
        add(&mut sinks, expected.sinks);
        add(&mut slopes, expected.slopes);
    }
    for (found, expected) in [(gradients.sinks, sinks), (gradients.slopes, slopes)] {
        for (found, expected) in found.expect("asked for").iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
        }
    }
}

#[test]
fn sequences_drop_different_weights() {
    // The same sequence twice.
    let q = tokens(20, 1, 8, 1);
    let twice = |tokens: &Array3<f32>| {
        ndarray::concatenate(Axis(0), &[tokens.view(), tokens.view()]).expect("of one shape")
    };
    let offsets = [0, 20, 40];
    let packed = Packed {
        queries: &offsets,
        keys: &offsets,
    };
    let attention = Attention::new().dropout(Dropout {
        probability: 0.5,
        seed: 3,
    });
    let x = twice(&q);
    let out = attention
        .forward_packed(x.view(), x.view(), x.view(), packed)
        .expect("a good call")
        .out;
    assert_ne!(out.slice(s![..20, .., ..]), out.slice(s![20.., .., ..]));
}

#[test]
fn boundaries_and_options_that_do_not_fit_are_named() {
    let x = tokens(10, 1, 4, 1);
    let refusal = |attention: &Attention<'_>, queries: &[usize], keys: &[usize]| {
        let packed = Packed { queries, keys };
        attention
            .forward_packed(x.view(), x.view(), x.view(), packed)
            .expect_err("it does not fit")
            .to_string()
    };
    let plain = Attention::new();
    for wrong in [&[0, 5, 9][..], &[1, 10], &[0, 6, 5, 10], &[]] {
        assert_eq!(
            refusal(&plain, wrong, &[0, 10]),
            "`packed.queries` is expected to start at 0, never to fall, and to end with 10"
        );
    }
    assert_eq!(
        refusal(&plain, &[0, 10], &[0, 4, 10]),
        "`packed.keys` has 3 elements, expected 2 (one per boundary of `packed.queries`)"
    );
    let of = Array2::zeros((1, 10));
    assert_eq!(
        refusal(&plain.documents(of.view(), of.view()), &[0, 10], &[0, 10]),
        "`documents` has no shape for packed sequences; leave it out, or pad them into a batch"
    );
}
