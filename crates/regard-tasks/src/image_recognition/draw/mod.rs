//! Pictures of what a model saw: a map laid over its picture, and a sheet of mistakes.

mod legend;

use plotters::style::colors::colormaps::{ColorMap, ViridisRGB};

use super::{Mistake, PictureMap};
use crate::pictures::{Picture, scaled};

/// A drawn picture is at least so wide or high, whichever is more: a picture of 28 pixels could not be looked at.
const SMALLEST: usize = 448;
/// Share of the map's colour where the map is strongest; it fades to a fifth of it where nothing was looked at.
const STRONGEST: f32 = 0.75;
const FAINTEST: f32 = 0.15;

/// The map over its picture, as a PNG with the picture's own ratio of sides; under it the colours from none (left) to the
/// largest weight (right), with the share of the whole weight that it is. The colours are those of viridis, equally bright
/// steps for equal steps of the weight.
pub fn overlay(picture: &Picture, map: &PictureMap) -> Vec<u8> {
    let times = SMALLEST.div_ceil(picture.height.max(picture.width)).max(1);
    let [height, width] = [picture.height * times, picture.width * times];
    let enlarged = PictureMap {
        picture: [height, width],
        ..map.clone()
    };
    let (weights, largest) = enlarged.over_picture();
    let colours = picture.clone().with_channels(3);
    let mut pixels = Vec::with_capacity((height + legend::HEIGHT) * width * 3);
    for row in 0..height {
        for column in 0..width {
            let at = ((row / times) * picture.width + column / times) * 3;
            let weight = weights[row * width + column];
            let share = FAINTEST + (STRONGEST - FAINTEST) * weight;
            for (under, over) in colours.pixels[at..at + 3].iter().zip(viridis(weight)) {
                pixels.push(
                    (f32::from(*under) * (1.0 - share) + f32::from(over) * share).round() as u8,
                );
            }
        }
    }
    pixels.extend(legend::legend(width, largest));
    png(pixels, height + legend::HEIGHT, width)
}

/// Red, green and blue of a weight from 0 to 1.
fn viridis(weight: f32) -> [u8; 3] {
    let colour = ViridisRGB.get_color(weight.clamp(0.0, 1.0));
    [colour.0, colour.1, colour.2]
}

/// Side of a picture on the sheet, twice that of the largest that is read unless it is asked for, and the space around it.
const CELL: usize = 128;
const SPACE: usize = 8;
/// Pictures in a row of the sheet.
const ACROSS: usize = 8;

/// The pictures of mistakes side by side, as a PNG: row after row, in the order given. None gives one white cell.
pub fn contact_sheet(mistakes: &[Mistake]) -> Vec<u8> {
    let across = mistakes.len().clamp(1, ACROSS);
    let down = mistakes.len().div_ceil(ACROSS).max(1);
    let side = |count: usize| count * (CELL + SPACE) + SPACE;
    let (height, width) = (side(down), side(across));
    let mut pixels = vec![255; height * width * 3];
    for (at, mistake) in mistakes.iter().enumerate() {
        let (rows, columns, small) = thumbnail(&mistake.picture, CELL);
        let top = side(at / ACROSS) + (CELL - rows) / 2;
        let left = side(at % ACROSS) + (CELL - columns) / 2;
        for (row, line) in small.chunks(columns * 3).enumerate() {
            let from = ((top + row) * width + left) * 3;
            pixels[from..from + line.len()].copy_from_slice(line);
        }
    }
    png(pixels, height, width)
}

/// A picture as a PNG whose longer side is about `side`.
pub(super) fn thumbnail_png(picture: &Picture, side: usize) -> Vec<u8> {
    let (rows, columns, pixels) = thumbnail(picture, side);
    png(pixels, rows, columns)
}

/// Rows, columns and RGB pixels with a longer side of at most `side`: a small picture is repeated pixel by pixel.
fn thumbnail(picture: &Picture, side: usize) -> (usize, usize, Vec<u8>) {
    let picture = picture.clone().with_channels(3);
    let longer = picture.height.max(picture.width);
    let times = side / longer;
    if times >= 1 {
        let (rows, columns) = (picture.height * times, picture.width * times);
        let at = |row: usize, column: usize| ((row / times) * picture.width + column / times) * 3;
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let pixels =
            places.flat_map(|(row, column)| picture.pixels[at(row, column)..][..3].iter().copied());
        return (rows, columns, pixels.collect());
    }
    let shrunk = |length: usize| (length * side / longer).max(1);
    let (rows, columns) = (shrunk(picture.height), shrunk(picture.width));
    (rows, columns, scaled(&picture, rows, columns))
}

fn png(pixels: Vec<u8>, height: usize, width: usize) -> Vec<u8> {
    let picture = Picture {
        height,
        width,
        channels: 3,
        pixels,
    };
    picture.to_png()
}

/// Bytes as the text of an address that holds them (RFC 2397), for a page of one file.
pub(super) fn data_address(png: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("data:image/png;base64,");
    for chunk in png.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            match at <= chunk.len() {
                true => text.push(char::from(LETTERS[(word >> (18 - 6 * at)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_the_text_of_rfc_4648() {
        let text = |bytes: &[u8]| data_address(bytes).split_off("data:image/png;base64,".len());
        let expected = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, expected) in expected {
            assert_eq!(text(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn a_thumbnail_is_as_large_as_asked_and_keeps_its_ratio() {
        let picture = Picture {
            height: 2,
            width: 4,
            channels: 1,
            pixels: vec![9; 8],
        };
        let (rows, columns, pixels) = thumbnail(&picture, 12);
        assert_eq!((rows, columns, pixels.len()), (6, 12, 216));
        let (rows, columns, _) = thumbnail(&picture, 2);
        assert_eq!((rows, columns), (1, 2));
    }

    #[test]
    fn a_sheet_of_no_mistake_can_be_drawn() {
        assert!(contact_sheet(&[]).starts_with(b"\x89PNG"));
    }
}
