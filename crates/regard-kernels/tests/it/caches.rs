//! Keys and values from a cache.

use ndarray::{Array2, Array4, Axis, concatenate, s};
use regard_kernels::{Attention, Cache, CacheNumber, Cached, Causal, Isa, bf16, f16};

use crate::numbers::random;
use crate::tolerance::{close, tolerance};

/// A cache filled in three steps of 40, 1 and 30 keys, and what it holds.
fn filled<C: CacheNumber>() -> (Cache<C>, Array4<f32>, Array4<f32>) {
    let (k, v) = (random((2, 2, 71, 24), 1), random((2, 2, 71, 10), 2));
    let mut cache = Cache::<C>::new((2, 2, 80, 24), 10).expect("there is memory");
    for range in [0..40, 40..41, 41..71] {
        let (k, v) = (
            k.slice(s![.., .., range.clone(), ..]),
            v.slice(s![.., .., range, ..]),
        );
        cache.append(k, v).expect("there is room");
    }
    assert_eq!(cache.lengths(), [71, 71]);
    (cache, k, v)
}

/// A cache whose numbers are off by at most `error` gives what the keys and values themselves give, within `allowed`.
fn agrees<C: CacheNumber>(allowed: f64) {
    let (mut cache, k, v) = filled::<C>();
    cache.truncate(1, 50);
    let each = |queries| Isa::available().into_iter().map(move |isa| (queries, isa));
    for (queries, isa) in [1, 3, 20].into_iter().flat_map(each) {
        let q = random((2, 4, queries, 24), 3);
        let attention = Attention::new()
            .isa(isa)
            .causal(Causal::BottomRight)
            .window(Some(33), None);
        let found = attention
            .decode(q.view(), &cache.view())
            .expect("a good call");
        for (row, length) in [(0, 71), (1, 50)] {
            let of = s![row..=row, .., .., ..];
            let keys = s![row..=row, .., ..length, ..];
            let expected = attention.forward(q.slice(of), k.slice(keys), v.slice(keys));
            let expected = expected.expect("a good call").out.mapv(f64::from);
            close("out", found.out.slice(of), expected.view(), allowed);
        }
    }
}

#[test]
fn a_cache_gives_what_its_keys_give() {
    agrees::<f32>(tolerance(24));
    // Half an unit in the last place of each key and value, and as much of the score.
    agrees::<f16>(2e-3);
    agrees::<bf16>(2e-2);
    // Half of 1/127 of the largest number of each row.
    agrees::<i8>(2e-2);
}

#[test]
fn a_full_cache_is_refused_and_stays_as_it_was() {
    let (mut cache, k, v) = filled::<f32>();
    cache.truncate(0, 60);
    let refused = cache.append(k.slice(s![.., .., ..10, ..]), v.slice(s![.., .., ..10, ..]));
    assert_eq!(
        refused.expect_err("there is no room in row 1").to_string(),
        "the cache has room for 80 keys a row, and row 1 has 71 of them: 10 more do not fit"
    );
    assert_eq!(cache.lengths(), [60, 71]);
}

#[test]
fn pages_give_what_the_keys_in_their_order_give() {
    let (k_pages, v_pages) = (random((9, 2, 16, 24), 4), random((9, 2, 16, 12), 5));
    let table = Array2::from_shape_vec((2, 4), vec![7, 0, 3, 8, 2, 2, 5, 99]).expect("2 × 4");
    let lengths = [60, 35];
    let cached = Cached::paged(k_pages.view(), v_pages.view(), table.view(), &lengths)
        .expect("page 99 is not needed");
    // With 9 queries and no order heads are small, and computed by another pass.
    let calls = [(1, true), (2, true), (9, true), (9, false)];
    let each = |call| Isa::available().into_iter().map(move |isa| (call, isa));
    for ((queries, causal), isa) in calls.into_iter().flat_map(each) {
        let q = random((2, 4, queries, 24), 6);
        let mut attention = Attention::new().isa(isa);
        if causal {
            attention = attention.causal(Causal::BottomRight);
        }
        let found = attention.decode(q.view(), &cached).expect("a good call");
        for (row, &length) in lengths.iter().enumerate() {
            let rows = |pages: &Array4<f32>| {
                let parts: Vec<_> = (0..length.div_ceil(16))
                    .map(|at| table[[row, at]])
                    .map(|page| pages.slice(s![page..=page, .., .., ..]))
                    .collect();
                let all = concatenate(Axis(2), &parts).expect("of one shape");
                all.slice(s![.., .., ..length, ..]).to_owned()
            };
            let of = s![row..=row, .., .., ..];
            let (k, v) = (rows(&k_pages), rows(&v_pages));
            let expected = attention.forward(q.slice(of), k.view(), v.view());
            let expected = expected.expect("a good call").out.mapv(f64::from);
            close("out", found.out.slice(of), expected.view(), tolerance(24));
        }
    }
}

#[test]
fn pages_that_are_not_there_are_named() {
    let pages = random((3, 1, 4, 8), 1);
    let table = Array2::from_shape_vec((1, 2), vec![2, 3]).expect("1 × 2");
    let refusal = |lengths: &[usize]| {
        Cached::paged(pages.view(), pages.view(), table.view(), lengths)
            .expect_err("it does not fit")
            .to_string()
    };
    assert_eq!(
        refusal(&[5]),
        "`table[0, 1]` is 3, expected one of the 3 pages"
    );
    assert_eq!(
        refusal(&[9]),
        "`lengths[0]` is 9, expected at most the 8 keys of `k`"
    );
    assert_eq!(
        refusal(&[1, 1]),
        "`lengths` has 2 elements, expected 1 (one per row of `table`)"
    );
}

#[test]
fn what_the_cache_knows_cannot_be_said_again() {
    let (cache, _, _) = filled::<f32>();
    let q = random((2, 4, 1, 24), 3);
    let refused = Attention::new()
        .causal(Causal::TopLeft)
        .decode(q.view(), &cache.view());
    assert_eq!(
        refused.expect_err("the queries are the last").to_string(),
        "`causal` cannot be given where keys come from a cache: the queries are the last of each row, which is \
         `BottomRight`"
    );
}

#[test]
fn a_row_of_eight_bits_with_a_nan_in_it_stays_nan() {
    let mut k = random((1, 1, 3, 8), 1);
    let v = random((1, 1, 3, 8), 2);
    k[[0, 0, 1, 5]] = f32::NAN;
    let mut cache = Cache::<i8>::new((1, 1, 3, 8), 8).expect("there is memory");
    cache.append(k.view(), v.view()).expect("there is room");
    let q = random((1, 1, 1, 8), 3);
    let found = Attention::new()
        .decode(q.view(), &cache.view())
        .expect("a good call");
    assert!(found.out.iter().all(|number| number.is_nan()));
}
