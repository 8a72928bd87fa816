use crate::{regard, seen};

fn weights(arguments: &[&str]) -> String {
    seen(regard().arg("weights").args(arguments))
}

#[test]
fn the_weights_of_a_query_over_two_keys_are_the_textbooks() {
    insta::assert_snapshot!(weights(&["--queries", "1,0", "--keys", "1,2;0,1"]), @r"
    query 1 = (1, 0)
      key      score  weight
      (1, 2)  1.0000  0.7311  █████████████████▌
      (0, 1)  0.0000  0.2689  ██████▌
      weighted sum of the keys = (0.7311, 1.7311)
    ");
}

#[test]
fn values_are_summed_in_place_of_the_keys() {
    insta::assert_snapshot!(weights(&["-q", "1,0;-0.5,2", "-k", "1,2;0,1", "-v", "10,0,1;20,5,2", "-s", "scaled"]), @"
    query 1 = (1, 0)
      key      score  weight                     value
      (1, 2)  0.7071  0.6698  ████████████████▏  (10, 0, 1)
      (0, 1)  0.0000  0.3302  ███████▉           (20, 5, 2)
      weighted sum of the values = (13.3024, 1.6512, 1.3302)

    query 2 = (-0.5, 2)
      key      score  weight                      value
      (1, 2)  2.4749  0.7428  █████████████████▉  (10, 0, 1)
      (0, 1)  1.4142  0.2572  ██████▏             (20, 5, 2)
      weighted sum of the values = (12.5718, 1.2859, 1.2572)
    ");
}

#[test]
fn a_single_key_has_the_weight_one_and_the_command_says_why() {
    insta::assert_snapshot!(weights(&["-q", "1,0.17", "-k", "1,2"]), @"
    query 1 = (1, 0.17)
      key      score  weight
      (1, 2)  1.3400  1.0000  ████████████████████████
      weighted sum of the keys = (1.0000, 2.0000)
    --- standard error
    note: with a single key the weight is 1, whatever the score: exp(s) / exp(s) = 1.
          The softmax shares 1 out among the keys, and here there is nobody to share with.
    ");
}

#[test]
fn every_score_is_its_formula() {
    let scores = |arguments: &[&str]| -> Vec<f64> {
        let common = [
            "weights",
            "--json",
            "--queries",
            "1,2",
            "--keys",
            "3,4;-1,0.5",
        ];
        let output = regard()
            .args(common)
            .args(arguments)
            .output()
            .expect("the command starts");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let row = answer["scores"][0].as_array().expect("a row a query");
        row.iter()
            .map(|score| score.as_f64().expect("a number"))
            .collect()
    };
    let close = |found: Vec<f64>, expected: [f64; 2]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    };
    close(scores(&["--score", "dot"]), [11.0, 0.0]);
    close(scores(&["--score", "scaled"]), [11.0 / 2_f64.sqrt(), 0.0]);
    // (1, 2) W = (1·0 + 2·1, 1·1 + 2·0) = (2, 1)
    close(
        scores(&["--score", "general", "--w", "0,1;1,0"]),
        [2.0 * 3.0 + 4.0, -2.0 + 0.5],
    );
    close(
        scores(&["--score", "cosine"]),
        [11.0 / (5_f64.sqrt() * 5.0), 0.0],
    );
    close(
        scores(&["--score", "additive"]),
        [4_f64.tanh() + 6_f64.tanh(), 0_f64.tanh() + 2.5_f64.tanh()],
    );
    // One hidden number: c · tanh(u₁ + u₂ + v₁)
    let parameters = ["--w-query", "1,1", "--w-key", "1,0", "--c", "0.5"];
    close(
        scores(&[&["--score", "additive"], &parameters[..]].concat()),
        [0.5 * 6_f64.tanh(), 0.5 * 2_f64.tanh()],
    );
}

#[test]
fn vectors_come_a_line_each_from_a_file_or_standard_input() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys.txt");
    std::fs::write(&file, "# two keys\n1 2\n\n0\t1\n").expect("it can be written");
    let keys = format!("@{}", file.display());
    let output = seen(
        regard()
            .args(["weights", "--queries", "-", "--keys", &keys])
            .write_stdin("1,0\n"),
    );
    assert_eq!(output, weights(&["--queries", "1,0", "--keys", "1,2;0,1"]));
}

#[test]
fn what_is_wrong_is_named_with_what_was_found_and_expected() {
    let wrong: [&[&str]; 9] = [
        &["-q", "1,0", "-k", "1,2,3;0,1,2"],
        &["-q", "1,0", "-k", "1,2;0"],
        &["-q", "1,O", "-k", "1,2"],
        &["-q", "1,0", "-k", "1,2;0,1", "-v", "1;2;3"],
        &["-q", "1,0", "-k", "1,2", "-s", "general"],
        &["-q", "1,0", "-k", "1,2", "-s", "general", "--w", "1,0"],
        &["-q", "1,0", "-k", "1,2;0,0", "-s", "cosine"],
        &["-q", "1,0", "-k", "1,2", "--w", "1,0;0,1"],
        &["-q", "-", "-k", "-"],
    ];
    insta::assert_snapshot!(wrong.map(weights).join(""), @r#"
    --- standard error
    error: --keys: vectors have 3 numbers, expected 2 as in --queries
    help: `--score general` and `--score additive` compare vectors of different length
    --- exit code 2
    --- standard error
    error: --keys: vector 2 has 1 numbers, expected 2 as in vector 1
    --- exit code 2
    --- standard error
    error: --queries: `O` in vector 1 is not a finite number
    help: numbers are separated by commas, vectors by semicolons, as in "1,0;0.5,-2"
    --- exit code 2
    --- standard error
    error: --values: 3 vectors, expected 2, one for each key
    --- exit code 2
    --- standard error
    error: --score general needs --w, a matrix with 2 rows (the length of a query) and 2 columns (that of a key)
    --- exit code 2
    --- standard error
    error: --w: 1 rows of 2 numbers, expected 2 rows of 2
    --- exit code 2
    --- standard error
    error: --keys: vector 2 is zero, its angle to another is not defined
    --- exit code 2
    --- standard error
    error: --w is a parameter of `--score general` only
    --- exit code 2
    --- standard error
    error: only one argument can be `-`: standard input is read once
    --- exit code 2
    "#);
}

#[test]
fn numbers_that_are_too_large_fail_instead_of_giving_nonsense() {
    insta::assert_snapshot!(weights(&["-q", "1e30", "-k", "1e30"]), @"
    --- standard error
    error: a score is inf: the numbers are too large for 32-bit floats
    --- exit code 1
    ");
}

#[test]
fn colour_is_for_who_asks_for_it() {
    let arguments = ["weights", "-q", "1", "-k", "1;2"];
    let coloured = |command: &mut assert_cmd::Command| {
        command
            .output()
            .expect("the command starts")
            .stdout
            .contains(&0x1b)
    };
    assert!(!coloured(regard().args(arguments)));
    assert!(coloured(
        regard().args(arguments).args(["--color", "always"])
    ));
    assert!(!coloured(
        regard()
            .args(arguments)
            .args(["--color", "never"])
            .env("CLICOLOR_FORCE", "1")
    ));
}
