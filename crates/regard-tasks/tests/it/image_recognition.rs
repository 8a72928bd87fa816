//! Image recognition as a user sees it: it learns, resumes, shows where it looked, and says what is wrong.

use std::fs;
use std::path::Path;

use image::{GrayImage, Luma};
use regard_nn::models::vision_transformer::{Positions, Summary};
use regard_tasks::image_recognition::{
    ImageClassifier, MapRequest, Method, PictureMap, Settings, TrainRequest, contact_sheet,
    map_html, overlay, train,
};
use regard_tasks::pictures::{Picture, PictureColumns};
use regard_tasks::trainer::Optimizer;
use regard_tasks::{Error, Precision, Task};
use tempfile::TempDir;

use crate::training::Ears;

/// Side of the made pictures, and of the object on them.
const SIDE: usize = 24;
const OBJECT: usize = 8;

/// A number that looks random, from 0 to 1.
fn noise(at: usize) -> f64 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 40) as f64 / (1 << 24) as f64
}

/// A grey picture with weak noise and one object at a place of its own: a cross or a frame. Where the object is: top, left.
pub(crate) fn made(number: usize, label: &str) -> (Picture, [usize; 2]) {
    let place = |salt: usize| (noise(number * 2 + salt) * (SIDE - OBJECT + 1) as f64) as usize;
    let (top, left) = (place(1), place(100_000));
    let pixel = |row: usize, column: usize| {
        let (y, x) = (row.wrapping_sub(top), column.wrapping_sub(left));
        let inside = y < OBJECT && x < OBJECT;
        let on = || match label {
            "cross" => y.abs_diff(x) <= 1 || (y + x).abs_diff(OBJECT - 1) <= 1,
            _ => y.min(x) < 2 || y.max(x) >= OBJECT - 2,
        };
        match inside && on() {
            true => 230,
            false => 60 + (20.0 * noise(number * 1000 + row * SIDE + column)) as u8,
        }
    };
    let places = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
    let picture = Picture {
        height: SIDE,
        width: SIDE,
        channels: 1,
        pixels: places.map(|(row, column)| pixel(row, column)).collect(),
    };
    (picture, [top, left])
}

pub(crate) fn write(path: &Path, picture: &Picture) {
    let pixel = |x: u32, y: u32| Luma([picture.pixels[y as usize * picture.width + x as usize]]);
    let image = GrayImage::from_fn(picture.width as u32, picture.height as u32, pixel);
    image.save(path).unwrap();
}

pub(crate) const LABELS: [&str; 2] = ["cross", "frame"];

/// A folder with a folder for each label.
pub(crate) fn album(folder: &Path, each: usize) {
    for label in LABELS {
        fs::create_dir_all(folder.join(label)).unwrap();
        for number in 0..each {
            let name = format!("{label}/{number}.png");
            write(&folder.join(name), &made(number, label).0);
        }
    }
}

pub(crate) fn request(folder: &Path, out: &str) -> TrainRequest {
    TrainRequest {
        data: folder.join("pictures"),
        out: folder.join(out),
        settings: Settings {
            width: Some(32),
            layers: Some(1),
            heads: Some(2),
            feed_forward: Some(32),
            convolutions: Some(1),
            stochastic_depth: Some(0.0),
            shift: Some(1),
            learning_rate: Some(5e-3),
            batch_rows: Some(16),
            epochs: Some(12),
            patience: Some(20),
            ..Settings::default()
        },
        seed: 1,
        device: "cpu".to_owned(),
        precision: Precision::F32,
        rivals: false,
        ..TrainRequest::default()
    }
}

/// A trained model and the folder that it lies in.
fn trained() -> (TempDir, ImageClassifier) {
    let folder = tempfile::tempdir().unwrap();
    album(&folder.path().join("pictures"), 160);
    train(&request(folder.path(), "model"), &mut Ears::default()).unwrap();
    let model = ImageClassifier::open(&folder.path().join("model")).unwrap();
    (folder, model)
}

/// How far the map's maximum is from the middle of the object at that place, down and across, in pixels.
fn from_middle(map: &PictureMap, place: [usize; 2]) -> [f64; 2] {
    let (over, _) = map.over_picture();
    let most = (0..over.len())
        .max_by(|a, b| over[*a].total_cmp(&over[*b]))
        .unwrap();
    let from = |at: usize, start: usize| (at as f64 + 0.5) - (start + OBJECT / 2) as f64;
    [from(most / SIDE, place[0]), from(most % SIDE, place[1])]
}

