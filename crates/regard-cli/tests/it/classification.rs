//! A small model, trained once for all of these tests, used in every way there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::{F32, regard, seen, without_folder};

/// Settings that make training a matter of a second.
const SMALL: [&str; 8] = [
    "--set",
    "width=16",
    "--set",
    "bigram_buckets=256",
    "--set",
    "pooling_heads=2",
    "--set",
    "epochs=4",
];

/// Texts whose label is whether they promise something.
fn mails(path: &Path, rows: usize, first: usize) {
    let words = [
        "meeting", "report", "please", "today", "lunch", "server", "patch", "list", "wrote",
        "thanks",
    ];
    let promises = ["winner", "prize", "free", "money"];
    let mut csv = String::from("id,body,kind\n");
    for row in first..first + rows {
        let mut text: Vec<&str> = (0..6 + row % 7)
            .map(|at| words[(row * 3 + at * (1 + row % 4)) % words.len()])
            .collect();
        if row % 2 == 0 {
            text.insert(row % 5, promises[row / 2 % promises.len()]);
        }
        let label = if row % 2 == 0 { "垃圾" } else { "ham" };
        csv += &format!("{row},\"{}, or so\",{label}\n", text.join(" "));
    }
    fs::write(path, csv).expect("the table can be written");
}

struct Trained {
    folder: TempDir,
    said: String,
}

impl Trained {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self) -> String {
        self.path("model").display().to_string()
    }
}

fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        mails(&folder.path().join("train.csv"), 300, 0);
        mails(&folder.path().join("test.csv"), 60, 1_000);
        let output = regard()
            .current_dir(folder.path())
            .args([
                "train",
                "classification",
                "--data",
                "train.csv",
                "--test",
                "test.csv",
                "--out",
                "model",
            ])
            .args(["--model", "pooling"])
            .args(F32)
            .args(SMALL)
            .output()
            .expect("the command starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        Trained { folder, said }
    })
}

#[test]
fn training_says_what_it_inferred_and_how_good_the_model_is() {
    let trained = trained();
    for part in [
        "`body`",
        "--text-column",
        "`kind`",
        "scores on",
        "majority class",
        "mean pooling",
        "saved",
        "regard explain model",
    ] {
        assert!(
            trained.said.contains(part),
            "{part} is not in\n{}",
            trained.said
        );
    }
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "labels.json",
        "report.json",
        "README.md",
        "check.json",
        "report.html",
    ] {
        assert!(trained.path("model").join(file).is_file(), "{file}");
    }
    assert!(!trained.path("model.training").exists());
}

#[test]
fn each_text_gets_one_line_with_its_label_and_probability() {
    let model = trained().model();
    let output = regard()
        .args([
            "predict",
            &model,
            "you are the winner",
            "the report of the meeting",
        ])
        .output();
    let output = String::from_utf8(output.expect("it starts").stdout).expect("it is UTF-8");
    let labels: Vec<&str> = output
        .lines()
        .map(|line| line.split_once('\t').expect("a tab").0)
        .collect();
    assert_eq!(labels, ["垃圾", "ham"]);
    let both = regard()
        .args(["predict", &model, "--top", "2", "free money"])
        .output()
        .expect("it starts");
    assert_eq!(
        String::from_utf8_lossy(&both.stdout).matches('\t').count(),
        3
    );
}

#[test]
fn lines_from_standard_input_keep_their_places_whatever_they_are() {
    let model = trained().model();
    let lines = b"you are the winner\n\n   \nthe \xff report\r\nlast without a line end".to_vec();
    let output = regard()
        .args(["predict", &model, "--json"])
        .write_stdin(lines)
        .output()
        .expect("it starts");
    assert!(output.status.success());
    let answers: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .expect("it is UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let empty: Vec<bool> = answers.iter().map(serde_json::Value::is_null).collect();
    assert_eq!(empty, [false, true, true, false, false]);
    assert_eq!(answers[0]["label"], "垃圾");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("line 4 is not UTF-8") && told.contains("2 empty texts"),
        "{told}"
    );
}

#[test]
fn a_file_becomes_a_file() {
    let trained = trained();
    let (input, output) = (trained.path("test.csv"), trained.path("answers.csv"));
    let said = seen(
        regard()
            .args(["predict", &trained.model()])
            .arg("--input")
            .arg(&input)
            .arg("--output")
            .arg(&output),
    );
    assert!(said.contains("60 texts"), "{said}");
    let answers = fs::read_to_string(&output).expect("it was written");
    assert_eq!(answers.lines().next(), Some("text,label,probability"));
    assert_eq!(answers.lines().count(), 61);
    assert!(
        answers.lines().nth(1).expect("a row").starts_with('"'),
        "a text with a comma is quoted"
    );
    let lines = trained.path("lines.txt");
    fs::write(&lines, "free money\nlunch today\n").expect("it can be written");
    let out = trained.path("answers.jsonl");
    regard()
        .args(["predict", &trained.model()])
        .arg("--input")
        .arg(&lines)
        .arg("--output")
        .arg(&out)
        .assert()
        .success();
    assert_eq!(
        fs::read_to_string(&out)
            .expect("it was written")
            .lines()
            .count(),
        2
    );
}

#[test]
fn an_explanation_is_a_list_without_colour_and_a_line_with_it() {
    let model = trained().model();
    let text = "please send the money\u{1b}[2J today";
    let plain = seen(regard().args(["explain", &model, text]));
    assert!(
        plain.contains("█") && plain.contains("money") && !plain.contains('\u{1b}'),
        "{plain}"
    );
    let coloured = seen(regard().args(["explain", &model, text, "--color", "always"]));
    assert!(
        coloured.contains("\u{1b}[1m")
            && coloured.contains("please")
            && !coloured.contains("\u{1b}[2J"),
        "{coloured}"
    );
    assert!(
        !seen(
            regard()
                .args(["explain", &model, text])
                .env("NO_COLOR", "1")
        )
        .contains('\u{1b}')
    );
}

