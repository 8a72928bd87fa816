//! The fused operations against their composition, and what a mask means.

use burn::tensor::{Device, Tensor, TensorData};
use regard_nn::Causal;
use regard_nn::operation::{self, AttentionOptions, Heads, Map, composed};

use crate::closeness::{assert_close, values};
use crate::gradients::random;

/// Output and gradients of q, k, v and the bias.
fn run(
    attend: fn(Tensor<4>, Tensor<4>, Tensor<4>, &AttentionOptions) -> Tensor<4>,
    [q, k, v]: &[Tensor<4>; 3],
    options: &AttentionOptions,
) -> Vec<Vec<f32>> {
    let leaf = |x: &Tensor<4>| x.clone().require_grad();
    let (q, k, v, bias) = (leaf(q), leaf(k), leaf(v), options.bias.as_ref().map(leaf));
    let options = AttentionOptions {
        bias: bias.clone(),
        ..options.clone()
    };
    let out = attend(q.clone(), k.clone(), v.clone(), &options);
    let seed = random(out.dims(), 99, &out.device());
    let gradients = (out.clone() * seed).sum().backward();
    let leaves = [Some(q), Some(k), Some(v), bias];
    let found = leaves
        .into_iter()
        .flatten()
        .map(|x| values(&x.grad(&gradients).unwrap()));
    std::iter::once(values(&out)).chain(found).collect()
}

/// Queries, keys and values of 2 rows, 4 heads over `kv_heads`, 5 queries, 7 keys, head_dim 8, value_dim 6.
fn problem(kv_heads: usize) -> [Tensor<4>; 3] {
    let device = Device::flex().autodiff();
    [
        random([2, 4, 5, 8], 1, &device),
        random([2, kv_heads, 7, 8], 2, &device),
        random([2, kv_heads, 7, 6], 3, &device),
    ]
}

fn assert_both_agree(problem: &[Tensor<4>; 3], options: &AttentionOptions, what: &str) {
    let (fused, plain) = (
        run(operation::attention, problem, options),
        run(composed::attention, problem, options),
    );
    for ((fused, plain), part) in fused
        .iter()
        .zip(&plain)
        .zip(["out", "d_q", "d_k", "d_v", "d_bias"])
    {
        assert_close(fused, plain, &format!("{what}, {part}"));
    }
}

#[test]
fn the_fused_path_and_the_composition_agree() {
    let device = Device::flex().autodiff();
    let bias = |shape| Some(random::<4>(shape, 7, &device));
    for kv_heads in [4, 2, 1] {
        let problem = problem(kv_heads);
        for causal in [
            None,
            Some(Causal::TopLeft),
            Some(Causal::BottomRight),
            Some(Causal::Offset(-2)),
        ] {
            for visible_keys in [None, Some(vec![7, 3]), Some(vec![0, 7])] {
                for bias in [
                    None,
                    bias([2, 4, 5, 7]),
                    bias([1, 4, 1, 7]),
                    bias([1, 1, 5, 1]),
                ] {
                    let what = format!(
                        "{kv_heads} {causal:?} {visible_keys:?} {:?}",
                        bias.as_ref().map(Tensor::dims)
                    );
                    let options = AttentionOptions {
                        scale: Some(0.4),
                        causal,
                        visible_keys: visible_keys.clone(),
                        bias,
                    };
                    assert_both_agree(&problem, &options, &what);
                }
            }
        }
    }
}

#[test]
fn views_are_read_with_their_strides() {
    let device = Device::flex().autodiff();
    // [batch, sequence, heads, head_dim] seen as [batch, heads, sequence, head_dim].
    let view = |sequence, step| random::<4>([2, sequence, 4, 8], step, &device).swap_dims(1, 2);
    assert_both_agree(
        &[view(5, 1), view(7, 2), view(7, 3)],
        &AttentionOptions::default(),
        "swapped",
    );
    let flipped = |step| random::<4>([2, 4, 7, 8], step, &device).flip([2]);
    assert_both_agree(
        &[flipped(1), flipped(2), flipped(3)],
        &AttentionOptions::default(),
        "flipped",
    );
    let broadcast = |step| random::<4>([1, 1, 7, 8], step, &device).expand([2, 4, 7, 8]);
    assert_both_agree(
        &[broadcast(1), view(7, 2), broadcast(3)],
        &AttentionOptions::default(),
        "broadcast",
    );
    let part = |step| random::<4>([2, 4, 9, 8], step, &device).narrow(2, 1, 7);
    assert_both_agree(
        &[part(1), part(2), part(3)],
        &AttentionOptions::default(),
        "narrowed",
    );
}

