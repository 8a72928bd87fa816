//! Pictures mixed in pairs, and their labels with them.

use super::Shape;

/// How a batch is mixed: drawn once for all of its pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mixing {
    /// Not at all.
    None,
    /// Each picture is that share of itself, faded into the rest of another (Zhang et al. 2018, "mixup").
    Fade(f32),
    /// A rectangle is the other's (Yun et al. 2019, "CutMix").
    Cut {
        top: usize,
        left: usize,
        rows: usize,
        columns: usize,
    },
}

impl Mixing {
    /// Batches are mixed with probability `often`, one way as often as the other; how much of a picture stays its own is
    /// even from 0 to 1, as both papers have it.
    pub(super) fn drawn(often: f64, shape: Shape, draws: &[f32]) -> Self {
        let drawn = f64::from(draws[0]);
        if drawn >= often {
            return Self::None;
        }
        if drawn >= often / 2.0 {
            return Self::Fade(draws[1]);
        }
        // A rectangle of 1 − own of the area, with the picture's own ratio of sides.
        let part = (1.0 - draws[1]).sqrt();
        let side = |side: usize| ((part * side as f32) as usize).min(side);
        let start = |draw: f32, room: usize| ((draw * (room + 1) as f32) as usize).min(room);
        let (rows, columns) = (side(shape.height), side(shape.width));
        Self::Cut {
            top: start(draws[2], shape.height - rows),
            left: start(draws[3], shape.width - columns),
            rows,
            columns,
        }
    }

    /// Mixes each picture with its counterpart from the other end of the batch; the share that stays its own.
    pub(super) fn apply(self, values: &mut [f32], shape: Shape) -> f32 {
        if self == Self::None {
            return 1.0;
        }
        let others = values.to_vec();
        let pairs = values
            .chunks_mut(shape.len())
            .zip(others.chunks(shape.len()).rev());
        match self {
            Self::None => 1.0,
            Self::Fade(own) => {
                for (picture, other) in pairs {
                    for (value, other) in picture.iter_mut().zip(other) {
                        *value = own * *value + (1.0 - own) * other;
                    }
                }
                own
            }
            Self::Cut {
                top,
                left,
                rows,
                columns,
            } => {
                for (picture, other) in pairs {
                    for row in top..top + rows {
                        let from = (row * shape.width + left) * shape.channels;
                        let until = from + columns * shape.channels;
                        picture[from..until].copy_from_slice(&other[from..until]);
                    }
                }
                1.0 - (rows * columns) as f32 / (shape.height * shape.width) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        height: 4,
        width: 4,
        channels: 1,
    };

    /// Two pictures, all 0 and all 1, mixed; the share that the first is told to have of itself.
    fn mixed(mixing: Mixing) -> (Vec<f32>, f32) {
        let mut values = [vec![0.0; 16], vec![1.0; 16]].concat();
        let own = mixing.apply(&mut values, SHAPE);
        (values, own)
    }

    #[test]
    fn the_share_of_the_label_is_the_share_of_the_pixels() {
        for draws in [
            [0.1, 0.3, 0.5, 0.9],
            [0.4, 0.8, 0.0, 0.2],
            [0.2, 0.0, 0.9, 0.9],
            [0.9, 0.3, 0.1, 0.1],
        ] {
            let (values, own) = mixed(Mixing::drawn(1.0, SHAPE, &draws));
            let strange = values[..16].iter().sum::<f32>() / 16.0;
            assert!(
                (strange - (1.0 - own)).abs() < 1e-6,
                "{draws:?}: {strange} for {own}"
            );
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_done() {
        assert_eq!(Mixing::drawn(0.0, SHAPE, &[0.0; 4]), Mixing::None);
        let (values, own) = mixed(Mixing::None);
        assert_eq!((values[0], values[16], own), (0.0, 1.0, 1.0));
    }
}
