//! Pictures of every kind are decoded as the rules say, and what is none is refused at once.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use regard_tasks::pictures::{Picture, decode};

use crate::picture_sources::claims;

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures");
    fs::read(folder.join(name)).unwrap()
}

fn packed(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Whether the pixel is about red (left) or blue (right).
fn is(picture: &Picture, row: usize, column: usize, [red, _, blue]: [u8; 3]) -> bool {
    let at = (row * picture.width + column) * 3;
    let close = |a: u8, b: u8| a.abs_diff(b) < 40;
    close(picture.pixels[at], red) && close(picture.pixels[at + 2], blue)
}

const RED: [u8; 3] = [250, 10, 10];
const BLUE: [u8; 3] = [10, 10, 250];

#[test]
fn palettes_cmyk_and_webp_become_red_green_and_blue() {
    for name in ["palette.png", "cmyk.jpg", "lossy.webp"] {
        let picture = decode(&golden(name)).unwrap();
        let found = [picture.height, picture.width, picture.channels];
        assert_eq!(found, [8, 16, 3], "{name}");
        assert!(
            is(&picture, 4, 2, RED) && is(&picture, 4, 13, BLUE),
            "{name}"
        );
    }
}

#[test]
fn a_turned_photograph_is_turned_back() {
    let picture = decode(&golden("turned.jpg")).unwrap();
    assert_eq!([picture.height, picture.width], [16, 8]);
    assert!(is(&picture, 2, 4, RED) && is(&picture, 13, 4, BLUE));
}

/// EXIF's eight orientations of the same pixels (red left, blue right): sides, and where red is then.
#[test]
fn every_orientation_of_a_camera_is_honoured() {
    let mut bytes = golden("turned.jpg");
    let tag = [0x01, 0x12]; // EXIF's name of the orientation, in either byte order
    let at = bytes
        .windows(2)
        .position(|pair| pair == tag || pair == [tag[1], tag[0]])
        .unwrap();
    let value = (at + 8..at + 10).find(|at| bytes[*at] == 6).unwrap();
    let [left, right, top, bottom] = [(4, 2), (4, 13), (2, 4), (13, 4)];
    let expected = [left, right, right, left, top, top, bottom, bottom];
    for (orientation, (row, column)) in (1..).zip(expected) {
        bytes[value] = orientation;
        let picture = decode(&bytes).unwrap();
        let sides = if orientation < 5 { [8, 16] } else { [16, 8] };
        assert_eq!([picture.height, picture.width], sides, "{orientation}");
        assert!(is(&picture, row, column, RED), "{orientation}");
        let [far_row, far_column] = [sides[0] - 1 - row, sides[1] - 1 - column];
        assert!(is(&picture, far_row, far_column, BLUE), "{orientation}");
    }
}

#[test]
fn what_a_camera_writes_behind_a_photograph_does_not_spoil_it() {
    // A film, in which every pair of bytes may stand; it was taken for the photograph's own data.
    for film in [
        &[0xFF, 0xDA, 0, 1][..],
        &[0xFF, 0xD8, 0xFF, 0xDA, 0, 4, 7, 7],
        &[0; 9],
    ] {
        let whole = golden("cmyk.jpg");
        let together = [whole.as_slice(), film].concat();
        assert_eq!(decode(&together), decode(&whole));
    }
}

#[test]
fn grey_stays_grey_sixteen_bits_become_eight_and_one_bit_black_and_white() {
    let deep = ImageBuffer::<Luma<u16>, _>::from_fn(3, 2, |x, _| Luma([x as u16 * 30_000]));
    let picture = decode(&packed(deep, ImageFormat::Png)).unwrap();
    assert_eq!(
        (picture.channels, &picture.pixels[..3]),
        (1, &[0, 117, 233][..])
    );
    let colours = ImageBuffer::<Rgb<u16>, _>::from_pixel(1, 1, Rgb([65_535, 0, 32_896]));
    assert_eq!(
        decode(&packed(colours, ImageFormat::Png)).unwrap().pixels,
        [255, 0, 128]
    );
    let picture = decode(&golden("one_bit.png")).unwrap();
    assert_eq!(picture.channels, 1);
    assert!(
        picture
            .pixels
            .iter()
            .all(|pixel| *pixel == 0 || *pixel == 255)
    );
}

#[test]
fn what_is_transparent_shows_white() {
    let clear = ImageBuffer::<Rgba<u8>, _>::from_fn(2, 1, |x, _| Rgba([200, 0, 0, 255 * x as u8]));
    let found = decode(&packed(clear, ImageFormat::Png)).unwrap();
    assert_eq!(found.pixels, [255, 255, 255, 200, 0, 0]);
    let deep = ImageBuffer::<Rgba<u16>, _>::from_pixel(1, 1, Rgba([0, 65_535, 0, 32_896]));
    assert_eq!(
        decode(&packed(deep, ImageFormat::Png)).unwrap().pixels,
        [127, 255, 127]
    );
    // A palette whose second colour is transparent.
    let found = decode(&golden("clear_palette.png")).unwrap();
    assert!(is(&found, 4, 2, RED) && is(&found, 4, 13, [255; 3]));
    let half = ImageBuffer::<LumaA<u8>, _>::from_pixel(1, 1, LumaA([0, 51]));
    assert_eq!(
        decode(&packed(half, ImageFormat::Png)).unwrap().pixels,
        [204]
    );
}

#[test]
fn animations_are_refused() {
    for name in ["animated.webp", "animated.png"] {
        assert!(
            decode(&golden(name)).unwrap_err().contains("an animation"),
            "{name}"
        );
    }
}

#[test]
fn a_header_that_claims_a_monster_is_refused_before_anything_is_allocated() {
    let started = Instant::now();
    for (width, height) in [
        (100_000, 100_000),
        (8193, 1),
        (1, 10_000),
        (8000, 8000),
        (0, 5),
    ] {
        let message = decode(&claims(width, height)).unwrap_err();
        assert!(
            message.contains("expected") || message.contains("not a whole"),
            "{message}"
        );
    }
    assert!(started.elapsed().as_millis() < 500);
}

#[test]
fn what_is_no_whole_picture_is_refused_and_nothing_panics() {
    assert!(
        decode(b"a text that is called cat.png")
            .unwrap_err()
            .contains("no picture")
    );
    assert!(decode(b"").unwrap_err().contains("empty"));
    assert!(decode(b"GIF89a....").unwrap_err().contains("Gif"));
    for name in ["cmyk.jpg", "turned.jpg", "palette.png", "lossy.webp"] {
        let whole = golden(name);
        // The last twelve bytes of a PNG only say that it ends: all pixels stand before them.
        let needed = whole.len() - if name.ends_with("png") { 12 } else { 0 };
        for length in (0..needed).step_by(whole.len() / 40 + 1) {
            assert!(
                decode(&whole[..length]).is_err(),
                "{name} cut to {length} of {}",
                whole.len()
            );
        }
        for at in 0..whole.len() {
            // Altered bytes may leave a picture or not; they may not end the program.
            let mut altered = whole.clone();
            altered[at] ^= 0x55;
            let _ = decode(&altered);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Picture::open(&PathBuf::from("/nowhere/cat.png")).unwrap_err();
    assert!(
        missing.to_string().starts_with("/nowhere/cat.png: "),
        "{missing}"
    );
    let folder = tempfile::tempdir().unwrap();
    assert!(
        Picture::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("no file")
    );
}
