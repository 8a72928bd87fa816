//! Pairs, options and sources that are wrong or odd: each ends in a clear error, a warning, or a bounded answer.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use regard_tasks::sequence_to_sequence::{
    AttentionPart, PairColumns, PairFiles, TrainRequest, Writer, WritingOptions, train,
};
use regard_tasks::text_classification::TextClassifier;
use regard_tasks::trainer::Event;
use regard_tasks::{Error, Task};
use tempfile::TempDir;

use crate::sequence_to_sequence::{pairs, request, tables};
use crate::training::Ears;

/// A model of one epoch, for answers that need not be good.
fn small(folder: &Path) -> Writer {
    let mut request = request(folder, &pairs(120), "small");
    request.settings.epochs = Some(1);
    train(&request, &mut Ears::default()).unwrap();
    Writer::open(&request.out).unwrap()
}

/// What is done within two seconds, at the latest at the third try: a busy machine is slow once, work that grows with the square
/// of a text always.
fn soon<T>(what: &str, work: impl Fn() -> T) -> T {
    let mut took = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        let done = work();
        if started.elapsed() < Duration::from_secs(2) {
            return done;
        }
        took.push(started.elapsed());
    }
    panic!("{what}: {took:?}");
}

#[test]
fn an_odd_source_ends_in_a_bounded_answer_within_two_seconds() {
    let folder = TempDir::new().unwrap();
    let model = small(folder.path());
    let odd = [
        " ".repeat(10_000),
        "x".repeat(1 << 20),
        "猫".repeat(1 << 18),
        "\u{1}\u{2}\u{7f}\u{85}".to_owned(),
        "\u{fffd}\u{fffd}".to_owned(),
        "Ω≈ç√∫˜µ≤≥÷ 한국어 \u{202e}rtl".to_owned(),
        "e\u{301}".repeat(10_000),
        String::new(),
    ];
    let limit = model.options().max_length;
    for source in &odd {
        let shown: String = source.chars().take(10).collect();
        let (answer, looked) = soon(&shown, || {
            let answer = model.run(std::slice::from_ref(source)).unwrap().remove(0);
            let looked = model.explain(source, None, &AttentionPart::default());
            (answer, looked.unwrap())
        });
        assert!(answer.text.len() <= 16 * limit, "{shown}");
        assert_eq!(
            looked.cut_source_pieces, answer.cut_source_pieces,
            "{shown}"
        );
        assert!(looked.html().len() < 2 << 20, "{shown}");
    }
    let together = model.run(&odd).unwrap();
    assert_eq!(together.len(), odd.len());
    assert!(together[1].cut_source_pieces > 0);
}

#[test]
fn a_target_that_is_too_long_to_be_scored_is_refused_and_not_cut() {
    let folder = TempDir::new().unwrap();
    let model = small(folder.path());
    let part = AttentionPart::default();
    let error = model
        .explain("red cat", Some(&"cat ".repeat(9000)), &part)
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("--target") && said.contains("at most 256"),
        "{said}"
    );
    let (likely, unlikely) = (
        model.log_probability("red cat", "红色 猫").unwrap(),
        model
            .log_probability("red cat", "猫 piccolo größe")
            .unwrap(),
    );
    assert!(
        likely.is_finite() && likely > unlikely,
        "{likely} {unlikely}"
    );
}

#[test]
fn a_source_longer_than_the_model_reads_is_cut_with_a_count() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), &pairs(120), "model");
    request.settings.epochs = Some(1);
    request.settings.max_source = Some(4);
    let report = train(&request, &mut Ears::default()).unwrap();
    let said = |notes: &[String], what: &str| notes.iter().any(|note| note.contains(what));
    assert!(
        said(
            &report.training.notes,
            "sources are longer than 4 pieces and are cut there"
        ),
        "{report:?}"
    );
    let model = Writer::open(&request.out).unwrap();
    let answer = model.run(&["red green house".repeat(3)]).unwrap().remove(0);
    assert!(answer.cut_source_pieces > 4, "{answer:?}");
    let scored = model
        .evaluate(&request.data, &PairColumns::default())
        .unwrap();
    assert!(
        said(&scored.notes, "sources were cut to their first 4 pieces"),
        "{:?}",
        scored.notes
    );
}

