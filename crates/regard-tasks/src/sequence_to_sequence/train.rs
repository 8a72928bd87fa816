//! From files of pairs to a model folder, in phases that can each be killed and resumed.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use regard_nn::models::sequence_to_sequence::SequenceToSequence;

use super::config::{self, Config};
use super::data::{Examples, Pairs};
use super::learner::PairLearner;
use super::letters::{letters, swapped};
use super::page;
use super::plan::Plan;
use super::report::{self, PairReport};
use super::run::Writer;
use super::vocabularies::Vocabularies;
use super::{Kind, PairColumns, PairFiles, Settings, judge};
use crate::report::{FileFacts, ModelFacts};
use crate::run_folder::RunFolder;
use crate::splits::hold_out;
use crate::trainer::{self, Event, Listener};
use crate::{Error, Precision, Result, bundle};

/// What `regard train translation` or `summarization` is asked to do.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// Which of the two.
    pub kind: Kind,
    /// What to learn from.
    pub data: PairFiles,
    /// What to stop early on; `None` = a part of `data` is held out.
    pub validation: Option<PairFiles>,
    /// What to score the finished model on; `None` = the validation part.
    pub test: Option<PairFiles>,
    /// Folder to write the model to.
    pub out: PathBuf,
    /// Columns the user named.
    pub columns: PairColumns,
    /// Settings the user gave.
    pub settings: Settings,
    /// Wall-clock budget; the epochs are fitted to it.
    pub minutes: Option<f64>,
    /// Seed of data order, dropout and initial weights.
    pub seed: u64,
    /// Continue the run that was interrupted in `out`.
    pub resume: bool,
    /// Where to compute.
    pub device: String,
    /// What matrix products are computed with.
    pub precision: Precision,
}

/// Pairs of the held-out part at most: more tell epochs apart no better and cost time after each.
const MOST_VALIDATION: usize = 1000;
/// Outputs that the page shows.
const SHOWN_SAMPLES: usize = 20;
/// Seconds of steps that a budget is measured with.
const TRIAL_SECONDS: f64 = 5.0;
/// Share of a budget that scoring and writing the folder take.
const SCORING_SHARE: f64 = 0.1;

