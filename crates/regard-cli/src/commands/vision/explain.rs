use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use regard_tasks::Task;
use regard_tasks::image_recognition::{ImageClassifier, MapRequest, PictureMap, map_html, overlay};
use regard_tasks::pictures::Picture;

use crate::terminal::{heading, one_line, print, tell};

/// What `regard explain` is asked for.
pub(crate) struct ExplainRequest {
    pub(crate) picture: PathBuf,
    pub(crate) map: MapRequest,
    pub(crate) out: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Shows where a model looked on a picture.
pub(crate) fn explain(folder: &Path, asked: &ExplainRequest) -> anyhow::Result<()> {
    let model = ImageClassifier::open(folder)?;
    let picture = Picture::open(&asked.picture)?;
    let map = model.explain(&picture, &asked.map)?;
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        tell(&format!("{} {}", heading("wrote"), path.display()));
        anyhow::Ok(())
    };
    if let Some(path) = &asked.out {
        write(path, &overlay(&picture, &map))?;
    }
    if let Some(path) = &asked.html {
        write(path, map_html(&picture, &map).as_bytes())?;
    }
    if asked.json {
        return Ok(print(&(serde_json::to_string(&map)? + "\n"))?);
    }
    print(&shown(&map))?;
    tell(&map.about);
    Ok(())
}

/// The answer, and the grid of places, each the fuller the more weight it has.
pub(crate) fn shown(map: &PictureMap) -> String {
    const SHADES: [&str; 5] = ["· ", "░░", "▒▒", "▓▓", "██"];
    let answer = &map.prediction;
    let mut text = format!(
        "{}\n",
        heading(&format!(
            "{}  {:.3}",
            one_line(&answer.label),
            answer.probability
        ))
    );
    if map.label != answer.label {
        text += &format!("  what speaks for {}:\n", one_line(&map.label));
    }
    let largest = map
        .weights
        .iter()
        .copied()
        .fold(f32::MIN_POSITIVE, f32::max);
    for row in map.weights.chunks(map.grid[1]) {
        let shade = |weight: &f32| SHADES[((weight / largest * 5.0) as usize).min(4)];
        let cells: String = row.iter().map(shade).collect();
        text += &format!("  {}\n", cells.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use regard_nn::layers::Cut;
    use regard_tasks::image_recognition::{Method, Prediction};

    #[test]
    fn the_strongest_place_is_full_and_the_weakest_empty() {
        let map = PictureMap {
            prediction: Prediction {
                label: "cat".to_owned(),
                probability: 0.9,
                probabilities: Vec::new(),
            },
            label: "dog".to_owned(),
            method: Method::Gradient,
            about: String::new(),
            picture: [4, 6],
            model: [4, 6],
            grid: [2, 3],
            cut: Cut::Patches { size: 2 },
            weights: vec![0.0, 0.1, 0.2, 0.4, 0.3, 0.0],
        };
        let plain = anstream::adapter::strip_str(&shown(&map)).to_string();
        assert_eq!(
            plain,
            "cat  0.900\n  what speaks for dog:\n  · ░░▒▒\n  ██▓▓·\n"
        );
    }
}
