//! What is done to a picture at random before it is learned from: a function of the step's numbers alone, so that a run
//! that was killed and resumed sees what an uninterrupted one sees.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use regard_nn::Noise;
use serde::{Deserialize, Serialize};

/// How much is done, and how often.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Augment {
    /// A picture is moved by so many pixels at most, each way; its edge is repeated.
    pub(super) shift: usize,
    /// Half of the pictures are mirrored.
    pub(super) flip: bool,
    /// Share of pictures that are turned (15 degrees at most), slanted (0.15), scaled (15 %), or changed in brightness (0.2)
    /// or contrast (30 %): one of the five, as in RandAugment (Cubuk et al. 2020).
    pub(super) distort: f64,
    /// Share of pictures of which a rectangle of 2 to 20 % is the mean colour (Zhong et al. 2020, "Random Erasing").
    pub(super) erase: f64,
    /// Share of batches in which each picture is mixed with another: faded into it (Zhang et al. 2018, "mixup"), or with a
    /// rectangle cut from it (Yun et al. 2019, "CutMix"), half of the time each.
    pub(super) mix: f64,
}

/// Random numbers of a picture.
const DRAWS: usize = 12;

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
        let mut values = vec![0.0; pictures.len() * shape.len()];
        values
            .par_chunks_mut(shape.len())
            .zip(pictures)
            .zip(draws.par_chunks(DRAWS))
            .for_each(|((out, picture), draws)| self.one(picture, shape, map, draws, out));
        let own = self.mixed(&mut values, shape, &noise.uniform(4));
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
        out: &mut [f32],
    ) {
        let Shape {
            height,
            width,
            channels,
        } = shape;
        let signed = |draw: f32| 2.0 * draw - 1.0;
        let whole = |draw: f32| (signed(draw) * (self.shift as f32 + 0.5)).round() as isize;
        let [down, across] = [whole(draws[0]), whole(draws[1])];
        let mirrored = self.flip && draws[2] < 0.5;
        let change = Change::drawn(
            f64::from(draws[3]) < self.distort,
            draws[4],
            signed(draws[5]),
        );
        let (middle_row, middle_column) = ((height as f32 - 1.0) / 2.0, (width as f32 - 1.0) / 2.0);
        let clamped = |at: isize, side: usize| at.clamp(0, side as isize - 1) as usize;
        for row in 0..height {
            for column in 0..width {
                let to = (row * width + column) * channels;
                let column = if mirrored { width - 1 - column } else { column };
                let (row, column) = (row as isize - down, column as isize - across);
                let out = &mut out[to..to + channels];
                if let Some([a, b, c, d]) = change.matrix {
                    let (y, x) = (row as f32 - middle_row, column as f32 - middle_column);
                    let (y, x) = (a * y + b * x + middle_row, c * y + d * x + middle_column);
                    let (top, left) = (y.floor(), x.floor());
                    let (down, across) = (y - top, x - left);
                    let at = |row: isize, column: isize, channel: usize| {
                        let (row, column) = (clamped(row, height), clamped(column, width));
                        f32::from(picture[(row * width + column) * channels + channel])
                    };
                    let (top, left) = (top as isize, left as isize);
                    for (channel, out) in out.iter_mut().enumerate() {
                        let above = at(top, left, channel) * (1.0 - across)
                            + at(top, left + 1, channel) * across;
                        let below = at(top + 1, left, channel) * (1.0 - across)
                            + at(top + 1, left + 1, channel) * across;
                        *out = above * (1.0 - down) + below * down;
                    }
                } else {
                    let from = (clamped(row, height) * width + clamped(column, width)) * channels;
                    for (out, byte) in out.iter_mut().zip(&picture[from..from + channels]) {
                        *out = f32::from(*byte);
                    }
                }
            }
        }
        for pixel in out.chunks_mut(channels) {
            for (value, (factor, offset)) in pixel.iter_mut().zip(map) {
                let light =
                    ((*value - 127.5) * change.contrast + 127.5 + 255.0 * change.brightness)
                        .clamp(0.0, 255.0);
                *value = light * factor + offset;
            }
        }
        if f64::from(draws[6]) < self.erase {
            // Between a 50th and a fifth of the picture, at most three times as wide as high or as high as wide.
            let area = 0.02 + 0.18 * draws[7];
            let ratio = 3_f32.powf(signed(draws[8]));
            let side =
                |part: f32, side: usize| ((part * side as f32).round() as usize).clamp(1, side);
            let rows = side((area * ratio).sqrt(), height);
            let columns = side((area / ratio).sqrt(), width);
            let start = |draw: f32, room: usize| (draw * (room + 1) as f32) as usize;
            let (top, left) = (
                start(draws[9], height - rows),
                start(draws[10], width - columns),
            );
            for row in top..(top + rows).min(height) {
                let from = (row * width + left) * channels;
                let until = (row * width + (left + columns).min(width)) * channels;
                out[from..until].fill(0.0);
            }
        }
    }

    /// Mixes each picture with its counterpart from the other end of the batch; the share that stays its own.
    fn mixed(&self, values: &mut [f32], shape: Shape, draws: &[f32]) -> f32 {
        if f64::from(draws[0]) >= self.mix || self.mix == 0.0 {
            return 1.0;
        }
        let others = values.to_vec();
        let count = values.len() / shape.len();
        let other = |at: usize| &others[(count - 1 - at) * shape.len()..(count - at) * shape.len()];
        let own = draws[1];
        if draws[0] as f64 >= self.mix / 2.0 {
            for (at, picture) in values.chunks_mut(shape.len()).enumerate() {
                for (value, other) in picture.iter_mut().zip(other(at)) {
                    *value = own * *value + (1.0 - own) * other;
                }
            }
            return own;
        }
        // A rectangle of 1 − own of the area, with the picture's own ratio of sides.
        let part = (1.0 - own).sqrt();
        let side = |side: usize| ((part * side as f32) as usize).min(side);
        let (rows, columns) = (side(shape.height), side(shape.width));
        let start = |draw: f32, room: usize| ((draw * (room + 1) as f32) as usize).min(room);
        let top = start(draws[2], shape.height - rows);
        let left = start(draws[3], shape.width - columns);
        for (at, picture) in values.chunks_mut(shape.len()).enumerate() {
            for row in top..top + rows {
                let from = (row * shape.width + left) * shape.channels;
                let until = from + columns * shape.channels;
                picture[from..until].copy_from_slice(&other(at)[from..until]);
            }
        }
        1.0 - (rows * columns) as f32 / (shape.height * shape.width) as f32
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
        .for_each(|(out, picture)| nothing.one(picture, shape, map, &[0.5; DRAWS], out));
    let shape = [pictures.len(), shape.height, shape.width, shape.channels];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// One of the five distortions.
struct Change {
    /// From a place of the new picture to that of the old, around the middle, rows first.
    matrix: Option<[f32; 4]>,
    brightness: f32,
    contrast: f32,
}

impl Change {
    fn drawn(any: bool, which: f32, strength: f32) -> Self {
        let mut change = Self {
            matrix: None,
            brightness: 0.0,
            contrast: 1.0,
        };
        if !any {
            return change;
        }
        match (which * 5.0) as usize {
            0 => {
                let (sine, cosine) = (strength * 15_f32.to_radians()).sin_cos();
                change.matrix = Some([cosine, sine, -sine, cosine]);
            }
            1 => change.matrix = Some([1.0, 0.0, 0.15 * strength, 1.0]),
            2 => {
                let scale = 1.0 + 0.15 * strength;
                change.matrix = Some([scale, 0.0, 0.0, scale]);
            }
            3 => change.brightness = 0.2 * strength,
            _ => change.contrast = 1.0 + 0.3 * strength,
        }
        change
    }
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
    fn every_distortion_moves_pixels_within_the_picture() {
        for which in 0..5 {
            for strength in [-1.0, 0.7, 1.0] {
                let change = Change::drawn(true, (which as f32 + 0.5) / 5.0, strength);
                assert!(
                    change.matrix.is_some() || change.brightness != 0.0 || change.contrast != 1.0
                );
            }
        }
    }
}
