use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use regard_tasks::Precision;
use regard_tasks::Task;
use regard_tasks::image_recognition::{self, ImageClassifier, MapRequest, Settings, TrainRequest};
use regard_tasks::pictures::Picture;

use crate::commands::train::{summary, watched};
use crate::commands::vision::shown;
use crate::terminal::{heading, print, tell, thousands};

/// Handwritten digits; `assets/PROVENANCE.md` says where they come from.
const SAMPLE: &[u8] = include_bytes!("../../../assets/digits.csv.gz");
/// Side of a digit.
const SIDE: usize = 8;

/// Trains, scores and looks into a reader of digits.
pub(super) fn run(out: &Path, seed: u64) -> anyhow::Result<()> {
    let data = out.join("data");
    let [learn, test] = unpack(&data)?;
    tell(&format!(
        "{} handwritten digits to learn from, {} others to be scored on; all are pictures in {}",
        thousands(learn),
        thousands(test),
        data.display()
    ));
    let folder = out.join("model");
    let request = TrainRequest {
        data: data.clone(),
        out: folder.clone(),
        settings: Settings {
            // Enough for digits of 8 × 8; the rest of the minute is for looking.
            epochs: Some(24),
            ..Settings::default()
        },
        seed,
        resume: out.join("model.training").exists(),
        device: "cpu".to_owned(),
        precision: Precision::Auto,
        rivals: true,
        ..TrainRequest::default()
    };
    let again = "regard demo vision, with the same --out and --seed";
    let report = watched(again, |progress| {
        image_recognition::train(&request, progress)
    })?;
    let model = ImageClassifier::open(&folder)?;
    let mut text = format!("\n{}", summary(&report));
    text += &format!(
        "\n{}\n",
        heading("two digits of the test part, and which places spoke for the answer")
    );
    for label in ["3", "8"] {
        let path = first(&data.join("test").join(label))?;
        let picture = Picture::open(&path)?;
        let map = model.explain(&picture, &MapRequest::default())?;
        text += &format!("\n{}, really a {label}: {}", path.display(), shown(&map));
    }
    print(&text)?;
    let (out, example) = (out.display(), first(&data.join("test/8"))?);
    let example = example.display();
    tell(&format!(
        "\nopen {out}/model/report.html for the whole report with its mistakes, and try\n  \
         regard predict {out}/model {example}\n  \
         regard explain {out}/model {example} --out map.png\n  \
         regard evaluate {out}/model --data {out}/data --sheet mistakes.png\n  \
         regard train vision --data YOUR-FOLDER --out model"
    ));
    Ok(())
}

/// The first picture of a folder.
fn first(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let failed = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(failed)?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().next().with_context(failed)
}

/// Writes the digits as pictures into a folder for each label, every fifth of a label for testing, and says how many.
fn unpack(data: &Path) -> anyhow::Result<[usize; 2]> {
    let mut table = String::new();
    flate2::read::GzDecoder::new(SAMPLE).read_to_string(&mut table)?;
    let mut seen = [0_usize; 10];
    let mut counts = [0, 0];
    for line in table.lines() {
        let values: Vec<u32> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let Some((label, pixels)) = values.split_last().filter(|(label, pixels)| {
            **label < 10 && pixels.len() == SIDE * SIDE && pixels.iter().all(|value| *value <= 16)
        }) else {
            bail!(
                "the sample is damaged: a line is not {} values and a label",
                SIDE * SIDE
            );
        };
        let count = &mut seen[*label as usize];
        let part = usize::from(*count % 5 == 2);
        let folder = data.join(["train", "test"][part]).join(label.to_string());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let picture = Picture {
            height: SIDE,
            width: SIDE,
            channels: 1,
            // At most 16 · 255 / 16: the cast loses nothing.
            pixels: pixels
                .iter()
                .map(|value| ((value * 255 + 8) / 16) as u8)
                .collect(),
        };
        let path = folder.join(format!("{count:03}.png"));
        fs::write(&path, picture.to_png())
            .with_context(|| format!("cannot write {}", path.display()))?;
        *count += 1;
        counts[part] += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_unpacks_to_pictures_of_every_digit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(unpack(folder.path()).expect("it is whole"), [1438, 359]);
        for digit in 0..10 {
            let path = first(&folder.path().join(format!("test/{digit}"))).expect("there is one");
            let picture = Picture::open(&path).expect("it is a picture");
            assert_eq!([picture.height, picture.width, picture.channels], [8, 8, 1]);
        }
    }
}
