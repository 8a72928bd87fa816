//! A vision transformer: pictures of any size, its operations, and what it looked at.

use burn::tensor::{Device, Tensor};
use regard_nn::Noise;
use regard_nn::layers::{Cut, sinusoidal_grid};
use regard_nn::models::vision_transformer::{Positions, Summary, VisionTransformerConfig};
use regard_nn::operation::{Windows, composed, convolution, max_pool};
use regard_nn::parameters;

use crate::closeness::{assert_close, values};
use crate::gradients::random;

const WINDOWS: [Windows; 4] = [
    Windows {
        size: 3,
        stride: 1,
        padding: 1,
    },
    Windows {
        size: 3,
        stride: 2,
        padding: 1,
    },
    Windows {
        size: 2,
        stride: 2,
        padding: 0,
    },
    Windows {
        size: 4,
        stride: 3,
        padding: 3,
    },
];

/// Output and gradient by the input.
fn run<const D: usize>(of: impl Fn(Tensor<4>) -> Tensor<D>, shape: [usize; 4]) -> [Vec<f32>; 2] {
    let x = random::<4>(shape, 3, &Device::flex().autodiff()).require_grad();
    let out = of(x.clone());
    let seed = random(out.dims(), 4, &out.device());
    let gradients = (out.clone() * seed).sum().backward();
    [values(&out), values(&x.grad(&gradients).unwrap())]
}

/// Output and gradients by the pictures and the weight; more pictures than are summed together.
fn convolved(
    of: fn(Tensor<4>, Tensor<2>, Windows) -> Tensor<4>,
    [batch, height, width, channels]: [usize; 4],
    windows: Windows,
) -> [Vec<f32>; 3] {
    let device = Device::flex().autodiff();
    let length = windows.size * windows.size * channels;
    let x = random::<4>([9 * batch, height, width, channels], 3, &device).require_grad();
    let weight = random::<2>([length, 5], 5, &device).require_grad();
    let out = of(x.clone(), weight.clone(), windows);
    let seed = random(out.dims(), 4, &device);
    let gradients = (out.clone() * seed).sum().backward();
    let [dx, d_weight] = [
        values(&x.grad(&gradients).unwrap()),
        values(&weight.grad(&gradients).unwrap()),
    ];
    [values(&out), dx, d_weight]
}

#[test]
fn windows_and_their_maxima_agree_with_their_composition() {
    for windows in WINDOWS {
        for shape in [[2, 7, 5, 3], [1, 4, 4, 1], [3, 2, 9, 2]] {
            let what = format!("{windows:?} of {shape:?}");
            let [fused, plain] = [
                convolved(convolution, shape, windows),
                convolved(composed::convolution, shape, windows),
            ];
            fused
                .iter()
                .zip(&plain)
                .for_each(|(a, b)| assert_close(a, b, &what));
            let shape = [shape[0], shape[1], shape[2], 18 * shape[3]];
            let [fused, plain] = [
                run(|x| max_pool(x, windows), shape),
                run(|x| composed::max_pool(x, windows), shape),
            ];
            fused
                .iter()
                .zip(&plain)
                .for_each(|(a, b)| assert_close(a, b, &what));
        }
    }
}

#[test]
fn a_convolution_is_burns_convolution() {
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    let device = Device::flex();
    let x = random::<4>([2, 6, 5, 3], 1, &device);
    let weight = random::<4>([3, 3, 3, 4], 2, &device); // [row, column, input, output]
    let expected = conv2d(
        x.clone().permute([0, 3, 1, 2]),
        weight.clone().permute([3, 2, 0, 1]),
        None,
        ConvOptions::new([1, 1], [1, 1], [1, 1], 1),
    );
    let found = convolution(x, weight.reshape([27, 4]), WINDOWS[0]);
    assert_close(
        &values(&found),
        &values(&expected.permute([0, 2, 3, 1])),
        "convolution",
    );
}

#[test]
fn the_maximum_is_never_below_zero_and_not_a_number_stays_visible() {
    let windows = Windows {
        size: 2,
        stride: 2,
        padding: 0,
    };
    let row = [[-1.0], [-2.0], [f32::NAN], [3.0]];
    let x = Tensor::<4>::from_floats([[row, row]], &Device::flex());
    let found = values(&max_pool(x, windows));
    assert_eq!(found[0], 0.0);
    assert!(found[1].is_nan());
}

fn small(cut: Cut, positions: Positions, summary: Summary) -> VisionTransformerConfig {
    VisionTransformerConfig {
        picture_height: 12,
        picture_width: 8,
        channels: 3,
        classes: 5,
        cut,
        positions,
        summary,
        width: 16,
        layers: 2,
        heads: 2,
        feed_forward: 24,
        dropout: 0.1,
        stochastic_depth: 0.2,
    }
}

fn kinds() -> Vec<VisionTransformerConfig> {
    let mut kinds = Vec::new();
    for cut in [Cut::Patches { size: 4 }, Cut::Convolution { layers: 2 }] {
        for positions in [Positions::Learned, Positions::Sinusoidal] {
            for summary in [Summary::Mean, Summary::Attention, Summary::ClassToken] {
                kinds.push(small(cut, positions, summary));
            }
        }
    }
    kinds
}

/// Moves every parameter, so that nothing hides behind the zeros the layers start with.
fn stirred<M: burn::module::Module>(model: M) -> M {
    let mut tensors = parameters::collect(&model);
    for (at, tensor) in tensors.iter_mut().enumerate() {
        let moves = Noise::at(9, at as u64).normal(tensor.values.len());
        tensor
            .values
            .iter_mut()
            .zip(moves)
            .for_each(|(value, u)| *value += 0.2 * u);
    }
    parameters::load(model, tensors).unwrap()
}

