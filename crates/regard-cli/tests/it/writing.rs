//! A small translator and a small summarizer, each trained once for all of these tests, and used in every way there is.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{F32, regard, seen, without_folder};

const WORDS: [(&str, &str); 6] = [
    ("red", "红色"),
    ("house", "بيت"),
    ("cat", "ネコ"),
    ("sun", "☀️"),
    ("small", "piccolo"),
    ("big", "größe"),
];

/// Settings that make training a matter of seconds.
const SMALL: [&str; 6] = [
    "vocabulary=320",
    "width=32",
    "heads=2",
    "encoder_layers=1",
    "decoder_layers=1",
    "feed_forward=64",
];

fn train(folder: &TempDir, words: &[&str], settings: &[&str]) -> String {
    let mut command = regard();
    command
        .current_dir(folder.path())
        .arg("train")
        .args(words)
        .args(F32);
    for setting in SMALL.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    let output = command.output().expect("the command starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

struct Trained {
    folder: TempDir,
    said: String,
}

impl Trained {
    fn model(&self) -> String {
        self.folder.path().join("model").display().to_string()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("the file can be written");
        path
    }
}

/// Two text files, line by line.
fn translator() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let (mut sources, mut targets) = (String::new(), String::new());
        for row in 0..800_usize {
            let words = (0..2 + row % 2)
                .map(|at| WORDS[((row * 2_654_435_761) >> (5 + 3 * at)) % WORDS.len()]);
            let (source, target): (Vec<&str>, Vec<&str>) = words.unzip();
            sources += &format!("{}\n", source.join(" "));
            targets += &format!("{}\n", target.join(" "));
        }
        fs::write(folder.path().join("a.en"), sources).expect("the file can be written");
        fs::write(folder.path().join("a.xx"), targets).expect("the file can be written");
        let words = [
            "translation",
            "--source",
            "a.en",
            "--target",
            "a.xx",
            "--out",
            "model",
        ];
        let settings = [
            "learning_rate=0.005",
            "batch_tokens=100",
            "epochs=10",
            "dropout=0.05",
            "validation_share=0.1",
        ];
        let said = train(&folder, &words, &settings);
        Trained { folder, said }
    })
}

/// A table of texts and summaries that repeat one of their words.
fn summarizer() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let mut table = String::from("article\theadline\n");
        let names = ["Anna", "Bela", "Cleo", "Dora", "Ella", "Finn", "Gina", "Hugo"];
        for row in 0..640 {
            let (name, at) = (names[row % 8], row / 8 % 10);
            table += &format!("It was day {at}. We heard that {name} won a prize. All were glad.\t{name} wins prize\n");
        }
        fs::write(folder.path().join("articles.tsv"), table).expect("the file can be written");
        let words = ["summarization", "--data", "articles.tsv", "--out", "model"];
        let said = train(&folder, &words, &["learning_rate=0.005", "batch_tokens=300", "epochs=6"]);
        Trained { folder, said }
    })
}

