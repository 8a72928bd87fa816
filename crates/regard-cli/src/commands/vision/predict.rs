use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::bail;
use regard_tasks::Task;
use regard_tasks::image_recognition::{ImageClassifier, Prediction};
use regard_tasks::pictures::Picture;

use crate::input::next_line;
use crate::terminal::{one_line, thousands, warn};

/// Pictures that are answered together.
const TOGETHER: usize = 64;

/// Names what is on pictures: a line for each file, in order. A file that cannot be read gets a line without a label, and
/// is named on standard error; in the end the command fails then.
pub(crate) fn predict(
    folder: &Path,
    files: Vec<String>,
    json: bool,
    top: Option<usize>,
) -> anyhow::Result<()> {
    let model = ImageClassifier::open(folder)?;
    let files = match files.is_empty() || files == ["-"] {
        true => lines_of_standard_input()?,
        false => files,
    };
    let mut out = io::stdout().lock();
    let mut unread = 0;
    for files in files.chunks(TOGETHER) {
        let opened: Vec<Option<Picture>> = files
            .iter()
            .map(|file| match Picture::open(Path::new(file)) {
                Ok(picture) => Some(picture),
                Err(error) => {
                    warn(&error.to_string());
                    unread += 1;
                    None
                }
            })
            .collect();
        let pictures: Vec<Picture> = opened.iter().flatten().cloned().collect();
        let mut answers = model.run(&pictures)?.into_iter();
        for (file, opened) in files.iter().zip(opened) {
            let answer = opened.and_then(|_| answers.next());
            writeln!(out, "{}", line(file, answer, json, top)?)?;
        }
        out.flush()?;
    }
    if unread > 0 {
        bail!(
            "{} of {} pictures could not be read",
            thousands(unread),
            thousands(files.len())
        );
    }
    Ok(())
}

fn line(
    file: &str,
    answer: Option<Prediction>,
    json: bool,
    top: Option<usize>,
) -> anyhow::Result<String> {
    if json {
        let mut object = match answer {
            Some(mut answer) => {
                answer.probabilities.truncate(top.unwrap_or(usize::MAX));
                serde_json::to_value(answer)?
            }
            None => serde_json::json!({ "label": null }),
        };
        object["picture"] = file.into();
        return Ok(object.to_string());
    }
    let probabilities = answer.map(|answer| answer.probabilities);
    let best = probabilities.iter().flatten().take(top.unwrap_or(1));
    let cells = best.flat_map(|one| [one_line(&one.label), format!("{:.6}", one.probability)]);
    let cells: Vec<String> = std::iter::once(one_line(file)).chain(cells).collect();
    Ok(cells.join("\t"))
}

/// A name of a file a line; empty lines are none.
fn lines_of_standard_input() -> io::Result<Vec<String>> {
    let mut input = BufReader::new(io::stdin());
    let mut files = Vec::new();
    let mut first = true;
    while let Some(line) = next_line(&mut input, first)? {
        first = false;
        if !line.text.trim().is_empty() {
            files.push(line.text);
        }
    }
    Ok(files)
}