#[test]
fn every_kind_has_the_parameters_its_configuration_says() {
    for config in kinds() {
        let model = config.init(1, &Device::flex()).unwrap();
        assert_eq!(
            parameters::shapes(&model),
            config.parameter_shapes(),
            "{config:?}"
        );
    }
}

#[test]
fn looking_at_the_attention_does_not_change_the_answer_and_every_weight_has_a_gradient() {
    let device = Device::flex().autodiff();
    for config in kinds() {
        let model = stirred(config.init(1, &device).unwrap());
        let pictures = random([2, 12, 8, 3], 5, &device);
        let expected = model.forward(pictures.clone(), &mut Noise::off());
        let attended = model.forward_with_attention(pictures);
        assert_close(&values(&attended.logits), &values(&expected), "logits");
        let gradients = attended.logits.narrow(1, 0, 1).sum().backward();
        for (at, probe) in attended.probes.iter().enumerate() {
            let gradient = values(&probe.grad(&gradients).expect("a probe has a gradient"));
            assert!(
                gradient.iter().any(|value| *value != 0.0),
                "{config:?}: probe {at}"
            );
        }
        for weights in &attended.layers {
            let sums = values(&weights.clone().sum_dim(3));
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-4));
        }
    }
}

#[test]
fn a_wrong_configuration_is_named() {
    let right = small(Cut::Patches { size: 4 }, Positions::Learned, Summary::Mean);
    let wrong = [
        VisionTransformerConfig {
            picture_height: 0,
            ..right.clone()
        },
        VisionTransformerConfig {
            picture_width: 10,
            ..right.clone()
        },
        VisionTransformerConfig {
            cut: Cut::Patches { size: 0 },
            ..right.clone()
        },
        VisionTransformerConfig {
            cut: Cut::Convolution { layers: 0 },
            ..right.clone()
        },
        VisionTransformerConfig {
            heads: 3,
            ..right.clone()
        },
        VisionTransformerConfig {
            dropout: f64::NAN,
            ..right.clone()
        },
        VisionTransformerConfig {
            width: usize::MAX,
            ..right
        },
    ];
    let fields = wrong.map(|config| config.validate().expect_err("it is wrong").field);
    let expected = [
        "picture_height",
        "picture_width",
        "patch size",
        "convolution layers",
        "heads",
        "dropout",
        "width",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn the_presets_have_the_sizes_they_are_named_for() {
    let count = |name: &str| {
        let config = VisionTransformerConfig::preset(name).expect("a preset");
        config.validate().expect("it is right");
        let sizes = config.parameter_shapes().into_iter();
        sizes
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum::<usize>()
    };
    let found = VisionTransformerConfig::PRESETS.map(count);
    for (found, expected) in found.iter().zip([0.28e6, 0.48e6, 3.9e6, 5.4e6]) {
        assert!(
            (*found as f64 / expected - 1.0).abs() < 0.08,
            "{found} for {expected}"
        );
    }
}

#[test]
fn a_model_answers_pictures_of_another_size_and_those_of_its_own_as_before() {
    for config in kinds() {
        let model = stirred(config.init(1, &Device::flex()).unwrap());
        let pictures = random([2, 12, 8, 3], 5, &Device::flex());
        let expected = model.forward(pictures.clone(), &mut Noise::off());
        let same = model.clone().resized(&config).unwrap();
        let found = same.forward(pictures.clone(), &mut Noise::off());
        assert_close(&values(&found), &values(&expected), "the same size");

        let larger = VisionTransformerConfig {
            picture_height: 24,
            picture_width: 16,
            ..config.clone()
        };
        let model = model.resized(&larger).unwrap();
        assert_eq!(parameters::shapes(&model), larger.parameter_shapes());
        let logits = model.forward(
            random([1, 24, 16, 3], 5, &Device::flex()),
            &mut Noise::off(),
        );
        assert_eq!(logits.dims(), [1, 5]);
    }
}

#[test]
fn a_model_is_resized_to_nothing_but_another_size() {
    let config = small(
        Cut::Convolution { layers: 2 },
        Positions::Learned,
        Summary::Attention,
    );
    let others = [
        VisionTransformerConfig {
            width: 32,
            ..config.clone()
        },
        VisionTransformerConfig {
            layers: 1,
            ..config.clone()
        },
        VisionTransformerConfig {
            classes: 6,
            ..config.clone()
        },
        VisionTransformerConfig {
            summary: Summary::ClassToken,
            ..config.clone()
        },
        VisionTransformerConfig {
            cut: Cut::Patches { size: 4 },
            ..config.clone()
        },
    ];
    for other in others {
        let model = config.init(1, &Device::flex()).unwrap();
        assert_eq!(
            model.resized(&other).unwrap_err().field,
            "model",
            "{other:?}"
        );
    }
}

#[test]
fn places_of_a_row_share_the_first_half_of_their_vectors() {
    let table = values(&sinusoidal_grid([3, 4], 8, &Device::flex()));
    let at = |row: usize, column: usize| &table[(row * 4 + column) * 8..][..8];
    assert_eq!(at(2, 0)[..4], at(2, 3)[..4]);
    assert_eq!(at(0, 1)[4..], at(2, 1)[4..]);
    assert_ne!(at(0, 1), at(1, 0));
}
