//! A small image classifier, trained once for all of these tests, used in every way there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regard_tasks::pictures::Picture;
use tempfile::TempDir;

use crate::{F32, regard, seen, without_folder};

/// Settings that make training a matter of a second.
const SMALL: [&str; 14] = [
    "--set",
    "width=16",
    "--set",
    "layers=1",
    "--set",
    "heads=2",
    "--set",
    "feed_forward=16",
    "--set",
    "convolutions=1",
    "--set",
    "epochs=8",
    "--set",
    "batch_rows=16",
];

/// A grey picture with stripes that lie or stand; the number moves them.
fn stripes(label: &str, number: usize) -> Vec<u8> {
    let (height, width) = (12, 16);
    let pixel = |at: usize| {
        let along = if label == "liegend" {
            at / width
        } else {
            at % width
        };
        if (along + number) % 4 < 2 {
            220 - number as u8
        } else {
            30 + number as u8
        }
    };
    let picture = Picture {
        height,
        width,
        channels: 1,
        pixels: (0..height * width).map(pixel).collect(),
    };
    picture.to_png()
}

fn album(folder: &Path, numbers: std::ops::Range<usize>) {
    for label in ["liegend", "竖"] {
        fs::create_dir_all(folder.join(label)).expect("a folder");
        for number in numbers.clone() {
            let path = folder.join(label).join(format!("{number:02}.png"));
            fs::write(path, stripes(label, number)).expect("it can be written");
        }
    }
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

    fn picture(&self) -> String {
        self.path("pictures/test/竖/41.png").display().to_string()
    }
}

fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        album(&folder.path().join("pictures/train"), 0..40);
        album(&folder.path().join("pictures/test"), 40..50);
        fs::write(folder.path().join("pictures/train/竖/broken.png"), "a text").expect("a file");
        let output = regard()
            .current_dir(folder.path())
            .args(["train", "vision", "--data", "pictures", "--out", "model"])
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
fn training_says_what_it_found_what_it_left_out_and_how_good_the_model_is() {
    let trained = trained();
    for part in [
        "pictures of pictures/test are scored on",
        "checking the pictures",
        "broken.png: no picture, expected PNG, JPEG or WebP",
        "12 × 16 pixels in grey",
        "mirrored at random",
        "majority class",
        "same tokenizer, mean, no attention",
        "saved",
        "regard explain model picture.jpg --out map.png",
    ] {
        assert!(
            trained.said.contains(part),
            "{part} is not in\n{}",
            trained.said
        );
    }
    let page = fs::read_to_string(trained.path("model/report.html")).expect("a page");
    assert!(page.contains("Where it looked") && page.contains("data:image/png;base64,"));
}

