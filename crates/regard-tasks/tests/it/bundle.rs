//! The model folder: written whole or not at all, opened with suspicion.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regard_nn::parameters::NamedTensor;
use regard_tasks::bundle::{BundleParts, Sample, check_target, open, write};
use regard_tasks::tokenizer::{Pieces, TextTokenizer, TokenizerSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TASK: &str = "text-classification";

pub(crate) fn tensors() -> Vec<NamedTensor> {
    let tensor = |name: &str, shape: &[usize]| NamedTensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        values: (0..shape.iter().product())
            .map(|at| at as f32 / 7.0 - 0.3)
            .collect(),
    };
    vec![
        tensor("embedding.weight", &[5, 3]),
        tensor("output.bias", &[2]),
        tensor("scale", &[]),
    ]
}

pub(crate) fn shapes() -> Vec<(String, Vec<usize>)> {
    tensors()
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape))
        .collect()
}

pub(crate) fn parts() -> BundleParts {
    static TOKENIZER: OnceLock<String> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let settings = TokenizerSettings {
            pieces: Pieces::Words,
            vocabulary: 50,
            lowercase: true,
        };
        TextTokenizer::train(["good good", "bad bad"].into_iter(), &settings)
            .unwrap()
            .to_json()
            .unwrap()
    });
    BundleParts {
        task: TASK.to_owned(),
        config: json!({ "width": 3, "dropout": 0.1 }),
        tensors: tensors(),
        tokenizer: Some(tokenizer.clone()),
        labels: vec!["bad".to_owned(), "good".to_owned()],
        report: json!({ "accuracy": 0.5 }),
        readme: "# A model\n".to_owned(),
        samples: vec![Sample {
            input: "good".to_owned(),
            output: json!({ "label": "good" }),
        }],
        pages: vec![("report.html".to_owned(), "<p>hello</p>".to_owned())],
    }
}

/// A folder with a model in `model/`: written once, then copied, since writing waits for the disk.
pub(crate) fn written() -> (TempDir, PathBuf) {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("model");
        write(&model, &parts()).unwrap();
        let read = |name: String| (name.clone(), fs::read(model.join(name)).unwrap());
        names(&model).into_iter().map(read).collect()
    });
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    files
        .iter()
        .for_each(|(name, bytes)| fs::write(model.join(name), bytes).unwrap());
    (folder, model)
}

/// What opening and loading says, without the path before the file's name.
pub(crate) fn refusal(model: &Path) -> String {
    let error = open(model, TASK)
        .and_then(|opened| opened.tensors(&shapes()))
        .expect_err("this should be refused");
    error
        .to_string()
        .replace(&format!("{}/", model.display()), "")
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_what_is_opened() {
    let (_folder, model) = written();
    let files = [
        "README.md",
        "check.json",
        "config.json",
        "labels.json",
        "model.safetensors",
        "report.html",
        "report.json",
        "tokenizer.json",
    ];
    assert_eq!(names(&model), files);
    let opened = open(&model, TASK).unwrap();
    assert_eq!(opened.config, parts().config);
    assert_eq!(opened.labels, parts().labels);
    assert_eq!(opened.report, parts().report);
    assert_eq!(opened.samples, parts().samples);
    assert_eq!(
        opened
            .tokenizer()
            .unwrap()
            .encode("good")
            .unwrap()
            .ids
            .len(),
        1
    );
    assert_eq!(opened.tensors(&shapes()).unwrap(), tensors());
    let config: Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["format"], &config["task"]),
        (&json!(1), &json!(TASK))
    );
    assert!(
        open(&model, "translation")
            .unwrap_err()
            .to_string()
            .ends_with("check.json: task: found `text-classification`, expected `translation`")
    );
}