#[test]
fn a_query_that_sees_nothing_gives_zero_and_no_nan() {
    let problem = problem(4);
    let device = Device::flex().autodiff();
    let hidden = Tensor::<4>::full([1, 1, 5, 7], f32::NEG_INFINITY, &device);
    for (options, what) in [
        (
            AttentionOptions {
                visible_keys: Some(vec![0, 0]),
                ..Default::default()
            },
            "no visible keys",
        ),
        (
            AttentionOptions {
                causal: Some(Causal::Offset(-9)),
                ..Default::default()
            },
            "all keys in the future",
        ),
        (
            AttentionOptions {
                bias: Some(hidden),
                ..Default::default()
            },
            "a bias of −∞",
        ),
    ] {
        for attend in [operation::attention, composed::attention] {
            for part in run(attend, &problem, &options) {
                assert!(part.iter().all(|value| *value == 0.0), "{what}");
            }
        }
    }
}

#[test]
fn what_is_hidden_cannot_change_the_answer() {
    let device = Device::flex();
    let (q, k, v) = (
        random([2, 2, 3, 8], 1, &device),
        random([2, 2, 6, 8], 2, &device),
        random([2, 2, 6, 8], 3, &device),
    );
    let options = AttentionOptions {
        visible_keys: Some(vec![4, 1]),
        ..Default::default()
    };
    let before = operation::attention(q.clone(), k.clone(), v.clone(), &options);
    let poison = Tensor::<4>::full([2, 2, 2, 8], f32::NAN, &device);
    let spoil = |x: Tensor<4>| Tensor::cat(vec![x.narrow(2, 0, 4), poison.clone()], 2);
    let after = operation::attention(q, spoil(k), spoil(v), &options);
    assert_eq!(values(&before), values(&after));
}

#[test]
fn weights_are_the_kernels_definition_and_mix_to_the_output() {
    let device = Device::flex();
    let (q, k, v) = (
        random([2, 4, 5, 8], 1, &device),
        random([2, 2, 7, 8], 2, &device),
        random([2, 2, 7, 6], 3, &device),
    );
    let options = AttentionOptions {
        causal: Some(Causal::BottomRight),
        visible_keys: Some(vec![7, 3]),
        bias: Some(random([1, 4, 1, 7], 4, &device)),
        scale: None,
    };
    let weights = operation::attention_weights(q.clone(), k.clone(), &options);
    assert_close(
        &values(&composed::attention_weights(q.clone(), k.clone(), &options)),
        &values(&weights),
        "weights",
    );
    // Each key head serves two query heads in a row.
    let spread = v
        .clone()
        .reshape([2, 2, 1, 7, 6])
        .expand([2, 2, 2, 7, 6])
        .reshape([2, 4, 7, 6]);
    let mixed = values(&weights.matmul(spread));
    assert_close(
        &values(&operation::attention(q, k, v, &options)),
        &mixed,
        "mixed by the weights",
    );
}

#[test]
#[should_panic(expected = "`visible_keys`")]
fn one_number_of_visible_keys_per_batch_row() {
    let [q, k, v] = problem(4);
    operation::attention(
        q,
        k,
        v,
        &AttentionOptions {
            visible_keys: Some(vec![1]),
            ..Default::default()
        },
    );
}

/// Compares a fused operation with its composition, values and gradient.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a case builds its input in the call"
)]
fn compare<const D: usize, const O: usize>(
    x: Tensor<D>,
    fused: impl Fn(Tensor<D>) -> Tensor<O>,
    plain: impl Fn(Tensor<D>) -> Tensor<O>,
) {
    let both = [&fused as &dyn Fn(Tensor<D>) -> Tensor<O>, &plain].map(|f| {
        let x = x.clone().require_grad();
        let out = f(x.clone());
        let seed = random(out.dims(), 99, &out.device());
        let gradients = (out.clone() * seed).sum().backward();
        (values(&out), values(&x.grad(&gradients).unwrap()))
    });
    assert_close(&both[0].0, &both[1].0, "out");
    assert_close(&both[0].1, &both[1].1, "d_x");
}

#[test]
fn gelu_norm_and_rotary_are_what_they_are_composed_of() {
    let device = Device::flex().autodiff();
    let ramp: Vec<f32> = (-12_000..12_000).map(|step| step as f32 / 1000.0).collect();
    let ramp = Tensor::<2>::from_data(TensorData::new(ramp, [24, 1000]), &device);
    compare(ramp, operation::gelu, composed::gelu);
    let x = random([70, 3, 13], 1, &device);
    let (weight, bias) = (random([13], 2, &device), random([13], 3, &device));
    compare(
        x * 3.0 + 2.0,
        |x| operation::layer_norm(x, weight.clone(), bias.clone(), 1e-5),
        |x| composed::layer_norm(x, weight.clone(), bias.clone(), 1e-5),
    );
    let x = random::<4>([2, 300, 3, 8], 4, &device).swap_dims(1, 2);
    compare(
        x,
        |x| operation::rotary(x, 1e4),
        |x| composed::rotary(x, 1e4),
    );
}

