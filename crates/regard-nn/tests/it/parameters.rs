//! Loading refuses whatever is not exactly the model's.

use burn::tensor::Device;
use regard_nn::Noise;
use regard_nn::layers::Linear;
use regard_nn::parameters::{self, NamedTensor};

fn layer() -> Linear {
    Linear::new(3, 2, &mut Noise::at(1, 1), &Device::flex())
}

fn error(change: impl FnOnce(&mut Vec<NamedTensor>)) -> String {
    let mut tensors = parameters::collect(&layer());
    change(&mut tensors);
    parameters::load(layer(), tensors).unwrap_err().to_string()
}

#[test]
fn what_was_collected_loads() {
    let other = Linear::new(3, 2, &mut Noise::at(2, 2), &Device::flex());
    let loaded = parameters::load(layer(), parameters::collect(&other)).unwrap();
    assert_eq!(parameters::collect(&loaded), parameters::collect(&other));
    assert_eq!(
        parameters::shapes(&loaded),
        [
            ("weight".to_owned(), vec![3, 2]),
            ("bias".to_owned(), vec![2])
        ]
    );
    assert_eq!(parameters::count(&loaded), 8);
}

#[test]
fn every_mistake_is_named() {
    assert_eq!(
        error(|tensors| tensors.truncate(1)),
        "parameter `bias` is missing"
    );
    assert_eq!(
        error(|tensors| tensors[0].shape = vec![2, 3]),
        "parameter `weight` has the shape [2, 3], expected [3, 2]"
    );
    assert_eq!(
        error(|tensors| tensors[0].values.truncate(5)),
        "parameter `weight` has 5 values, expected 6"
    );
    assert_eq!(
        error(|tensors| tensors[1].values[1] = f32::NAN),
        "parameter `bias` holds NaN at index 1, expected a finite number"
    );
    let unknown = "belongs to no parameter of the model, or was given twice";
    assert_eq!(
        error(|tensors| tensors.push(tensors[0].clone())),
        format!("tensor `weight` {unknown}")
    );
    assert_eq!(
        error(|tensors| tensors.push(NamedTensor {
            name: "gate".to_owned(),
            ..tensors[0].clone()
        })),
        format!("tensor `gate` {unknown}")
    );
}