#[test]
fn a_model_is_replaced_and_nothing_else_is() {
    let (folder, model) = written();
    let newer = BundleParts {
        labels: vec!["x".to_owned(), "y".to_owned()],
        pages: Vec::new(),
        ..parts()
    };
    write(&model, &newer).unwrap();
    assert_eq!(open(&model, TASK).unwrap().labels, newer.labels);
    assert!(!model.join("report.html").exists());
    assert_eq!(names(folder.path()), ["model"], "nothing is left beside it");

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write(&empty, &parts()).unwrap();
    write(&folder.path().join("deep/er/model"), &parts()).unwrap();

    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpeg"), "meow").unwrap();
    let message = write(&photos, &parts()).unwrap_err().to_string();
    assert!(
        message.starts_with("`--out`: found files that are no model in "),
        "{message}"
    );
    assert_eq!(names(&photos), ["cat.jpeg"]);
    let message = check_target(&photos.join("cat.jpeg"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("`--out`: found a file in "),
        "{message}"
    );
    check_target(&model).unwrap();
}

#[test]
fn a_disk_that_refuses_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    // A file in place of the folder above.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(
        write(&file.join("model"), &parts())
            .unwrap_err()
            .to_string()
            .contains("cannot be written")
    );
    // A name the file system refuses, when other files are already written: as a full disk would.
    let late = BundleParts {
        pages: vec![("x".repeat(400), String::new())],
        ..parts()
    };
    let model = folder.path().join("model");
    assert!(
        write(&model, &late)
            .unwrap_err()
            .to_string()
            .contains("model: cannot be written: ")
    );
    assert_eq!(names(folder.path()), ["file"]);
    // The model that was there stays.
    write(&model, &parts()).unwrap();
    write(&model, &late).unwrap_err();
    assert_eq!(open(&model, TASK).unwrap().labels, parts().labels);
    assert_eq!(names(folder.path()), ["file", "model"]);
    #[cfg(target_os = "linux")]
    assert!(
        write(Path::new("/proc/regard/model"), &parts())
            .unwrap_err()
            .to_string()
            .contains("cannot be written")
    );
}

#[test]
fn weights_that_are_not_finite_and_odd_names_are_not_written() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    let mut spoiled = parts();
    spoiled.tensors[0].values[4] = f32::NAN;
    let message = write(&model, &spoiled).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "tensor `embedding.weight`: found NaN at position 4, expected finite numbers"
        ),
        "{message}"
    );
    spoiled.tensors[0].values.pop();
    assert!(
        write(&model, &spoiled)
            .unwrap_err()
            .to_string()
            .contains("found 14 values, expected shape [5, 3]")
    );
    for name in [
        "",
        ".hidden",
        "../up.html",
        "a/b",
        "a\\b",
        "check.json",
        "config.json",
    ] {
        let pages = vec![(name.to_owned(), String::new())];
        assert!(
            write(&model, &BundleParts { pages, ..parts() })
                .unwrap_err()
                .to_string()
                .contains("a page's name"),
            "{name}"
        );
    }
    for config in [json!([]), json!({ "task": 1 })] {
        assert!(
            write(&model, &BundleParts { config, ..parts() })
                .unwrap_err()
                .to_string()
                .contains("the configuration")
        );
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_file_that_is_missing_cut_or_altered_is_named() {
    for name in names(&written().1) {
        let (_folder, model) = written();
        let path = model.join(&name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            refusal(&model),
            format!(
                "{name}: the file: found nothing, expected a file; is this a whole model folder of Regard?"
            )
        );
        fs::create_dir(&path).unwrap();
        assert!(refusal(&model).starts_with(&format!(
            "{name}: the file: found something that is no file"
        )));
        fs::remove_dir(&path).unwrap();
        if name == "check.json" {
            continue;
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let size = format!(
            "{name}: size: found {} bytes, expected {} bytes",
            bytes.len() - 1,
            bytes.len()
        );
        assert_eq!(refusal(&model), size);
        let mut altered = bytes.clone();
        altered[bytes.len() / 2] ^= 1;
        fs::write(&path, altered).unwrap();
        let message = refusal(&model);
        assert!(
            message.starts_with(&format!("{name}: SHA-256: found "))
                && message.ends_with("the file was altered"),
            "{message}"
        );
    }
    let folder = TempDir::new().unwrap();
    assert!(refusal(folder.path()).starts_with("check.json: the file: found nothing"));
    assert!(
        open(&folder.path().join("nowhere"), TASK)
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
}
