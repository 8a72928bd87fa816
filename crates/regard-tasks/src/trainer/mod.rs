//! The training loop that every task shares: optimise, validate, keep the best, stop early, survive a kill.
//!
//! Every random choice is a function of `(seed, step)` and the data order a function of `(seed, epoch)`; the clock
//! decides only when a checkpoint is written, never what is in it. So a run that was killed and resumed ends with the
//! same bits as one that was not.

mod average;
mod batches;
mod checkpoint;
mod events;
mod schedule;

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use regard_kernels::product_time;
use regard_nn::Noise;
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::parameters::{self, NamedTensor};

use average::Average;
pub(crate) use batches::batches;
pub use checkpoint::{Checkpoint, Progress};
pub use events::{Event, Listener};
pub use schedule::Schedule;

use crate::report::{CurvePoint, TrainingFacts};
use crate::{Error, Precision, Result};

/// What a task brings to the loop.
pub trait Learner {
    /// The model that learns.
    type Model: Module;

    /// Rows of every batch of an epoch, in order; a function of the seed and the epoch alone.
    fn batches(&self, epoch: usize) -> Vec<Vec<usize>>;

    /// Begins whatever can be done for a batch while the one before it is learned from. It decides nothing.
    fn expect(&self, _rows: &[usize]) {}

    /// Mean loss of the rows, a tensor of one element.
    fn loss(&self, model: &Self::Model, rows: &[usize], noise: &mut Noise) -> Result<Tensor<1>>;

    /// Tokens (or pictures) in the rows, for the rate shown.
    fn tokens(&self, rows: &[usize]) -> usize;

    /// What [`tokens`](Self::tokens) counts.
    fn unit(&self) -> &'static str {
        "tokens"
    }

    /// Whether a parameter of two axes is a matrix inside the network, which Muon may step: no table of vectors, not the
    /// last map.
    fn is_hidden(&self, _parameter: &str) -> bool {
        false
    }

    /// Scores the model on the validation part.
    fn validate(&self, model: &Self::Model) -> Result<Validation>;
}

/// Scores on the validation part.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// Mean loss.
    pub loss: f64,
    /// The task's own score, the larger the better: what decides which epoch is kept.
    pub score: f64,
    /// All scores in words, for who watches: `accuracy 0.912  macro-F1 0.880`.
    pub said: String,
    /// What the model makes of some rows, a line each.
    pub samples: Vec<String>,
}

/// Which way a gradient is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW for every parameter.
    #[default]
    AdamW,
    /// Muon for the matrices inside the network, AdamW for the rest.
    Muon,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// Which way a gradient is followed.
    pub optimizer: Optimizer,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// How the learning rate falls after its warm-up.
    pub schedule: Schedule,
    /// Share of all steps in which the learning rate rises from 0.
    pub warmup: f64,
    /// Passes over the data at most.
    pub epochs: usize,
    /// Epochs without a better validation score before training stops.
    pub patience: usize,
    /// How much of an average of the weights is kept from step to step; the average is then what is validated and kept.
    /// 0 = the weights themselves.
    pub average: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are scaled down to it.
    pub clip_norm: f64,
    /// Seed of data order and dropout.
    pub seed: u64,
    /// What matrix products are computed with.
    #[serde(default)]
    pub precision: Precision,
}

/// A trained model and how it came about.
#[derive(Debug)]
pub struct Fitted {
    /// The weights of the best epoch.
    pub best: Vec<NamedTensor>,
    /// Where the run ended.
    pub progress: Progress,
}

impl Fitted {
    /// What a report says of it.
    pub(crate) fn facts(&self, seed: u64, started: Instant, notes: &[String]) -> TrainingFacts {
        let progress = &self.progress;
        TrainingFacts {
            seed,
            steps: progress.step,
            epochs: progress.epoch as f64,
            seconds: started.elapsed().as_secs_f64(),
            best_epoch: progress.best_epoch,
            curve: progress.curve.clone(),
            stopped: progress.stopped.clone().unwrap_or_default(),
            notes: notes.to_vec(),
        }
    }
}

/// The device of that name.
pub(crate) fn device(name: &str) -> Result<Device> {
    match name {
        "" | "cpu" => Ok(Device::flex()),
        other => regard_nn::device(other)
            .map_err(|expected| Error::argument("--device", other, expected)),
    }
}

