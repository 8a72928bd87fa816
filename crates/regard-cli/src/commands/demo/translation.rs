use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use regard_tasks::Precision;
use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::{
    self, AttentionPart, Kind, PairColumns, PairFiles, Settings, TrainRequest, Writer,
};

use crate::commands::train::watched;
use crate::commands::writing::{shown, summary};
use crate::terminal::{heading, print, tell, thousands};

/// Short verses in English and Spanish; `assets/PROVENANCE.md` says where they come from.
const SAMPLE: &[u8] = include_bytes!("../../../assets/bible-sample.tsv.gz");
/// Translated at the end: a phrase that stands in the sample many times, and two in its words.
const ASKED: [&str; 3] = [
    "Yahweh spoke to Moses, saying,",
    "I will be a father to Israel.",
    "The king spoke to the people.",
];

/// Trains, scores and looks into a translator.
pub(super) fn run(out: &Path, seed: u64) -> anyhow::Result<()> {
    let data = out.join("data");
    let [(train, learn), (test, scored)] = unpack(&data)?;
    tell(&format!(
        "{} verses of the Bible in English and Spanish to learn from, {} of other books to be scored on; both are in {}",
        thousands(learn),
        thousands(scored),
        data.display()
    ));
    let folder = out.join("model");
    let request = TrainRequest {
        kind: Kind::Translation,
        data: PairFiles::Tables(vec![train]),
        validation: None,
        test: Some(PairFiles::Tables(vec![test])),
        out: folder.clone(),
        columns: PairColumns {
            source: Some("english".to_owned()),
            target: Some("spanish".to_owned()),
            group: Some("book".to_owned()),
        },
        settings: Settings {
            // Small enough for a few minutes, and for some thousand short verses.
            vocabulary: Some(2000),
            epochs: Some(8),
            ..Settings::default()
        },
        minutes: None,
        seed,
        resume: out.join("model.training").exists(),
        device: "cpu".to_owned(),
        precision: Precision::Auto,
    };
    let again = "regard demo translation, with the same --out and --seed";
    let report = watched(again, |progress| {
        sequence_to_sequence::train(&request, progress)
    })?;
    let model = Writer::open(&folder)?;
    let mut text = format!("\n{}", summary(&report));
    text += &format!(
        "\n{}\n",
        heading("three sentences, and which source words each word came from")
    );
    for source in ASKED {
        let alignment = model.explain(source, None, &AttentionPart::default())?;
        text += &format!("\n{source}\n{}", shown(&alignment));
    }
    print(&text)?;
    let out = out.display();
    tell(&format!(
        "\nA few thousand verses teach the commonest phrases, not a language. Open {out}/model/report.html, and try\n  \
         regard predict {out}/model \"{}\" --n-best 3\n  \
         regard explain {out}/model \"{}\" --html page.html\n  \
         regard evaluate {out}/model --data {out}/data/test.tsv\n  \
         regard train translation --data YOUR.tsv --out model",
        ASKED[0], ASKED[0]
    ));
    Ok(())
}

/// Writes the parts as tables of their own, and says where and of how many verses.
fn unpack(data: &Path) -> anyhow::Result<[(std::path::PathBuf, usize); 2]> {
    fs::create_dir_all(data)
        .with_context(|| format!("cannot make the folder {}", data.display()))?;
    let mut table = String::new();
    flate2::read::GzDecoder::new(SAMPLE).read_to_string(&mut table)?;
    let mut lines = table.lines();
    let header = lines
        .next()
        .and_then(|header| header.strip_suffix("\tpart"));
    let Some(header) = header else {
        bail!("the sample is damaged: it has no column `part`");
    };
    let mut parts = ["train", "test"].map(|part| (part, format!("{header}\n"), 0));
    for line in lines {
        let found = line.rsplit_once('\t').and_then(|(row, part)| {
            let place = parts.iter_mut().find(|(name, ..)| *name == part)?;
            Some((row, place))
        });
        let Some((row, (_, rows, count))) = found else {
            bail!("the sample is damaged: a row belongs to no part");
        };
        *rows += row;
        rows.push('\n');
        *count += 1;
    }
    let mut written = Vec::new();
    for (part, rows, count) in parts {
        let path = data.join(format!("{part}.tsv"));
        fs::write(&path, rows).with_context(|| format!("cannot write {}", path.display()))?;
        written.push((path, count));
    }
    written.try_into().map_err(|_| anyhow::anyhow!("two parts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_unpacks_to_pairs_and_no_book_is_on_both_sides() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let parts = unpack(folder.path()).expect("it is whole");
        assert_eq!(parts.each_ref().map(|(_, count)| *count), [4573, 243]);
        let books = parts.map(|(path, count)| {
            let text = fs::read_to_string(path).expect("it was written");
            let rows = text.lines().skip(1);
            let books: Vec<String> = rows
                .filter_map(|row| Some(row.rsplit_once('\t')?.1.to_owned()))
                .collect();
            assert_eq!(books.len(), count);
            books
        });
        assert!(books[1].iter().all(|book| !books[0].contains(book)));
    }
}
