//! The model folder: written whole or not at all, opened with suspicion.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use regard_nn::parameters::NamedTensor;
use regard_tasks::bundle::{BundleParts, Sample, check_target, open, write};
use regard_tasks::tokenizer::{Pieces, TextTokenizer, TokenizerSettings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const TASK: &str = "text-classification";

fn tensors() -> Vec<NamedTensor> {
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

fn shapes() -> Vec<(String, Vec<usize>)> {
    tensors()
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape))
        .collect()
}

fn parts() -> BundleParts {
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
        tokenizer: tokenizer.clone(),
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
fn written() -> (TempDir, PathBuf) {
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
fn refusal(model: &Path) -> String {
    let error = open(model, TASK)
        .and_then(|opened| opened.tensors(&shapes()))
        .expect_err("this should be refused");
    error
        .to_string()
        .replace(&format!("{}/", model.display()), "")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Makes `check.json` agree with what the file now holds: an attacker would.
fn put(model: &Path, name: &str, bytes: &[u8]) {
    fs::write(model.join(name), bytes).unwrap();
    let mut check: Value =
        serde_json::from_slice(&fs::read(model.join("check.json")).unwrap()).unwrap();
    let hash: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    check["files"][name] = json!({ "bytes": bytes.len(), "sha256": hash });
    fs::write(model.join("check.json"), check.to_string()).unwrap();
}

fn put_json(model: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(model.join(name)).unwrap()).unwrap();
    change(&mut value);
    put(model, name, value.to_string().as_bytes());
}

/// A safetensors file with this header and this many bytes of zeros.
fn weights(header: &str, zeros: usize) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &vec![0; zeros],
    ]
    .concat()
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
    assert_eq!(opened.tokenizer.encode("good").unwrap().ids.len(), 1);
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

#[test]
fn hostile_weights_are_refused_before_anything_is_allocated() {
    let good = |offsets: [u64; 2]| {
        json!({
            "embedding.weight": { "dtype": "F32", "shape": [5, 3], "data_offsets": [0, 60] },
            "output.bias": { "dtype": "F32", "shape": [2], "data_offsets": offsets },
            "scale": { "dtype": "F32", "shape": [], "data_offsets": [68, 72] },
        })
    };
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = good([60, 68]);
        change(&mut header);
        weights(&header.to_string(), 72)
    };
    let mut nan = weights(&good([60, 68]).to_string(), 72);
    let end = nan.len();
    nan[end - 8..end - 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut infinite = nan.clone();
    infinite[end - 8..end - 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let mut trailing = with(&|_| {});
    trailing.extend([0; 8]);
    let mut huge_header = with(&|_| {});
    huge_header[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (huge_header, "header: found header too large"),
        (weights("", 0), "header: found invalid JSON in header"),
        (vec![1, 2, 3], "header: found header too small"),
        (
            with(&|_| {})[..100].to_vec(),
            "header: found invalid header length",
        ),
        (trailing, "header: found incomplete metadata"),
        (
            weights(&good([60, 68]).to_string(), 71),
            "header: found incomplete metadata",
        ),
        (
            weights(&good([56, 64]).to_string(), 72),
            "header: found invalid offset",
        ),
        (
            weights(&good([64, 72]).to_string(), 72),
            "header: found invalid offset",
        ),
        (
            weights(&good([68, 60]).to_string(), 72),
            "header: found invalid offset",
        ),
        (
            with(&|header| header["output.bias"]["shape"] = json!([u64::MAX, 2])),
            "header: found overflow",
        ),
        (
            with(&|header| header["output.bias"]["shape"] = json!([1_u64 << 62])),
            "header: found overflow",
        ),
        (
            with(&|header| header["output.bias"]["shape"] = json!([3])),
            "header: found invalid shape",
        ),
        (
            with(&|header| header["output.bias"]["shape"] = json!([-2])),
            "header: found invalid JSON",
        ),
        (
            with(&|header| header["output.bias"]["shape"] = json!([1, 2])),
            "tensor `output.bias`: found shape [1, 2], expected [2]",
        ),
        (
            with(&|header| {
                header["output.bias"]["dtype"] = json!("I32");
            }),
            "tensor `output.bias`: found numbers of type I32, expected F32",
        ),
        (
            with(&|header| {
                let tensor = header.as_object_mut().unwrap().remove("scale").unwrap();
                header["other"] = tensor;
            }),
            "tensor `other`: found a tensor the model does not have, expected only its own",
        ),
        (
            nan,
            "tensor `output.bias`: found NaN at position 1, expected finite numbers",
        ),
        (infinite, "tensor `output.bias`: found inf at position 1"),
        (weights(&deep, 0), "size: found 120008 bytes"),
        (weights(&deep[..120], 0), "header: found invalid JSON"),
    ];
    for (bytes, expected) in cases {
        let (_folder, model) = written();
        put(&model, "model.safetensors", &bytes);
        let message = refusal(&model);
        let expected = format!("model.safetensors: {expected}");
        let expected = expected
            .strip_suffix("found inf at position 1")
            .map_or(expected.clone(), str::to_owned);
        assert!(
            message.starts_with(&expected),
            "expected {expected}\n   found {message}"
        );
    }
    let (_folder, model) = written();
    put(&model, "model.safetensors", &with(&|_| {}));
    assert!(
        open(&model, TASK).unwrap().tensors(&shapes()).is_ok(),
        "the file these were made from is sound"
    );
}

#[test]
fn a_model_that_would_fill_the_memory_is_refused_by_its_file() {
    let (_folder, model) = written();
    let opened = open(&model, TASK).unwrap();
    let gigantic = vec![("embedding.weight".to_owned(), vec![1 << 40, 1 << 10])];
    let message = opened.tensors(&gigantic).unwrap_err().to_string();
    assert!(
        message.contains("a tensor the model does not have"),
        "{message}"
    );
    let overflow = vec![("embedding.weight".to_owned(), vec![usize::MAX, 2])];
    assert!(
        opened
            .tensors(&overflow)
            .unwrap_err()
            .to_string()
            .contains("more numbers than can be counted")
    );
    // A file of zeros of a terabyte takes no room on the disk.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(model.join("model.safetensors"))
        .unwrap();
    if file.set_len(1 << 40).is_ok() {
        let mut check: Value =
            serde_json::from_slice(&fs::read(model.join("check.json")).unwrap()).unwrap();
        check["files"]["model.safetensors"]["bytes"] = json!(1_u64 << 40);
        fs::write(model.join("check.json"), check.to_string()).unwrap();
        assert_eq!(
            refusal(&model),
            "model.safetensors: size: found 1099511627776 bytes, expected at most 8589934592"
        );
    }
}

#[test]
fn hostile_json_is_refused_by_file_and_field() {
    let change = |name: &'static str, change: &dyn Fn(&mut Value)| {
        let (_folder, model) = written();
        put_json(&model, name, change);
        refusal(&model)
    };
    assert_eq!(
        change("config.json", &|value| value["format"] = json!(2)),
        "config.json: format: found 2, expected 1; a newer Regard wrote it"
    );
    assert_eq!(
        change("config.json", &|value| value["format"] = json!("x")),
        "config.json: format: found \"x\", expected 1"
    );
    assert!(
        change("config.json", &|value| value["task"] = json!(null))
            .starts_with("config.json: task: found null")
    );
    assert!(
        change("config.json", &|value| *value = json!([1]))
            .starts_with("config.json: format: found nothing")
    );
    assert_eq!(
        change("labels.json", &|value| *value = json!([])),
        "labels.json: the labels: found none, expected at least one"
    );
    assert_eq!(
        change("labels.json", &|value| *value = json!(["a", "a"])),
        "labels.json: the labels: found `a` twice, expected each once"
    );
    assert!(
        change("labels.json", &|value| *value = json!([1]))
            .starts_with("labels.json: contents: found invalid type")
    );
    assert!(
        change("labels.json", &|value| *value = json!({ "a": 1 }))
            .starts_with("labels.json: contents: found invalid type")
    );
    assert!(
        change("tokenizer.json", &|value| value["normalizer"] = json!(null))
            .starts_with("tokenizer.json: the tokenizer: found tokenizer: ")
    );

    let (_folder, model) = written();
    put(&model, "report.json", "[".repeat(1_000_000).as_bytes());
    assert!(refusal(&model).starts_with("report.json: contents: found recursion limit exceeded"));
    put(&model, "config.json", &vec![b' '; (1 << 20) + 1]);
    assert!(
        refusal(&model)
            .starts_with("config.json: size: found 1048577 bytes, expected at most 1048576")
    );

    let check = |change: &dyn Fn(&mut Value)| {
        let (_folder, model) = written();
        let path = model.join("check.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        refusal(&model)
    };
    assert!(
        check(&|value| value["format"] = json!(9))
            .starts_with("check.json: format: found 9, expected 1; a newer")
    );
    assert!(
        check(&|value| value["extra"] = json!(9))
            .starts_with("check.json: contents: found unknown field `extra`")
    );
    assert!(
        check(&|value| value["files"]["../../etc/passwd"] = json!({ "bytes": 1, "sha256": "" }))
            .starts_with("check.json: files: found `../../etc/passwd`")
    );
    assert!(
        check(&|value| drop(
            value["files"]
                .as_object_mut()
                .unwrap()
                .remove("labels.json")
        ))
        .contains("found no `labels.json`")
    );
    assert!(
        check(&|value| value["files"]["labels.json"]["bytes"] = json!(-1))
            .starts_with("check.json: contents: found invalid value")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_damaged_anywhere_is_an_error_and_never_a_panic(file in 0_usize..7, place: u64, flip in 1_u8.., cut: bool, agrees: bool) {
        let (_folder, model) = written();
        let name = names(&model)[file].clone();
        let mut bytes = fs::read(model.join(&name)).unwrap();
        let at = (place % bytes.len() as u64) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        // With a `check.json` that was made to agree, other numbers are possible; a panic is not.
        if agrees && name != "check.json" {
            put(&model, &name, &bytes);
            let _ = open(&model, TASK).and_then(|opened| opened.tensors(&shapes()));
        } else {
            fs::write(model.join(&name), &bytes).unwrap();
            let opened = open(&model, TASK).and_then(|opened| opened.tensors(&shapes()));
            // A sample's text is what `check.json` says it is, and nothing says otherwise.
            prop_assert!(opened.is_err() || name == "check.json", "{}", name);
        }
    }

    #[test]
    fn a_header_damaged_anywhere_is_never_a_panic(flips in proptest::collection::vec((0_usize..280, 1_u8..), 1..6)) {
        let (_folder, model) = written();
        let mut bytes = fs::read(model.join("model.safetensors")).unwrap();
        for (at, flip) in flips {
            let at = at % bytes.len();
            bytes[at] ^= flip;
        }
        put(&model, "model.safetensors", &bytes);
        if let Ok(tensors) = open(&model, TASK).unwrap().tensors(&shapes()) {
            prop_assert!(tensors.iter().all(|tensor| tensor.values.iter().all(|value| value.is_finite())));
        }
    }
}