/// Trains a writer, scores it beside what can be had without one, and writes its folder.
///
/// # Errors
///
/// Whatever is wrong with the files, the columns, the settings or the folder, before the first step;
/// [`Error::Interrupted`] when the listener asked to stop: the same request with `resume` continues.
pub fn train(request: &TrainRequest, listener: &mut dyn Listener) -> Result<PairReport> {
    let started = Instant::now();
    request.settings.check()?;
    let device = trainer::device(&request.device)?;
    let folder = RunFolder::open(&request.out, request.resume)?;

    listener.hear(&Event::Phase("reading the data".to_owned()));
    let none = PairColumns::default();
    let all = request.data.read(request.kind, &request.columns, &none)?;
    // The columns of the training data, where another file has them.
    let trained = PairColumns {
        source: Some(all.source_column.clone()),
        target: Some(all.target_column.clone()),
        group: None,
    };
    let read = |files: &Option<PairFiles>| {
        let columns = PairColumns {
            group: None,
            ..request.columns.clone()
        };
        let read = |files: &PairFiles| files.read(request.kind, &columns, &trained);
        files.as_ref().map(read).transpose()
    };
    let (given, test) = (read(&request.validation)?, read(&request.test)?);
    let others = [given.as_ref(), test.as_ref()];
    let (notes, warnings) = remarks(&all, others);
    let others = others.into_iter().flatten();
    let other_files: Vec<FileFacts> = others.flat_map(|pairs| pairs.files.clone()).collect();
    for note in &notes {
        listener.hear(&Event::Said(note.clone()));
    }
    for warning in &warnings {
        listener.hear(&Event::Warned(warning.clone()));
    }
    let (train, validation) = match given {
        Some(validation) => (all.clone(), validation),
        None => split(&all, &request.settings, request.seed)?,
    };
    listener.hear(&Event::Said(format!(
        "{} pairs to learn from, {} held out to stop early on",
        train.len(),
        validation.len()
    )));

    let (mut plan, vocabularies) = match folder.read::<Plan>("plan.json")? {
        Some(plan) => {
            plan.check_same_data(&all)?;
            listener.hear(&Event::Said(
                "continuing the interrupted run, with the settings it began with".to_owned(),
            ));
            let vocabularies = Vocabularies::of_run(&folder, plan.separate_vocabularies)?;
            (plan, vocabularies)
        }
        None => {
            listener.hear(&Event::Phase("training the tokenizer".to_owned()));
            let plan = Plan::new(request.kind, &request.settings, &train, request.seed);
            let mut plan = Plan {
                files: all.files.clone(),
                ..plan
            };
            let (precision, recipe) = (request.precision, &mut plan.recipe);
            precision.settle(&device, recipe, &mut plan.notes)?;
            let separate = plan.separate_vocabularies;
            let vocabularies = Vocabularies::train(&train, &plan.tokenizer, separate)?;
            (plan, vocabularies)
        }
    };
    let encode = |plan: &Plan, pairs: &Pairs| {
        let (source, target) = (plan.model.max_source, plan.model.max_target);
        Examples::encode(&vocabularies, pairs, source, target)
    };
    let (learned, held_out) = (encode(&plan, &train)?, encode(&plan, &validation)?);
    if learned.len() == 0 {
        let found = "no pair whose target is short enough";
        return Err(Error::argument(
            "--data",
            found,
            "at least one; see --set max_target=",
        ));
    }
    let parts = Learned {
        kind: request.kind,
        train: &learned,
        learned: &train,
        validation: &held_out,
        held_out: &validation,
        vocabularies: &vocabularies,
    };
    if plan.model.vocabulary == 0 {
        plan.fit_to(&vocabularies, &learned)?;
        if let Some(minutes) = request.minutes {
            listener.hear(&Event::Phase("measuring this machine".to_owned()));
            let trial = parts.learner(&plan)?;
            let model = first_model(&plan, &device);
            let per_token = trainer::seconds_per_token(&trial, model, &plan.recipe, TRIAL_SECONDS)?;
            let tokens: usize = learned
                .sources
                .iter()
                .zip(&learned.targets)
                .map(|(source, target)| source.len() + target.len() + 1)
                .sum();
            let left = minutes * 60.0 * (1.0 - SCORING_SHARE) - started.elapsed().as_secs_f64();
            plan.fit_to_seconds(left, per_token * tokens as f64)?;
        }
        for note in &plan.notes {
            listener.hear(&Event::Said(note.clone()));
        }
        vocabularies.write(&folder)?;
        folder.write("plan.json", &plan)?;
        // What a resumed run will read is what this run goes by, to the last digit.
        plan = folder.read("plan.json")?.unwrap_or(plan);
    }

    listener.hear(&Event::Phase(format!(
        "training for {}",
        request.kind.name()
    )));
    let checkpoint = folder.checkpoint("writer", request.settings.checkpoint_steps);
    let model = first_model(&plan, &device);
    let fitted = trainer::fit(
        &parts.learner(&plan)?,
        model,
        &plan.recipe,
        &checkpoint,
        listener,
    )?;

    listener.hear(&Event::Phase("scoring".to_owned()));
    let settled = Config::new(request.kind, &plan, &train);
    let mut writer = Writer::from_parts(
        request.kind,
        settled,
        vocabularies.clone(),
        None,
        fitted.best.clone(),
        &device,
    )?;
    let (scored, scored_on) = match &test {
        Some(test) => (test, "the test file"),
        None => (
            &validation,
            "the validation part, which also chose the epoch",
        ),
    };
    let result = writer.score_pairs(scored, request.seed)?;
    let report = PairReport {
        format: 1,
        task: request.kind,
        files: [all.files.clone(), other_files].concat(),
        source_column: all.source_column.clone(),
        target_column: all.target_column.clone(),
        train_pairs: learned.len(),
        validation_pairs: validation.len(),
        data_notes: [notes, warnings].concat(),
        model: model_facts(&plan),
        training: fitted.facts(request.seed, started, &plan.notes),
        scored_on: scored_on.to_owned(),
        scored_pairs: scored.len(),
        scores: result.scores,
        rivals: result.rivals,
        verdicts: result.notes,
    };
    writer.set_report(report.clone());
    let samples = judge::samples(scored, &result.written, SHOWN_SAMPLES);
    let (tokenizer, of_source) = vocabularies.files()?;
    let page = ("report.html".to_owned(), page::html(&report, &samples));
    let parts = bundle::BundleParts {
        task: request.kind.name().to_owned(),
        config: bundle::to_json(writer.config())?,
        tensors: fitted.best,
        tokenizer: Some(tokenizer),
        labels: Vec::new(),
        report: bundle::to_json(&report)?,
        readme: report::readme(&report),
        samples: writer.samples(),
        pages: [page].into_iter().chain(of_source).collect(),
    };
    bundle::write(&request.out, &parts)?;
    folder.remove()?;
    listener.hear(&Event::Saved(request.out.clone()));
    Ok(report)
}

