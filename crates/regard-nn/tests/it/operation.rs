//! The fused operations against their composition, and what a mask means.

use burn::tensor::{Device, Tensor, TensorData};
use regard_nn::operation::{self, AttentionOptions, Heads, Map, Normalisation, Residual, composed};
use regard_nn::{Causal, Noise, Sequences};

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
    assert_eq!(out[1], 0.0, "the tail vanishes");
    assert!(out[2].is_nan());
    assert_eq!(out[3], 0.0);
    assert!(out[4].abs() < f32::MIN_POSITIVE, "the tail vanishes");
}

#[test]
#[should_panic(expected = "id 5 in a table of 5 rows")]
fn an_id_beyond_the_table_is_named() {
    let device = Device::flex();
    let ids = Tensor::<1, burn::tensor::Int>::from_data([5], &device);
    operation::embedding(random([5, 2], 1, &device), ids);
}

type MultiHead = fn(
    Tensor<2>,
    &Sequences,
    Option<(Tensor<2>, &Sequences)>,
    Normalisation,
    [Map; 4],
    &Heads,
    Residual,
) -> Tensor<2>;

#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands where the operation does"
)]
fn composed_heads(
    x: Tensor<2>,
    sequences: &Sequences,
    source: Option<(Tensor<2>, &Sequences)>,
    norm: Normalisation,
    maps: [Map; 4],
    heads: &Heads,
    residual: Residual,
) -> Tensor<2> {
    composed::multi_head(x, sequences, source, norm, maps, heads, &residual)
}

/// What queries, keys, values and output are mapped with: of sizes that keep that of what passes, as layers have them.
fn maps(heads: &Heads, device: &Device) -> [Map; 4] {
    let [q, kv] = [heads.heads, heads.kv_heads].map(|count| 6 * count);
    let mut step = 8;
    [[9, q], [9, kv], [9, kv], [q, 9]].map(|shape| {
        step += 2;
        let weight = random(shape, step, device) * 0.3;
        (weight, random([shape[1]], step + 1, device))
    })
}

fn norm(device: &Device) -> Normalisation {
    Normalisation {
        weight: random([9], 30, device),
        bias: random([9], 31, device),
        epsilon: 1e-5,
    }
}

/// Output of the attention half of a layer, and the gradients of its sequences, its norm and its maps.
fn run_heads(
    attend: MultiHead,
    [lengths, of_source]: [&Sequences; 2],
    over_itself: bool,
    heads: &Heads,
    residual: &Residual,
) -> Vec<Vec<f32>> {
    let device = &Device::flex().autodiff();
    let x = random([lengths.tokens(), 9], 1, device).require_grad();
    let source = random([of_source.tokens(), 9], 2, device).require_grad();
    let maps = maps(heads, device).map(|(w, b)| (w.require_grad(), b.require_grad()));
    let norm = norm(device);
    let norm = Normalisation {
        weight: norm.weight.require_grad(),
        bias: norm.bias.require_grad(),
        ..norm
    };
    let out = attend(
        x.clone(),
        lengths,
        (!over_itself).then(|| (source.clone(), of_source)),
        norm.clone(),
        maps.clone(),
        heads,
        residual.clone(),
    );
    let seed = random(out.dims(), 99, &out.device());
    let gradients = (out.clone() * seed).sum().backward();
    let mut found = vec![values(&out), values(&x.grad(&gradients).unwrap())];
    if !over_itself {
        found.push(values(&source.grad(&gradients).unwrap()));
    }
    for vector in [&norm.weight, &norm.bias] {
        found.push(values(&vector.grad(&gradients).unwrap()));
    }
    // Together: a bias of the keys adds the same to all scores of a query, so that its gradient is 0, and what is found
    // instead, where nothing is turned, is the rounding of sums as large as the others'.
    let biases = maps
        .iter()
        .map(|(_, bias)| values(&bias.grad(&gradients).unwrap()));
    found.push(biases.flatten().collect());
    for (weight, _) in &maps {
        found.push(values(&weight.grad(&gradients).unwrap()));
    }
    found
}

#[test]
fn half_a_layer_of_packed_sequences_is_what_it_is_composed_of() {
    let noise = &mut Noise::at(2, 2);
    for (queries, keys) in [([5, 5, 5], [7, 7, 7]), ([5, 1, 3], [2, 7, 1])] {
        let [queries, keys] = [queries, keys].map(Sequences::new);
        let residuals = [Residual::default(), noise.residual(0.2, 0.4, &queries)];
        for (over_itself, causal, kv_heads, rotary) in [
            (true, None, 4, None),
            (true, Some(Causal::TopLeft), 2, Some(1e4)),
            (true, Some(Causal::BottomRight), 1, Some(10.0)),
            (false, None, 4, Some(1e4)),
            (false, None, 1, None),
        ] {
            let heads = Heads {
                heads: 4,
                kv_heads,
                causal,
                rotary,
            };
            for residual in &residuals {
                let run = |attend: MultiHead| {
                    run_heads(attend, [&queries, &keys], over_itself, &heads, residual)
                };
                let (fused, plain) = (run(operation::multi_head), run(composed_heads));
                for (part, (fused, plain)) in fused.iter().zip(&plain).enumerate() {
                    assert_close(fused, plain, &format!("{heads:?}, part {part}"));
                }
            }
        }
    }
}

#[test]
fn an_answer_is_what_a_step_of_training_computes() {
    let heads = Heads {
        heads: 4,
        kv_heads: 2,
        causal: None,
        rotary: Some(1e4),
    };
    let (device, lengths) = (Device::flex(), Sequences::new([5, 1, 3]));
    for over_itself in [true, false] {
        let residual = Residual::default();
        let both = [&lengths, &lengths];
        let expected = run_heads(operation::multi_head, both, over_itself, &heads, &residual);
        // The second time the weights are packed.
        let (norm, maps) = (norm(&device), maps(&heads, &device));
        for _ in 0..2 {
            let source = (!over_itself).then(|| (random([9, 9], 2, &device), &lengths));
            let out = operation::multi_head(
                random([9, 9], 1, &device),
                &lengths,
                source,
                norm.clone(),
                maps.clone(),
                &heads,
                residual.clone(),
            );
            assert_eq!(values(&out), expected[0]);
        }
    }
}

#[test]
#[should_panic(expected = "multi-head: a weight")]
fn maps_of_another_size_than_the_heads_are_refused() {
    let device = Device::flex();
    let mut heads = Heads {
        heads: 4,
        kv_heads: 2,
        causal: None,
        rotary: None,
    };
    let maps = maps(&heads, &device);
    heads.kv_heads = 1;
    let (x, residual) = (random([2, 9], 3, &device), Residual::default());
    let sequences = Sequences::equal(1, 2);
    operation::multi_head(x, &sequences, None, norm(&device), maps, &heads, residual);
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
