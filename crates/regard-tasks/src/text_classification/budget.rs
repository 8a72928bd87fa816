//! `--minutes`: what of the planned model, epochs and text length fits the time there is.
//!
//! The recipe is what validation data preferred (docs/benchmarks.md), so time beyond it is not spent on a larger model.
//! Where it does not fit, what costs least in accuracy gives way first: epochs down to [`LEAST_EPOCHS`], then the size
//! of the model, then the ends of long texts, then the last epochs. What the user has set stays as it is.

use regard_nn::models::text_classifier::{Kind, TextClassifierConfig};

use super::Settings;
use super::plan::Plan;
use crate::Result;

/// How long a model is tried. Each trial is part of the time there is.
pub(super) const TRIAL_SECONDS: f64 = 2.0;
/// Training takes so much longer than the trial: validation, checkpoints, batches that are not the first ones. Measured on
/// 20 Newsgroups with a width of 64: 425 thousand tokens a second in the trial, 330 in the run.
const TRAINING_OVER_TRIAL: f64 = 1.25;
/// The rival without attention takes up to so much of the model's own time.
const RIVAL_SHARE: f64 = 0.8;
/// Fewer epochs than this leave a model unfinished.
const LEAST_EPOCHS: usize = 4;
/// The smallest width that is chosen; and widths are multiples of it, which fills vectors and divides among heads.
const LEAST_WIDTH: usize = 16;
/// Texts are not cut below this.
const LEAST_TOKENS: usize = 32;

impl Plan {
    /// Fits the plan to the `seconds` that there are for training. `lengths` are those of the texts to learn from, in tokens; `measure` tries a plan
    /// and tells the seconds that a token takes.
    pub(super) fn fit_to_budget(
        &mut self,
        settings: &Settings,
        seconds: f64,
        rivals: bool,
        lengths: &[usize],
        measure: impl Fn(&Self) -> Result<f64>,
    ) -> Result<()> {
        let share = if rivals {
            1.0 / (1.0 + RIVAL_SHARE)
        } else {
            1.0
        };
        let measure = |plan: &Self| Ok::<f64, crate::Error>(TRAINING_OVER_TRIAL * measure(plan)?);
        let mut left = seconds - TRIAL_SECONDS;
        let tokens = |limit: usize| {
            let read = lengths.iter().map(|length| length.min(&limit));
            read.sum::<usize>() as f64
        };
        let planned = self.model.clone();
        let mut cost = measure(self)?;
        let fits = |cost: f64, limit: usize, left: f64| {
            cost * tokens(limit) * LEAST_EPOCHS as f64 <= (left * share).max(1.0)
        };
        while !fits(cost, self.model.max_tokens, left)
            && let Some(model) = smaller(&self.model, settings)
        {
            self.model = model;
            left -= TRIAL_SECONDS;
            cost = measure(self)?;
        }
        if settings.max_tokens.is_none() {
            // What a text is about mostly stands at its beginning.
            while self.model.max_tokens > LEAST_TOKENS && !fits(cost, self.model.max_tokens, left) {
                self.model.max_tokens = (self.model.max_tokens * 3 / 4).max(LEAST_TOKENS);
            }
        }
        let allowed = (left * share).max(1.0);
        let epoch = cost * tokens(self.model.max_tokens);
        let epochs = ((allowed / epoch) as usize).clamp(1, self.recipe.epochs);
        self.recipe.epochs = epochs;
        self.recipe.patience = self.recipe.patience.min(epochs);

        let size = |model: &TextClassifierConfig| match model.kind {
            Kind::Transformer => format!("{} layers of width {}", model.layers, model.width),
            Kind::Mean | Kind::Pooling => format!("width {}", model.width),
        };
        if (planned.width, planned.layers) != (self.model.width, self.model.layers) {
            self.notes.push(format!(
                "the model is made smaller to fit the time given: {} instead of {} (--set width=, layers= keep them)",
                size(&self.model),
                size(&planned)
            ));
        }
        if planned.max_tokens != self.model.max_tokens {
            self.notes.push(format!(
                "texts are cut to fit the time given: at {} tokens instead of {} (--set max_tokens= keeps them)",
                self.model.max_tokens, planned.max_tokens
            ));
        }
        self.notes.push(format!(
            "this machine learns {:.0} tokens a second with {}: {epochs} epochs of {epoch:.1} s are planned",
            1.0 / cost,
            size(&self.model)
        ));
        if left <= 0.0 {
            self.notes.push(
                "reading, tokenizing and scoring these files alone take about all the time given: expect to run over"
                    .to_owned(),
            );
        } else if epoch > allowed {
            self.notes.push(format!(
                "one epoch alone takes {epoch:.0} s, more than the {allowed:.0} s there are for it: expect to run over"
            ));
        }
        Ok(())
    }
}

