//! How long an image classifier takes to answer, alone and in batches; `bench/vision.py` runs it beside PyTorch.
//!
//! ```text
//! cargo run --release -p regard-tasks --example picture_speed MODEL PICTURES BATCH ROUNDS
//! ```
//!
//! `PICTURES` holds pixels of the model's size one after the other, as bytes. Prints the median seconds of a batch.

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use regard_tasks::Task;
use regard_tasks::image_recognition::ImageClassifier;
use regard_tasks::pictures::Picture;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("MODEL PICTURES BATCH ROUNDS");
    let folder = PathBuf::from(next()?);
    let bytes = std::fs::read(next()?)?;
    let (batch, rounds): (usize, usize) = (next()?.parse()?, next()?.parse()?);
    let model = ImageClassifier::open(&folder)?;
    let [height, width, channels] = model.reads();
    let picture = |pixels: &[u8]| Picture {
        height,
        width,
        channels,
        pixels: pixels.to_vec(),
    };
    let pictures: Vec<Picture> = bytes
        .chunks_exact(height * width * channels)
        .map(picture)
        .collect();
    if batch == 0 || rounds == 0 || pictures.len() < batch {
        return Err(format!("{} pictures for a batch of {batch}", pictures.len()).into());
    }
    let mut seconds = Vec::with_capacity(rounds);
    for batch in pictures.chunks_exact(batch).cycle().take(rounds + 3) {
        let started = Instant::now();
        model.run(batch)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    // The first answers touch memory for the first time.
    let mut seconds = seconds.split_off(3);
    seconds.sort_by(f64::total_cmp);
    println!("{}", seconds[seconds.len() / 2]);
    Ok(())
}
