//! `cargo xtask demo-data`: the samples inside the `regard` binary, mails and verses.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::data::table::{Row, field};
use crate::{Result, data, sha256};

/// How many mails of each label learn and test. Spam is rarer in the older mails: all that is fit is taken.
const TRAIN: [(&str, usize); 2] = [("ham", 900), ("spam", 342)];
const TEST: [(&str, usize); 2] = [("ham", 450), ("spam", 450)];

/// A longer mail is cut behind a word: the demo learns in less than a minute on two cores.
const LONGEST_TEXT: usize = 2_000;

/// Shorter ones ("see attachment") say nothing about attention.
const FEWEST_WORDS: usize = 8;

/// A mail with a word that begins like one of these is not shown to a stranger who only wants to see a demo.
const UNFIT: [&str; 14] = [
    "porn", "xxx", "slut", "nude", "naked", "sex", "cock", "penis", "orgy", "fuck", "bitch",
    "teens", "erotic", "incest",
];

/// Words of a verse on either side at most: the demo learns in minutes.
const LONGEST_VERSE: usize = 14;

/// Draws the samples and writes them, compressed, where the demos include them.
pub(crate) fn make() -> Result<()> {
    make_mails()?;
    make_verses()
}

/// All short verses: those of the held-out books test.
fn make_verses() -> Result<()> {
    let short = |text: &str| text.split(' ').count() <= LONGEST_VERSE;
    let mut table = String::from("english\tspanish\tbook\tpart\n");
    let parts = data::bible::make(&data::folder("bible-en-es")?)?;
    for (part, pairs) in ["train", "test"].into_iter().zip(parts) {
        let short = pairs
            .into_iter()
            .filter(|pair| short(&pair.source) && short(&pair.target));
        let mut count = 0;
        for pair in short {
            let cells = [&pair.source, &pair.target].map(|text| field(text));
            table += &format!("{}\t{}\t{}\t{part}\n", cells[0], cells[1], pair.group);
            count += 1;
        }
        println!("  {part}: {count} verses");
    }
    written(&table, "bible-sample.tsv.gz")
}

fn make_mails() -> Result<()> {
    let parts = data::spam::make(&data::folder("spam")?)?;
    let mut csv = String::from("text,label,part\n");
    for (part, rows, wanted) in [("train", &parts.train, TRAIN), ("test", &parts.test, TEST)] {
        for (label, count) in wanted {
            let sample = sample(rows, label, count);
            println!("  {part} {label}: {} of {count}", sample.len());
            for text in sample {
                csv += &format!("{},{label},{part}\n", field(&text));
            }
        }
    }
    written(&csv, "spam-sample.csv.gz")
}

/// Writes a table where a demo includes it.
fn written(table: &str, name: &str) -> Result<()> {
    let file = crate::root().join("crates/regard-cli/assets").join(name);
    let bytes = compress(table, &file)?;
    println!(
        "  {}: {bytes} bytes; SHA-256 of the table inside {}",
        file.display(),
        sha256::hexadecimal(table.as_bytes())
    );
    Ok(())
}

/// The `count` texts with the lowest digests: a draw that is the same everywhere, and in the order of that draw.
fn sample(rows: &[Row], label: &str, count: usize) -> Vec<String> {
    let mut drawn: Vec<([u8; 32], String)> = rows
        .iter()
        .filter(|row| {
            row.label == label && row.text.split(' ').count() >= FEWEST_WORDS && is_fit(&row.text)
        })
        .map(|row| {
            (
                sha256::digest(row.text.as_bytes()),
                shortened(&row.text).to_owned(),
            )
        })
        .collect();
    drawn.sort();
    // Two long mails may begin alike.
    let mut seen = std::collections::HashSet::new();
    drawn.retain(|(_, text)| seen.insert(text.clone()));
    drawn
        .into_iter()
        .take(count)
        .map(|(_, text)| text)
        .collect()
}

/// Whether a text can be shown, and read: a mail whose encoding nobody declared is mostly signs.
fn is_fit(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphanumeric());
    let readable = text
        .bytes()
        .filter(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
        .count();
    readable * 10 >= text.len() * 8
        && !words.any(|word| UNFIT.iter().any(|start| word.starts_with(start)))
}

/// The text up to the last word that ends within the limit.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((at, _)) => text[..at]
            .rsplit_once(' ')
            .map_or(&text[..at], |(start, _)| start),
        None => text,
    }
}

/// Writes with `gzip`, without name and time, so that the same rows give the same file.
fn compress(csv: &str, file: &Path) -> Result<u64> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut gzip = Command::new("gzip")
        .args(["--best", "--no-name", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(file)?)
        .spawn()
        .map_err(|error| format!("cannot run `gzip`: {error}"))?;
    let written = gzip
        .stdin
        .take()
        .map(|mut pipe| pipe.write_all(csv.as_bytes()));
    let status = gzip.wait()?;
    if !status.success() || !matches!(written, Some(Ok(()))) {
        return Err(format!("`gzip` ended with {status}").into());
    }
    Ok(std::fs::metadata(file)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_behind_a_word() {
        let text = "word ".repeat(1_000);
        let cut = shortened(&text);
        assert!(cut.chars().count() <= LONGEST_TEXT && cut.ends_with("word"));
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn mails_that_cannot_be_shown_or_read_are_unfit() {
        assert!(is_fit("Dear friend, earn money at home"));
        assert!(!is_fit("Sexy offers inside"));
        assert!(!is_fit("ĂԂǂ ݂Ƃ ̃R V r f I"));
    }

    #[test]
    fn a_sample_has_no_two_equal_texts_and_one_label() {
        let row = |text: &str, label: &str| Row {
            text: text.to_owned(),
            label: label.to_owned(),
            group: None,
        };
        let rows = [
            row("a b c d e f g h", "ham"),
            row("a b c d e f g h", "ham"),
            row("b c d e f g h i", "spam"),
        ];
        assert_eq!(sample(&rows, "ham", 5), ["a b c d e f g h"]);
    }
}