#[test]
fn an_infinite_or_missing_number_passes_through_gelu_as_it_should() {
    let device = Device::flex();
    let x = Tensor::<1>::from_floats(
        [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -100.0],
        &device,
    );
    let out = values(&operation::gelu(x));
    assert_eq!(out[0], f32::INFINITY);
    assert!(out[2].is_nan());
    assert_eq!(out[3], 0.0);
    assert!(out[4].abs() < f32::MIN_POSITIVE, "the tail vanishes");
}

#[test]
#[should_panic(expected = "id 5 in a table of 5 rows")]
fn an_id_beyond_the_table_is_named() {
    let device = Device::flex();
    let ids = Tensor::<2, burn::tensor::Int>::from_data([[5]], &device);
    operation::embedding(random([5, 2], 1, &device), ids);
}

/// Output of a multi-head attention, and the gradients of its sequences and maps.
fn run_heads(
    attend: fn(Tensor<3>, Option<Tensor<3>>, [Map; 3], &Heads) -> Tensor<3>,
    sequences: &[Tensor<3>],
    heads: &Heads,
) -> Vec<Vec<f32>> {
    let device = sequences[0].device();
    let sequences: Vec<Tensor<3>> = sequences.iter().map(|x| x.clone().require_grad()).collect();
    let outputs = [heads.heads, heads.kv_heads, heads.kv_heads].map(|count| 6 * count);
    let maps: [Map; 3] = std::array::from_fn(|at| {
        let step = 10 + 2 * at as u64;
        (
            // Of a size that keeps that of what passes, as layers have it.
            (random([9, outputs[at]], step, &device) * 0.3).require_grad(),
            random([outputs[at]], step + 1, &device).require_grad(),
        )
    });
    let out = attend(
        sequences[0].clone(),
        sequences.get(1).cloned(),
        maps.clone(),
        heads,
    );
    let seed = random(out.dims(), 99, &out.device());
    let gradients = (out.clone() * seed).sum().backward();
    let of_sequences = sequences
        .iter()
        .map(|x| values(&x.grad(&gradients).unwrap()));
    let of_maps = maps.iter().flat_map(|(weight, bias)| {
        [
            values(&weight.grad(&gradients).unwrap()),
            values(&bias.grad(&gradients).unwrap()),
        ]
    });
    std::iter::once(values(&out))
        .chain(of_sequences)
        .chain(of_maps)
        .collect()
}

#[test]
fn multi_head_attention_in_place_is_that_of_moved_heads() {
    let device = Device::flex().autodiff();
    let (x, source) = (random([3, 5, 9], 1, &device), random([3, 7, 9], 2, &device));
    for sequences in [vec![x.clone()], vec![x, source]] {
        for (causal, visible_keys) in [
            (None, None),
            (Some(Causal::TopLeft), None),
            (None, Some(vec![5, 0, 2])),
        ] {
            for (kv_heads, rotary) in [(4, None), (2, Some(1e4)), (1, Some(10.0))] {
                let heads = Heads {
                    heads: 4,
                    kv_heads,
                    causal,
                    visible_keys: visible_keys.clone(),
                    rotary,
                };
                let fused = run_heads(operation::multi_head, &sequences, &heads);
                let plain = run_heads(composed::multi_head, &sequences, &heads);
                for (part, (fused, plain)) in fused.iter().zip(&plain).enumerate() {
                    assert_close(fused, plain, &format!("{heads:?}, part {part}"));
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "multi-head: a weight")]
fn maps_of_another_size_than_the_heads_are_refused() {
    let device = Device::flex();
    let map = |outputs| {
        (
            random([9, outputs], 1, &device),
            random([outputs], 2, &device),
        )
    };
    let heads = Heads {
        heads: 4,
        kv_heads: 2,
        causal: None,
        visible_keys: None,
        rotary: None,
    };
    let x = random([1, 2, 9], 3, &device);
    operation::multi_head(x, None, [map(24), map(24), map(12)], &heads);
}

#[test]
fn a_linear_map_is_what_it_is_composed_of() {
    let device = Device::flex().autodiff();
    let (weight, bias) = (random([13, 70], 2, &device), random([70], 3, &device));
    compare(
        random([50, 13], 1, &device),
        |x| operation::linear(x, weight.clone(), bias.clone()),
        |x| composed::linear(x, weight.clone(), bias.clone()),
    );
    let (x, bias) = (random([50, 13], 1, &device), random([70], 3, &device));
    compare(
        random([13, 70], 2, &device),
        |weight| operation::linear(x.clone(), weight, bias.clone()),
        |weight| composed::linear(x.clone(), weight, bias.clone()),
    );
    compare(
        random([70], 3, &device),
        |bias| operation::linear(x.clone(), weight.clone(), bias),
        |bias| composed::linear(x.clone(), weight.clone(), bias),
    );
}
