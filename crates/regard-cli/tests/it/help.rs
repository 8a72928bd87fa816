use crate::{regard, seen};

/// Each command's help is a snapshot: a change in what it promises is a change somebody has looked at.
#[test]
fn every_command_says_what_it_does() {
    let commands: [&[&str]; 15] = [
        &["--help"],
        &["demo", "--help"],
        &["train", "--help"],
        &["train", "classification", "--help"],
        &["train", "vision", "--help"],
        &["train", "translation", "--help"],
        &["train", "summarization", "--help"],
        &["evaluate", "--help"],
        &["predict", "--help"],
        &["explain", "--help"],
        &["inspect", "--help"],
        &["compare", "--help"],
        &["weights", "--help"],
        &["bench", "--help"],
        &["info", "--help"],
    ];
    for words in commands {
        let name = words
            .join("_")
            .replace("_--help", "")
            .replace("--help", "regard");
        insta::assert_snapshot!(name, seen(regard().args(words)));
    }
}

#[test]
fn without_a_command_it_shows_what_there_is_and_fails_as_wrong_usage() {
    regard().assert().code(2);
    regard().arg("trian").assert().code(2);
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = format!("regard {}\n", env!("CARGO_PKG_VERSION"));
    regard().arg("--version").assert().success().stdout(version);
}

#[test]
fn bench_measures_every_kernel_and_says_what_it_runs_with() {
    let output = regard()
        .args(["bench", "--json", "--seconds", "0"])
        .env("REGARD_ISA", "scalar")
        .output()
        .expect("the command starts");
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(facts["instruction_set"], "scalar");
    assert_eq!(facts["precision"], "f32");
    let rows = facts["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["what"].as_str()).collect();
    assert!(names.contains(&"memory, copied"), "{names:?}");
    for precision in ["f32", "bf16"] {
        let product = |name: &&str| name.starts_with("product of") && name.ends_with(precision);
        assert!(names.iter().any(product), "{names:?}");
    }
    assert!(
        names
            .iter()
            .any(|name| name.ends_with("forward and backward"))
    );
    for row in rows {
        assert!(row["rate"].as_f64() > Some(0.0), "{row}");
    }
}

#[test]
fn an_instruction_set_that_does_not_exist_is_refused_by_every_command() {
    let output = regard()
        .args(["weights", "--queries", "1", "--keys", "1"])
        .env("REGARD_ISA", "abacus")
        .output()
        .expect("the command starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("abacus"));
}

#[test]
fn info_names_the_instruction_set_that_is_used() {
    let output = regard()
        .args(["info", "--json"])
        .env("REGARD_ISA", "scalar")
        .output()
        .expect("the command starts");
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(facts["instruction_set_used"], "scalar");
    assert_eq!(facts["instruction_sets"][0], "scalar");
    regard()
        .arg("info")
        .env("REGARD_ISA", "abacus")
        .assert()
        .code(1);
}
