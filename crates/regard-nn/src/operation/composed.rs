//! The meaning of the fused operations, composed of Burn's own: for other devices, and to compare with.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use regard_kernels::Causal;

use super::{AttentionOptions, FeedForwardRules, Heads, Map, Normalisation, Residual, Windows};
use crate::Sequences;

/// As [`super::attention`].
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Tensor<4> {
    let [batch, heads, queries, _] = q.dims();
    let [_, _, keys, value_dim] = v.dims();
    if keys == 0 {
        return Tensor::zeros([batch, heads, queries, value_dim], &q.device());
    }
    let v = spread(v, heads);
    attention_weights(q, k, options).matmul(v)
}

/// As [`super::attention_weights`], differentiable.
pub fn attention_weights(q: Tensor<4>, k: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = q.dims();
    let keys = k.dims()[2];
    let device = q.device();
    let k = spread(k, heads);
    let scale = options
        .scale
        .unwrap_or_else(|| 1.0 / (head_dim.max(1) as f32).sqrt());
    let mut scores = q.matmul(k.swap_dims(2, 3)).mul_scalar(scale); // [batch, heads, queries, keys]
    if let Some(bias) = &options.bias {
        scores = scores + bias.clone();
    }
    let mut hidden = scores.clone().equal_elem(f32::NEG_INFINITY);
    if let Some(structure) = hidden_pairs(options, batch, queries, keys) {
        let structure = Tensor::<4, Bool>::from_data(structure, &device);
        hidden = hidden.bool_or(structure.expand([batch, heads, queries, keys]));
    }
    // A finite stand-in for −∞ keeps a row that sees nothing from 0/0; multiplying by `visible` makes it 0.
    let visible = hidden.clone().bool_not().float();
    softmax(scores.mask_fill(hidden, f32::MIN / 2.0), 3) * visible
}

/// Which pairs causality and padding hide, `[batch or 1, 1, queries, keys]`; `None` if none.
fn hidden_pairs(
    options: &AttentionOptions,
    batch: usize,
    queries: usize,
    keys: usize,
) -> Option<TensorData> {
    if options.causal.is_none() && options.visible_keys.is_none() {
        return None;
    }
    let offset = match options.causal {
        None => isize::MAX / 2,
        Some(Causal::TopLeft) => 0,
        Some(Causal::BottomRight) => keys as isize - queries as isize,
        Some(Causal::Offset(offset)) => offset,
    };
    if let Some(visible) = &options.visible_keys {
        assert_eq!(
            visible.len(),
            batch,
            "attention: `visible_keys` has one number per batch row"
        );
        if let Some(found) = visible.iter().find(|visible| **visible > keys) {
            panic!("attention: `visible_keys` holds {found}, expected at most {keys} keys");
        }
    }
    let rows: &[usize] = options.visible_keys.as_deref().unwrap_or(&[usize::MAX]);
    let mut hidden = Vec::with_capacity(rows.len() * queries * keys);
    for visible in rows {
        for query in 0..queries as isize {
            hidden.extend(
                (0..keys).map(|key| key >= *visible || key as isize > query.saturating_add(offset)),
            );
        }
    }
    Some(TensorData::new(hidden, [rows.len(), 1, queries, keys]))
}

/// Key heads repeated so that each query head has its own: `[batch, kv_heads, …] → [batch, heads, …]`.
fn spread(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, keys, dim] = x.dims();
    if kv_heads == heads {
        return x;
    }
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "attention: {kv_heads} key heads do not divide {heads} heads"
    );
    let group = heads / kv_heads;
    let x: Tensor<5> = x.reshape([batch, kv_heads, 1, keys, dim]);
    x.expand([batch, kv_heads, group, keys, dim])
        .reshape([batch, heads, keys, dim])
}

/// As [`super::layer_norm`].
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let last = D - 1;
    let centred = x.clone() - x.mean_dim(last);
    let variance = centred.clone().square().mean_dim(last);
    centred / (variance.add_scalar(epsilon)).sqrt() * weight.unsqueeze() + bias.unsqueeze()
}

/// As [`super::gelu`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::gelu(x)
}

/// As [`super::embedding`].
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    table.select(0, ids)
}

/// As [`super::rotary`].
pub fn rotary(x: Tensor<4>, base: f32) -> Tensor<4> {
    let [_, _, sequence, head_dim] = x.dims();
    let half = head_dim / 2;
    let (cosines, sines) = super::rotary::angles(sequence, half, base);
    let device = x.device();
    let table = |values: Vec<f32>| {
        Tensor::<4>::from_data(TensorData::new(values, [1, 1, sequence, half]), &device)
    };
    let (cosines, sines) = (table(cosines), table(sines));
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    Tensor::cat(
        vec![
            first.clone() * cosines.clone() - second.clone() * sines.clone(),
            second * cosines + first * sines,
        ],
        3,
    )
}

/// As [`super::linear`].
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    x.matmul(weight) + bias.unsqueeze()
}

/// As [`super::feed_forward`].
pub fn feed_forward(
    x: Tensor<2>,
    norm: Normalisation,
    inner: Map,
    outer: Map,
    rules: &FeedForwardRules,
) -> Tensor<2> {
    let normed = layer_norm(x.clone(), norm.weight, norm.bias, norm.epsilon);
    let activated = rules.activation.composed(linear(normed, inner.0, inner.1));
    let activated = match rules.mask {
        Some(mask) => super::dropout(activated, mask),
        None => activated,
    };
    let part = linear(activated, outer.0, outer.1);
    rules.residual.joined(x, part)
}

