//! Training as a user sees it: it learns, it can be stopped anywhere, and it says what is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use regard_tasks::columns::ColumnChoice;
use regard_tasks::report::Report;
use regard_tasks::tables::Table;
use regard_tasks::text_classification::{ModelKind, Settings, TextClassifier, TrainRequest, train};
use regard_tasks::trainer::{Event, Listener};
use regard_tasks::{Error, Precision, Task};
use tempfile::TempDir;

/// Listens to everything and asks to stop after a number of steps.
#[derive(Default)]
pub(crate) struct Ears {
    pub(crate) heard: Vec<Event>,
    pub(crate) steps: u64,
    pub(crate) stop_after: Option<u64>,
}

impl Listener for Ears {
    fn hear(&mut self, event: &Event) {
        self.steps += u64::from(matches!(event, Event::Stepped { .. }));
        self.heard.push(event.clone());
    }

    fn stop(&self) -> bool {
        self.stop_after.is_some_and(|stop| self.steps >= stop)
    }
}

/// Texts whose label is given away by one word among noise.
fn mails(rows: usize) -> String {
    let spam = ["winner", "prize", "free", "cash"];
    let ham = ["meeting", "invoice", "lunch", "report"];
    let noise = [
        "the", "you", "about", "today", "please", "and", "our", "next", "some", "very",
    ];
    let mut csv = String::from("text,label\n");
    for row in 0..rows {
        let (label, words) = if row % 3 == 0 {
            ("spam", spam)
        } else {
            ("ham", ham)
        };
        let mut text: Vec<&str> = (0..5 + row % 7)
            .map(|at| noise[(row * 31 + at * 17 + row / 10) % noise.len()])
            .collect();
        text.insert(row % 5, words[row / 3 % words.len()]);
        csv += &format!("{} {row},{label}\n", text.join(" "));
    }
    csv
}

fn small(model: ModelKind) -> Settings {
    Settings {
        model,
        width: Some(16),
        heads: Some(2),
        pooling_heads: Some(2),
        bigram_buckets: Some(256),
        epochs: Some(3),
        batch_rows: Some(16),
        ..Settings::default()
    }
}

pub(crate) fn request(folder: &Path, name: &str, model: ModelKind) -> TrainRequest {
    let data = folder.join("mails.csv");
    if !data.exists() {
        fs::write(&data, mails(240)).unwrap();
    }
    TrainRequest {
        data: vec![data],
        out: folder.join(name),
        settings: small(model),
        seed: 7,
        device: "cpu".to_owned(),
        precision: Precision::F32,
        rivals: true,
        ..TrainRequest::default()
    }
}

fn weights(model: &Path) -> Vec<u8> {
    fs::read(model.join("model.safetensors")).unwrap()
}

#[test]
fn a_model_learns_what_a_word_gives_away_and_can_be_opened_and_asked() {
    for model in [ModelKind::Pooling, ModelKind::Transformer] {
        let folder = TempDir::new().unwrap();
        let mut request = request(folder.path(), "model", model);
        (request.settings.epochs, request.settings.learning_rate) = (Some(12), Some(0.01));
        let report = train(&request, &mut Ears::default()).unwrap();
        assert!(
            report.scores.accuracy.value > 0.9,
            "{model:?}: {:?}",
            report.scores.accuracy
        );
        assert_eq!(report.rivals.len(), 3);
        let classifier = TextClassifier::open(&request.out).unwrap();
        let answers = classifier
            .run(&[
                "please take the free prize".to_owned(),
                "our next meeting".to_owned(),
            ])
            .unwrap();
        assert_eq!(
            [answers[0].label.as_str(), answers[1].label.as_str()],
            ["spam", "ham"]
        );
        let explained = classifier.explain("please take the free prize").unwrap();
        let total: f32 = explained.words.iter().map(|word| word.weight).sum();
        assert!(
            (total - 1.0).abs() < 1e-5,
            "the weights of a text sum to {total}"
        );
        assert_eq!(explained.prediction.label, "spam");
        let words: Vec<&str> = explained
            .words
            .iter()
            .map(|word| word.text.as_str())
            .collect();
        assert_eq!(words, ["please", "take", "the", "free", "prize"]);
    }
}

