//! What is done to a picture at random before it is learned from: a function of the step's numbers alone, so that a run
//! that was killed and resumed sees what an uninterrupted one sees.

mod distortion;
mod mixing;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use regard_nn::Noise;
use serde::{Deserialize, Serialize};

use distortion::Distortion;
use mixing::Mixing;

/// How much is done, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Augment {
    /// A picture is moved by so many pixels at most, each way; its edge is repeated.
    pub(super) shift: usize,
    /// Half of the pictures are mirrored.
    pub(super) flip: bool,
    /// Smallest share of a picture's area that is taken for the whole, at sides of 3 : 4 to 4 : 3 of its own (Szegedy et al.
    /// 2015); 1 = no crop.
    pub(super) crop: f64,
    /// Share of pictures that have one [`Distortion`].
    pub(super) distort: f64,
    /// Share of pictures of which a rectangle of 2 to 20 % is the mean colour (Zhong et al. 2020, "Random Erasing").
    pub(super) erase: f64,
    /// Share of batches that are mixed in pairs.
    pub(super) mix: f64,
}

impl Default for Augment {
    /// Nothing.
    fn default() -> Self {
        Self {
            shift: 0,
            flip: false,
            crop: 1.0,
            distort: 0.0,
            erase: 0.0,
            mix: 0.0,
        }
    }
}

/// Random numbers of a picture, and of its crop.
const DRAWS: usize = 12;
const CROP_DRAWS: usize = 4;

/// A batch as the model reads it, and how it was mixed.
pub(super) struct Batch {
    /// `[batch, height, width, channels]`
    pub(super) pictures: Tensor<4>,
    /// Share of each picture that is its own; the rest belongs to the picture as far from the end of the batch as it is
    /// from the beginning.
    pub(super) own: f32,
}

/// Sides and channels of the pictures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Shape {
    pub(super) fn len(self) -> usize {
        self.height * self.width * self.channels
    }
}

impl Augment {
    /// The pictures at random, as numbers: `map` is the factor and offset of each channel.
    pub(super) fn batch(
        &self,
        pictures: &[&[u8]],
        shape: Shape,
        map: &[(f32, f32)],
        noise: &mut Noise,
        device: &Device,
    ) -> Batch {
        let draws = noise.uniform(pictures.len() * DRAWS);
        let crops = match self.crop < 1.0 {
            true => noise.uniform(pictures.len() * CROP_DRAWS),
            false => vec![0.5; pictures.len() * CROP_DRAWS],
        };
        let mut values = vec![0.0; pictures.len() * shape.len()];
        values
            .par_chunks_mut(shape.len())
            .zip(pictures)
            .zip(draws.par_chunks(DRAWS).zip(crops.par_chunks(CROP_DRAWS)))
            .for_each(|((out, picture), (draws, crop))| {
                let crop = Crop::drawn(self.crop as f32, shape, crop);
                self.one(picture, shape, map, draws, &crop, out);
            });
        let mixing = Mixing::drawn(self.mix, shape, &noise.uniform(4));
        let own = mixing.apply(&mut values, shape);
        let shape = [pictures.len(), shape.height, shape.width, shape.channels];
        Batch {
            pictures: Tensor::from_data(TensorData::new(values, shape), device),
            own,
        }
    }

    fn one(
        &self,
        picture: &[u8],
        shape: Shape,
        map: &[(f32, f32)],
        draws: &[f32],
        crop: &Crop,
        out: &mut [f32],
    ) {
        let distortion = (f64::from(draws[3]) < self.distort).then(|| {
            (
                Distortion::drawn(draws[4], shape.channels),
                signed(draws[5]),
            )
        });
        let matrix = distortion.and_then(|(kind, strength)| kind.matrix(strength));
        let whole = |draw: f32| (signed(draw) * (self.shift as f32 + 0.5)).round() as isize;
        let moves = Moves {
            down: whole(draws[0]),
            across: whole(draws[1]),
            mirrored: self.flip && draws[2] < 0.5,
            matrix: crop.after(matrix),
            offset: crop.offset,
        };
        moves.apply(picture, shape, out);
        if let Some((kind, strength)) = distortion {
            kind.paint(out, shape, strength);
        }
        for pixel in out.chunks_mut(shape.channels) {
            for (value, (factor, offset)) in pixel.iter_mut().zip(map) {
                *value = *value * factor + offset;
            }
        }
        if f64::from(draws[6]) < self.erase {
            erase(out, shape, &draws[7..11]);
        }
    }
}

