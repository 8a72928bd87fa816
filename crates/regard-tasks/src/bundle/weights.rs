//! Weights to and from `model.safetensors`.

use std::collections::HashSet;
use std::path::Path;

use regard_nn::parameters::NamedTensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::open::read_limited;
use crate::{Error, Result};

/// The bytes of a safetensors file; refuses a value that is not finite.
pub(super) fn to_bytes(path: &Path, tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let expected = elements(&tensor.shape).filter(|count| *count == tensor.values.len());
        if expected.is_none() {
            let (found, shape) = (tensor.values.len(), &tensor.shape);
            return Err(Error::bundle(
                path,
                named(&tensor.name),
                format!("{found} values"),
                format!("shape {shape:?}"),
            ));
        }
        all_finite(path, &tensor.name, &tensor.values)?;
        bytes.push(
            tensor
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>(),
        );
    }
    let refused = |error: safetensors::SafeTensorError| {
        Error::bundle(path, "the weights", error, "what the format can hold")
    };
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(tensor, bytes)| {
            Ok((
                tensor.name.as_str(),
                TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?,
            ))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(refused)?;
    safetensors::serialize(views, None).map_err(refused)
}

/// Reads the tensors that the model expects: these, all of them, nothing else, finite.
///
/// The file is not read before its size fits what is expected: what is allocated is bounded by a file that is there and
/// by the shapes of the model, whichever is less.
pub(super) fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Vec<NamedTensor>> {
    let limit = expected_size(expected).ok_or_else(|| {
        Error::bundle(
            path,
            "the shapes in config.json",
            "more numbers than can be counted",
            "a model that fits in memory",
        )
    })?;
    let bytes = read_limited(path, limit)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::bundle(
            path,
            "header",
            error,
            "a safetensors file whose tensors fill it without gaps or overlaps",
        )
    })?;
    let names: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(name) = file.names().into_iter().find(|name| !names.contains(name)) {
        return Err(Error::bundle(
            path,
            named(name),
            "a tensor the model does not have",
            "only its own",
        ));
    }
    let tensor = |(name, shape): &(String, Vec<usize>)| {
        let view = file
            .tensor(name)
            .map_err(|_| Error::bundle(path, named(name), "nothing", format!("shape {shape:?}")))?;
        if view.dtype() != Dtype::F32 {
            return Err(Error::bundle(
                path,
                named(name),
                format!("numbers of type {:?}", view.dtype()),
                "F32",
            ));
        }
        if view.shape() != shape {
            return Err(Error::bundle(
                path,
                named(name),
                format!("shape {:?}", view.shape()),
                format!("{shape:?}"),
            ));
        }
        let values: Vec<f32> = view
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        all_finite(path, name, &values)?;
        Ok(NamedTensor {
            name: name.clone(),
            shape: shape.clone(),
            values,
        })
    };
    expected.iter().map(tensor).collect()
}

/// Most bytes of a file with these tensors: their values, and a header with room for names and numbers.
fn expected_size(expected: &[(String, Vec<usize>)]) -> Option<u64> {
    let mut size: u64 = 1 << 16;
    for (name, shape) in expected {
        let header = 256 + 6 * name.len() as u64 + 20 * shape.len() as u64;
        let values = u64::try_from(elements(shape)?).ok()?.checked_mul(4)?;
        size = size.checked_add(header)?.checked_add(values)?;
    }
    Some(size)
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, extent| product.checked_mul(*extent))
}

fn all_finite(path: &Path, name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::bundle(
            path,
            named(name),
            format!("{} at position {at}", values[at]),
            "finite numbers",
        )),
    }
}

fn named(name: &str) -> String {
    format!("tensor `{}`", crate::error::short(name))
}
