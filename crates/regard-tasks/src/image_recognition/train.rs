//! From pictures to a model folder, in phases that can each be killed and resumed.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use regard_nn::models::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use regard_nn::parameters::NamedTensor;

use super::answers::PictureMap;
use super::config::{self, Config, WITHOUT_ATTENTION};
use super::evaluate::{Answered, MEAN};
use super::gallery::{Gallery, Part};
use super::learner::{PictureLearner, probabilities};
use super::maps::MapRequest;
use super::plan::Plan;
use super::run::{ImageClassifier, TASK};
use super::start::Start;
use super::{Settings, report};
use crate::pictures::{Picture, PictureColumns};
use crate::report::{ModelFacts, Report, readme};
use crate::run_folder::RunFolder;
use crate::trainer::{self, Event, Fitted, Listener};
use crate::{Error, Precision, Result, answers, bundle};

/// What `regard train vision` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct TrainRequest {
    /// A folder with a folder for each label (or `train` and `test` folders of such), IDX files, or a table.
    pub data: PathBuf,
    /// Pictures to stop early on; `None` = those that `data` keeps apart, or a part of it is held out.
    pub validation: Option<PathBuf>,
    /// Pictures to score on; `None` = those that `data` keeps apart, or the validation part.
    pub test: Option<PathBuf>,
    /// Folder to write the model to.
    pub out: PathBuf,
    /// A model folder whose weights the run begins with; `None` = random ones.
    pub start: Option<PathBuf>,
    /// Columns of a table that the user named.
    pub columns: PictureColumns,
    /// Settings the user gave.
    pub settings: Settings,
    /// Wall-clock budget; the epochs are fitted to it.
    pub minutes: Option<f64>,
    /// Seed of data order, augmentation, dropout and initial weights.
    pub seed: u64,
    /// Continue the run that was interrupted in `out`.
    pub resume: bool,
    /// Where to compute: `cpu`, or a GPU back end that was compiled in.
    pub device: String,
    /// What matrix products are computed with.
    pub precision: Precision,
    /// Train and score the rival without attention.
    pub rivals: bool,
}

/// Seconds of steps that a budget is measured with.
const TRIAL_SECONDS: f64 = 5.0;
/// Share of a budget that scoring and writing the folder take.
const SCORING_SHARE: f64 = 0.05;
/// What the rival's step costs of the model's: the tokenizer is most of both.
const RIVAL_SHARE: f64 = 0.6;
/// Pictures whose maps the page shows.
const MAPS: usize = 8;

/// Trains an image classifier, scores it beside its rivals and writes its folder.
///
/// # Errors
///
/// Whatever is wrong with the pictures, the settings or the folder, before the first step; [`Error::Interrupted`] when the
/// listener asked to stop: the same request with `resume` continues.
pub fn train(request: &TrainRequest, listener: &mut dyn Listener) -> Result<Report> {
    let started = Instant::now();
    request.settings.check()?;
    let device = trainer::device(&request.device)?;
    let folder = RunFolder::open(&request.out, request.resume)?;
    let known = folder.read::<Plan>("plan.json")?;
    let start = request.start.as_deref();
    let start = start
        .map(|folder| Start::open(folder, &request.settings))
        .transpose()?;
    let shape = known.as_ref().map(Plan::shape);
    let shape = shape.or(start.as_ref().map(|start| start.shape(&request.settings)));
    let gallery = Gallery::read(request, shape, listener)?;
    let plan = match known {
        Some(plan) => {
            plan.check_same_data(&gallery, start.as_ref())?;
            listener.hear(&Event::Said(
                "continuing the interrupted run, with the settings it began with".to_owned(),
            ));
            plan
        }
        None => {
            let mut plan = Plan::new(request, &gallery, start.as_ref())?;
            let (precision, recipe) = (request.precision, &mut plan.recipe);
            precision.settle(&device, recipe, &mut plan.notes)?;
            settle(plan, request, &gallery, &folder, &device, started, listener)?
        }
    };
    let fit = |model: &VisionTransformerConfig,
               name: &str,
               listener: &mut dyn Listener|
     -> Result<Fitted> {
        let learner = learner(&gallery, &plan, &device);
        let mut first = first_model(model, &plan, &device)?;
        if let Some(start) = &start {
            let device = device.clone().autodiff();
            first = start.with_weights(first, model, &gallery.labels, &device)?;
        }
        let checkpoint = folder.checkpoint(name, request.settings.checkpoint_steps);
        trainer::fit(&learner, first, &plan.recipe, &checkpoint, listener)
    };
    listener.hear(&Event::Phase("training the vision transformer".to_owned()));
    let fitted = fit(&plan.model, "attention", listener)?;
    let rival = config::without_attention(&plan.model);
    let rivals = request.rivals && start.as_ref().is_none_or(Start::has_rival);
    let without = match rivals {
        true => {
            listener.hear(&Event::Phase(format!("rival: {MEAN}")));
            Some(fit(&rival, "mean", listener)?)
        }
        false => None,
    };

    listener.hear(&Event::Phase("scoring".to_owned()));
    let part = gallery.test.as_ref().unwrap_or(&gallery.validation);
    let answer = |model: &VisionTransformerConfig, fitted: &Fitted| -> Result<Vec<Vec<f32>>> {
        let model = config::assemble(model, fitted.best.clone(), &device)?;
        probabilities(&model, part, &plan.pixels, &device)
    };
    let labels = gallery.all_labels();
    let counts: Vec<usize> = gallery
        .facts
        .labels
        .iter()
        .map(|(_, count)| *count)
        .collect();
    let answered = Answered {
        part,
        labels: &labels,
        counts: &counts,
        probabilities: answer(&plan.model, &fitted)?,
        without_attention: without
            .as_ref()
            .map(|fitted| answer(&rival, fitted))
            .transpose()?,
        seed: request.seed,
    };
    let rivals = answered.rivals();
    let report = Report {
        format: 1,
        task: TASK.to_owned(),
        data: gallery.facts.clone(),
        model: model_facts(&plan),
        training: fitted.facts(request.seed, started, &plan.notes),
        scored_on: part.name.clone(),
        scores: answered.scores(),
        verdicts: answered.verdicts(&rivals),
        rivals,
    };
    let settled = Config {
        model: plan.model.clone(),
        pixels: plan.pixels.clone(),
        without_attention: without.is_some(),
        label_counts: counts.clone(),
    };
    let prefixed = |tensor: NamedTensor| NamedTensor {
        name: format!("{WITHOUT_ATTENTION}{}", tensor.name),
        ..tensor
    };
    let rival_tensors = without
        .into_iter()
        .flat_map(|fitted| fitted.best)
        .map(prefixed);
    let tensors: Vec<NamedTensor> = fitted.best.into_iter().chain(rival_tensors).collect();
    let trained = ImageClassifier::from_parts(
        settled.clone(),
        gallery.labels.clone(),
        report.clone(),
        tensors.clone(),
        &device,
    )?;
    let page = report::html(
        &report,
        &answered.mistakes()?,
        &maps(&trained, part, gallery.labels.len())?,
    );
    let parts = bundle::BundleParts {
        task: TASK.to_owned(),
        config: bundle::to_json(&settled)?,
        tensors,
        tokenizer: None,
        labels: gallery.labels.clone(),
        report: bundle::to_json(&report)?,
        readme: readme(&report),
        samples: trained.samples(),
        pages: vec![("report.html".to_owned(), page)],
    };
    bundle::write(&request.out, &parts)?;
    folder.remove()?;
    listener.hear(&Event::Saved(request.out.clone()));
    Ok(report)
}