/// From −1 to 1.
fn signed(draw: f32) -> f32 {
    2.0 * draw - 1.0
}

/// Fills a rectangle with 0, the mean colour: between a 50th and a fifth of the picture, at most three times as wide as high
/// or as high as wide.
fn erase(out: &mut [f32], shape: Shape, draws: &[f32]) {
    let Shape {
        height,
        width,
        channels,
    } = shape;
    let area = 0.02 + 0.18 * draws[0];
    let ratio = 3_f32.powf(signed(draws[1]));
    let side = |part: f32, side: usize| ((part * side as f32).round() as usize).clamp(1, side);
    let rows = side((area * ratio).sqrt(), height);
    let columns = side((area / ratio).sqrt(), width);
    let start = |draw: f32, room: usize| (draw * (room + 1) as f32) as usize;
    let (top, left) = (
        start(draws[2], height - rows),
        start(draws[3], width - columns),
    );
    for row in top..(top + rows).min(height) {
        let from = (row * width + left) * channels;
        let until = (row * width + (left + columns).min(width)) * channels;
        out[from..until].fill(0.0);
    }
}

/// The part of a picture that is taken for the whole.
struct Crop {
    /// Shares of the sides, height first.
    sides: [f32; 2],
    /// From the picture's middle to the part's, in pixels.
    offset: [f32; 2],
}

impl Crop {
    fn whole() -> Self {
        Self {
            sides: [1.0; 2],
            offset: [0.0; 2],
        }
    }

    fn drawn(smallest: f32, shape: Shape, draws: &[f32]) -> Self {
        if smallest >= 1.0 {
            return Self::whole();
        }
        let area = smallest + (1.0 - smallest) * draws[0];
        // The square root of a ratio from 3 : 4 to 4 : 3.
        let ratio = (4.0_f32 / 3.0).powf(0.5 * signed(draws[1]));
        let sides = [ratio, 1.0 / ratio].map(|side| (area.sqrt() * side).min(1.0));
        let offset = |side: usize, length: usize, draw: f32| {
            0.5 * signed(draw) * (1.0 - sides[side]) * length as f32
        };
        Self {
            offset: [
                offset(0, shape.height, draws[2]),
                offset(1, shape.width, draws[3]),
            ],
            sides,
        }
    }

    /// A matrix around the middle and then this crop; none where no place moves.
    fn after(&self, matrix: Option<[f32; 4]>) -> Option<[f32; 4]> {
        let [down, across] = self.sides;
        match matrix {
            None if self.sides == [1.0; 2] => None,
            None => Some([down, 0.0, 0.0, across]),
            Some([a, b, c, d]) => Some([down * a, down * b, across * c, across * d]),
        }
    }
}

/// Where each place of the new picture lies in the old one.
struct Moves {
    down: isize,
    across: isize,
    mirrored: bool,
    /// Around the middle, rows first.
    matrix: Option<[f32; 4]>,
    offset: [f32; 2],
}

impl Moves {
    /// Linear between the four pixels around a place; beyond the edge the edge is repeated.
    fn apply(&self, picture: &[u8], shape: Shape, out: &mut [f32]) {
        let Shape {
            height,
            width,
            channels,
        } = shape;
        let (middle_row, middle_column) = ((height as f32 - 1.0) / 2.0, (width as f32 - 1.0) / 2.0);
        let clamped = |at: isize, side: usize| at.clamp(0, side as isize - 1) as usize;
        for (to, out) in out.chunks_mut(channels).enumerate() {
            let (row, column) = (to / width, to % width);
            let column = if self.mirrored {
                width - 1 - column
            } else {
                column
            };
            let (row, column) = (row as isize - self.down, column as isize - self.across);
            let Some([a, b, c, d]) = self.matrix else {
                let from = (clamped(row, height) * width + clamped(column, width)) * channels;
                for (out, byte) in out.iter_mut().zip(&picture[from..from + channels]) {
                    *out = f32::from(*byte);
                }
                continue;
            };
            let (y, x) = (row as f32 - middle_row, column as f32 - middle_column);
            let (y, x) = (
                a * y + b * x + middle_row + self.offset[0],
                c * y + d * x + middle_column + self.offset[1],
            );
            let (top, left) = (y.floor(), x.floor());
            let (down, across) = (y - top, x - left);
            let at = |row: isize, column: isize, channel: usize| {
                let (row, column) = (clamped(row, height), clamped(column, width));
                f32::from(picture[(row * width + column) * channels + channel])
            };
            let (top, left) = (top as isize, left as isize);
            for (channel, out) in out.iter_mut().enumerate() {
                let between = |row: isize| {
                    at(row, left, channel) * (1.0 - across) + at(row, left + 1, channel) * across
                };
                *out = between(top) * (1.0 - down) + between(top + 1) * down;
            }
        }
    }
}

