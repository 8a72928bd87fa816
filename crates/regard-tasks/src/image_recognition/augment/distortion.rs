//! One change of a picture, drawn from a set as in AutoAugment (Cubuk et al. 2019): how it lies, its light, its colours, its
//! detail. One for a picture, at a strength drawn evenly, is TrivialAugment (Müller & Hutter 2021), which needs no search.

use super::Shape;

/// A change and how strong it is; the most of each stands beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Distortion {
    /// Turned: 15 degrees.
    Turn,
    /// Rows moved against each other: by 0.15 of their distance.
    SlantAcross,
    /// Columns moved against each other: by 0.15 of their distance.
    SlantDown,
    /// Larger or smaller: 15 %.
    Scale,
    /// Lighter or darker: a fifth of the whole range.
    Brightness,
    /// Farther from the middle grey or nearer to it: 30 %.
    Contrast,
    /// Stretched to the whole range, each channel for itself.
    AutoContrast,
    /// Every grey as frequent as any other, each channel for itself.
    Equalize,
    /// What is lighter than a threshold turned into its negative: from the middle of the range up.
    Solarize,
    /// Fewer steps of grey: 16.
    Posterize,
    /// Sharper, or blurred: by half of what a blur takes away.
    Sharpness,
    /// Colours stronger or weaker: 50 %.
    Colour,
}

impl Distortion {
    /// All of them; grey pictures leave out the last.
    pub(super) const ALL: [Self; 12] = [
        Self::Turn,
        Self::SlantAcross,
        Self::SlantDown,
        Self::Scale,
        Self::Brightness,
        Self::Contrast,
        Self::AutoContrast,
        Self::Equalize,
        Self::Solarize,
        Self::Posterize,
        Self::Sharpness,
        Self::Colour,
    ];

    /// The one that a number from 0 to 1 stands for.
    pub(super) fn drawn(draw: f32, channels: usize) -> Self {
        let count = Self::ALL.len() - usize::from(channels == 1);
        Self::ALL[((draw * count as f32) as usize).min(count - 1)]
    }

    /// From a place of the new picture to that of the old, around the middle, rows first; none where no place moves.
    pub(super) fn matrix(self, strength: f32) -> Option<[f32; 4]> {
        match self {
            Self::Turn => {
                let (sine, cosine) = (strength * 15_f32.to_radians()).sin_cos();
                Some([cosine, sine, -sine, cosine])
            }
            Self::SlantAcross => Some([1.0, 0.0, 0.15 * strength, 1.0]),
            Self::SlantDown => Some([1.0, 0.15 * strength, 0.0, 1.0]),
            Self::Scale => {
                let scale = 1.0 + 0.15 * strength;
                Some([scale, 0.0, 0.0, scale])
            }
            _ => None,
        }
    }

    /// What it does to light, colour and detail: `pixels` from 0 to 255, `[height, width, channels]`.
    pub(super) fn paint(self, pixels: &mut [f32], shape: Shape, strength: f32) {
        let each = |pixels: &mut [f32], change: &dyn Fn(f32) -> f32| {
            let changed = |value: &mut f32| *value = change(*value).clamp(0.0, 255.0);
            pixels.iter_mut().for_each(changed);
        };
        match self {
            Self::Turn | Self::SlantAcross | Self::SlantDown | Self::Scale => {}
            Self::Brightness => each(pixels, &|value| value + 51.0 * strength),
            Self::Contrast => each(pixels, &|value| {
                127.5 + (1.0 + 0.3 * strength) * (value - 127.5)
            }),
            Self::Solarize => {
                let threshold = 255.0 - 127.5 * strength.abs();
                each(pixels, &|value| match value > threshold {
                    true => 255.0 - value,
                    false => value,
                });
            }
            Self::Posterize => {
                // 8 bits at strength 0, 4 at the most.
                let step = (4.0 * strength.abs()).round().exp2();
                each(pixels, &|value| (value / step).floor() * step);
            }
            Self::AutoContrast => by_channel(pixels, shape.channels, stretched),
            Self::Equalize => by_channel(pixels, shape.channels, equalized),
            Self::Sharpness => sharpen(pixels, shape, 1.0 + 0.5 * strength),
            Self::Colour => {
                for pixel in pixels.chunks_mut(shape.channels) {
                    let grey = pixel.iter().sum::<f32>() / shape.channels as f32;
                    each(pixel, &|value| {
                        grey + (1.0 + 0.5 * strength) * (value - grey)
                    });
                }
            }
        }
    }
}

/// A table of 256 new values for each channel, made from how often each value is there.
fn by_channel(pixels: &mut [f32], channels: usize, table: fn(&[usize; 256]) -> [f32; 256]) {
    let byte = |value: f32| value.round().clamp(0.0, 255.0) as usize;
    for channel in 0..channels {
        let mut counts = [0; 256];
        for value in pixels.iter().skip(channel).step_by(channels) {
            counts[byte(*value)] += 1;
        }
        let table = table(&counts);
        for value in pixels.iter_mut().skip(channel).step_by(channels) {
            *value = table[byte(*value)];
        }
    }
}

