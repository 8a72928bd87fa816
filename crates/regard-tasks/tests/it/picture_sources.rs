//! Folders, tables and IDX files of pictures, and everything that may be wrong with them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use regard_tasks::Task;
use regard_tasks::image_recognition::{ImageClassifier, TrainRequest, train};
use regard_tasks::pictures::{Picture, PictureColumns};
use regard_tasks::trainer::Event;
use tempfile::TempDir;

use crate::image_recognition::{LABELS, album, made, request, write};
use crate::training::Ears;

/// What was said before the first step, and how many pictures were learned from and validated on.
fn learned(request: &TrainRequest) -> (String, usize) {
    let mut ears = Ears::default();
    let report = train(request, &mut ears).unwrap();
    let first = |event: &Event| matches!(event, Event::Stepped { .. });
    let first = ears.heard.iter().position(first).unwrap();
    let said = ears.heard[..first].iter().filter_map(|event| match event {
        Event::Warned(text) | Event::Said(text) => Some(text.as_str()),
        _ => None,
    });
    let said = said.collect::<Vec<_>>().join("\n");
    (said, report.data.train_rows + report.data.validation_rows)
}

fn short(folder: &Path, out: &str) -> TrainRequest {
    let mut request = request(folder, out);
    request.settings.epochs = Some(1);
    request
}

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
    fs::read(folder.join(name)).unwrap()
}

/// A PNG that claims to be of those sides and breaks off after 65 bytes.
pub(crate) fn claims(width: u32, height: u32) -> Vec<u8> {
    let one = Picture {
        height: 1,
        width: 1,
        channels: 1,
        pixels: vec![0],
    };
    let mut bytes = one.to_png();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    bytes.truncate(65);
    bytes
}

#[test]
fn what_cannot_be_read_is_left_out_counted_and_named_before_the_first_step() {
    let folder = TempDir::new().unwrap();
    let pictures = folder.path().join("pictures");
    album(&pictures, 20);
    let whole = fs::read(pictures.join("cross/3.png")).unwrap();
    let photograph = golden("turned.jpg");
    let strip = Picture {
        height: 10_000,
        width: 1,
        channels: 1,
        pixels: vec![7; 10_000],
    };
    let broken = [
        ("cross/text.png", b"a text".to_vec(), "no picture"),
        ("cross/empty.png", Vec::new(), "empty"),
        (
            "frame/half.png",
            whole[..whole.len() / 2].to_vec(),
            "not a whole picture",
        ),
        (
            "frame/half.jpg",
            photograph[..photograph.len() - 20].to_vec(),
            "breaks off",
        ),
        ("frame/moving.webp", golden("animated.webp"), "an animation"),
        (
            "frame/monster.png",
            claims(100_000, 100_000),
            "100000 × 100000 pixels, expected 1 to 8192 a side",
        ),
        (
            "frame/strip.png",
            strip.to_png(),
            "1 × 10000 pixels, expected 1 to 8192 a side",
        ),
    ];
    for (name, bytes, reason) in broken {
        fs::write(pictures.join(name), bytes).unwrap();
        let message = Picture::open(&pictures.join(name)).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains(reason),
            "{message}"
        );
    }
    fs::write(pictures.join("frame/notes.txt"), "about these").unwrap();
    fs::create_dir(pictures.join("empty")).unwrap();
    fs::create_dir(pictures.join("frame/folder.png")).unwrap();
    let (said, rows) = learned(&short(folder.path(), "model"));
    for part in [
        // The headers say it of six, the pixels of half of a PNG.
        "left out 6 pictures that cannot be read",
        "left out 1 pictures that cannot be read",
        "text.png: no picture",
        "half.png: not a whole picture",
        "1 folders without a picture: `empty`",
        "1 files that are no pictures by their name: `frame/notes.txt`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(rows, 40);
}