#[test]
fn a_script_that_the_training_never_had_is_said() {
    let folder = TempDir::new().unwrap();
    let model = small(folder.path());
    assert!(model.unseen_letters("한국어 문장").is_some());
    assert!(model.unseen_letters("red cat").is_none());
}

#[test]
fn sides_that_are_swapped_are_warned_of_with_the_evidence() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), &pairs(120), "model");
    request.settings.epochs = Some(1);
    let turned: String = pairs(60)
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'))
        .map(|(source, target)| format!("{target}\t{source}\n"))
        .collect();
    let path = folder.path().join("turned.tsv");
    fs::write(&path, format!("source\ttarget\n{turned}")).unwrap();
    request.test = Some(tables(path));
    let mut ears = Ears::default();
    train(&request, &mut ears).unwrap();
    let warned = ears.heard.iter().any(|event| {
        matches!(event, Event::Warned(what) if what.contains("turned.tsv: the columns look swapped"))
    });
    assert!(warned, "{:?}", ears.heard);
}

#[test]
fn pairs_with_an_empty_side_are_left_out_counted_and_named() {
    let folder = TempDir::new().unwrap();
    let table = format!("{}\tno source\nno target\t \n", pairs(80));
    let mut request = request(folder.path(), &table, "model");
    request.settings.epochs = Some(1);
    let report = train(&request, &mut Ears::default()).unwrap();
    let named = "pairs.tsv: 2 pairs with an empty side left out (line 82, 83)";
    assert!(
        report.data_notes.iter().any(|note| note == named),
        "{:?}",
        report.data_notes
    );
}

#[test]
fn what_is_wrong_with_the_pairs_is_said() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refuse = |data: PairFiles| {
        let base = request(folder.path(), "source\ttarget\na\tb\n", "model");
        let error = train(&TrainRequest { data, ..base }, &mut Ears::default()).unwrap_err();
        let _ = fs::remove_dir_all(path("model.training"));
        error.to_string()
    };
    fs::write(path("a.en"), "one\ntwo\nthree\n").unwrap();
    fs::write(path("a.it"), "uno\ndue\n").unwrap();
    let lines = PairFiles::Lines {
        source: path("a.en"),
        target: path("a.it"),
    };
    let said = refuse(lines);
    assert!(said.contains("2 lines") && said.contains("has 3"), "{said}");
    fs::write(path("three.csv"), "alpha,beta,gamma\n1,2,3\n").unwrap();
    assert!(refuse(tables(path("three.csv"))).contains("--source-column"));
    fs::write(path("empty.csv"), "source,target\n,x\n  ,y\n").unwrap();
    assert!(refuse(tables(path("empty.csv"))).contains("no pair with two sides"));
    fs::write(
        path("long.csv"),
        format!("source,target\na,{}\nb,{0}\n", "x ".repeat(300)),
    )
    .unwrap();
    assert!(refuse(tables(path("long.csv"))).contains("max_target"));
}

#[test]
fn settings_that_do_not_fit_each_other_are_refused_before_the_first_step() {
    let folder = TempDir::new().unwrap();
    let mut request = request(folder.path(), &pairs(80), "model");
    request.settings.pointer = Some(true);
    request.settings.separate_vocabularies = Some(true);
    let refused = train(&request, &mut Ears::default());
    assert!(
        matches!(&refused, Err(Error::Setting { .. })),
        "{refused:?}"
    );
    request.settings.separate_vocabularies = None;
    request.settings.bpe_dropout = Some(1.0);
    let said = train(&request, &mut Ears::default())
        .unwrap_err()
        .to_string();
    assert!(said.contains("bpe_dropout"), "{said}");
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut model = small(folder.path());
    let own = model.options().clone();
    let mut refused = |change: &dyn Fn(&mut WritingOptions)| {
        let mut options = own.clone();
        change(&mut options);
        model.set_options(options).unwrap_err().to_string()
    };
    assert!(refused(&|options| options.beam = 0).contains("--beam"));
    assert!(refused(&|options| options.beam = 100_000).contains("--beam"));
    assert!(refused(&|options| options.n_best = 9).contains("--n-best"));
    assert!(refused(&|options| options.prefix = " \u{1} ".to_owned()).contains("--prefix"));
    assert!(refused(&|options| options.temperature = Some(f32::NAN)).contains("--temperature"));
    let of_another_task = TextClassifier::open(&folder.path().join("small")).unwrap_err();
    assert!(of_another_task.to_string().contains("`translation`"));
}