/// Fits the plan to the minutes, and writes it down before the first step.
fn settle(
    mut plan: Plan,
    request: &TrainRequest,
    gallery: &Gallery,
    folder: &RunFolder,
    device: &Device,
    started: Instant,
    listener: &mut dyn Listener,
) -> Result<Plan> {
    if let Some(minutes) = request.minutes {
        listener.hear(&Event::Phase("measuring this machine".to_owned()));
        let model = first_model(&plan.model, &plan, device)?;
        let learner = learner(gallery, &plan, device);
        let per_picture = trainer::seconds_per_token(&learner, model, &plan.recipe, TRIAL_SECONDS)?;
        let both = if request.rivals {
            1.0 + RIVAL_SHARE
        } else {
            1.0
        };
        // Validation answers without a backward pass: about a third of a step.
        let pictures = gallery.train.len() as f64 + gallery.validation.len() as f64 / 3.0;
        let left = minutes * 60.0 * (1.0 - SCORING_SHARE) - started.elapsed().as_secs_f64();
        plan.fit_to_seconds(left, both * per_picture * pictures)?;
    }
    for note in &plan.notes {
        listener.hear(&Event::Said(note.clone()));
    }
    folder.write("plan.json", &plan)?;
    // What a resumed run will read is what this run goes by, to the last digit.
    Ok(folder.read("plan.json")?.unwrap_or(plan))
}

fn learner<'a>(gallery: &'a Gallery, plan: &'a Plan, device: &Device) -> PictureLearner<'a> {
    PictureLearner {
        train: &gallery.train,
        validation: &gallery.validation,
        plan,
        device: device.clone().autodiff(),
    }
}

/// A model before the first step.
fn first_model(
    model: &VisionTransformerConfig,
    plan: &Plan,
    device: &Device,
) -> Result<VisionTransformer> {
    model
        .init(plan.recipe.seed, &device.clone().autodiff())
        .map_err(|error| Error::setting("size", "what it is", error))
}

fn model_facts(plan: &Plan) -> ModelFacts {
    let parts = answers::Part::of(&plan.model.parameter_shapes());
    let parameters = parts.iter().map(|part| part.parameters).sum();
    ModelFacts {
        kind: "vision transformer".to_owned(),
        parameters,
        parts: parts
            .into_iter()
            .map(|part| (part.name, part.parameters))
            .collect(),
        vocabulary: 0,
        bytes: 4 * parameters as u64,
    }
}

/// Where the model looked on the first picture of each of the first labels.
fn maps(model: &ImageClassifier, part: &Part, labels: usize) -> Result<Vec<(Picture, PictureMap)>> {
    let first = |label| part.labels.iter().position(|own| *own == label);
    (0..labels.min(MAPS))
        .filter_map(first)
        .map(|row| {
            let picture = part.picture(row)?;
            let map = model.explain(&picture, &MapRequest::default())?;
            Ok((picture, map))
        })
        .collect()
}