#[cfg(unix)]
#[test]
fn what_the_user_may_not_read_is_left_out_and_a_link_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = TempDir::new().unwrap();
    let pictures = folder.path().join("pictures");
    album(&pictures, 20);
    let secret = pictures.join("cross/secret.png");
    write(&secret, &made(99, "cross").0);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    // Who runs the tests as root may read everything, and then learns from it.
    let readable = fs::read(&secret).is_ok();
    // A file that not even root can read from its beginning, where there is one: this program's memory.
    let memory = Path::new("/proc/self/mem");
    if memory.exists() {
        let message = Picture::open(memory).unwrap_err().to_string();
        assert!(message.starts_with("/proc/self/mem: "), "{message}");
    }
    symlink("/etc/hostname", pictures.join("frame/out.png")).unwrap();
    symlink(&pictures, pictures.join("frame/circle")).unwrap();
    symlink("/", pictures.join("train")).unwrap();
    let (said, rows) = learned(&short(folder.path(), "model"));
    assert!(said.contains("3 links, which are not followed"), "{said}");
    assert_eq!(rows, 40 + usize::from(readable));
    let named = said.contains("secret.png: Permission denied");
    assert_eq!(named, !readable, "{said}");
}

#[test]
fn pictures_of_any_size_format_and_colour_are_learned_from_together() {
    let folder = TempDir::new().unwrap();
    let pictures = folder.path().join("pictures");
    album(&pictures, 12);
    let others = [
        "cmyk.jpg",
        "palette.png",
        "clear_palette.png",
        "one_bit.png",
        "lossy.webp",
        "turned.jpg",
    ];
    for name in others {
        fs::write(pictures.join("cross").join(name), golden(name)).unwrap();
    }
    let line = Picture {
        height: 1,
        width: 8192,
        channels: 1,
        pixels: vec![9; 8192],
    };
    write(&pictures.join("frame/line.png"), &line);
    let (said, rows) = learned(&short(folder.path(), "model"));
    assert_eq!(rows, 31, "{said}");
    let model = ImageClassifier::open(&folder.path().join("model")).unwrap();
    assert_eq!(model.reads()[2], 3, "some pictures have colours");
    assert_eq!(model.run(&[line, made(3, "cross").0]).unwrap().len(), 2);
}

