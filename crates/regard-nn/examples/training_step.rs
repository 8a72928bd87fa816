//! Times training steps of a text classifier: forward, backward, optimizer.
//!
//! Run with: `cargo run --release -p regard-nn --example training_step [mean|pooling|transformer] [bigram buckets]`

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::time::Instant;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_nn::Noise;
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifierConfig};
use regard_nn::optimizer::{AdamW, AdamWConfig};

const BATCH: usize = 32;
const TOKENS: usize = 128;
const STEPS: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = match arguments.first().map(String::as_str) {
        Some("mean") => Kind::Mean,
        Some("pooling") => Kind::Pooling,
        _ => Kind::Transformer,
    };
    let bigram_buckets = arguments
        .get(1)
        .and_then(|buckets| buckets.parse().ok())
        .unwrap_or(0);
    let config = TextClassifierConfig {
        kind,
        vocabulary: 8_000,
        bigram_buckets,
        classes: 8,
        width: 128,
        layers: 2,
        heads: 4,
        feed_forward: 512,
        pooling_heads: 4,
        max_tokens: TOKENS,
        dropout: 0.1,
    };
    let device = Device::flex().autodiff();
    let mut model = config.init(1, &device);
    let mut optimizer = AdamW::new(AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    });
    let mut times = [const { Vec::new() }; 4];
    for step in 0..STEPS as u64 {
        let mut noise = Noise::at(1, step);
        let ids = |noise: &mut Noise, below: usize| {
            let ids = noise
                .uniform(BATCH * TOKENS)
                .into_iter()
                .map(|u| (u * below as f32) as i32)
                .collect();
            Tensor::<2, Int>::from_data(TensorData::new::<i32, _>(ids, [BATCH, TOKENS]), &device)
        };
        let batch = TextBatch {
            tokens: ids(&mut noise, 8_000),
            bigrams: (bigram_buckets > 0).then(|| ids(&mut noise, bigram_buckets)),
            lengths: vec![TOKENS; BATCH],
        };
        let start = Instant::now();
        let logits = model.forward(&batch, &mut noise);
        let loss = -log_softmax(logits, 1).narrow(1, 0, 1).mean();
        let forward = Instant::now();
        let gradients = loss.backward();
        let backward = Instant::now();
        (model, _) = optimizer.step(model, gradients, 1e-3);
        let end = Instant::now();
        let parts = [
            forward - start,
            backward - forward,
            end - backward,
            end - start,
        ];
        times
            .iter_mut()
            .zip(parts)
            .for_each(|(times, part)| times.push(part.as_secs_f64() * 1e3));
    }
    println!(
        "{} · {} × {} tokens · width 128 · {bigram_buckets} buckets, median of {STEPS} steps",
        kind.name(),
        BATCH,
        TOKENS
    );
    for (name, mut times) in ["forward", "backward", "optimizer", "step"]
        .into_iter()
        .zip(times)
    {
        times.sort_by(f64::total_cmp);
        println!(
            "{name:>10} {:7.2} ms (fastest {:.2})",
            times[STEPS / 2],
            times[0]
        );
    }
}
