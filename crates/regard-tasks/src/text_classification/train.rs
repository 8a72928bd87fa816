//! From a table to a model folder, in phases that can each be killed and resumed.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use regard_nn::models::text_classifier::{Kind, TextClassifier};
use regard_nn::parameters::{self, NamedTensor};

use super::budget::TRIAL_SECONDS;
use super::config;
use super::corpus::{self, Corpus};
use super::learner::{TextLearner, probabilities};
use super::plan::Plan;
use super::run::{self, TextClassifier as Trained};
use super::{Settings, judge};
use crate::answers::Part;
use crate::columns::ColumnChoice;
use crate::metrics::best;
use crate::report::{self, ModelFacts, Report};
use crate::run_folder::RunFolder;
use crate::tokenizer::TextTokenizer;
use crate::trainer::{self, Event, Fitted, Listener};
use crate::{Precision, Result, bundle};

/// Encoding the texts once more, scoring and the linear rival take so many times as long as reading the data and training
/// the tokenizer: 17 s after 12 s on 20 Newsgroups.
const STILL_TO_COME: f64 = 1.5;

/// What `regard train classification` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct TrainRequest {
    /// Files to learn from; more than one are read as one table.
    pub data: Vec<PathBuf>,
    /// File to stop early on; `None` = a part of `data` is held out.
    pub validation: Option<PathBuf>,
    /// File to score on; `None` = the validation part is scored, and the report says so.
    pub test: Option<PathBuf>,
    /// Folder to write the model to.
    pub out: PathBuf,
    /// Columns the user named.
    pub columns: ColumnChoice,
    /// Settings the user gave.
    pub settings: Settings,
    /// Wall-clock budget; model and epochs are fitted to it.
    pub minutes: Option<f64>,
    /// Seed of data order, dropout and initial weights.
    pub seed: u64,
    /// Continue the run that was interrupted in `out`.
    pub resume: bool,
    /// Where to compute: `cpu`, or a GPU back end that was compiled in.
    pub device: String,
    /// What matrix products are computed with.
    pub precision: Precision,
    /// Train and score the rivals of the report (mean pooling, linear model).
    pub rivals: bool,
}

/// The prefix in the model file of the same model without attention.
pub(super) const WITHOUT_ATTENTION: &str = "without_attention.";

/// Trains a classifier, scores it beside its rivals and writes its folder.
///
/// # Errors
///
/// Whatever is wrong with the files, the columns, the settings or the folder, before the first step;
/// [`crate::Error::Interrupted`] when the listener asked to stop: the same request with `resume` continues.
pub fn train(request: &TrainRequest, listener: &mut dyn Listener) -> Result<Report> {
    let started = Instant::now();
    request.settings.check()?;
    let device = trainer::device(&request.device)?;
    let folder = RunFolder::open(&request.out, request.resume)?;

    listener.hear(&Event::Phase("reading the data".to_owned()));
    let corpus = Corpus::read(request, listener)?;
    let (plan, tokenizer) = match folder.read::<Plan>("plan.json")? {
        Some(plan) => {
            plan.check_same_data(&corpus)?;
            listener.hear(&Event::Said(
                "continuing the interrupted run, with the settings it began with".to_owned(),
            ));
            (
                plan,
                TextTokenizer::from_json(&folder.read_bytes("tokenizer.json")?)?,
            )
        }
        None => first_plan(request, &corpus, &folder, &device, started, listener)?,
    };
    let encode = |part: &corpus::Part| part.encode(&tokenizer, &plan);
    let [learned, validation] = [encode(&corpus.train)?, encode(&corpus.validation)?];
    let test = corpus.test.as_ref().map(encode).transpose()?;

    let fit = |kind: Kind, name: &str, listener: &mut dyn Listener| -> Result<Fitted> {
        let mut plan = plan.clone();
        plan.model.kind = kind;
        let learner = TextLearner::new(&learned, &validation, &plan, &device);
        let model = first_model(&plan, &device);
        let checkpoint = folder.checkpoint(name, request.settings.checkpoint_steps);
        trainer::fit(&learner, model, &plan.recipe, &checkpoint, listener)
    };
    listener.hear(&Event::Phase(format!(
        "training the {} model",
        plan.model.kind.name()
    )));
    let fitted = fit(plan.model.kind, "attention", listener)?;
    let without = match request.rivals && plan.model.kind != Kind::Mean {
        true => {
            listener.hear(&Event::Phase(
                "rival: the same model with mean pooling".to_owned(),
            ));
            Some(fit(Kind::Mean, "mean", listener)?)
        }
        false => None,
    };

    listener.hear(&Event::Phase("scoring".to_owned()));
    let (scored, part) = match (&test, &corpus.test) {
        (Some(examples), Some(part)) => (examples, part),
        _ => (&validation, &corpus.validation),
    };
    let predict = |kind: Kind, tensors: &[NamedTensor]| -> Result<Vec<usize>> {
        let model = config::assemble(&plan.model, kind, tensors.to_vec(), &device)?;
        Ok(probabilities(&model, scored, &device)
            .iter()
            .map(|row| best(row))
            .collect())
    };
    let judged = judge::Judged {
        predicted: predict(plan.model.kind, &fitted.best)?,
        without_attention: without
            .as_ref()
            .map(|fitted| predict(Kind::Mean, &fitted.best))
            .transpose()?,
        linear: request.rivals.then(|| corpus.linear(part, request.seed)),
    };
    let (scores, rivals, verdicts) = judge::judge(&corpus, part, &judged, request.seed);
    let report = Report {
        format: 1,
        task: run::TASK.to_owned(),
        data: corpus.facts(learned.truncated() + validation.truncated()),
        model: model_facts(&plan, &device),
        training: fitted.facts(request.seed, started, &plan.notes),
        scored_on: part.name.clone(),
        scores,
        rivals,
        verdicts,
    };
    write_bundle(
        request, &plan, &tokenizer, &corpus, fitted, without, &report, &device,
    )?;
    folder.remove()?;
    listener.hear(&Event::Saved(request.out.clone()));
    Ok(report)
}

