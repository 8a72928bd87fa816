//! What a training run tells, and who hears it.

use std::path::PathBuf;

/// Something a training run tells whoever listens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something inferred or decided, and how to say otherwise.
    Said(String),
    /// Something the user should know before trusting the result.
    Warned(String),
    /// A new phase begins: "tokenizer", "training", "rival: mean pooling" …
    Phase(String),
    /// Part of a long work before the training is done.
    Counted {
        /// How much is done.
        done: usize,
        /// Of how much.
        total: usize,
        /// Of what: "pictures read".
        what: &'static str,
    },
    /// One optimizer step.
    Stepped {
        /// Steps done.
        step: u64,
        /// Steps planned.
        steps: u64,
        /// Passes over the data, with fraction.
        epoch: f64,
        /// Loss of the step.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// Tokens, or pictures, learned from per second.
        per_second: f64,
        /// What is counted: "tokens".
        unit: &'static str,
        /// Share of the threads' time that was spent in products of matrices ([`regard_kernels::product_time`]); none where
        /// the products are Burn's, as on a graphics processor.
        in_products: Option<f64>,
        /// Estimated seconds to the end of the plan.
        seconds_left: f64,
    },
    /// The model was scored on the validation part.
    Validated {
        /// Whole epochs done.
        epoch: usize,
        /// Mean loss over the epoch.
        train_loss: f64,
        /// Loss on the validation part.
        loss: f64,
        /// Scores on the validation part, in words.
        said: String,
        /// What the model makes of some rows, a line each.
        samples: Vec<String>,
        /// Best so far.
        best: bool,
    },
    /// The model folder was written.
    Saved(PathBuf),
}

/// Hears what a training run has to tell, and may ask it to stop.
pub trait Listener {
    /// Called for each event, on the training thread.
    fn hear(&mut self, event: &Event);

    /// `true` asks for a stop: the run writes a checkpoint and ends with [`crate::Error::Interrupted`].
    fn stop(&self) -> bool {
        false
    }
}
