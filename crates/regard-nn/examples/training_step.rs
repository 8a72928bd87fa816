//! One step of training, or one answer, at a time: what `bench/training.py` drives beside PyTorch, turn by turn.
//!
//! Run with: `cargo run --release -p regard-nn --example training_step -- CASE PARAMETERS PRECISION`
//!
//! `CASE` is `classifier`, `translator`, `compact` or `patches`, `PRECISION` what matrix products are computed with: `f32` or
//! `bf16`. The parameters are written to the file `PARAMETERS`
//! (safetensors), so that the rival starts with the same. Then it reads a line and answers with a line:
//!
//! ```text
//! step          seconds of forward, backward and optimizer, and the loss
//! answer ROWS   seconds of a forward pass over so many rows without gradients, and the mean square of what it gives
//! ```

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

use std::error::Error;
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_kernels::{Precision, threads};
use regard_nn::layers::Cut;
use regard_nn::models::sequence_to_sequence::SequenceToSequenceConfig;
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifierConfig};
use regard_nn::models::vision_transformer::{Summary, VisionTransformerConfig};
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::parameters::{self, NamedTensor};
use regard_nn::{Noise, Sequences};
use safetensors::{Dtype, tensor::TensorView};

/// As the binary: the system's allocator gives the pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: usize = 8_000;
const CLASSES: usize = 10;
const RATE: f64 = 1e-4;
/// Rows that a thread answers at a time, as the tasks that classify share out what they are asked.
const PART: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, file, precision] = arguments.as_slice() else {
        return Err("CASE PARAMETERS PRECISION".into());
    };
    let file = Path::new(file);
    match precision.as_str() {
        "f32" => Precision::F32.run(|| serve_case(case, file)),
        "bf16" => Precision::Bf16.run(|| serve_case(case, file)),
        _ => Err(format!("no precision `{precision}`").into()),
    }
}

fn serve_case(case: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    match case {
        "classifier" => serve(
            classifier().init(1, &device),
            file,
            (32, texts),
            |model, texts| negative_log(model.forward(texts, &mut Noise::off())),
            |model, texts| mean_square(model.forward(texts, &mut Noise::off())),
        ),
        "translator" => serve(
            translator().init(1, &device),
            file,
            (64, |rows, _: &Device| sentences(rows)),
            |model, (sources, targets)| {
                let (sources, targets) = (slices(sources), slices(targets));
                let (loss, count) = model.loss(&sources, &targets, 0.1, &mut Noise::off());
                loss.div_scalar(count as f32)
            },
            |model, (sources, targets)| {
                let (sources, targets) = (slices(sources), slices(targets));
                mean_square(model.forward(&sources, &targets, &mut Noise::off()))
            },
        ),
        "compact" | "patches" => {
            let config = vision(case);
            let sides = [config.picture_height, config.picture_width, config.channels];
            serve(
                config.init(1, &device)?,
                file,
                (128, |rows, device: &Device| pictures(rows, sides, device)),
                |model, x| negative_log(model.forward(x.clone(), &mut Noise::off())),
                |model, x| mean_square(model.forward(x.clone(), &mut Noise::off())),
            )
        }
        _ => Err(format!("no case `{case}`").into()),
    }
}

/// Reads lines and answers them. `rows` are learned from in each step.
fn serve<M: Module + Sync, I: Sync>(
    model: M,
    file: &Path,
    (rows, input): (usize, impl Fn(Range<usize>, &Device) -> I),
    loss: impl Fn(&M, &I) -> Tensor<1>,
    answer: impl Fn(&M, &I) -> f32 + Sync,
) -> Result<(), Box<dyn Error>> {
    let mut model = stirred(model)?;
    write(&parameters::collect(&model), file)?;
    let mut optimizer = AdamW::new(AdamWConfig {
        clip_norm: Some(1.0),
        ..AdamWConfig::default()
    });
    let learned_from = input(0..rows, &Device::flex().autodiff());
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "step" => {
                let started = Instant::now();
                let loss = loss(&model, &learned_from);
                let value = loss.clone().into_scalar::<f32>();
                let forward = Instant::now();
                let gradients = loss.backward();
                let backward = Instant::now();
                let (stepped, facts) = optimizer.step(model, gradients, RATE);
                model = stepped;
                let end = Instant::now();
                if let Some(parameter) = facts.non_finite {
                    return Err(format!("the gradient of {parameter} is not finite").into());
                }
                let parts = [forward - started, backward - forward, end - backward];
                let [forward, backward, optimizer] = parts.map(|part| part.as_secs_f64());
                println!("{forward} {backward} {optimizer} {value}");
            }
            Some(("answer", rows)) => {
                let (model, rows) = (model.valid(), rows.parse::<usize>()?);
                let parts = (0..rows).step_by(PART);
                let parts = parts.map(|first| first..rows.min(first + PART));
                let of_device = |rows: Range<usize>| (rows.len(), input(rows, &Device::flex()));
                let parts: Vec<(usize, I)> = parts.map(of_device).collect();
                let started = Instant::now();
                let square = |(rows, input): &(usize, I)| *rows as f32 * answer(&model, input);
                let squares = threads::side_by_side(&parts, square);
                let square = squares.iter().sum::<f32>() / rows as f32;
                println!("{} {square}", started.elapsed().as_secs_f64());
            }
            _ => return Err(format!("cannot answer `{line}`").into()),
        }
    }
    Ok(())
}

