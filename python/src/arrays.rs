//! The border to NumPy: arrays come in as views, whatever their strides, and results are NumPy's own memory.

use half::{bf16, f16};
use numpy::{
    Element as NumpyElement, PyArray3, PyArray4, PyArrayDescrMethods, PyArrayMethods,
    PyReadonlyArray3, PyReadonlyArray4, PyReadwriteArray3, PyReadwriteArray4, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use regard_kernels::Element;

use crate::errors::refuse;

/// A number that both sides know.
pub trait Number: Element<Sum: NumpyElement> + NumpyElement {}

impl Number for f32 {}
impl Number for f64 {}
impl Number for bf16 {}
impl Number for f16 {}

/// An array of four axes to read from.
pub fn read4<'py, T: NumpyElement>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray4<'py, T>> {
    whole_strides(name, array)?;
    array.extract().map_err(|_| {
        refuse(
            name,
            &described(array),
            "an array of four axes, of the type of `q`",
        )
    })
}

/// An array of three axes to read from.
pub fn read3<'py, T: NumpyElement>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray3<'py, T>> {
    whole_strides(name, array)?;
    array.extract().map_err(|_| {
        refuse(
            name,
            &described(array),
            "an array of three axes, float32 (float64 for float64)",
        )
    })
}

/// A view of a field of a record may lie between the numbers: that is no stride that can be walked.
fn whole_strides(name: &str, array: &Bound<'_, PyAny>) -> PyResult<()> {
    let Ok(array) = array.cast::<PyUntypedArray>() else {
        return Err(refuse(name, &described(array), "an array"));
    };
    let size = array.dtype().itemsize().max(1) as isize;
    let py = array.py();
    let flags = array.getattr(intern!(py, "flags"))?;
    let aligned: bool = flags.getattr(intern!(py, "aligned"))?.extract()?;
    if !aligned || array.strides().iter().any(|stride| stride % size != 0) {
        return Err(refuse(
            name,
            "not aligned to its numbers",
            "an aligned array (numpy.ascontiguousarray makes one)",
        ));
    }
    Ok(())
}

fn described(array: &Bound<'_, PyAny>) -> String {
    match array.cast::<PyUntypedArray>() {
        Ok(array) => format!(
            "an array of {} with shape {:?}",
            array.dtype(),
            array.shape()
        ),
        Err(_) => array
            .get_type()
            .name()
            .map_or_else(|_| "something else".into(), |name| format!("a {name}")),
    }
}

/// New memory for a result, which holds whatever was there: the kernels write every element, and zeroing it first was a
/// tenth of a short call. Called as Python calls it: where there is not as much memory, that is a `MemoryError` and no panic.
pub fn new4<'py, T: NumpyElement>(
    py: Python<'py>,
    shape: (usize, usize, usize, usize),
) -> PyResult<Bound<'py, PyArray4<T>>> {
    Ok(empty(py)?.call1((shape, T::get_dtype(py)))?.cast_into()?)
}

/// Likewise.
pub fn new3<'py, T: NumpyElement>(
    py: Python<'py>,
    shape: (usize, usize, usize),
) -> PyResult<Bound<'py, PyArray3<T>>> {
    Ok(empty(py)?.call1((shape, T::get_dtype(py)))?.cast_into()?)
}

fn empty(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    EMPTY.import(py, "numpy", "empty")
}

/// An array to write to, which overlaps none that is read, nor itself: threads write to different elements of it.
pub fn write4<'py, T: NumpyElement>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadwriteArray4<'py, T>> {
    whole_strides(name, array)?;
    let typed = array.cast::<PyArray4<T>>().map_err(|_| {
        refuse(
            name,
            &described(array),
            "an array of the type and shape of the result",
        )
    })?;
    let mut axes: Vec<(usize, usize)> = typed
        .strides()
        .iter()
        .zip(typed.shape())
        .filter(|&(_, &length)| length != 1)
        .map(|(stride, &length)| (stride.unsigned_abs(), length))
        .collect();
    if axes.iter().all(|&(_, length)| length > 0) {
        axes.sort_unstable();
        let mut reach = typed.dtype().itemsize();
        for (stride, length) in axes {
            if stride < reach {
                return Err(refuse(
                    name,
                    "an array of which elements share memory",
                    "memory of its own for each element",
                ));
            }
            reach += stride * (length - 1);
        }
    }
    writable(name, typed.try_readwrite())
}

/// Likewise.
pub fn write3<'py, T: NumpyElement>(
    name: &str,
    array: &Bound<'py, PyArray3<T>>,
) -> PyResult<PyReadwriteArray3<'py, T>> {
    writable(name, array.try_readwrite())
}

fn writable<A>(name: &str, borrowed: Result<A, numpy::BorrowError>) -> PyResult<A> {
    borrowed.map_err(|error| {
        refuse(
            name,
            &error.to_string(),
            "writable memory that overlaps no other argument",
        )
    })
}