/// Writes checkpoints no more often than this: at 100 MB a checkpoint it costs under 2 % of the time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(20);

/// Trains `model` until the plan ends, patience is over or the listener asks to stop.
///
/// # Errors
///
/// [`Error::Interrupted`] when the listener asked to stop (a checkpoint was written), [`Error::NonFinite`] when the loss
/// or a gradient is not a number, and whatever reading and writing the checkpoint gives.
pub fn fit<L: Learner>(
    learner: &L,
    mut model: L::Model,
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    listener: &mut dyn Listener,
) -> Result<Fitted> {
    let mut optimizer = optimizer_of(learner, &model, recipe);
    let mut progress = Progress::default();
    let mut best = Vec::new();
    let mut averaged = Vec::new();
    if let Some(saved) = checkpoint.read()? {
        (progress, best) = (saved.progress, saved.best);
        if progress.stopped.is_some() {
            return Ok(Fitted { best, progress });
        }
        model = parameters::load(model, saved.model).map_err(|error| checkpoint.error(&error))?;
        optimizer.restore(saved.optimizer, progress.step);
        averaged = saved.average;
    }
    let mut average = Average::new(recipe.average, averaged);
    let mut pace = Pace::start(&progress);
    while progress.stopped.is_none() {
        let batches = learner.batches(progress.epoch);
        for rows in &batches[progress.batch..] {
            let at = progress.epoch as f64 + progress.batch as f64 / batches.len() as f64;
            let done = at / recipe.epochs as f64;
            let rate = recipe
                .schedule
                .rate(recipe.learning_rate, recipe.warmup, done);
            if let Some(next) = batches.get(progress.batch + 1) {
                learner.expect(next);
            }
            let mut noise = Noise::at(recipe.seed, progress.step);
            let (value, gradients) = recipe.precision.run(|| {
                let loss = learner.loss(&model, rows, &mut noise)?;
                let value = f64::from(loss.clone().into_scalar::<f32>());
                if !value.is_finite() {
                    return Err(Error::NonFinite {
                        step: progress.step + 1,
                        what: format!("the loss is {value}"),
                    });
                }
                Ok((value, loss.backward()))
            })?;
            let (stepped, facts) = optimizer.step(model, gradients, rate);
            model = stepped;
            if let Some(parameter) = facts.non_finite {
                let what = format!("the gradient of `{parameter}` is not finite (loss {value:.4})");
                return Err(Error::NonFinite {
                    step: progress.step + 1,
                    what,
                });
            }
            progress.step += 1;
            progress.batch += 1;
            if let Some(average) = &mut average {
                average.take(&model, progress.step);
            }
            progress.loss_sum += value;
            let count = (learner.tokens(rows), learner.unit());
            listener.hear(&pace.step(&progress, recipe, batches.len(), count, value, rate));
            let stop = listener.stop();
            if stop || checkpoint.due(progress.step, CHECKPOINT_INTERVAL) {
                let averaged = average.as_ref().map_or(&[][..], |average| &average.tensors);
                let (weights, state) = (parameters::collect(&model), optimizer.state());
                checkpoint.write(&progress, [&weights, &state, averaged, &best])?;
            }
            if stop {
                return Err(Error::Interrupted {
                    step: progress.step,
                });
            }
        }
        let validated = match &average {
            Some(average) => average
                .model(&model)
                .map_err(|error| checkpoint.error(&error))?,
            None => model.clone(),
        };
        let validation = learner.validate(&validated.valid())?;
        let train_loss = progress.loss_sum / batches.len().max(1) as f64;
        let better = progress.epoch_ends(&validation, train_loss, recipe);
        if better {
            best = parameters::collect(&validated);
        }
        listener.hear(&Event::Validated {
            epoch: progress.epoch,
            train_loss,
            loss: validation.loss,
            said: validation.said,
            samples: validation.samples,
            best: better,
        });
    }
    checkpoint.write(&progress, [&[], &[], &[], &best])?;
    Ok(Fitted { best, progress })
}