/// Numbers in the place of matrices of zeros, behind which nothing else would be seen.
fn stirred<M: Module>(model: M) -> Result<M, Box<dyn Error>> {
    let mut tensors = parameters::collect(&model);
    for (at, tensor) in tensors.iter_mut().enumerate() {
        if tensor.shape.len() == 2 && tensor.values.iter().all(|value| *value == 0.0) {
            let values = Noise::at(5, at as u64).normal(tensor.values.len());
            tensor.values = values.into_iter().map(|value| 0.02 * value).collect();
        }
    }
    Ok(parameters::load(model, tensors)?)
}

fn write(tensors: &[NamedTensor], file: &Path) -> Result<(), Box<dyn Error>> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
        views.push((tensor.name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, file)?;
    Ok(())
}

/// The number `at` of a fixed sequence that looks like none: the rival computes the same.
fn mixed(at: usize, below: usize) -> usize {
    ((at.wrapping_mul(2_654_435_761) % (1 << 32)) >> 8) % below
}

fn negative_log(logits: Tensor<2>) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    let mut wanted = vec![0.0_f32; rows * classes];
    for row in 0..rows {
        wanted[row * classes + mixed(row, classes)] = -1.0 / rows as f32;
    }
    let wanted = TensorData::new(wanted, [rows, classes]);
    let wanted = Tensor::<2>::from_data(wanted, &logits.device().inner());
    (log_softmax(logits, 1) * wanted).sum()
}

fn mean_square(out: Tensor<2>) -> f32 {
    out.square().mean().into_scalar()
}

/// 4 layers of width 256, texts of 128 tokens.
fn classifier() -> TextClassifierConfig {
    TextClassifierConfig {
        kind: Kind::Transformer,
        vocabulary: VOCABULARY,
        bigram_buckets: 0,
        classes: CLASSES,
        width: 256,
        layers: 4,
        heads: 4,
        feed_forward: 1024,
        pooling_heads: 1,
        max_tokens: 128,
        dropout: 0.0,
    }
}

fn texts(rows: Range<usize>, device: &Device) -> TextBatch {
    let ids = (rows.start * 128..rows.end * 128).map(|at| mixed(at, VOCABULARY) as i32);
    let ids = TensorData::new::<i32, _>(ids.collect(), [rows.len() * 128]);
    TextBatch {
        tokens: Tensor::<1, Int>::from_data(ids, device),
        bigrams: None,
        texts: Sequences::equal(rows.len(), 128),
    }
}

/// 3 + 3 layers of width 256.
fn translator() -> SequenceToSequenceConfig {
    SequenceToSequenceConfig {
        vocabulary: VOCABULARY,
        source_vocabulary: None,
        pointer: false,
        width: 256,
        heads: 4,
        encoder_layers: 3,
        decoder_layers: 3,
        feed_forward: 1024,
        max_source: 64,
        max_target: 64,
        dropout: 0.0,
    }
}

/// Sources of 64 tokens and targets of 63 and their end: with 64 of each 4,096 positions a side.
fn sentences(rows: Range<usize>) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let ids = |start: usize, length: usize| -> Vec<Vec<u32>> {
        let id = |at: usize| mixed(at, VOCABULARY - 1) as u32;
        rows.clone()
            .map(|row| {
                (0..length)
                    .map(|at| id(start + row * length + at))
                    .collect()
            })
            .collect()
    };
    (ids(0, 64), ids(1 << 20, 63))
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

/// `compact`: pictures of 28×28 through two convolutions, 0.5 M parameters. `patches`: of 32×32×3 in patches of 4, 2.7 M.
fn vision(case: &str) -> VisionTransformerConfig {
    let small = VisionTransformerConfig::preset("small").expect("a preset of that name");
    match case {
        "compact" => small,
        _ => VisionTransformerConfig {
            picture_height: 32,
            picture_width: 32,
            channels: 3,
            cut: Cut::Patches { size: 4 },
            summary: Summary::ClassToken,
            width: 192,
            layers: 6,
            heads: 3,
            feed_forward: 768,
            ..small
        },
    }
}

fn pictures(
    rows: Range<usize>,
    [height, width, channels]: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    let count = height * width * channels;
    let pixel = |at: usize| mixed(at, 1 << 16) as f32 / 32_768.0 - 1.0;
    let pixels: Vec<f32> = (rows.start * count..rows.end * count).map(pixel).collect();
    let shape = [rows.len(), height, width, channels];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}