/// As [`super::multi_head`]: padded for the attention alone.
pub fn multi_head(
    x: Tensor<2>,
    sequences: &Sequences,
    source: Option<(Tensor<2>, &Sequences)>,
    norm: Normalisation,
    [query, key, value, output]: [Map; 4],
    heads: &Heads,
    residual: &Residual,
) -> Tensor<2> {
    let normed = layer_norm(x.clone(), norm.weight, norm.bias, norm.epsilon);
    let (source, of_source) = source.unwrap_or_else(|| (normed.clone(), sequences));
    let project = |x: Tensor<2>, of: &Sequences, (weight, bias): Map, count: usize| {
        let padded = of.padded(linear(x, weight, bias));
        let [batch, longest, outputs] = padded.dims();
        padded
            .reshape([batch, longest, count, outputs / count])
            .swap_dims(1, 2)
    };
    let mut q = project(normed, sequences, query, heads.heads);
    let mut k = project(source.clone(), of_source, key, heads.kv_heads);
    let v = project(source, of_source, value, heads.kv_heads);
    if let Some(base) = heads.rotary {
        (q, k) = (rotary(q, base), rotary(k, base));
    }
    let options = AttentionOptions {
        causal: heads.causal,
        // Without padding nothing is hidden, and no mask is made for it.
        visible_keys: (!of_source.are_equal()).then(|| of_source.lengths().collect()),
        ..AttentionOptions::default()
    };
    let mixed = attention(q, k, v, &options); // [batch, heads, queries, head_dim]
    let [batch, count, queries, head_dim] = mixed.dims();
    let mixed = mixed
        .swap_dims(1, 2)
        .reshape([batch, queries, count * head_dim]);
    let part = linear(sequences.packed(mixed), output.0, output.1);
    residual.joined(x, part)
}

/// As [`super::cross_entropy`].
pub fn cross_entropy(
    h: Tensor<2>,
    table: Tensor<2>,
    targets: &[usize],
    smoothing: f32,
) -> Tensor<1> {
    let (rows, [classes, _]) = (targets.len(), table.dims());
    let mut wanted = vec![smoothing / classes as f32; rows * classes];
    for (row, target) in wanted.chunks_mut(classes).zip(targets) {
        row[*target] += 1.0 - smoothing;
    }
    let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [rows, classes]), &h.device());
    let logits = h.matmul(table.transpose());
    (burn::tensor::activation::log_softmax(logits, 1) * wanted)
        .sum()
        .neg()
}

/// As [`super::copying_cross_entropy`].
pub fn copying_cross_entropy(
    h: Tensor<2>,
    table: Tensor<2>,
    [own, copied]: [Tensor<1>; 2],
    targets: &[usize],
    smoothing: f32,
) -> Tensor<1> {
    let rows = targets.len();
    let logits = h.matmul(table.transpose());
    let log_p = burn::tensor::activation::log_softmax(logits, 1);
    let ids: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
    let ids = Tensor::from_data(TensorData::new(ids, [rows, 1]), &log_p.device());
    let written = log_p.clone().gather(1, ids).reshape([rows]) + own;
    let larger = written.clone().max_pair(copied.clone());
    let sum = (written - larger.clone()).exp() + (copied - larger.clone()).exp();
    let chosen = larger + sum.log();
    (chosen * (1.0 - smoothing) + log_p.mean_dim(1).reshape([rows]) * smoothing)
        .sum()
        .neg()
}

/// As [`super::convolution`].
pub fn convolution(x: Tensor<4>, weight: Tensor<2>, windows: Windows) -> Tensor<4> {
    let ([batch, height, width, channels], Windows { size, stride, .. }) = (x.dims(), windows);
    let (rows, columns) = (windows.along(height), windows.along(width));
    let padded = padded(x, windows);
    let mut places = Vec::with_capacity(size * size);
    for i in 0..size {
        for j in 0..size {
            places.push(strided(padded.clone(), [i, j], [rows, columns], stride));
        }
    }
    // size² × [batch, rows, columns, channels]: the places of a window stand before its channels.
    let unfolded = Tensor::cat(places, 3).reshape([batch * rows * columns, size * size * channels]);
    let outputs = weight.dims()[1];
    unfolded
        .matmul(weight)
        .reshape([batch, rows, columns, outputs])
}

/// As [`super::max_pool`].
pub fn max_pool(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let (rows, columns) = (windows.along(height), windows.along(width));
    let padded = padded(x, windows);
    let mut largest: Option<Tensor<4>> = None;
    for i in 0..windows.size {
        for j in 0..windows.size {
            let place = strided(padded.clone(), [i, j], [rows, columns], windows.stride);
            largest = Some(match largest {
                Some(largest) => largest.max_pair(place),
                None => place,
            });
        }
    }
    let largest = largest.expect("a window has at least one place");
    burn::tensor::activation::relu(largest)
}

/// With zeros around the picture.
fn padded(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (device, padding) = (x.device(), windows.padding);
    let edge = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    if padding == 0 {
        return x;
    }
    let side = edge([batch, height, padding, channels]);
    let x = Tensor::cat(vec![side.clone(), x, side], 2);
    let side = edge([batch, padding, width + 2 * padding, channels]);
    Tensor::cat(vec![side.clone(), x, side], 1)
}

/// Every `stride`-th row and column from `start`, so many of each.
fn strided(x: Tensor<4>, start: [usize; 2], count: [usize; 2], stride: usize) -> Tensor<4> {
    let pick = |axis: usize| -> Tensor<1, Int> {
        let places = (0..count[axis])
            .map(|at| (start[axis] + at * stride) as i32)
            .collect();
        Tensor::from_data(
            TensorData::new::<i32, _>(places, [count[axis]]),
            &x.device().inner(),
        )
    };
    let (rows, columns) = (pick(0), pick(1));
    x.select(1, rows).select(2, columns)
}
