//! What the weights say, without the matrix of them; and what two parts of the keys say together.

use ndarray::{Array4, s};
use regard_kernels::{Attention, Causal, Isa, merge};

use crate::numbers::random;
use crate::tolerance::{close, tolerance};

#[test]
fn the_largest_weights_and_the_sums_per_key_are_those_of_the_matrix() {
    let (q, k) = (random((2, 4, 150, 16), 1), random((2, 2, 170, 16), 2));
    for isa in Isa::available() {
        let attention = Attention::new()
            .isa(isa)
            .causal(Causal::Offset(-2))
            .window(Some(60), None)
            .sinks(&[0.0, 1.0, 2.0, 3.0]);
        let weights = attention.weights(q.view(), k.view()).expect("a good call");
        let sums = attention.key_sums(q.view(), k.view()).expect("a good call");
        let expected = weights.sum_axis(ndarray::Axis(2)).mapv(f64::from);
        // A sum of up to 150 weights.
        close(
            "key_sums",
            sums.view(),
            expected.view(),
            13.0 * tolerance(16),
        );

        let top = attention
            .top_weights(q.view(), k.view(), 5)
            .expect("a good call");
        for ((b, h, i, c), &key) in top.keys.indexed_iter() {
            let weight = top.weights[[b, h, i, c]];
            let row = weights.slice(s![b, h, i, ..]);
            if key == usize::MAX {
                assert_eq!(weight, 0.0);
                let seen = row.iter().filter(|&&weight| weight > 0.0).count();
                assert!(seen <= c, "query {i} sees {seen}, and only {c} are listed");
                continue;
            }
            assert!((weight - row[key]).abs() < tolerance(16) as f32);
            let larger = row.iter().filter(|&&other| other > weight + 1e-5).count();
            assert!(larger <= c, "{larger} are larger than number {c}");
        }
    }
}

#[test]
fn two_parts_of_the_keys_merge_to_the_whole() {
    let (q, k, v) = (
        random((1, 2, 9, 8), 1),
        random((1, 2, 30, 8), 2),
        random((1, 2, 30, 6), 3),
    );
    // With one part, three or all of the keys on one side; in part 1 some queries see nothing.
    for cut in [1, 3, 30] {
        let attention = Attention::new().causal(Causal::Offset(-2));
        let part = |range: std::ops::Range<usize>| {
            let start = range.start as isize;
            let keys = s![.., .., range, ..];
            let attention = Attention::new().causal(Causal::Offset(-2 - start));
            attention
                .forward(q.view(), k.slice(keys), v.slice(keys))
                .expect("a good call")
        };
        let (a, b) = (part(0..cut), part(cut..30));
        let found = merge(
            (a.out.view(), a.log_sum_exp.view()),
            (b.out.view(), b.log_sum_exp.view()),
        )
        .expect("of one shape");
        let expected = attention
            .forward(q.view(), k.view(), v.view())
            .expect("a good call");
        close(
            "out",
            found.out.view(),
            expected.out.mapv(f64::from).view(),
            tolerance(8),
        );
        let lse = expected.log_sum_exp.mapv(f64::from);
        close(
            "log_sum_exp",
            found.log_sum_exp.view(),
            lse.view(),
            tolerance(8),
        );
    }
}

#[test]
fn parts_of_other_queries_do_not_merge() {
    let x = random((1, 2, 9, 8), 1);
    let whole = Attention::new()
        .forward(x.view(), x.view(), x.view())
        .expect("a good call");
    let other = Array4::zeros((1, 2, 8, 8));
    let refused = merge(
        (whole.out.view(), whole.log_sum_exp.view()),
        (other.view(), whole.log_sum_exp.view()),
    );
    assert_eq!(
        refused.expect_err("they do not fit").to_string(),
        "`out_b` has shape [1, 2, 8, 8], expected [1, 2, 9, 8] (that of `out_a`)"
    );
}
