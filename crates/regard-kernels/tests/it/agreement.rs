//! The fast paths and the definition agree, with every instruction set that the machine has.

use ndarray::Array4;
use proptest::prelude::*;
use regard_kernels::{Attention, Causal, Isa, reference};

use crate::any_case::any_case;
use crate::case::Case;
use crate::numbers::{Layout, Numbers, random};
use crate::tolerance::{close, tolerance};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_instruction_set_agrees_with_the_definition(case in any_case()) {
        for isa in Isa::available() {
            case.agrees(isa);
        }
    }
}

#[test]
fn no_required_instruction_set_is_missing() {
    let available = Isa::available();
    let names: Vec<String> = available.iter().map(Isa::to_string).collect();
    // What a green run has exercised is part of its record.
    eprintln!("instruction sets exercised: {}", names.join(", "));
    for isa in Isa::required().expect("REGARD_REQUIRE names instruction sets") {
        assert!(
            available.contains(&isa),
            "REGARD_REQUIRE names {isa}, which this machine does not have"
        );
    }
}

/// `(batch, heads, kv_heads, queries, keys, head_dim, value_dim)`, dense.
fn dense(shape: (usize, usize, usize, usize, usize, usize, usize), causal: Option<Causal>) -> Case {
    let (batch, heads, kv_heads, queries, keys, head_dim, value_dim) = shape;
    Case {
        q: Numbers::new((batch, heads, queries, head_dim), Layout::Dense, 1),
        k: Numbers::new((batch, kv_heads, keys, head_dim), Layout::Dense, 2),
        v: Numbers::new((batch, kv_heads, keys, value_dim), Layout::Dense, 3),
        d_out: Numbers::new((batch, heads, queries, value_dim), Layout::Dense, 4),
        causal,
        ..Case::default()
    }
}

#[test]
fn long_sequences_whose_keys_are_cut_into_parts_agree() {
    for isa in Isa::available() {
        dense((1, 2, 1, 150, 1100, 24, 17), None).agrees(isa);
        dense((1, 1, 1, 1100, 1100, 16, 16), Some(Causal::TopLeft)).agrees(isa);
    }
}

#[test]
fn windows_that_leave_whole_blocks_and_parts_unseen_agree() {
    for isa in Isa::available() {
        let mut case = dense((1, 2, 1, 1100, 1100, 8, 8), None);
        case.window = (Some(70), Some(3));
        case.agrees(isa);
        case.causal = Some(Causal::Offset(-200));
        case.softcap = Some(0.5);
        case.agrees(isa);
    }
}

#[test]
fn one_query_whose_heads_share_their_keys_agrees() {
    for isa in Isa::available() {
        let mut case = dense((2, 12, 2, 1, 300, 20, 12), Some(Causal::BottomRight));
        case.agrees(isa);
        case.window = (Some(130), None);
        case.softcap = Some(0.7);
        case.sinks = Some((0..12).map(|head| head as f32 / 4.0 - 1.0).collect());
        case.mask = Some(random((1, 12, 1, 300), 5).mapv(|x| x < 0.5));
        case.bias = Some(random((2, 1, 1, 300), 6));
        case.visible_keys = Some(vec![300, 210]);
        case.agrees(isa);
    }
}

#[test]
fn many_heads_that_are_not_cut_agree() {
    for isa in Isa::available() {
        dense((4, 8, 4, 40, 600, 8, 8), Some(Causal::BottomRight)).agrees(isa);
    }
}

#[test]
fn scores_that_keep_growing_move_the_reference_point() {
    // Each block of keys has larger scores than all before it; some queries grow and their neighbours do not.
    let mut k = random((1, 1, 600, 8), 1);
    for (j, mut row) in k
        .index_axis_mut(ndarray::Axis(0), 0)
        .index_axis_mut(ndarray::Axis(0), 0)
        .outer_iter_mut()
        .enumerate()
    {
        row *= j as f32 / 10.0;
    }
    let (q, v) = (random((1, 1, 40, 8), 2), random((1, 1, 600, 8), 3));
    let double = |array: &Array4<f32>| array.mapv(f64::from);
    let options = reference::Options::default();
    let expected = reference::forward(
        double(&q).view(),
        double(&k).view(),
        double(&v).view(),
        &options,
    );
    for isa in Isa::available() {
        let found = Attention::new()
            .isa(isa)
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        // Scores of some 60 have an absolute error 60 times as large, and the weights the same relative one.
        close(
            "out",
            found.out.view(),
            expected.out.view(),
            60.0 * tolerance(8),
        );
        close(
            "log_sum_exp",
            found.log_sum_exp.view(),
            expected.log_sum_exp.view(),
            tolerance(8),
        );
    }
}

#[test]
fn the_fused_output_is_the_weighted_sum_by_the_weights() {
    let (q, k, v) = (
        random((2, 3, 20, 12), 1),
        random((2, 3, 30, 12), 2),
        random((2, 3, 30, 5), 3),
    );
    let attention = Attention::new()
        .causal(Causal::BottomRight)
        .visible_keys(&[30, 17]);
    let weights = attention.weights(q.view(), k.view()).expect("a good call");
    let out = attention
        .forward(q.view(), k.view(), v.view())
        .expect("a good call")
        .out;
    for b in 0..2 {
        for h in 0..3 {
            let at = ndarray::s![b, h, .., ..];
            let sums =
                regard_kernels::weighted_sum(weights.slice(at), v.slice(at)).expect("they fit");
            close(
                "out",
                out.slice(at),
                sums.mapv(f64::from).view(),
                tolerance(12),
            );
        }
    }
}