/// The darkest to 0, the lightest to 255; one shade alone stays what it is.
fn stretched(counts: &[usize; 256]) -> [f32; 256] {
    let there = || (0..256).filter(|value| counts[*value] > 0);
    let (Some(darkest), Some(lightest)) = (there().next(), there().next_back()) else {
        return std::array::from_fn(|value| value as f32);
    };
    std::array::from_fn(|value| match lightest > darkest {
        true => 255.0 * value.saturating_sub(darkest) as f32 / (lightest - darkest) as f32,
        false => value as f32,
    })
}

/// Each shade to the share of those that are darker, of all that are not the darkest; one shade alone stays what it is.
fn equalized(counts: &[usize; 256]) -> [f32; 256] {
    let all: usize = counts.iter().sum();
    let darkest = counts.iter().copied().find(|count| *count > 0).unwrap_or(0);
    if all == darkest {
        return std::array::from_fn(|value| value as f32);
    }
    let mut below = 0;
    counts.map(|count| {
        below += count;
        255.0 * below.saturating_sub(darkest) as f32 / (all - darkest) as f32
    })
}

/// `blurred + strength · (pixel − blurred)` inside, where blurred is the mean of 3 × 3 with the middle five times; the edge
/// stays.
fn sharpen(pixels: &mut [f32], shape: Shape, strength: f32) {
    let Shape {
        height,
        width,
        channels,
    } = shape;
    let old = pixels.to_vec();
    let at =
        |row: usize, column: usize, channel: usize| (row * width + column) * channels + channel;
    for row in 1..height.saturating_sub(1) {
        for column in 1..width.saturating_sub(1) {
            for channel in 0..channels {
                let middle = old[at(row, column, channel)];
                let around = (row - 1..=row + 1)
                    .flat_map(|row| (column - 1..=column + 1).map(move |column| (row, column)));
                let sum: f32 = around
                    .map(|(row, column)| old[at(row, column, channel)])
                    .sum();
                let blurred = (sum + 4.0 * middle) / 13.0;
                let value = blurred + strength * (middle - blurred);
                pixels[at(row, column, channel)] = value.clamp(0.0, 255.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        height: 4,
        width: 5,
        channels: 3,
    };

    fn picture() -> Vec<f32> {
        (0..60).map(|at| 40.0 + (at * 37 % 140) as f32).collect()
    }

    #[test]
    fn every_distortion_changes_the_picture_and_leaves_no_value_outside_the_range() {
        for kind in Distortion::ALL {
            for strength in [-1.0, 0.8, 1.0] {
                let mut pixels = picture();
                kind.paint(&mut pixels, SHAPE, strength);
                assert!(
                    pixels.iter().all(|value| (0.0..=255.0).contains(value)),
                    "{kind:?}"
                );
                assert!(
                    pixels != picture() || kind.matrix(strength).is_some(),
                    "{kind:?} at {strength}"
                );
            }
        }
    }

    #[test]
    fn without_strength_what_has_one_changes_nothing() {
        let free = [Distortion::AutoContrast, Distortion::Equalize];
        for kind in Distortion::ALL.iter().filter(|kind| !free.contains(kind)) {
            let mut pixels = picture();
            kind.paint(&mut pixels, SHAPE, 0.0);
            for (found, expected) in pixels.iter().zip(picture()) {
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{kind:?}: {found} for {expected}"
                );
            }
            let still = kind
                .matrix(0.0)
                .is_none_or(|matrix| matrix == [1.0, 0.0, 0.0, 1.0]);
            assert!(still, "{kind:?}");
        }
    }

    #[test]
    fn contrast_is_stretched_and_shades_become_equally_frequent() {
        let grey = Shape {
            height: 1,
            width: 4,
            channels: 1,
        };
        let mut pixels = vec![100.0, 110.0, 110.0, 120.0];
        Distortion::AutoContrast.paint(&mut pixels, grey, 1.0);
        assert_eq!(pixels, [0.0, 127.5, 127.5, 255.0]);
        let mut pixels = vec![7.0, 8.0, 9.0, 250.0];
        Distortion::Equalize.paint(&mut pixels, grey, 1.0);
        assert_eq!(pixels, [0.0, 85.0, 170.0, 255.0]);
        for kind in [Distortion::AutoContrast, Distortion::Equalize] {
            let mut one = vec![9.0; 4];
            kind.paint(&mut one, grey, 1.0);
            assert_eq!(one, [9.0; 4], "{kind:?} of one shade");
        }
    }

    #[test]
    fn grey_pictures_have_no_colour_to_change() {
        let drawn =
            |channels| (0..1000).map(move |at| Distortion::drawn(at as f32 / 1000.0, channels));
        assert!(drawn(1).all(|kind| kind != Distortion::Colour));
        for kind in Distortion::ALL {
            assert!(
                drawn(3).any(|other| other == kind),
                "{kind:?} is never drawn"
            );
        }
    }
}
