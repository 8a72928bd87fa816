use std::fs;
use std::path::Path;

use anyhow::Context;
use regard_tasks::Precision;
use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::{
    self, AttentionPart, Kind, PairColumns, PairFiles, Settings, TrainRequest, Writer,
};

use super::reports;
use crate::commands::train::watched;
use crate::commands::writing::{summary, traced};
use crate::terminal::{heading, print, tell, thousands};

/// Reports that are learned from, and that test.
const ROWS: [(&str, usize); 2] = [("train", 3000), ("test", 300)];

/// Summarized at the end: news that the training had, of a place that it had not.
const ASKED: &str = "The weather will stay as it is until Friday. A fire burned for 17 hours in the old mill of Oakmouth \
                     before firemen could stop it. Nobody was hurt.";

/// Trains, scores and looks into a summarizer.
pub(super) fn run(out: &Path, seed: u64) -> anyhow::Result<()> {
    let data = out.join("data");
    fs::create_dir_all(&data)
        .with_context(|| format!("cannot make the folder {}", data.display()))?;
    let mut files = Vec::new();
    for (part, (name, rows)) in (0..).zip(ROWS) {
        let path = data.join(format!("{name}.tsv"));
        fs::write(&path, reports::table(seed, part, rows))
            .with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
    }
    tell(&format!(
        "{} reports with headlines to learn from, {} of other places to be scored on, all made up by this program; both are \
         in {}",
        thousands(ROWS[0].1),
        thousands(ROWS[1].1),
        data.display()
    ));
    let folder = out.join("model");
    let tables = |at: usize| PairFiles::Tables(vec![files[at].clone()]);
    let request = TrainRequest {
        kind: Kind::Summarization,
        data: tables(0),
        validation: None,
        test: Some(tables(1)),
        out: folder.clone(),
        columns: PairColumns {
            source: Some("report".to_owned()),
            target: Some("headline".to_owned()),
            group: None,
        },
        settings: Settings {
            // Small enough for two minutes, and for a few thousand short reports.
            vocabulary: Some(700),
            width: Some(96),
            encoder_layers: Some(2),
            decoder_layers: Some(2),
            feed_forward: Some(288),
            epochs: Some(8),
            ..Settings::default()
        },
        minutes: None,
        seed,
        resume: out.join("model.training").exists(),
        device: "cpu".to_owned(),
        precision: Precision::Auto,
    };
    let again = "regard demo summarization, with the same --out and --seed";
    let report = watched(again, |progress| {
        sequence_to_sequence::train(&request, progress)
    })?;
    let model = Writer::open(&folder)?;
    let alignment = model.explain(ASKED, None, &AttentionPart::default())?;
    print(&format!(
        "\n{}\n{}\n\n{ASKED}\n{}",
        summary(&report),
        heading("a report, its summary, and where each of its words came from"),
        traced(&alignment)
    ))?;
    let out = out.display();
    tell(&format!(
        "\nA program's reports are easier than a person's. Open {out}/model/report.html, and try\n  \
         regard explain {out}/model \"{ASKED}\" --html page.html\n  \
         regard evaluate {out}/model --data {out}/data/test.tsv\n  \
         regard train summarization --data YOUR.tsv --out model"
    ));
    Ok(())
}
