use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use regard_tasks::Precision;
use regard_tasks::Task;
use regard_tasks::columns::ColumnChoice;
use regard_tasks::report;
use regard_tasks::tables::Table;
use regard_tasks::text_classification::{Explanation, Settings, TextClassifier, TrainRequest};

use crate::commands::explain::shown;
use crate::commands::train::{summary, train};
use crate::terminal::{colour, heading, print, tell, thousands};

/// Real e-mails, ham and spam; `assets/PROVENANCE.md` says where they come from.
const SAMPLE: &[u8] = include_bytes!("../../../assets/spam-sample.csv.gz");

/// Trains, scores and looks into a spam filter.
pub(super) fn run(out: &Path, seed: u64) -> anyhow::Result<()> {
    let data = out.join("data");
    fs::create_dir_all(&data)
        .with_context(|| format!("cannot make the folder {}", data.display()))?;
    let [learn, test] = [data.join("train.csv"), data.join("test.csv")];
    let rows = unpack(&learn, &test)?;
    tell(&format!(
        "{} real e-mails to learn from, {} later ones to be scored on; both are in {}",
        thousands(rows[0]),
        thousands(rows[1]),
        data.display()
    ));
    let folder = out.join("model");
    let unfinished = out.join("model.training");
    let request = TrainRequest {
        data: vec![learn],
        validation: None,
        test: Some(test.clone()),
        out: folder.clone(),
        columns: ColumnChoice::default(),
        settings: Settings::default(),
        minutes: None,
        seed,
        resume: unfinished.exists(),
        device: "cpu".to_owned(),
        precision: Precision::Auto,
        rivals: true,
    };
    let report = train(&request, "regard demo, with the same --out and --seed")?;
    let model = TextClassifier::open(&folder)?;
    let chosen = unseen(&model, &test)?;

    let mut text = format!("\n{}", summary(&report));
    text += &format!(
        "\n{}\n",
        heading(
            "three e-mails of the test part, which the model has not seen, and what it looked at"
        )
    );
    for example in &chosen {
        text += &format!("\n{}: ", example.place);
        text += &shown(&example.explanation, colour(), 60, 6);
    }
    print(&text)?;

    let page = out.join("report.html");
    let explanations: Vec<Explanation> = chosen
        .into_iter()
        .map(|example| example.explanation)
        .collect();
    fs::write(&page, report::html(&report, &explanations))
        .with_context(|| format!("cannot write {}", page.display()))?;
    tell(&next_steps(out));
    Ok(())
}

/// Writes the rows of the two parts as tables of their own and says how many there are.
fn unpack(learn: &Path, test: &Path) -> anyhow::Result<[usize; 2]> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(SAMPLE).read_to_end(&mut bytes)?;
    let mut whole = tempfile::Builder::new().suffix(".csv").tempfile()?;
    whole.write_all(&bytes)?;
    let table = Table::read(whole.path())?;
    let [texts, labels, parts] = ["text", "label", "part"].map(|name| table.column(name));
    let (texts, labels, parts) = (texts?, labels?, parts?);
    let mut files = [learn, test].map(|_| String::from("text,label\n"));
    let mut rows = [0, 0];
    for ((text, label), part) in texts.iter().zip(&labels).zip(&parts) {
        let part = usize::from(part.as_deref() == Some("test"));
        let text = text.as_deref().unwrap_or_default().replace('"', "\"\"");
        files[part] += &format!("\"{text}\",{}\n", label.as_deref().unwrap_or_default());
        rows[part] += 1;
    }
    for (path, text) in [learn, test].into_iter().zip(&files) {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(rows)
}

/// A text the model has not seen, and its answer.
struct Example {
    place: String,
    explanation: Explanation,
}

/// Three short texts of the test part: the first of each label that was answered rightly, and the first mistake.
fn unseen(model: &TextClassifier, test: &Path) -> anyhow::Result<Vec<Example>> {
    const SHORT: std::ops::Range<usize> = 100..420;
    let table = Table::read(test)?;
    let (texts, labels) = (table.column("text")?, table.column("label")?);
    let rows = texts.iter().zip(&labels).enumerate();
    let short: Vec<(usize, &String, &String)> = rows
        .filter_map(|(row, (text, label))| Some((row, text.as_ref()?, label.as_ref()?)))
        .filter(|(_, text, _)| SHORT.contains(&text.len()))
        .collect();
    let asked: Vec<String> = short.iter().map(|(_, text, _)| (*text).clone()).collect();
    let answers: Vec<String> = model
        .run(&asked)?
        .into_iter()
        .map(|answer| answer.label)
        .collect();
    let first = |wanted: &dyn Fn(&str, &str) -> bool| {
        (0..short.len()).find(|index| wanted(short[*index].2, &answers[*index]))
    };
    let picks = [
        first(&|truth, answer| truth == "spam" && answer == "spam"),
        first(&|truth, answer| truth == "ham" && answer == "ham"),
        first(&|truth, answer| truth != answer),
    ];
    picks
        .into_iter()
        .flatten()
        .map(|index| {
            let (row, text, truth) = short[index];
            let right = if *truth == answers[index] {
                "the model says"
            } else {
                "the model is wrong and says"
            };
            let place = format!("row {}, {truth}; {right}", row + 1);
            Ok(Example {
                place,
                explanation: model.explain(text)?,
            })
        })
        .collect()
}

fn next_steps(out: &Path) -> String {
    let out = out.display();
    format!(
        "\nopen {out}/report.html for the whole report, and try\n  \
         regard predict {out}/model \"Dear friend, you have been selected\"\n  \
         regard explain {out}/model \"Dear friend, you have been selected\"\n  \
         regard evaluate {out}/model --data {out}/data/test.csv\n  \
         regard inspect {out}/model\n  \
         regard train classification --data YOUR.csv --out model\n\
         (`cargo run --release --` stands for `regard` until it is installed: `cargo install --path crates/regard-cli`)"
    )
}
