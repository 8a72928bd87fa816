//! The linear rival learns what is linear, and gives what scikit-learn gives where the data is there.

use std::path::Path;

use regard_tasks::linear::LinearClassifier;
use regard_tasks::tables::Table;

fn answers(threads: usize, seed: u64) -> Vec<usize> {
    let topics = ["game play level", "mail smtp spam", "sound audio music"];
    let texts: Vec<String> = (0..300)
        .map(|at| format!("{} with word{} and {}", topics[at % 3], at % 17, at % 5))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let labels: Vec<usize> = (0..300).map(|at| at % 3).collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        LinearClassifier::train(&texts, &labels, 3, seed).predict(&[
            "an audio word3",
            "play it",
            "",
            "smtp",
            "音乐",
        ])
    })
}

#[test]
fn words_that_tell_are_learned_and_the_threads_do_not_matter() {
    let one = answers(1, 1);
    assert_eq!((one[0], one[1], one[3]), (2, 0, 1));
    assert_eq!(one, answers(4, 1));
    // The optimum is one, whatever the order in which the rows are looked at.
    let other = answers(2, 9);
    assert_eq!((other[0], other[1], other[3]), (2, 0, 1));
}

#[test]
fn pairs_of_words_tell_what_words_alone_do_not() {
    let texts = [
        "not good",
        "good not bad",
        "not bad",
        "bad not good",
        "it is not good",
        "it is not bad",
    ];
    let linear = LinearClassifier::train(&texts, &[0, 1, 1, 0, 0, 1], 2, 1);
    assert_eq!(
        linear.predict(&["really not good", "really not bad"]),
        [0, 1]
    );
}

#[test]
fn nothing_to_learn_from_is_no_panic() {
    assert_eq!(LinearClassifier::train(&[], &[], 2, 1).predict(&["a"]), [0]);
    assert_eq!(
        LinearClassifier::train(&["", " "], &[0, 1], 2, 1)
            .predict(&[""])
            .len(),
        1
    );
}

/// scikit-learn 1.9.1, `TfidfVectorizer()` and `LinearSVC()`: .9744 on R8. The data is fetched, not committed:
/// `cargo xtask data reuters-r8`, then `cargo test -p regard-tasks -- --ignored linear`.
#[test]
#[ignore = "needs data/reuters-r8"]
fn reuters_r8_is_what_scikit_learn_makes_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/reuters-r8");
    let columns = |name: &str| {
        let table = Table::read(&folder.join(name)).unwrap();
        let column = |name: &str| -> Vec<String> {
            table.column(name).unwrap().into_iter().flatten().collect()
        };
        (column("text"), column("label"))
    };
    let ((texts, labels), (test, truth)) = (columns("train.csv"), columns("test.csv"));
    let mut names = labels.clone();
    names.sort();
    names.dedup();
    let index = |labels: &[String]| -> Vec<usize> {
        labels
            .iter()
            .map(|label| names.binary_search(label).unwrap())
            .collect()
    };
    let strs = |texts: &[String]| -> Vec<&'static str> {
        texts.iter().map(|text| &*text.clone().leak()).collect()
    };
    let predicted = LinearClassifier::train(&strs(&texts), &index(&labels), names.len(), 1)
        .predict(&strs(&test));
    let right = predicted
        .iter()
        .zip(index(&truth))
        .filter(|(predicted, truth)| **predicted == *truth)
        .count();
    let accuracy = right as f64 / truth.len() as f64;
    assert!((accuracy - 0.974).abs() <= 0.005, "{accuracy}");
}