#[test]
fn a_run_stopped_at_any_step_and_resumed_equals_one_that_was_not() {
    let folder = TempDir::new().unwrap();
    let whole = request(folder.path(), "whole", ModelKind::Transformer);
    let mut ears = Ears::default();
    train(&whole, &mut ears).unwrap();
    let steps = ears.steps;
    for stop in [1, 2, steps / 3, steps / 2, steps - 1] {
        let mut stopped = request(
            folder.path(),
            &format!("stopped-{stop}"),
            ModelKind::Transformer,
        );
        let ended = train(
            &stopped,
            &mut Ears {
                stop_after: Some(stop),
                ..Ears::default()
            },
        );
        assert!(matches!(ended, Err(Error::Interrupted { .. })), "{ended:?}");
        assert!(
            !stopped.out.exists(),
            "an interrupted run leaves no model folder"
        );
        stopped.resume = true;
        train(&stopped, &mut Ears::default()).unwrap();
        assert!(
            weights(&whole.out) == weights(&stopped.out),
            "stopped at step {stop} of {steps}"
        );
        assert!(
            !folder
                .path()
                .join(format!("stopped-{stop}.training"))
                .exists()
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let folder = TempDir::new().unwrap();
    let trained = |threads: usize| {
        let request = request(
            folder.path(),
            &format!("threads-{threads}"),
            ModelKind::Transformer,
        );
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| train(&request, &mut Ears::default()))
            .unwrap();
        weights(&request.out)
    };
    let one = trained(1);
    assert!(one == trained(2));
    assert!(one == trained(3));
}

#[test]
fn an_unfinished_run_is_neither_overwritten_nor_forgotten() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), "model", ModelKind::Pooling);
    train(
        &request,
        &mut Ears {
            stop_after: Some(3),
            ..Ears::default()
        },
    )
    .unwrap_err();
    let again = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(
        again.contains("unfinished run") && again.contains("--resume"),
        "{again}"
    );
    fs::write(&request.data[0], mails(120)).unwrap();
    request.resume = true;
    let other = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(other.contains("other contents"), "{other}");
}

#[test]
fn bf16_scores_as_f32_does_and_is_written_down() {
    let folder = TempDir::new().unwrap();
    let trained = |name: &str, precision: Precision| {
        let mut request = request(folder.path(), name, ModelKind::Transformer);
        (request.settings.epochs, request.settings.learning_rate) = (Some(6), Some(0.01));
        (request.precision, request.rivals) = (precision, false);
        let report = train(&request, &mut Ears::default()).unwrap();
        (report, weights(&request.out))
    };
    let (exact, exact_weights) = trained("f32", Precision::F32);
    let (rounded, rounded_weights) = trained("bf16", Precision::Bf16);
    assert_ne!(exact_weights, rounded_weights);
    let interval = &exact.scores.accuracy;
    let found = rounded.scores.accuracy.value;
    assert!(
        (interval.low..=interval.high).contains(&found),
        "{found}, {interval:?} in f32"
    );
    let says = |report: &Report| {
        report
            .training
            .notes
            .iter()
            .any(|note| note.contains("bf16"))
    };
    assert!(says(&rounded) && !says(&exact));
}

#[test]
fn there_is_nothing_to_resume_where_nothing_was_begun() {
    let folder = TempDir::new().unwrap();
    let request = TrainRequest {
        resume: true,
        ..request(folder.path(), "model", ModelKind::Pooling)
    };
    let error = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("no run to continue"), "{error}");
}

fn train_on(csv: &str) -> Result<(), String> {
    let folder = TempDir::new().unwrap();
    let request = request(folder.path(), "model", ModelKind::Pooling);
    fs::write(&request.data[0], csv).unwrap();
    let ended = train(&request, &mut Ears::default());
    assert!(
        ended.is_ok() == request.out.exists(),
        "a model folder if and only if training succeeded"
    );
    ended.map(drop).map_err(|error| error.to_string())
}

#[test]
fn one_class_only_is_refused_by_name() {
    let error = train_on("text,label\none,ham\ntwo,ham\nthree,ham\n").unwrap_err();
    assert!(
        error.contains("only the label `ham`") && error.contains("at least two labels"),
        "{error}"
    );
}