#[test]
fn the_strongest_place_of_a_map_is_inside_the_object() {
    let folder = tempfile::tempdir().unwrap();
    album(&folder.path().join("pictures"), 160);
    let mut request = request(folder.path(), "model");
    request.settings.convolutions = None;
    request.settings.patch = Some(4);
    // Of two classes a model may know one by the absence of the other, and then nothing speaks for it: so did Muon's, which
    // found the crosses by attention and rollout, and by attention × gradient in none of 28. AdamW's found all 56 thrice.
    request.settings.optimizer = Some(Optimizer::AdamW);
    train(&request, &mut Ears::default()).unwrap();
    let model = ImageClassifier::open(&request.out).unwrap();
    // A patch is either on the object or not: objects at multiples of its side.
    let on_the_grid = (1000..1100)
        .flat_map(|number| LABELS.map(|label| (made(number, label), label)))
        .filter(|((_, place), _)| place.iter().all(|start| start % 4 == 0));
    let mut seen = 0;
    for ((picture, place), label) in on_the_grid {
        for method in [Method::Gradient, Method::Attention, Method::Rollout] {
            let request = MapRequest {
                method,
                ..MapRequest::default()
            };
            let map = model.explain(&picture, &request).unwrap();
            let [down, across] = from_middle(&map, place);
            assert!(
                down.abs().max(across.abs()) < 0.5 * OBJECT as f64,
                "{method:?}: the strongest place is ({down}, {across}) from the middle of a {label}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen} maps");
}

#[test]
fn it_learns_to_tell_made_pictures_apart_and_looks_at_the_object() {
    let (folder, model) = trained();
    let new: Vec<(Picture, [usize; 2], &str)> = (1000..1020)
        .flat_map(|number| LABELS.map(|label| (number, label)))
        .map(|(number, label)| {
            let (picture, place) = made(number, label);
            (picture, place, label)
        })
        .collect();
    for (picture, place, label) in &new {
        let map = model.explain(picture, &MapRequest::default()).unwrap();
        assert_eq!(map.prediction.label, *label);
        assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        // A convolution and a pooling of 3 × 3: a place sees 2 pixels around its own 2 × 2, here at least the object's rim.
        let [down, across] = from_middle(&map, *place);
        assert!(
            down.abs().max(across.abs()) <= 6.5,
            "the strongest place is ({down}, {across}) from the middle of a {label}"
        );
    }

    // The other methods, and what they are drawn as.
    let picture = &new[0].0;
    for request in [
        MapRequest {
            method: Method::Rollout,
            ..MapRequest::default()
        },
        MapRequest {
            method: Method::Attention,
            ..MapRequest::default()
        },
        MapRequest {
            method: Method::Attention,
            layer: Some(0),
            head: Some(1),
            ..MapRequest::default()
        },
        MapRequest {
            label: Some("frame".to_owned()),
            ..MapRequest::default()
        },
    ] {
        let map = model.explain(picture, &request).unwrap();
        assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        let drawn = image::load_from_memory(&overlay(picture, &map)).unwrap();
        assert_eq!(
            [drawn.width(), drawn.height()],
            [456, 456 + 38],
            "with its legend"
        );
        assert!(map_html(picture, &map).contains("data:image/png;base64,"));
    }
    let stranger = MapRequest {
        label: Some("dog".to_owned()),
        ..MapRequest::default()
    };
    let message = model.explain(picture, &stranger).unwrap_err().to_string();
    assert!(
        message.contains("`dog`") && message.contains("`cross`, `frame`"),
        "{message}"
    );

    // The same pictures from a folder: scores, and the sheet of mistakes.
    let pictures = folder.path().join("pictures");
    let scored = model
        .evaluate(&pictures, &PictureColumns::default(), &mut Ears::default())
        .unwrap();
    assert!(
        scored.scores.accuracy.value > 0.95,
        "{}",
        scored.scores.accuracy.value
    );
    assert_eq!((scored.scores.rows, scored.top_5), (320, None));
    image::load_from_memory(&contact_sheet(&scored.mistakes)).unwrap();
    assert!(model.inspect().parameters > 1000);
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    album(&folder.path().join("pictures"), 24);
    let mut settings = request(folder.path(), "whole").settings;
    settings.epochs = Some(3);
    settings.distort = Some(0.5);
    settings.erase = Some(0.5);
    settings.mix = Some(0.5);
    settings.crop = Some(0.5);
    settings.flip = Some(true);
    settings.average = Some(0.9);
    let whole = TrainRequest {
        settings: settings.clone(),
        ..request(folder.path(), "whole")
    };
    train(&whole, &mut Ears::default()).unwrap();
    let mut cut = TrainRequest {
        settings,
        ..request(folder.path(), "cut")
    };
    let mut ears = Ears {
        stop_after: Some(4),
        ..Ears::default()
    };
    assert!(matches!(
        train(&cut, &mut ears),
        Err(Error::Interrupted { step: 4 })
    ));
    cut.resume = true;
    train(&cut, &mut Ears::default()).unwrap();
    let weights =
        |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert_eq!(weights("whole"), weights("cut"));

    // No memory for pictures: they are decoded while the step before is taken.
    let mut beside = TrainRequest {
        out: folder.path().join("beside"),
        ..whole.clone()
    };
    beside.settings.memory_mib = Some(0);
    let mut ears = Ears::default();
    train(&beside, &mut ears).unwrap();
    let heard = format!("{:?}", ears.heard);
    assert!(heard.contains("decoded while the step before"), "{heard}");
    assert_eq!(weights("whole"), weights("beside"));

    // Other pictures are not the run's.
    let mut other = TrainRequest {
        out: folder.path().join("other"),
        ..whole
    };
    let mut ears = Ears {
        stop_after: Some(2),
        ..Ears::default()
    };
    assert!(train(&other, &mut ears).is_err());
    write(
        &folder.path().join("pictures/cross/more.png"),
        &made(77, "cross").0,
    );
    other.resume = true;
    let message = train(&other, &mut Ears::default()).unwrap_err().to_string();
    assert!(
        message.contains("--resume") && message.contains("other pictures"),
        "{message}"
    );
}

#[test]
fn a_run_begins_with_a_model_that_was_made_for_another_size() {
    let (folder, _) = trained();
    let again = |out: &str| {
        let mut again = request(folder.path(), out);
        again.start = Some(folder.path().join("model"));
        again.settings = Settings {
            // As good as no step: what it can, it has from the model.
            learning_rate: Some(1e-9),
            epochs: Some(1),
            ..Settings::default()
        };
        again
    };
    let accuracy = |request: &TrainRequest| {
        let report = train(request, &mut Ears::default()).unwrap();
        report.scores.accuracy.value
    };
    assert!(accuracy(&again("same")) > 0.95);

    // A third more pixels a side, so that there are other places: those between are interpolated. The stroke is now thicker
    // than what the convolution knows; half of a chance answer would be 0.5.
    let mut larger = again("larger");
    larger.settings.picture_height = Some(28);
    larger.settings.picture_width = Some(28);
    let found = accuracy(&larger);
    assert!(found > 0.75, "{found}");
    let model = ImageClassifier::open(&larger.out).unwrap();
    assert_eq!(model.reads(), [28, 28, 1]);

    // Other labels: the last map is new.
    let pictures = folder.path().join("pictures");
    fs::rename(pictures.join("cross"), pictures.join("star")).unwrap();
    let mut other = again("other");
    other.settings.learning_rate = None;
    let mut ears = Ears::default();
    train(&other, &mut ears).unwrap();
    let heard = format!("{:?}", ears.heard);
    assert!(heard.contains("all but the last map"), "{heard}");
    let model = ImageClassifier::open(&other.out).unwrap();
    assert_eq!(model.labels(), ["frame", "star"]);

    // Its sizes are its own.
    let mut wide = again("wide");
    wide.settings.width = Some(64);
    let message = train(&wide, &mut Ears::default()).unwrap_err().to_string();
    assert!(
        message.contains("width") && message.contains("--start"),
        "{message}"
    );
}

#[test]
fn a_class_token_and_sinusoidal_positions_are_learned_with_and_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    album(&folder.path().join("pictures"), 12);
    let mut request = request(folder.path(), "model");
    request.settings.epochs = Some(1);
    request.settings.summary = Some(Summary::ClassToken);
    request.settings.positions = Some(Positions::Sinusoidal);
    request.settings.crop = Some(0.5);
    train(&request, &mut Ears::default()).unwrap();
    let model = ImageClassifier::open(&request.out).unwrap();
    for method in [Method::Gradient, Method::Attention, Method::Rollout] {
        let request = MapRequest {
            method,
            ..MapRequest::default()
        };
        let map = model.explain(&made(1, "cross").0, &request).unwrap();
        assert_eq!(map.weights.len(), map.grid[0] * map.grid[1]);
        assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    }
}
