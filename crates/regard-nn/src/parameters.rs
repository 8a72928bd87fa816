//! A model's parameters by path: collected, counted and loaded.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};

/// A tensor and the path of its parameter in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// For example `encoder.0.attention.query.weight`.
    pub name: String,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Its elements, the last axis fastest.
    pub values: Vec<f32>,
}

/// Tensors that are not the model's parameters.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// A parameter of the model is not among the tensors.
    #[error("parameter `{name}` is missing")]
    Missing {
        /// Its path.
        name: String,
    },
    /// A tensor belongs to no parameter, or was given twice.
    #[error("tensor `{name}` belongs to no parameter of the model, or was given twice")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than its parameter.
    #[error("parameter `{name}` has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The path.
        name: String,
        /// The tensor's shape.
        found: Vec<usize>,
        /// The parameter's.
        expected: Vec<usize>,
    },
    /// The number of values is not the product of the shape.
    #[error("parameter `{name}` has {found} values, expected {expected}")]
    Length {
        /// The path.
        name: String,
        /// Values given.
        found: usize,
        /// Values that the shape asks for.
        expected: usize,
    },
    /// A value is infinite or not a number.
    #[error("parameter `{name}` holds {value} at index {index}, expected a finite number")]
    NonFinite {
        /// The path.
        name: String,
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
}

/// Copies every parameter, in the order of the model's fields.
pub fn collect<M: Module>(model: &M) -> Vec<NamedTensor> {
    let mut visitor = Collector::default();
    model.visit(&mut visitor);
    visitor.tensors
}

/// Path and shape of every parameter, in the order of the model's fields.
pub fn shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    let mut visitor = Shapes::default();
    model.visit(&mut visitor);
    visitor.shapes
}

/// Copies the gradient of every parameter that has one, in the order of the model's fields.
pub fn gradients<M: Module>(model: &M, gradients: &Gradients) -> Vec<NamedTensor> {
    let mut visitor = GradientCollector {
        path: Path::default(),
        gradients,
        tensors: Vec::new(),
    };
    model.visit(&mut visitor);
    visitor.tensors
}

/// How many numbers a model is made of.
pub fn count<M: Module>(model: &M) -> usize {
    shapes(model)
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

/// Puts `tensors` in the place of the model's parameters.
///
/// # Errors
///
/// When one is missing, of another shape, not finite, given twice, or belongs to no parameter.
pub fn load<M: Module>(model: M, tensors: Vec<NamedTensor>) -> Result<M, ParameterError> {
    let mut given = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        if given.contains_key(&tensor.name) {
            return Err(ParameterError::Unknown { name: tensor.name });
        }
        given.insert(tensor.name.clone(), tensor);
    }
    // Everything is checked before anything is replaced.
    let expected = shapes(&model);
    for (name, shape) in &expected {
        let Some(tensor) = given.get(name) else {
            return Err(ParameterError::Missing { name: name.clone() });
        };
        check(tensor, shape)?;
    }
    if given.len() > expected.len() {
        let mut unknown: Vec<String> = given
            .into_keys()
            .filter(|name| !expected.iter().any(|(known, _)| known == name))
            .collect();
        unknown.sort();
        return Err(ParameterError::Unknown {
            name: unknown.swap_remove(0),
        });
    }
    Ok(model.map(&mut Loader {
        path: Path::default(),
        given,
    }))
}

fn check(tensor: &NamedTensor, shape: &[usize]) -> Result<(), ParameterError> {
    let name = || tensor.name.clone();
    if tensor.shape != shape {
        return Err(ParameterError::Shape {
            name: name(),
            found: tensor.shape.clone(),
            expected: shape.to_vec(),
        });
    }
    let expected = shape.iter().product();
    if tensor.values.len() != expected {
        return Err(ParameterError::Length {
            name: name(),
            found: tensor.values.len(),
            expected,
        });
    }
    match tensor
        .values
        .iter()
        .enumerate()
        .find(|(_, value)| !value.is_finite())
    {
        Some((index, value)) => Err(ParameterError::NonFinite {
            name: name(),
            index,
            value: *value,
        }),
        None => Ok(()),
    }
}

/// The fields on the way from the model to the parameter at hand.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

#[derive(Default)]
struct Collector {
    path: Path,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors.push(named(&self.path, param.val().inner()));
    }
}

fn named<const D: usize>(path: &Path, tensor: Tensor<D>) -> NamedTensor {
    let shape = tensor.dims().to_vec();
    let values = tensor.into_data().iter::<f32>().collect();
    NamedTensor {
        name: path.name(),
        shape,
        values,
    }
}

struct GradientCollector<'a> {
    path: Path,
    gradients: &'a Gradients,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for GradientCollector<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.tensors.push(named(&self.path, gradient));
        }
    }
}

#[derive(Default)]
struct Shapes {
    path: Path,
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes
            .push((self.path.name(), param.lazy_shape().to_vec()));
    }
}

struct Loader {
    path: Path,
    given: HashMap<String, NamedTensor>,
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(given) = self.given.remove(&self.path.name()) else {
            return param;
        };
        param.map(|old| {
            let device = old.device();
            let new = Tensor::from_data(TensorData::new(given.values, given.shape), &device);
            if old.is_require_grad() {
                new.require_grad()
            } else {
                new
            }
        })
    }
}
