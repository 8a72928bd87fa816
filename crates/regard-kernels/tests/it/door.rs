//! What does not fit is refused at the door, in words that name the argument, what was found and what was expected.

use ndarray::{Array3, Array4, Axis};
use regard_kernels::{Attention, Cache, Isa};

fn zeros(shape: (usize, usize, usize, usize)) -> Array4<f32> {
    Array4::zeros(shape)
}

fn refusal(attention: &Attention<'_>, q: &Array4<f32>, k: &Array4<f32>, v: &Array4<f32>) -> String {
    attention
        .forward(q.view(), k.view(), v.view())
        .expect_err("it does not fit")
        .to_string()
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let (q, k, v) = (
        zeros((2, 4, 5, 8)),
        zeros((2, 2, 7, 8)),
        zeros((2, 2, 7, 3)),
    );
    let attention = Attention::new();
    assert_eq!(
        refusal(&attention, &q, &zeros((2, 2, 7, 9)), &v),
        "`k` has shape [2, 2, 7, 9], expected [2, 2, 7, 8] (the batch and head_dim of `q`)"
    );
    assert_eq!(
        refusal(&attention, &q, &k, &zeros((2, 2, 6, 3))),
        "`v` has shape [2, 2, 6, 3], expected [2, 2, 7, 3] (the batch, heads and keys of `k`)"
    );
    assert_eq!(
        refusal(&attention, &q, &zeros((2, 3, 7, 8)), &zeros((2, 3, 7, 3))),
        "`k` has 3 heads, which does not divide the 4 heads of `q`"
    );
    assert_eq!(
        refusal(&attention, &q, &zeros((2, 0, 7, 8)), &zeros((2, 0, 7, 3))),
        "`k` has 0 heads, which does not divide the 4 heads of `q`"
    );
}

#[test]
fn masks_that_do_not_broadcast_are_named() {
    let (q, k, v) = (
        zeros((2, 4, 5, 8)),
        zeros((2, 2, 7, 8)),
        zeros((2, 2, 7, 3)),
    );
    let mask = Array4::from_elem((2, 2, 5, 7), true);
    assert_eq!(
        refusal(&Attention::new().mask(mask.view()), &q, &k, &v),
        "`mask` has shape [2, 2, 5, 7], which does not broadcast to [2, 4, 5, 7] ([batch, heads, queries, keys])"
    );
    let bias = zeros((1, 1, 7, 5));
    assert_eq!(
        refusal(&Attention::new().bias(bias.view()), &q, &k, &v),
        "`bias` has shape [1, 1, 7, 5], which does not broadcast to [2, 4, 5, 7] ([batch, heads, queries, keys])"
    );
}

#[test]
fn visible_keys_have_one_number_per_row_within_the_keys() {
    let (q, k, v) = (
        zeros((2, 4, 5, 8)),
        zeros((2, 2, 7, 8)),
        zeros((2, 2, 7, 3)),
    );
    assert_eq!(
        refusal(&Attention::new().visible_keys(&[7]), &q, &k, &v),
        "`visible_keys` has 1 elements, expected 2 (one per batch row)"
    );
    assert_eq!(
        refusal(&Attention::new().visible_keys(&[7, 8]), &q, &k, &v),
        "`visible_keys[1]` is 8, expected at most the 7 keys of `k`"
    );
}

#[test]
fn outputs_of_the_wrong_shape_are_refused_and_not_written() {
    let x = Array4::ones((2, 4, 5, 8));
    let (mut out, mut lse) = (zeros((2, 4, 5, 7)), Array3::zeros((2, 4, 5)));
    let refused =
        Attention::new().forward_into(x.view(), x.view(), x.view(), out.view_mut(), lse.view_mut());
    assert_eq!(
        refused.expect_err("it does not fit").to_string(),
        "`out` has shape [2, 4, 5, 7], expected [2, 4, 5, 8] ([batch, heads, queries, value_dim])"
    );
    assert_eq!(lse, Array3::zeros((2, 4, 5)));
}

#[test]
fn a_gradient_of_no_bias_is_refused() {
    let x = zeros((1, 1, 2, 2));
    let refused = Attention::new().bias_gradient(true).backward(
        x.view(),
        x.view(),
        x.view(),
        x.view(),
        Array3::zeros((1, 1, 2)).view(),
        x.view(),
    );
    assert_eq!(
        refused.expect_err("no bias").to_string(),
        "`bias_gradient` is asked for, but no `bias` is given"
    );
}

