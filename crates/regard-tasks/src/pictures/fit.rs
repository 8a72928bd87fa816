//! Every picture to the size the model reads: its sides keep their ratio, and the pixels at its edge are repeated around it.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb};

use super::Picture;

/// Where a picture lies within the size that the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Rows above it.
    pub top: usize,
    /// Columns left of it.
    pub left: usize,
    /// Rows it takes.
    pub height: usize,
    /// Columns it takes.
    pub width: usize,
}

/// The largest frame with the ratio of the picture's sides, in the middle.
pub fn frame(picture: [usize; 2], model: [usize; 2]) -> Frame {
    let scale = (model[0] as f64 / picture[0] as f64).min(model[1] as f64 / picture[1] as f64);
    let side = |at: usize| ((picture[at] as f64 * scale).round() as usize).clamp(1, model[at]);
    let [height, width] = [side(0), side(1)];
    Frame {
        top: (model[0] - height) / 2,
        left: (model[1] - width) / 2,
        height,
        width,
    }
}

/// The pixels of the picture at the model's size, `[height, width, channels]`. A picture of that size is not touched; others
/// are averaged (triangle filter, which blurs by as much as it shrinks) into their [`frame`].
pub fn fit(picture: &Picture, model: [usize; 2]) -> Vec<u8> {
    let [height, width] = model;
    if [picture.height, picture.width] == model {
        return picture.pixels.clone();
    }
    let frame = frame([picture.height, picture.width], model);
    let scaled = scaled(picture, frame.height, frame.width);
    let channels = picture.channels;
    let mut pixels = Vec::with_capacity(height * width * channels);
    for row in 0..height {
        let row = row
            .saturating_sub(frame.top)
            .min(frame.height.saturating_sub(1));
        for column in 0..width {
            let column = column.saturating_sub(frame.left).min(frame.width - 1);
            let at = (row * frame.width + column) * channels;
            pixels.extend_from_slice(&scaled[at..at + channels]);
        }
    }
    pixels
}

/// The picture with other sides.
pub(crate) fn scaled(picture: &Picture, height: usize, width: usize) -> Vec<u8> {
    let (from, to) = (
        [picture.width as u32, picture.height as u32],
        [width as u32, height as u32],
    );
    if from == to {
        return picture.pixels.clone();
    }
    let pixels = picture.pixels.as_slice();
    let scaled = if picture.channels == 1 {
        ImageBuffer::<Luma<u8>, _>::from_raw(from[0], from[1], pixels)
            .map(|picture| resize(&picture, to[0], to[1], FilterType::Triangle).into_raw())
    } else {
        ImageBuffer::<Rgb<u8>, _>::from_raw(from[0], from[1], pixels)
            .map(|picture| resize(&picture, to[0], to[1], FilterType::Triangle).into_raw())
    };
    scaled.expect("a picture has as many pixels as its sides say")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(height: usize, width: usize, pixels: Vec<u8>) -> Picture {
        Picture {
            height,
            width,
            channels: 1,
            pixels,
        }
    }

    #[test]
    fn a_picture_of_the_models_size_is_not_touched() {
        let picture = grey(2, 3, vec![1, 2, 3, 4, 5, 6]);
        assert_eq!(fit(&picture, [2, 3]), picture.pixels);
    }

    #[test]
    fn a_wide_picture_keeps_its_ratio_and_its_edges_are_repeated() {
        let picture = grey(1, 4, vec![10, 20, 30, 40]);
        let expected: Vec<u8> = [10, 20, 30, 40].repeat(4);
        assert_eq!(fit(&picture, [4, 4]), expected);
        let wide = frame([1, 4], [4, 4]);
        assert_eq!(
            wide,
            Frame {
                top: 1,
                left: 0,
                height: 1,
                width: 4
            }
        );
    }

    #[test]
    fn a_strip_does_not_vanish() {
        assert_eq!(fit(&grey(8000, 1, vec![7; 8000]), [8, 8]), vec![7; 64]);
    }
}