/// Decides everything that is decided once, and writes it down before the first step.
fn first_plan(
    request: &TrainRequest,
    corpus: &Corpus,
    folder: &RunFolder,
    device: &Device,
    started: Instant,
    listener: &mut dyn Listener,
) -> Result<(Plan, TextTokenizer)> {
    listener.hear(&Event::Phase("training the tokenizer".to_owned()));
    let mut plan = Plan::new(request, corpus);
    let (precision, recipe) = (request.precision, &mut plan.recipe);
    precision.settle(device, recipe, &mut plan.notes)?;
    let tokenizer = TextTokenizer::train(corpus.train.texts(), &plan.tokenizer)?;
    let encoded = corpus.train.encode_whole(&tokenizer)?;
    plan.fit_to_lengths(request, &encoded, tokenizer.vocabulary());
    plan.model.validate().map_err(|error| {
        crate::Error::setting("model", plan.model.kind.name(), error.to_string())
    })?;
    if let Some(minutes) = request.minutes {
        listener.hear(&Event::Phase("measuring this machine".to_owned()));
        let learned = corpus.train.encode(&tokenizer, &plan)?;
        let lengths: Vec<usize> = learned.tokens.iter().map(Vec::len).collect();
        plan.fit_to_budget(
            &request.settings,
            minutes * 60.0 - (1.0 + STILL_TO_COME) * started.elapsed().as_secs_f64(),
            request.rivals,
            &lengths,
            |plan| {
                let learner = TextLearner::new(&learned, &learned, plan, device);
                let model = first_model(plan, device);
                trainer::seconds_per_token(&learner, model, &plan.recipe, TRIAL_SECONDS)
            },
        )?;
    }
    for note in &plan.notes {
        listener.hear(&Event::Said(note.clone()));
    }
    folder.write_bytes("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
    folder.write("plan.json", &plan)?;
    // What a resumed run will read is what this run goes by, to the last digit.
    let written = folder.read("plan.json")?;
    Ok((written.unwrap_or(plan), tokenizer))
}

/// The model before the first step.
fn first_model(plan: &Plan, device: &Device) -> TextClassifier {
    plan.model
        .init(plan.recipe.seed, &device.clone().autodiff())
}

fn model_facts(plan: &Plan, device: &Device) -> ModelFacts {
    let model = plan.model.init(plan.recipe.seed, device);
    let parameters = parameters::count(&model);
    ModelFacts {
        kind: plan.model.kind.name().to_owned(),
        parameters,
        parts: Part::of(&plan.model.parameter_shapes())
            .into_iter()
            .map(|part| (part.name, part.parameters))
            .collect(),
        vocabulary: plan.model.vocabulary,
        bytes: 4 * parameters as u64,
    }
}

#[expect(clippy::too_many_arguments, reason = "the whole run ends here, once")]
fn write_bundle(
    request: &TrainRequest,
    plan: &Plan,
    tokenizer: &TextTokenizer,
    corpus: &Corpus,
    fitted: Fitted,
    without: Option<Fitted>,
    report: &Report,
    device: &Device,
) -> Result<()> {
    let settled = config::Config::new(plan, corpus, without.is_some());
    let mut tensors = fitted.best;
    if let Some(without) = without {
        let prefixed = |tensor: NamedTensor| NamedTensor {
            name: format!("{WITHOUT_ATTENTION}{}", tensor.name),
            ..tensor
        };
        tensors.extend(without.best.into_iter().map(prefixed));
    }
    let parts = run::Parts {
        config: settled.clone(),
        labels: corpus.labels.clone(),
        tokenizer: tokenizer.clone(),
        report: report.clone(),
        tensors: tensors.clone(),
    };
    let trained = Trained::from_parts(parts, device)?;
    let examples = judge::examples(&trained, corpus)?;
    let parts = bundle::BundleParts {
        task: run::TASK.to_owned(),
        config: bundle::to_json(&settled)?,
        tensors,
        tokenizer: Some(tokenizer.to_json()?),
        labels: corpus.labels.clone(),
        report: bundle::to_json(report)?,
        readme: report::readme(report),
        samples: trained.samples(),
        pages: vec![("report.html".to_owned(), report::html(report, &examples))],
    };
    bundle::write(&request.out, &parts)
}