/// What does not change between the trial and the training.
struct Learned<'a> {
    kind: Kind,
    train: &'a Examples,
    learned: &'a Pairs,
    validation: &'a Examples,
    held_out: &'a Pairs,
    vocabularies: &'a Vocabularies,
}

impl<'a> Learned<'a> {
    fn learner<'p>(&self, plan: &'p Plan) -> Result<PairLearner<'p>>
    where
        'a: 'p,
    {
        let dropping = (plan.bpe_dropout > 0.0).then(|| self.vocabularies.dropping());
        Ok(PairLearner {
            kind: self.kind,
            train: self.train,
            learned: self.learned,
            validation: self.validation,
            held_out: self.held_out,
            vocabularies: self.vocabularies,
            dropping: dropping.transpose()?,
            plan,
        })
    }
}

/// What was inferred and left out, and what looks wrong: in the data, and in the files that stand beside it.
fn remarks(all: &Pairs, others: [Option<&Pairs>; 2]) -> (Vec<String>, Vec<String>) {
    let (mut notes, mut warnings) = (all.notes.clone(), all.warnings.clone());
    let (sources, targets) = (letters(&all.sources), letters(&all.targets));
    for other in others.into_iter().flatten() {
        notes.extend(other.notes.iter().cloned());
        let names: Vec<&str> = other.files.iter().map(|file| file.name.as_str()).collect();
        let swapped = swapped(&sources, &targets, other);
        let swapped = swapped.map(|what| format!("{}: {what}", names.join(", ")));
        warnings.extend(other.warnings.iter().cloned().chain(swapped));
    }
    notes.dedup();
    (notes, warnings)
}

/// A part held out by its sources: equal sources, and pairs of one group, stay together.
fn split(all: &Pairs, settings: &Settings, seed: u64) -> Result<(Pairs, Pairs)> {
    let share = settings.validation_share.unwrap_or(0.05);
    let share = share.min(MOST_VALIDATION as f64 / all.len() as f64);
    let texts: Vec<&str> = all.sources.iter().map(String::as_str).collect();
    let groups: Vec<&str> = all.groups.iter().map(String::as_str).collect();
    let groups = (!groups.is_empty()).then_some(groups.as_slice());
    let split = hold_out(&texts, &vec![0; texts.len()], groups, share, seed);
    if split.held_out.is_empty() {
        return Err(Error::argument(
            "--data",
            format!("{} pairs, of which none can be held out", all.len()),
            "more pairs with different sources, or --validation",
        ));
    }
    Ok((all.select(&split.train), all.select(&split.held_out)))
}

/// The model before the first step.
fn first_model(plan: &Plan, device: &Device) -> SequenceToSequence {
    plan.model
        .init(plan.recipe.seed, &device.clone().autodiff())
}

fn model_facts(plan: &Plan) -> ModelFacts {
    let parts = config::parts(&plan.model);
    let parameters = parts.iter().map(|(_, count)| count).sum();
    ModelFacts {
        kind: "sequence to sequence".to_owned(),
        parameters,
        parts,
        vocabulary: plan.model.vocabulary,
        bytes: 4 * parameters as u64,
    }
}