#[test]
fn each_picture_gets_one_line_and_one_that_cannot_be_read_keeps_its_place() {
    let trained = trained();
    let lying = trained
        .path("pictures/test/liegend/40.png")
        .display()
        .to_string();
    let missing = trained.path("missing.png").display().to_string();
    let shown = seen(regard().args([
        "predict",
        &trained.model(),
        &lying,
        &missing,
        &trained.picture(),
    ]));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("\tliegend\t0."), "{shown}");
    assert_eq!(lines[1], missing);
    assert!(lines[2].contains("\t竖\t0."), "{shown}");
    assert!(
        shown.contains("1 of 3 pictures could not be read") && shown.ends_with("exit code 1\n"),
        "{shown}"
    );

    let output = regard()
        .args(["predict", &trained.model(), "--json"])
        .write_stdin(format!("{lying}\n"))
        .output()
        .expect("it starts");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(
        (answer["label"].as_str(), answer["picture"].as_str()),
        (Some("liegend"), Some(lying.as_str()))
    );
    assert_eq!(answer["probabilities"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_explanation_is_a_picture_a_page_and_json() {
    let trained = trained();
    let (map, page) = (trained.path("map.png"), trained.path("map.html"));
    let output = regard()
        .args([
            "explain",
            &trained.model(),
            &trained.picture(),
            "--class",
            "liegend",
            "--json",
        ])
        .arg("--out")
        .arg(&map)
        .arg("--html")
        .arg(&page)
        .output()
        .expect("it starts");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(answer["label"], "liegend");
    assert_eq!(answer["prediction"]["label"], "竖");
    let weights = answer["weights"].as_array().expect("weights");
    let sum: f64 = weights.iter().filter_map(serde_json::Value::as_f64).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    // The picture's own ratio of sides, 28 times as large, and the legend.
    let drawn = Picture::open(&map).expect("it is a picture");
    assert_eq!([drawn.height, drawn.width], [12 * 28 + 38, 16 * 28]);
    let page = fs::read_to_string(page).expect("it was written");
    assert!(page.contains("liegend") && page.contains("data:image/png;base64,"));

    let shown = seen(regard().args(["explain", &trained.model(), &trained.picture()]));
    assert!(
        shown.contains("██") && shown.contains("attention × gradient"),
        "{shown}"
    );
    let shown = seen(regard().args([
        "explain",
        &trained.model(),
        &trained.picture(),
        "--layer",
        "0",
        "--head",
        "1",
    ]));
    assert!(shown.contains("layer 0 was looked at, head 1"), "{shown}");
}

#[test]
fn evaluation_shows_classes_confusions_and_a_sheet_of_mistakes() {
    let trained = trained();
    // Labels turned around: everything is a mistake.
    let wrong = trained.path("wrong");
    fs::create_dir_all(&wrong).expect("a folder");
    for (label, other) in [("liegend", "竖"), ("竖", "liegend")] {
        fs::create_dir_all(wrong.join(label)).expect("a folder");
        fs::write(wrong.join(label).join("a.png"), stripes(other, 44)).expect("it can be written");
    }
    let sheet = trained.path("sheet.png");
    let shown = seen(
        regard()
            .args(["evaluate", &trained.model(), "--data"])
            .arg(&wrong)
            .arg("--sheet")
            .arg(&sheet),
    );
    for part in [
        "majority class",
        "precision",
        "true \\ predicted",
        "mistakes, the surest first",
        "liegend/a.png",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert_eq!(
        Picture::open(&sheet).expect("it is a picture").width,
        2 * 136 + 8
    );
    let data = trained.path("pictures").display().to_string();
    let output = regard()
        .args(["evaluate", &trained.model(), "--data", &data, "--json"])
        .output()
        .expect("it starts");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(answer["scores"]["rows"], 20);
    assert!(
        answer["scores"]["accuracy"]["value"]
            .as_f64()
            .expect("a number")
            > 0.9
    );
}

#[test]
fn what_is_wrong_with_the_command_line_is_code_2_and_what_is_wrong_with_a_file_code_1() {
    let trained = trained();
    let said = |words: &[&str]| {
        let seen = seen(regard().current_dir(trained.folder.path()).args(words));
        without_folder(&seen, trained.folder.path())
    };
    let picture = trained.picture();
    insta::assert_snapshot!(said(&["train", "vision", "--data", "nowhere", "--out", "other"]), @r"
    --- standard error
    error: nowhere: cannot be read: No such file or directory (os error 2)
    --- exit code 1
    ");
    insta::assert_snapshot!(said(&["train", "vision", "--data", "pictures", "--out", "other", "--set", "summary=sum"]), @r"
    --- standard error
    error: --set summary=sum: unknown variant `sum`, expected one of `mean`, `attention`, `class_token`
    --- exit code 2
    ");
    insta::assert_snapshot!(said(&["train", "vision", "--data", "pictures", "--out", "other", "--set", "crop=2"]), @r"
    --- standard error
    error: setting `crop` is 2, expected 0.05 to 1
    --- exit code 1
    ");
    insta::assert_snapshot!(said(&["train", "vision", "--data", "pictures/test/竖", "--out", "other"]), @r"
    --- standard error
    error: `--data pictures/test/竖`: found no picture in a folder of its class (left out 10 pictures outside of a class's folder: `40.png`, `41.png`, `42.png`, `43.png`, `44.png`, …), expected folders named like their class, with files that end in .png, .jpg, .jpeg, .webp
    --- exit code 1
    ");
    insta::assert_snapshot!(said(&["explain", "model", &picture, "--class", "dog"]), @r"
    --- standard error
    error: `--class`: found `dog`, expected one of `liegend`, `竖`
    --- exit code 1
    ");
    insta::assert_snapshot!(said(&["explain", "model", &picture, "--layer", "7"]), @r"
    --- standard error
    error: `--layer`: found 7, expected a layer of 0 to 0, counted from 0
    --- exit code 1
    ");
    insta::assert_snapshot!(said(&["explain", "model", "pictures/train/竖/broken.png"]), @r"
    --- standard error
    error: pictures/train/竖/broken.png: no picture, expected PNG, JPEG or WebP
    --- exit code 1
    ");
}
