//! The first page of the textbook, with numbers that can be checked by hand.

use ndarray::array;
use regard_kernels::{Attention, Error, attention_weights, weighted_sum};

#[test]
fn the_weights_of_the_textbook_example() {
    // ⟨u, v_1⟩ = 0.1·0.4 + 0.2·0.5 + 0.3·0.6 = 0.32, ⟨u, v_2⟩ = 0.5
    let weights = attention_weights(
        array![[0.1, 0.2, 0.3]].view(),
        array![[0.4, 0.5, 0.6], [0.7, 0.8, 0.9]].view(),
    )
    .expect("they fit");
    let (a, b) = (0.32f64.exp(), (0.07f64 + 0.16 + 0.27).exp());
    assert!((f64::from(weights[[0, 0]]) - a / (a + b)).abs() < 1e-7);
    assert!((weights.sum() - 1.0).abs() < 1e-6);
}

#[test]
fn the_softmax_of_a_single_score_is_one() {
    let weights = attention_weights(
        array![[0.1, 0.2, 0.3]].view(),
        array![[0.4, 0.5, 0.6]].view(),
    )
    .expect("they fit");
    assert_eq!(weights, array![[1.0]]);
    // And the fused path hands a single value through, to the last bit.
    let (q, v) = (
        array![[[[0.1f32, 0.2, 0.3]]]],
        array![[[[0.123_456_79f32, -7.1]]]],
    );
    let out = Attention::new()
        .forward(q.view(), q.view(), v.view())
        .expect("they fit")
        .out;
    assert_eq!(out, v);
}

#[test]
fn a_weighted_sum_is_one() {
    let sums = weighted_sum(
        array![[0.5, 0.25, 0.25]].view(),
        array![[4.0, 0.0], [0.0, 8.0], [8.0, 8.0]].view(),
    );
    assert_eq!(sums.expect("they fit"), array![[4.0, 4.0]]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let wrong = attention_weights(array![[1.0, 2.0]].view(), array![[1.0]].view());
    assert_eq!(
        wrong.expect_err("other widths").to_string(),
        "`keys` has shape [1, 1], expected [1, 2] (keys are as wide as queries)"
    );
    assert!(matches!(
        weighted_sum(array![[1.0]].view(), array![[1.0], [2.0]].view()),
        Err(Error::Shape { .. })
    ));
}
