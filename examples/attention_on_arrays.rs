//! Attention on plain arrays: the textbook's two steps, then the fused operation that never stores the weights.
//!
//! Run with `cargo run --example attention_on_arrays`.

#![expect(clippy::print_stdout, reason = "printing is what an example is for")]

use ndarray::{Array4, array};
use regard_kernels::{Attention, Causal, attention_weights, weighted_sum};

fn main() -> Result<(), regard_kernels::Error> {
    // Two queries look at three keys; each key has a value.
    let queries = array![[1.0, 0.0], [0.0, 2.0]];
    let keys = array![[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]];
    let values = array![[10.0], [20.0], [30.0]];
    let weights = attention_weights(queries.view(), keys.view())?;
    let sums = weighted_sum(weights.view(), values.view())?;
    println!(
        "weights, each row sums to 1:\n{weights:.4}\nweighted sums of the values:\n{sums:.4}\n"
    );

    // A batch of 2 texts, 8 heads, 512 positions, 64 numbers a head: layout [batch, heads, sequence, head_dim].
    let wave = |phase: f32| {
        Array4::from_shape_fn((2, 8, 512, 64), |(b, h, i, c)| {
            ((b + 3 * h + 5 * i + 7 * c) as f32 * 0.1 + phase).sin()
        })
    };
    let [q, k, v] = [wave(0.0), wave(1.0), wave(2.0)];
    let attention = Attention::new().causal(Causal::TopLeft);
    let forward = attention.forward(q.view(), k.view(), v.view())?;
    println!(
        "out: {:?}, log-sum-exp: {:?}",
        forward.out.dim(),
        forward.log_sum_exp.dim()
    );

    // The gradient of the sum of `out`, as training needs it.
    let d_out = Array4::ones(forward.out.dim());
    let (out, log_sum_exp) = (forward.out.view(), forward.log_sum_exp.view());
    let gradients =
        attention.backward(q.view(), k.view(), v.view(), out, log_sum_exp, d_out.view())?;
    println!("gradient of q: {:?}", gradients.q.dim());

    // On request, and only then, the weights themselves: query 0 sees only key 0, so its weight is 1.
    let weights = attention.weights(q.view(), k.view())?;
    println!(
        "weights: {:?}, of query 0 on key 0: {}",
        weights.dim(),
        weights[[0, 0, 0, 0]]
    );
    Ok(())
}