/// Seconds a token takes, forward and backward and optimizer, on this machine now: steps for about `seconds` and throws
/// them away.
pub fn seconds_per_token<L: Learner>(
    learner: &L,
    mut model: L::Model,
    recipe: &Recipe,
    seconds: f64,
) -> Result<f64> {
    let mut optimizer = optimizer_of(learner, &model, recipe);
    let batches = learner.batches(0);
    let (mut tokens, mut started) = (0, Instant::now());
    // The first step touches every page for the first time: it is not counted.
    for (index, rows) in batches.iter().cycle().take(10_000).enumerate() {
        let mut noise = Noise::at(recipe.seed, index as u64);
        let gradients = recipe.precision.run(|| {
            let loss = learner.loss(&model, rows, &mut noise)?;
            Ok::<_, Error>(loss.backward())
        })?;
        model = optimizer.step(model, gradients, 0.0).0;
        if index == 0 {
            started = Instant::now();
            continue;
        }
        tokens += learner.tokens(rows);
        if started.elapsed().as_secs_f64() >= seconds {
            break;
        }
    }
    Ok(started.elapsed().as_secs_f64() / tokens.max(1) as f64)
}

fn optimizer_of<L: Learner>(learner: &L, model: &L::Model, recipe: &Recipe) -> AdamW {
    let optimizer = AdamW::new(AdamWConfig {
        weight_decay: recipe.weight_decay,
        clip_norm: Some(recipe.clip_norm as f32),
        ..AdamWConfig::default()
    });
    match recipe.optimizer {
        Optimizer::AdamW => optimizer,
        Optimizer::Muon => {
            let shapes = parameters::shapes(model).into_iter();
            let matrices =
                shapes.filter(|(name, shape)| shape.len() == 2 && learner.is_hidden(name));
            optimizer.with_muon(matrices.map(|(name, _)| name).collect())
        }
    }
}

impl Progress {
    /// Books the end of an epoch; `true` if its weights are the best so far.
    fn epoch_ends(&mut self, validation: &Validation, train_loss: f64, recipe: &Recipe) -> bool {
        self.epoch += 1;
        self.batch = 0;
        self.loss_sum = 0.0;
        self.curve.push(CurvePoint {
            epoch: self.epoch as f64,
            train_loss,
            validation_loss: validation.loss,
            validation_accuracy: validation.score,
        });
        // Equal scores are common on small validation parts: the lower loss is then the better model.
        let score = (validation.score, -validation.loss);
        let better = self.best_epoch == 0 || score > (self.best_score, -self.best_loss);
        if better {
            (self.best_epoch, self.best_score, self.best_loss) =
                (self.epoch, validation.score, validation.loss);
        }
        if self.epoch >= recipe.epochs {
            self.stopped = Some(format!("all {} planned epochs were done", recipe.epochs));
        } else if self.epoch - self.best_epoch >= recipe.patience {
            self.stopped = Some(format!(
                "the validation score had not improved for {} epochs since epoch {}",
                recipe.patience, self.best_epoch
            ));
        }
        better
    }
}

/// Turns steps into a rate and a time left.
struct Pace {
    started: Instant,
    /// Of what came before.
    product_time: Duration,
    first_step: u64,
    tokens: usize,
}

impl Pace {
    fn start(progress: &Progress) -> Self {
        Self {
            started: Instant::now(),
            product_time: product_time(),
            first_step: progress.step,
            tokens: 0,
        }
    }

    fn step(
        &mut self,
        progress: &Progress,
        recipe: &Recipe,
        batches: usize,
        (tokens, unit): (usize, &'static str),
        loss: f64,
        rate: f64,
    ) -> Event {
        self.tokens += tokens;
        let seconds = self.started.elapsed().as_secs_f64();
        let steps = (recipe.epochs * batches) as u64;
        let done = (progress.step - self.first_step) as f64;
        let in_products = (product_time() - self.product_time).as_secs_f64();
        let threads = rayon::current_num_threads() as f64;
        Event::Stepped {
            step: progress.step,
            steps: steps.max(progress.step),
            epoch: progress.epoch as f64 + progress.batch as f64 / batches as f64,
            loss,
            learning_rate: rate,
            per_second: self.tokens as f64 / seconds.max(1e-9),
            unit,
            in_products: (in_products > 0.0)
                .then(|| (in_products / (threads * seconds).max(1e-9)).min(1.0)),
            seconds_left: seconds / done * steps.saturating_sub(progress.step) as f64,
        }
    }
}