#[test]
fn the_weights_of_an_explanation_sum_to_one_and_its_spans_are_its_words() {
    let trained = trained();
    let page = trained.path("page.html");
    let text = "你好 <b>free</b> money, winner!";
    let output = regard()
        .args(["explain", &trained.model(), text, "--json", "--html"])
        .arg(&page)
        .output()
        .expect("it starts");
    let explanation: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("it is JSON");
    let words = explanation["words"].as_array().expect("words");
    let sum: f64 = words
        .iter()
        .map(|word| word["weight"].as_f64().expect("a number"))
        .sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    for word in words {
        let [start, end] =
            ["start", "end"].map(|name| word[name].as_u64().expect("a place") as usize);
        assert_eq!(word["text"], text[start..end]);
    }
    let page = fs::read_to_string(page).expect("it was written");
    assert!(page.contains("title=\"0.") && page.contains("&lt;") && !page.contains("<b>free"));
}

#[test]
fn a_text_without_words_is_answered_all_the_same() {
    let model = trained().model();
    for text in ["", " \n", "🦀🦀🦀", "\u{0}"] {
        regard()
            .args(["explain", &model, "-"])
            .write_stdin(text)
            .assert()
            .success();
    }
}

#[test]
fn evaluation_shows_classes_and_confusions() {
    let trained = trained();
    let data = trained.path("test.csv").display().to_string();
    let shown = seen(regard().args(["evaluate", &trained.model(), "--data", &data]));
    for part in [
        "majority class",
        "precision",
        "垃圾",
        "true \\ predicted",
        "60 rows",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let output = regard()
        .args(["evaluate", &trained.model(), "--data", &data, "--json"])
        .output()
        .expect("it starts");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(answer["scores"]["rows"], 60);
    assert!(
        answer["scores"]["accuracy"]["value"]
            .as_f64()
            .expect("a number")
            > 0.9
    );
}

#[test]
fn the_parts_of_a_model_add_up() {
    let output = regard()
        .args(["inspect", &trained().model(), "--json"])
        .output()
        .expect("it starts");
    let inspection: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let parts = inspection["parts"].as_array().expect("parts");
    let sum: u64 = parts
        .iter()
        .map(|part| part["parameters"].as_u64().expect("a count"))
        .sum();
    assert_eq!(Some(sum), inspection["parameters"].as_u64());
    assert!(seen(regard().args(["inspect", &trained().model()])).contains("together"));
}

#[test]
fn what_is_wrong_with_the_command_line_is_code_2_and_what_is_wrong_with_a_file_code_1() {
    let trained = trained();
    let folder = trained.folder.path();
    let data = trained.path("train.csv").display().to_string();
    let out = trained.path("other").display().to_string();
    let train = |more: &[&str]| {
        let base = ["train", "classification", "--data", &data, "--out", &out];
        without_folder(&seen(regard().args(base).args(more)), folder)
    };
    let missing = trained.path("missing.csv").display().to_string();
    let wrong = [
        train(&["--set", "widht=3"]),
        train(&["--minutes", "-1"]),
        train(&["--text-column", "bodi"]),
        train(&["--device", "abacus"]),
        without_folder(
            &seen(regard().args(["evaluate", &trained.model(), "--data", &missing])),
            folder,
        ),
        without_folder(&seen(regard().args(["predict", &missing, "text"])), folder),
    ];
    let codes: Vec<Option<&str>> = wrong
        .iter()
        .map(|said| said.trim_end().rsplit(' ').next())
        .collect();
    assert_eq!(
        codes,
        ["2", "2", "1", "1", "1", "1"].map(Some),
        "{wrong:#?}"
    );
    assert!(wrong[0].contains("did you mean `width`?"), "{}", wrong[0]);
    assert!(wrong[2].contains("`body`"), "{}", wrong[2]);
    assert!(wrong[4].contains("FOLDER/missing.csv"), "{}", wrong[4]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let trained = trained();
    let mut run = std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .args(["predict", &trained.model(), "--input"])
        .arg(trained.path("train.csv"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(run.stdout.take());
    let output = run.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !told.contains("error"), "{told}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_a_run_that_the_named_command_continues() {
    let folder = TempDir::new().expect("a temporary folder");
    mails(&folder.path().join("train.csv"), 300, 0);
    let arguments = [
        "train",
        "classification",
        "--data",
        "train.csv",
        "--out",
        "model",
        "--model",
        "pooling",
        "--no-rivals",
        "--precision",
        "f32",
    ];
    let mut run = std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .current_dir(folder.path())
        .args(arguments)
        .args(SMALL)
        .args(["--set", "epochs=100000", "--set", "patience=100000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    // The first epoch has ended when it says so; the run is in the middle of things then.
    let mut told = String::new();
    let mut lines = std::io::BufReader::new(run.stderr.take().expect("it is piped"));
    while !told.contains("epoch  1") {
        assert!(
            std::io::BufRead::read_line(&mut lines, &mut told).expect("it can be read") > 0,
            "{told}"
        );
    }
    let interrupt = std::process::Command::new("kill")
        .args(["-INT", &run.id().to_string()])
        .status();
    assert!(interrupt.expect("there is a kill").success());
    std::io::Read::read_to_string(&mut lines, &mut told).expect("it can be read");
    assert_eq!(run.wait().expect("it ends").code(), Some(130), "{told}");
    assert!(
        told.contains("interrupted: training stopped after step") && told.contains("--resume"),
        "{told}"
    );
    assert!(folder.path().join("model.training").exists() && !folder.path().join("model").exists());
}