/// The IDX pair of some crosses (label 0) and frames (1).
fn idx(folder: &Path, part: &str, each: usize) {
    let of = |number| {
        let labels = LABELS.iter().zip(0_u8..);
        labels.map(move |(label, at)| (made(number, label).0.pixels, at))
    };
    let count = (2 * each as u32).to_be_bytes();
    let mut pictures = [&[0, 0, 8, 3], &count[..], &[0, 0, 0, 24, 0, 0, 0, 24]].concat();
    let mut labels = [&[0, 0, 8, 1], &count[..]].concat();
    for (pixels, label) in (0..each).flat_map(of) {
        pictures.extend(pixels);
        labels.push(label);
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{part}-images-idx3-ubyte")), pictures).unwrap();
    fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
}

#[test]
fn idx_files_are_learned_from_and_scored_on_as_a_folder_or_by_name() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("pictures");
    idx(&data, "train", 20);
    idx(&data, "t10k", 5);
    fs::write(data.join("labels.txt"), "Kreuz\n框\n").unwrap();
    // One of them gzipped, as MNIST's are.
    let plain = data.join("train-labels-idx1-ubyte");
    let packed = fs::File::create(data.join("train-labels-idx1-ubyte.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(&fs::read(&plain).unwrap()).unwrap();
    packed.finish().unwrap();
    fs::remove_file(&plain).unwrap();

    let (said, rows) = learned(&short(folder.path(), "model"));
    assert!(
        said.contains("t10k-images-idx3-ubyte is scored on, not learned from"),
        "{said}"
    );
    assert_eq!(rows, 40);
    let model = ImageClassifier::open(&folder.path().join("model")).unwrap();
    assert_eq!(model.labels(), ["Kreuz", "框"]);
    let scored = |path: &Path| {
        let scored = model.evaluate(path, &PictureColumns::default(), &mut Ears::default());
        scored
            .map(|scored| scored.scores.rows)
            .map_err(|error| error.to_string())
    };
    let pictures = data.join("t10k-images-idx3-ubyte");
    assert_eq!(scored(&data), Ok(10));
    assert_eq!(scored(&pictures), Ok(10));

    let whole = fs::read(&pictures).unwrap();
    fs::write(&pictures, &whole[..whole.len() - 1]).unwrap();
    let message = scored(&pictures).unwrap_err();
    assert!(
        message.contains("t10k-images") && message.contains("cut off"),
        "{message}"
    );
    fs::remove_file(data.join("t10k-labels-idx1-ubyte")).unwrap();
    let message = scored(&pictures).unwrap_err();
    assert!(message.contains("belong together"), "{message}");
}

#[test]
fn tables_hold_paths_or_the_bytes_of_pictures() {
    let folder = TempDir::new().unwrap();
    album(&folder.path().join("shots"), 12);
    let rows: Vec<(String, &str)> = LABELS
        .iter()
        .flat_map(|label| {
            (0..12).map(move |number| (format!("shots/{label}/{number}.png"), *label))
        })
        .collect();

    // Paths, relative to the table; one picture is missing, one has no label.
    let mut table = String::from("file,label\n");
    for (path, label) in &rows {
        table += &format!("{path},{label}\n");
    }
    table += "shots/missing.png,cross\nshots/cross/0.png,\n";
    fs::write(folder.path().join("table.csv"), table).unwrap();
    let mut by_path = short(folder.path(), "by_path");
    by_path.data = folder.path().join("table.csv");
    let (said, count) = learned(&by_path);
    for part in [
        "`file` holds the pictures",
        "missing.png",
        "1 rows with nothing in `label`: `line 27`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(count, 24);

    // Bytes as a column, and as Hugging Face's `datasets` writes them: objects of bytes and path.
    let read = |(path, _): &(String, &str)| fs::read(folder.path().join(path)).unwrap();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(rows.iter().map(read)));
    let text = |of: fn(&(String, &str)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let labels = text(|(_, label)| (*label).to_owned());
    let objects: ArrayRef = Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", DataType::Binary, false)),
            Arc::clone(&bytes),
        ),
        (
            Arc::new(Field::new("path", DataType::Utf8, false)),
            text(|(path, _)| path.clone()),
        ),
    ]));
    let mut models = vec![by_path.out];
    for (name, pictures) in [("bytes", bytes), ("objects", objects)] {
        let mut request = short(folder.path(), name);
        request.data = folder.path().join(format!("{name}.parquet"));
        let columns = [("image", pictures), ("label", Arc::clone(&labels))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = fs::File::create(&request.data).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        assert_eq!(learned(&request).1, 24, "{name}");
        models.push(request.out);
    }
    // The same pictures and labels make the same model, however they came.
    let weights: Vec<Vec<u8>> = models
        .iter()
        .map(|model| fs::read(model.join("model.safetensors")).unwrap())
        .collect();
    assert!(weights[0] == weights[1] && weights[1] == weights[2]);
}

#[test]
fn data_that_cannot_be_learned_from_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let failure = |request: &TrainRequest| {
        train(request, &mut Ears::default())
            .unwrap_err()
            .to_string()
    };
    let nothing = failure(&request(folder.path(), "model"));
    assert!(nothing.contains("pictures: cannot be read"), "{nothing}");
    fs::create_dir_all(folder.path().join("pictures/cat")).unwrap();
    let empty = failure(&request(folder.path(), "model"));
    assert!(empty.contains("folders named like their class"), "{empty}");
    write(
        &folder.path().join("pictures/cat/a.png"),
        &made(1, "cross").0,
    );
    let one = failure(&request(folder.path(), "model"));
    assert!(
        one.contains("only the label `cat`") && one.contains("at least two"),
        "{one}"
    );
    let mut odd = request(folder.path(), "model");
    odd.settings.size = Some("huge".to_owned());
    assert!(failure(&odd).contains("tiny, small, medium, vit-tiny"));
}