/// A picture as numbers, with nothing done to it.
pub(super) fn plain(
    pictures: &[&[u8]],
    shape: Shape,
    map: &[(f32, f32)],
    device: &Device,
) -> Tensor<4> {
    let nothing = Augment::default();
    let mut values = vec![0.0; pictures.len() * shape.len()];
    values
        .par_chunks_mut(shape.len())
        .zip(pictures)
        .for_each(|(out, picture)| {
            nothing.one(picture, shape, map, &[0.5; DRAWS], &Crop::whole(), out)
        });
    let shape = [pictures.len(), shape.height, shape.width, shape.channels];
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        height: 6,
        width: 5,
        channels: 1,
    };
    const BYTES: [(f32, f32); 1] = [(1.0, 0.0)];

    fn pictures() -> Vec<Vec<u8>> {
        (0..4_u8)
            .map(|picture| (0..30).map(|at| picture * 60 + at).collect())
            .collect()
    }

    fn batch(augment: &Augment, seed: u64) -> (Vec<f32>, f32) {
        let pictures = pictures();
        let rows: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let batch = augment.batch(
            &rows,
            SHAPE,
            &BYTES,
            &mut Noise::at(seed, 3),
            &Device::flex(),
        );
        (
            batch.pictures.into_data().iter::<f32>().collect(),
            batch.own,
        )
    }

    #[test]
    fn with_nothing_to_do_a_picture_stays_as_it_is() {
        let expected: Vec<f32> = pictures().concat().into_iter().map(f32::from).collect();
        assert_eq!(batch(&Augment::default(), 1), (expected.clone(), 1.0));
        let pictures = pictures();
        let rows: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let same: Vec<f32> = plain(&rows, SHAPE, &BYTES, &Device::flex())
            .into_data()
            .iter::<f32>()
            .collect();
        assert_eq!(same, expected);
    }

    #[test]
    fn the_same_step_does_the_same_and_another_does_not() {
        let all = Augment {
            shift: 2,
            flip: true,
            crop: 0.5,
            distort: 1.0,
            erase: 0.5,
            mix: 1.0,
        };
        assert_eq!(batch(&all, 7), batch(&all, 7));
        assert_ne!(batch(&all, 7).0, batch(&all, 8).0);
        for seed in 0..50 {
            let (values, own) = batch(&all, seed);
            assert!(
                (0.0..=1.0).contains(&own)
                    && values.iter().all(|value| (0.0..=255.0).contains(value))
            );
        }
    }

    #[test]
    fn a_mirrored_picture_mirrored_again_is_itself() {
        let flip = Augment {
            flip: true,
            ..Augment::default()
        };
        let (values, _) = batch(&flip, 5);
        let original = pictures();
        for (picture, original) in values.chunks(30).zip(original) {
            let original: Vec<f32> = original.into_iter().map(f32::from).collect();
            let mirrored: Vec<f32> = original
                .chunks(5)
                .flat_map(|row| row.iter().rev().copied())
                .collect();
            assert!(picture == original || picture == mirrored);
        }
    }

    #[test]
    fn a_crop_shows_a_part_of_the_picture_from_edge_to_edge() {
        // A slope from 0 to 29 across: what is shown spans as much as the crop is wide.
        let shape = Shape {
            height: 30,
            width: 30,
            channels: 1,
        };
        let slope: Vec<u8> = (0..900).map(|at| (at % 30) as u8).collect();
        let crop = Augment {
            crop: 0.25,
            ..Augment::default()
        };
        for seed in 0..40 {
            let batch = crop.batch(
                &[&slope],
                shape,
                &BYTES,
                &mut Noise::at(seed, 1),
                &Device::flex(),
            );
            let values: Vec<f32> = batch.pictures.into_data().iter::<f32>().collect();
            let width = values[29] - values[0];
            // Between √(0.25 · 3/4) and all of it; the outermost places lie half a pixel inside.
            assert!((0.43 * 29.0 - 0.6..=29.0).contains(&width), "{width}");
            assert!(values[0] >= 0.0 && values[29] <= 29.0);
        }
    }
}