#[test]
fn training_says_what_it_inferred_shows_outputs_and_stands_beside_something_trivial() {
    for (said, parts) in [
        (
            &translator().said,
            [
                "pairs to learn from",
                "→",
                "copy of the source",
                "BLEU",
                "chrF",
            ],
        ),
        (
            &summarizer().said,
            [
                "summarized as",
                "a pointer that copies",
                "first sentence",
                "ROUGE-L",
                "first 3 words",
            ],
        ),
    ] {
        for part in parts {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
    }
}

#[test]
fn a_translation_is_a_line_and_with_json_its_alternatives_and_scores() {
    let model = translator().model();
    insta::assert_snapshot!(seen(regard().args(["predict", &model, "small  red\u{1} cat"])), @"piccolo 红色 ネコ");
    let json = seen(regard().args(["predict", &model, "red house", "--n-best", "2", "--json"]));
    let answer: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(answer["text"], "红色 بيت");
    let scores: Vec<f64> = answer["alternatives"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["score"].as_f64())
        .collect();
    assert!(scores.len() == 2 && scores[0] >= scores[1], "{json}");
}

#[test]
fn lone_surrogates_in_json_end_in_a_clear_error_or_an_answer_within_two_seconds() {
    let trained = translator();
    let lone = trained.file("lone.jsonl", "{\"source\": \"red \\ud83d cat\"}\n");
    let whole = trained.file("whole.jsonl", "{\"source\": \"red \\ud83d\\ude00 cat\"}\n");
    let ask = |path: &PathBuf| {
        // At the latest at the third try: a busy machine is slow once.
        let said = (0..3).find_map(|_| {
            let started = Instant::now();
            let words = ["predict", &trained.model(), "--column", "source", "--input"];
            let said = seen(regard().args(words).arg(path));
            (started.elapsed() < Duration::from_secs(2)).then_some(said)
        });
        without_folder(
            &said.expect("an end within two seconds"),
            trained.folder.path(),
        )
    };
    let said = ask(&lone);
    assert!(
        said.contains("lone.jsonl") && said.contains("exit code 1"),
        "{said}"
    );
    assert!(!ask(&whole).contains("exit code"));
}

#[test]
fn texts_in_an_unknown_script_are_counted() {
    let trained = translator();
    let path = trained.file("foreign.txt", "한국어 문장\nred cat\nεδώ\n");
    let said = seen(
        regard()
            .args(["predict", &trained.model(), "--input"])
            .arg(path),
    );
    assert!(
        said.contains("2 texts are of letters that training never saw"),
        "{said}"
    );
}

#[test]
fn evaluation_prints_signatures_and_finds_the_columns_of_any_table() {
    let trained = translator();
    let table = trained.file(
        "test.csv",
        "source,target\nred cat,红色 ネコ\nbig sun,größe ☀️\n",
    );
    let said = seen(
        regard()
            .args(["evaluate", &trained.model(), "--data"])
            .arg(table),
    );
    for part in [
        "scores on 2 pairs",
        "nrefs:1|case:mixed|eff:no|tok:",
        "copy of the source",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn an_alignment_is_shown_scored_against_links_and_written_as_a_page() {
    let trained = translator();
    let page = trained.folder.path().join("page.html");
    let words = [
        "explain",
        &trained.model(),
        "small red cat",
        "--gold",
        "0-0 1-1 2-2",
        "--html",
    ];
    let said = seen(regard().args(words).arg(&page));
    for part in [
        "piccolo 红色 ネコ",
        "alignment error rate",
        "log probability -",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let page = fs::read_to_string(page).expect("the page was written");
    assert!(page.contains("<th dir=\"auto\">piccolo</th>"));
    let said = seen(regard().args(["explain", &trained.model(), "red", "--gold", "0:0"]));
    assert!(
        said.contains("`0:0` is no link") && said.contains("exit code 2"),
        "{said}"
    );
}

#[test]
fn each_word_of_a_summary_is_traced_to_a_span_of_the_text() {
    let trained = summarizer();
    let text = "It was day 3. We heard that Cleo won a prize. All were glad.";
    let page = trained.folder.path().join("page.html");
    let said = seen(
        regard()
            .args(["explain", &trained.model(), text, "--html"])
            .arg(&page),
    );
    for part in [
        "Cleo wins prize",
        "came from",
        "copied",
        "not a word of the text",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let page = fs::read_to_string(page).expect("the page was written");
    assert!(page.contains("<a href=\"#w7\">"), "{page}");
    let json = seen(regard().args(["explain", &trained.model(), text, "--json"]));
    let answer: Value = serde_json::from_str(&json).expect("it is JSON");
    let trace = &answer["traces"][0];
    let (start, end) = (trace["start"].as_u64(), trace["end"].as_u64());
    let (start, end) = (
        start.expect("a number") as usize,
        end.expect("a number") as usize,
    );
    assert!(text[start..end].contains("Cleo"), "{json}");
    assert_eq!(trace["origin"], "span");
}

#[test]
fn a_command_of_another_task_says_so() {
    let trained = translator();
    let said = seen(regard().args(["predict", &trained.model(), "red cat", "--top", "2"]));
    assert!(
        said.contains("--top") && said.contains("exit code 2"),
        "{said}"
    );
}
