//! Where a model looked: a weight for each place of the grid.
//!
//! | method | the weight of a place |
//! |---|---|
//! | rollout | attention of all layers multiplied, half of each layer's input passing by (Abnar & Zuidema 2020) |
//! | gradient | the same, with that part of each layer's attention which speaks for the label: attention × its gradient, positive parts (after Chefer et al. 2021) |
//! | attention | the weights of one layer, or of the summary at the end, as they are |
//!
//! Chefer's rule, `relevance ← relevance + (A ⊙ ∇A)⁺ · relevance`, is made for a class token, whose own place is left out of the
//! map. Where all places are summed up, its identity counts what a background place *fetched* from the object as the
//! background's own: on made pictures with a known object the strongest place was then often beside it. Hence rows that sum to 1: with them it
//! lies on the object in 200 of 200 pictures with one convolution, in 191 to 196 with two (1 and 2 layers; a place then sees 13
//! pixels), in 20 of 20 with plain patches and 1 layer, but only in 10 of 20 with 2 layers and 30 epochs, where rollout has 20.

use burn::tensor::{Device, Tensor};
use regard_nn::models::vision_transformer::{Attended, Summary, VisionTransformer};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a map is made; see the table of the module `maps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Attention × gradient: what spoke for the label.
    #[default]
    Gradient,
    /// Attention through all layers, whatever the label.
    Rollout,
    /// The attention of one layer or head, or of the summary at the end.
    Attention,
}

/// What a map is asked for.
#[derive(Clone, Debug, Default)]
pub struct MapRequest {
    /// How it is made.
    pub method: Method,
    /// The label it is for; `None` = the most probable one.
    pub label: Option<String>,
    /// The layer, from 0, of `attention`; `None` = the summary at the end, or the last layer where there is none.
    pub layer: Option<usize>,
    /// The head, from 0, of that layer; `None` = the mean of all.
    pub head: Option<usize>,
}

impl MapRequest {
    /// Refuses a layer or head that the model does not have.
    pub(super) fn check(&self, layers: usize, heads: usize) -> Result<()> {
        let argument = |name: &str, found: usize, expected: String| {
            Err(Error::argument(name, found, expected))
        };
        if (self.layer.is_some() || self.head.is_some()) && self.method != Method::Attention {
            let found = "a layer or head without the method `attention`";
            return Err(Error::argument("--layer", found, "--method attention"));
        }
        match (self.layer, self.head) {
            (None, Some(_)) => Err(Error::argument(
                "--head",
                "a head without its layer",
                "--layer, too",
            )),
            (Some(layer), _) if layer >= layers => argument(
                "--layer",
                layer,
                format!(
                    "a layer of 0 to {}, counted from 0",
                    layers.saturating_sub(1)
                ),
            ),
            (_, Some(head)) if head >= heads => argument(
                "--head",
                head,
                format!("a head of 0 to {}, counted from 0", heads - 1),
            ),
            _ => Ok(()),
        }
    }

    /// How the map was made, in a sentence.
    pub(super) fn about(&self, label: &str) -> String {
        let head = match self.head {
            Some(head) => format!("head {head}"),
            None => "the mean of the heads".to_owned(),
        };
        match (self.method, self.layer) {
            (Method::Gradient, _) => {
                format!(
                    "attention × gradient through all layers: the part that spoke for `{label}`"
                )
            }
            (Method::Rollout, _) => {
                "attention of all layers multiplied, whatever the label".to_owned()
            }
            (Method::Attention, Some(layer)) => {
                format!(
                    "how much each place of layer {layer} was looked at, {head}, averaged over who looked"
                )
            }
            (Method::Attention, None) => {
                "the weights with which the places were summed up at the end".to_owned()
            }
        }
    }
}

/// The weight of each place, summing to 1, and the logits, for one picture `[1, height, width, channels]` on a device with
/// automatic differentiation.
pub(super) fn weights(
    model: &VisionTransformer,
    summary: Summary,
    picture: Tensor<4>,
    label: impl FnOnce(&[f32]) -> usize,
    request: &MapRequest,
) -> (Vec<f32>, Vec<f32>) {
    let attended = model.forward_with_attention(picture);
    let logits: Vec<f32> = attended
        .logits
        .clone()
        .inner()
        .into_data()
        .iter::<f32>()
        .collect();
    let label = label(&logits);
    let [rows, columns] = model.grid();
    let class_token = usize::from(summary == Summary::ClassToken);
    let places = class_token + rows * columns;
    let reader = match (&attended.pooling, summary) {
        (Some(pooling), _) => values(pooling).mean(),
        (None, Summary::ClassToken) => identity(places)[..places].to_vec(),
        (None, _) => vec![1.0 / places as f32; places],
    };
    let weights = match (request.method, request.layer) {
        (Method::Gradient, _) => gradient(&attended, label, reader),
        (Method::Rollout, _) => read(&reader, rollout(&attended)),
        (Method::Attention, Some(layer)) => {
            looked_at(&values(&attended.layers[layer]), request.head)
        }
        (Method::Attention, None) => match (&attended.pooling, attended.layers.last()) {
            (None, Some(last)) => read(&reader, Some(values(last).mean())),
            _ => reader,
        },
    };
    (shares(&weights[class_token..]), logits)
}

/// A square or flat matrix for each head.
struct Heads {
    heads: usize,
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

fn values(weights: &Tensor<4>) -> Heads {
    let [_, heads, rows, columns] = weights.dims();
    let data = if weights.device().is_autodiff() {
        weights.clone().inner().into_data()
    } else {
        weights.clone().into_data()
    };
    Heads {
        heads,
        rows,
        columns,
        values: data.iter::<f32>().collect(),
    }
}

impl Heads {
    fn mean(&self) -> Vec<f32> {
        let size = self.rows * self.columns;
        (0..size)
            .map(|at| {
                (0..self.heads)
                    .map(|head| self.values[head * size + at])
                    .sum::<f32>()
                    / self.heads as f32
            })
            .collect()
    }
}

/// How much each place was looked at, on average over the places that looked.
fn looked_at(layer: &Heads, head: Option<usize>) -> Vec<f32> {
    let size = layer.rows * layer.columns;
    let chosen = match head {
        Some(head) => layer.values[head * size..(head + 1) * size].to_vec(),
        None => layer.mean(),
    };
    let column = |column| {
        chosen
            .iter()
            .skip(column)
            .step_by(layer.columns)
            .sum::<f32>()
            / layer.rows as f32
    };
    (0..layer.columns).map(column).collect()
}

/// Rollout of what speaks for the label: `Π (½ identity + ½ share of support)` over the layers, read by the support of the
/// summary. Support is the mean over heads of [`for_label`]; its rows are scaled to sum to 1, and a row without any looks at
/// nothing but its own place.
fn gradient(attended: &Attended, label: usize, reader: Vec<f32>) -> Vec<f32> {
    let gradients = attended.logits.clone().narrow(1, label, 1).backward();
    let support = |weights: &Tensor<4>, probe: &Tensor<4>| {
        let heads = values(weights);
        let by: Vec<f32> = match probe.grad(&gradients) {
            Some(gradient) => gradient.into_data().iter::<f32>().collect(),
            None => vec![0.0; heads.values.len()],
        };
        let rows = heads.values.chunks(heads.columns);
        let rows = rows.zip(by.chunks(heads.columns));
        Heads {
            values: rows
                .flat_map(|(weights, by)| for_label(weights, by))
                .collect(),
            ..heads
        }
        .mean()
    };
    let layers = attended.layers.iter().zip(&attended.probes);
    let flow = layers.fold(None, |flow, (weights, probe)| {
        let places = weights.dims()[2];
        let mut mixed = support(weights, probe);
        for (row, mixed) in mixed.chunks_mut(places).enumerate() {
            let sum: f32 = mixed.iter().sum();
            let [own, others] = if sum > 0.0 {
                [0.5, 0.5 / sum]
            } else {
                [1.0, 0.0]
            };
            mixed.iter_mut().for_each(|weight| *weight *= others);
            mixed[row] += own;
        }
        Some(through(mixed, flow, places))
    });
    let reader = match (&attended.pooling, attended.probes.last()) {
        (Some(pooling), Some(probe)) => support(pooling, probe),
        _ => reader,
    };
    read(&reader, flow)
}

/// `(A ⊙ (∇A − Σ A∇A))⁺` of one row of weights: the gradient by the *scores*, positive parts. The weights of a row sum to 1, so
/// that a gradient which is the same everywhere speaks for no place.
fn for_label<'a>(weights: &'a [f32], gradient: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    let pairs = move || weights.iter().zip(gradient);
    let mean: f32 = pairs().map(|(weight, by)| weight * by).sum();
    pairs().map(move |(weight, by)| (weight * (by - mean)).max(0.0))
}

/// `Π (½ mean over heads of the weights + ½ identity)`; none where there is no layer.
fn rollout(attended: &Attended) -> Option<Vec<f32>> {
    attended
        .layers
        .iter()
        .fold(None, |flow: Option<Vec<f32>>, weights| {
            let places = weights.dims()[2];
            let mut mixed: Vec<f32> = values(weights)
                .mean()
                .iter()
                .map(|weight| 0.5 * weight)
                .collect();
            (0..places).for_each(|place| mixed[place * places + place] += 0.5);
            Some(through(mixed, flow, places))
        })
}

/// What flows through one more layer.
fn through(layer: Vec<f32>, flow: Option<Vec<f32>>, places: usize) -> Vec<f32> {
    match flow {
        Some(flow) => product(&layer, &flow, places),
        None => layer,
    }
}

/// What a reader of the last layer's places gets from each of the first layer's.
fn read(reader: &[f32], flow: Option<Vec<f32>>) -> Vec<f32> {
    let Some(flow) = flow else {
        return reader.to_vec();
    };
    let places = reader.len();
    let from_place = |to: usize| {
        (0..places)
            .map(|from| reader[from] * flow[from * places + to])
            .sum()
    };
    (0..places).map(from_place).collect()
}

fn identity(places: usize) -> Vec<f32> {
    let mut identity = vec![0.0; places * places];
    (0..places).for_each(|place| identity[place * places + place] = 1.0);
    identity
}

/// Product of two square matrices.
fn product(left: &[f32], right: &[f32], side: usize) -> Vec<f32> {
    let mut out = vec![0.0; side * side];
    for (left, out) in left.chunks(side).zip(out.chunks_mut(side)) {
        for (weight, right) in left.iter().zip(right.chunks(side)) {
            for (out, right) in out.iter_mut().zip(right) {
                *out += weight * right;
            }
        }
    }
    out
}

/// Scaled to sum to 1; all the same where there is nothing to scale.
fn shares(weights: &[f32]) -> Vec<f32> {
    let sum: f32 = weights.iter().sum();
    match sum > 0.0 && sum.is_finite() {
        true => weights.iter().map(|weight| weight / sum).collect(),
        false => vec![1.0 / weights.len().max(1) as f32; weights.len()],
    }
}

/// The device that the gradients of a map are computed on.
pub(super) fn differentiable(device: &Device) -> Device {
    device.clone().autodiff()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_the_identity_changes_nothing() {
        let matrix = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(product(&identity(2), &matrix, 2), matrix);
        assert_eq!(product(&matrix, &identity(2), 2), matrix);
    }

    #[test]
    fn a_gradient_that_is_the_same_everywhere_speaks_for_no_place() {
        let of = |gradient: [f32; 2]| for_label(&[0.25, 0.75], &gradient).collect::<Vec<f32>>();
        assert_eq!(of([2.0, 2.0]), [0.0, 0.0]);
        assert_eq!(of([3.0, 1.0]), [0.375, 0.0]);
    }

    #[test]
    fn shares_sum_to_one_even_where_nothing_was_positive() {
        assert_eq!(shares(&[1.0, 3.0]), [0.25, 0.75]);
        assert_eq!(shares(&[0.0, 0.0]), [0.5, 0.5]);
    }

    #[test]
    fn a_layer_is_asked_for_with_the_method_that_has_layers() {
        let request = |method, layer, head| MapRequest {
            method,
            label: None,
            layer,
            head,
        };
        assert!(
            request(Method::Gradient, Some(0), None)
                .check(2, 4)
                .is_err()
        );
        assert!(
            request(Method::Attention, Some(2), None)
                .check(2, 4)
                .is_err()
        );
        assert!(
            request(Method::Attention, None, Some(0))
                .check(2, 4)
                .is_err()
        );
        assert!(
            request(Method::Attention, Some(1), Some(4))
                .check(2, 4)
                .is_err()
        );
        assert!(
            request(Method::Attention, Some(1), Some(3))
                .check(2, 4)
                .is_ok()
        );
    }
}