#[test]
fn a_file_without_a_row_is_refused() {
    for csv in ["", "text,label\n", "text,label\n,\n , \n"] {
        train_on(csv).unwrap_err();
    }
}

#[test]
fn rows_without_text_or_label_are_left_out_and_named() {
    let folder = TempDir::new().unwrap();
    let request = request(folder.path(), "model", ModelKind::Pooling);
    fs::write(&request.data[0], mails(60) + ",spam\nno label here,\n").unwrap();
    let mut ears = Ears::default();
    let report = train(&request, &mut ears).unwrap();
    assert_eq!(report.data.skipped.len(), 2, "{:?}", report.data.skipped);
    assert!(
        report.data.skipped[0].contains("line 62"),
        "{:?}",
        report.data.skipped
    );
    assert_eq!(report.data.train_rows + report.data.validation_rows, 60);
    assert!(
        ears.heard
            .iter()
            .any(|event| matches!(event, Event::Warned(line) if line.contains("left out")))
    );
}

#[test]
fn a_label_that_only_the_test_file_has_counts_as_wrong_and_is_named() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), "model", ModelKind::Pooling);
    let test: PathBuf = folder.path().join("test.csv");
    fs::write(
        &test,
        "text,label\nfree prize,spam\nour meeting,ham\nwho knows,maybe\n",
    )
    .unwrap();
    request.test = Some(test.clone());
    let mut ears = Ears::default();
    let report = train(&request, &mut ears).unwrap();
    assert_eq!(report.scores.rows, 3);
    assert_eq!(report.scores.labels, ["ham", "spam", "maybe"]);
    assert!(report.scores.accuracy.value < 0.7);
    assert!(
        ears.heard
            .iter()
            .any(|event| matches!(event, Event::Warned(line) if line.contains("`maybe`")))
    );
    let classifier = TextClassifier::open(&request.out).unwrap();
    let (scores, rivals, notes) = classifier
        .evaluate(&Table::read(&test).unwrap(), &ColumnChoice::default())
        .unwrap();
    assert_eq!(scores, report.scores);
    assert_eq!(rivals.len(), 2);
    assert!(
        notes.iter().any(|note| note.contains("`maybe`")),
        "{notes:?}"
    );
}

#[test]
fn a_text_longer_than_the_limit_is_cut_and_counted() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), "model", ModelKind::Pooling);
    request.settings.max_tokens = Some(8);
    fs::write(&request.data[0], mails(90)).unwrap();
    let report = train(&request, &mut Ears::default()).unwrap();
    assert!(report.data.truncated_texts > 0);
    let classifier = TextClassifier::open(&request.out).unwrap();
    let answers = classifier
        .run(&["word ".repeat(50), String::new()])
        .unwrap();
    assert_eq!(
        [answers[0].truncated_tokens, answers[1].truncated_tokens],
        [42, 0]
    );
}

#[test]
fn an_answer_does_not_depend_on_the_texts_beside_it() {
    let folder = TempDir::new().unwrap();
    let request = request(folder.path(), "model", ModelKind::Transformer);
    train(&request, &mut Ears::default()).unwrap();
    let classifier = TextClassifier::open(&request.out).unwrap();
    let texts: Vec<String> = (0..40)
        .map(|row| "free lunch and a very long report today ".repeat(1 + row % 5))
        .collect();
    let together = classifier.run(&texts).unwrap();
    for (text, together) in texts.iter().zip(together) {
        let alone = &classifier.run(std::slice::from_ref(text)).unwrap()[0];
        assert!((alone.probability - together.probability).abs() < 1e-5);
    }
}

#[test]
fn a_setting_that_cannot_be_meant_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), "model", ModelKind::Pooling);
    request.settings.dropout = Some(1.5);
    let error = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("dropout") && error.contains("1.5"),
        "{error}"
    );
    assert!(!request.out.exists());
}

#[test]
fn heads_that_do_not_divide_the_width_are_refused_before_the_first_step() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), "model", ModelKind::Transformer);
    request.settings.heads = Some(3);
    let error = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("heads") && error.contains('3') && error.contains("16"),
        "{error}"
    );
}
