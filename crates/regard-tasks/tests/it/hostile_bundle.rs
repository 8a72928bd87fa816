//! Model folders that somebody spoiled on purpose, or that a disk did.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use regard_tasks::bundle::open;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bundle::{TASK, names, refusal, shapes, written};

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