#[test]
fn a_softcap_that_bounds_nothing_is_refused() {
    let x = zeros((1, 1, 2, 2));
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(
            refusal(&Attention::new().softcap(cap), &x, &x, &x),
            format!("`softcap` is {cap}, expected a positive finite number")
        );
    }
}

#[test]
fn sinks_are_one_per_head_and_have_a_gradient_only_if_there_are_any() {
    let x = zeros((1, 3, 2, 2));
    assert_eq!(
        refusal(&Attention::new().sinks(&[0.0; 2]), &x, &x, &x),
        "`sinks` has 2 elements, expected 3 (one per head of `q`)"
    );
    let refused = Attention::new().sinks_gradient(true).backward(
        x.view(),
        x.view(),
        x.view(),
        x.view(),
        Array3::zeros((1, 3, 2)).view(),
        x.view(),
    );
    assert_eq!(
        refused.expect_err("no sinks").to_string(),
        "`sinks_gradient` is asked for, but no `sinks` is given"
    );
}

#[test]
fn an_instruction_set_that_is_missing_is_an_error_and_not_another_one() {
    let x = zeros((1, 1, 2, 2));
    for isa in Isa::ALL {
        let found = Attention::new()
            .isa(isa)
            .forward(x.view(), x.view(), x.view());
        assert_eq!(found.is_ok(), isa.is_available(), "{isa}");
    }
}

/// One number, seen as an array of any shape.
fn endless(one: &Array4<f32>, shape: (usize, usize, usize, usize)) -> ndarray::ArrayView4<'_, f32> {
    one.broadcast(shape).expect("a number broadcasts")
}

#[test]
fn a_result_that_there_is_no_memory_for_is_refused() {
    let one = zeros((1, 1, 1, 1));
    // 128 TiB of results or more, of inputs that take four bytes: no process has room for them, whatever the system promises.
    let long = endless(&one, (1, 1, 1 << 45, 8));
    let many = endless(&one, (1, 1, 1 << 25, 1));
    let attention = Attention::new();
    let refusal = |found: Result<(), regard_kernels::Error>| {
        let error = found.expect_err("there is no memory");
        assert!(
            matches!(error, regard_kernels::Error::Memory { .. }),
            "{error}"
        );
        error.to_string()
    };
    let short = endless(&one, (1, 1, 1, 8));
    assert_eq!(
        refusal(attention.forward(long, short, short).map(drop)),
        "there is not enough memory for `out` of shape [1, 1, 35184372088832, 8]"
    );
    assert_eq!(
        refusal(attention.weights(many, many).map(drop)),
        "there is not enough memory for `weights` of shape [1, 1, 33554432, 33554432]"
    );
    refusal(attention.scores(many, many).map(drop));
    refusal(attention.top_weights(many, many, 1 << 25).map(drop));
    refusal(attention.key_sums(short, long).map(drop));
    // A count that no integer holds.
    refusal(attention.top_weights(many, many, 1 << 60).map(drop));
    // A single score, of rows that would be copied.
    let wide = endless(&one, (1, 1, 1, 1 << 45));
    let narrow = endless(&one, (1, 1, 1, 1));
    refusal(attention.forward(wide, wide, narrow).map(drop));
    refusal(attention.weights(wide, wide).map(drop));
    // The gradient of a bias is as large as the bias.
    let (q, lse) = (endless(&one, (1, 1, 2, 1)), Array3::zeros((1, 1, 2)));
    let bias = endless(&one, (1, 1, 2, 1 << 45));
    let keys = endless(&one, (1, 1, 1 << 45, 1));
    let with_bias = Attention::new().bias(bias).bias_gradient(true);
    refusal(
        with_bias
            .backward(q, keys, keys, q, lse.view(), q)
            .map(drop),
    );
    refusal(Cache::<i8>::new((1, 1, 1 << 45, 8), 8).map(drop));
    // The textbook's functions.
    let rows = many.index_axis(Axis(0), 0).index_axis_move(Axis(0), 0);
    refusal(regard_kernels::attention_weights(rows, rows).map(drop));
}