/// The next smaller model, if the user's settings leave one: half the layers of a Transformer, then half the width.
fn smaller(model: &TextClassifierConfig, settings: &Settings) -> Option<TextClassifierConfig> {
    let mut smaller = model.clone();
    if model.kind == Kind::Transformer && model.layers > 1 && settings.layers.is_none() {
        smaller.layers /= 2;
    } else if model.width > LEAST_WIDTH && settings.width.is_none() {
        smaller.width = (model.width / 2).next_multiple_of(LEAST_WIDTH);
        if settings.feed_forward.is_none() {
            smaller.feed_forward = 2 * smaller.width;
        }
    } else {
        return None;
    }
    // Heads that the user has set may not divide the smaller width.
    smaller.validate().is_ok().then_some(smaller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text_classification::ModelKind;

    /// 1,000 texts of 200 tokens, on a machine where a token takes a microsecond for each number of the width and layer.
    fn fitted(settings: &Settings, seconds: f64) -> Plan {
        let mut plan = Plan::with_settings(settings, 20, 0);
        plan.model.vocabulary = 1000;
        plan.model.max_tokens = plan.model.max_tokens.min(200);
        plan.model.width = settings.width.unwrap_or(64);
        plan.fit_to_budget(settings, seconds, false, &[200; 1000], |plan| {
            let layers = match plan.model.kind {
                Kind::Transformer => plan.model.layers + 1,
                Kind::Mean | Kind::Pooling => 1,
            };
            Ok(1e-6 * (plan.model.width * layers) as f64)
        })
        .expect("nothing can fail");
        plan.model.validate().expect("a model that can be built");
        plan
    }

    fn sizes(plan: &Plan) -> (usize, usize, usize, usize) {
        let model = &plan.model;
        (
            model.layers,
            model.width,
            model.max_tokens,
            plan.recipe.epochs,
        )
    }

    #[test]
    fn with_time_enough_the_recipe_stands() {
        // An epoch takes 16 s.
        assert_eq!(sizes(&fitted(&Settings::default(), 200.0)), (1, 64, 200, 8));
    }

    #[test]
    fn epochs_go_first_then_the_width_then_the_ends_of_texts_then_the_last_epochs() {
        let settings = Settings::default();
        assert_eq!(sizes(&fitted(&settings, 70.0)), (1, 64, 200, 4));
        assert_eq!(sizes(&fitted(&settings, 40.0)), (1, 32, 200, 4));
        assert_eq!(sizes(&fitted(&settings, 23.0)), (1, 16, 200, 4));
        let (_, width, tokens, epochs) = sizes(&fitted(&settings, 16.0));
        assert_eq!(width, 16);
        assert!(epochs >= LEAST_EPOCHS, "{epochs}");
        assert!((LEAST_TOKENS..200).contains(&tokens), "{tokens}");
        assert_eq!(sizes(&fitted(&settings, 7.0)), (1, 16, 32, 1));
    }

    #[test]
    fn what_the_user_has_set_is_kept() {
        let settings = Settings {
            width: Some(64),
            max_tokens: Some(200),
            ..Settings::default()
        };
        let plan = fitted(&settings, 20.0);
        assert_eq!(sizes(&plan), (1, 64, 200, 1));
        assert!(
            plan.notes
                .iter()
                .all(|note| !note.contains("made smaller") && !note.contains("are cut")),
            "{:?}",
            plan.notes
        );
    }

    #[test]
    fn a_transformer_gives_up_layers_before_width() {
        let settings = Settings {
            model: ModelKind::Transformer,
            ..Settings::default()
        };
        let mut deep = Plan::with_settings(&settings, 20, 0);
        (deep.model.vocabulary, deep.model.layers) = (1000, 4);
        let next = smaller(&deep.model, &settings).expect("fewer layers");
        assert_eq!((next.layers, next.width), (2, deep.model.width));
        let kept = Settings {
            layers: Some(4),
            ..settings
        };
        let next = smaller(&deep.model, &kept).expect("less width");
        assert_eq!(next.layers, 4);
        assert!(next.width < deep.model.width);
    }

    #[test]
    fn when_nothing_fits_it_says_so() {
        for (seconds, said) in [
            (-3.0, "scoring these files alone"),
            (3.5, "one epoch alone takes"),
        ] {
            let settings = Settings {
                width: Some(64),
                ..Settings::default()
            };
            let notes = fitted(&settings, seconds).notes;
            assert!(notes.iter().any(|note| note.contains(said)), "{notes:?}");
        }
    }

    #[test]
    fn what_was_given_up_is_said_and_how_to_keep_it() {
        let notes = fitted(&Settings::default(), 40.0).notes;
        assert!(
            notes
                .iter()
                .any(|note| note.contains("width 32 instead of width 64 (--set width=")),
            "{notes:?}"
        );
    }
}
