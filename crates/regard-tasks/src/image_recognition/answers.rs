//! What an image classifier answers with.

use regard_nn::layers::Cut;
use serde::{Deserialize, Serialize};

use super::Method;
use crate::answers::LabelProbability;
use crate::metrics::{Evaluation, Interval};
use crate::pictures::{Frame, Picture};
use crate::report::Rival;

/// The answer for one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The most probable label.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// Every label, most probable first.
    pub probabilities: Vec<LabelProbability>,
}

/// Where the model looked on one picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureMap {
    /// The answer.
    pub prediction: Prediction,
    /// The label that the map is for.
    pub label: String,
    /// How the map was made.
    pub method: Method,
    /// The same in a sentence.
    pub about: String,
    /// Height and width of the picture.
    pub picture: [usize; 2],
    /// Height and width that the model reads.
    pub model: [usize; 2],
    /// Rows and columns of places on what the model reads.
    pub grid: [usize; 2],
    /// How the model cuts what it reads, which says where the places are.
    pub cut: Cut,
    /// The weight of each place, row after row; they sum to 1.
    pub weights: Vec<f32>,
}

impl PictureMap {
    /// The map at the picture's own size, row after row: linear between the centres of the places, scaled so that its
    /// largest value is 1; and what that was before. What the model saw around the picture is not on it.
    pub fn over_picture(&self) -> (Vec<f32>, f32) {
        let [height, width] = self.picture;
        let frame = crate::pictures::frame(self.picture, self.model);
        let Frame { top, left, .. } = frame;
        let origin = self.cut.centre(0);
        let step = self.cut.centre(1) - origin;
        // The two places around a pixel along an axis, and the share of the second.
        let between = |at: usize, axis: usize, start: usize, inside: usize| {
            let along = (at as f64 + 0.5) / self.picture[axis] as f64 * inside as f64;
            let place = (start as f64 + along - origin) / step;
            let place = place.clamp(0.0, (self.grid[axis] - 1) as f64);
            let first = place.floor() as usize;
            let second = (first + 1).min(self.grid[axis] - 1);
            (first, second, place.fract() as f32)
        };
        let columns: Vec<_> = (0..width)
            .map(|column| between(column, 1, left, frame.width))
            .collect();
        let at = |row: usize, column: usize| self.weights[row * self.grid[1] + column];
        let mut map = Vec::with_capacity(height * width);
        for row in 0..height {
            let (above, below, down) = between(row, 0, top, frame.height);
            map.extend(columns.iter().map(|(left, right, across)| {
                let along = |row| at(row, *left) * (1.0 - across) + at(row, *right) * across;
                along(above) * (1.0 - down) + along(below) * down
            }));
        }
        let largest = map.iter().copied().fold(0.0, f32::max);
        if largest > 0.0 {
            map.iter_mut().for_each(|value| *value /= largest);
        }
        (map, largest)
    }
}

/// A picture that was taken for something else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mistake {
    /// What the picture is called.
    pub place: String,
    /// The label it has.
    pub truth: String,
    /// The label it was given.
    pub answer: String,
    /// How probable the model held that.
    pub probability: f32,
    /// The picture as the model read it.
    #[serde(skip)]
    pub picture: Picture,
}

/// The scores of a model on labelled pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// How often it was right, by class and in all.
    pub scores: Evaluation,
    /// Share of the pictures whose label is among the five most probable; `None` where there are no more than five.
    pub top_5: Option<Interval>,
    /// The same pictures, answered by something simpler.
    pub rivals: Vec<Rival>,
    /// The mistakes, those first of which the model was surest.
    pub mistakes: Vec<Mistake>,
    /// What was left out, and what the comparison says.
    pub notes: Vec<String>,
}
