//! `regard._regard`: attention on NumPy arrays. What users call is in `regard/__init__.py`; here arrays become views,
//! the lock is released, and the kernels run.

mod arrays;
mod errors;
mod options;
mod threads;

use std::borrow::Cow;

use half::{bf16, f16};
use numpy::{IntoPyArray, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_kernels::{GradientsMut, Isa, Upstream};

use crate::arrays::{Number, new3, new4, read3, read4, write3, write4};
use crate::errors::{refuse, refused};
use crate::options::Options;

type Any<'py> = Bound<'py, PyAny>;

/// Calls a function that is generic over the numbers, with those that `q` has.
macro_rules! by_type {
    ($q:expr, $function:ident($($argument:expr),*)) => {{
        match type_of(&$q).as_ref() {
            "float32" => $function::<f32>($($argument),*),
            "float64" => $function::<f64>($($argument),*),
            "bfloat16" => $function::<bf16>($($argument),*),
            "float16" => $function::<f16>($($argument),*),
            other => Err(refuse(
                "q",
                &format!("an array of {other}"),
                "float32, float64, float16 or bfloat16",
            )),
        }
    }};
}

/// As NumPy writes it. The most frequent one is recognized first: writing it takes as long as a small call computes.
fn type_of(array: &Any<'_>) -> Cow<'static, str> {
    match array.cast::<PyUntypedArray>() {
        Err(_) => "no array".into(),
        Ok(array) if array.dtype().is_equiv_to(&dtype::<f32>(array.py())) => "float32".into(),
        Ok(array) => array.dtype().to_string().into(),
    }
}

/// The output and the log-sum-exp.
#[pyfunction]
fn forward<'py>(
    py: Python<'py>,
    q: Any<'py>,
    k: Any<'py>,
    v: Any<'py>,
    options: Option<Options<'py>>,
    out: Option<Any<'py>>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    by_type!(
        q,
        forward_of(py, &q, &k, &v, &options.unwrap_or_default(), out)
    )
}

fn forward_of<'py, E: Number>(
    py: Python<'py>,
    q: &Any<'py>,
    k: &Any<'py>,
    v: &Any<'py>,
    options: &Options<'py>,
    out: Option<Any<'py>>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (q, k, v) = (
        read4::<E>("q", q)?,
        read4::<E>("k", k)?,
        read4::<E>("v", v)?,
    );
    let bias = options.bias()?;
    let attention = options.attention(&bias)?;
    let (batch, heads, queries, _) = q.as_array().dim();
    let out = match out {
        Some(out) => out,
        None => new4::<E>(py, (batch, heads, queries, v.as_array().dim().3))?.into_any(),
    };
    let lse = new3::<E::Sum>(py, (batch, heads, queries))?;
    {
        let mut out = write4::<E>("out", &out)?;
        let mut lse = write3("lse", &lse)?;
        let (q, k, v) = (q.as_array(), k.as_array(), v.as_array());
        let (out, lse) = (out.as_array_mut(), lse.as_array_mut());
        py.detach(|| threads::on_them(|| attention.forward_into(q, k, v, out, lse)))
            .map_err(refused)?;
    }
    Ok((out, lse.into_any()))
}

/// The gradients of `q`, `k`, `v`, and of those options that are asked for.
#[pyfunction]
#[expect(
    clippy::too_many_arguments,
    reason = "one for each array of a backward pass"
)]
fn backward<'py>(
    py: Python<'py>,
    d_out: Any<'py>,
    q: Any<'py>,
    k: Any<'py>,
    v: Any<'py>,
    out: Any<'py>,
    lse: Any<'py>,
    d_lse: Option<Any<'py>>,
    options: Option<Options<'py>>,
    wanted: (bool, bool, bool),
) -> PyResult<Bound<'py, PyDict>> {
    let known = [&d_out, &out, &lse];
    by_type!(
        q,
        backward_of(
            py,
            [&q, &k, &v],
            known,
            d_lse.as_ref(),
            &options.unwrap_or_default(),
            wanted
        )
    )
}

fn backward_of<'py, E: Number>(
    py: Python<'py>,
    [q, k, v]: [&Any<'py>; 3],
    [d_out, out, lse]: [&Any<'py>; 3],
    d_lse: Option<&Any<'py>>,
    options: &Options<'py>,
    (of_bias, of_sinks, of_slopes): (bool, bool, bool),
) -> PyResult<Bound<'py, PyDict>> {
    let (q, k, v) = (
        read4::<E>("q", q)?,
        read4::<E>("k", k)?,
        read4::<E>("v", v)?,
    );
    let (d_out, out) = (read4::<E>("d_out", d_out)?, read4::<E>("out", out)?);
    let lse = read3::<E::Sum>("lse", lse)?;
    let d_lse = d_lse
        .map(|d_lse| read3::<E::Sum>("d_lse", d_lse))
        .transpose()?;
    let bias = options.bias()?;
    let attention = options
        .attention(&bias)?
        .bias_gradient(of_bias)
        .sinks_gradient(of_sinks)
        .slopes_gradient(of_slopes);
    let (q, k, v) = (q.as_array(), k.as_array(), v.as_array());
    let dq = new4::<E>(py, q.dim())?;
    let dk = new4::<E>(py, k.dim())?;
    let dv = new4::<E>(py, v.dim())?;
    let options = {
        let mut into_q = write4::<E>("q", dq.as_any())?;
        let mut into_k = write4::<E>("k", dk.as_any())?;
        let mut into_v = write4::<E>("v", dv.as_any())?;
        let upstream = Upstream {
            out: out.as_array(),
            log_sum_exp: lse.as_array(),
            d_out: d_out.as_array(),
            d_log_sum_exp: d_lse.as_ref().map(|d_lse| d_lse.as_array()),
        };
        let into = GradientsMut {
            q: into_q.as_array_mut(),
            k: into_k.as_array_mut(),
            v: into_v.as_array_mut(),
        };
        py.detach(|| threads::on_them(|| attention.backward_into(q, k, v, &upstream, into)))
            .map_err(refused)?
    };
    let gradients = PyDict::new(py);
    gradients.set_item("q", dq)?;
    gradients.set_item("k", dk)?;
    gradients.set_item("v", dv)?;
    gradients.set_item("bias", options.bias.map(|bias| bias.into_pyarray(py)))?;
    gradients.set_item("sinks", options.sinks.map(|sinks| sinks.into_pyarray(py)))?;
    gradients.set_item(
        "slopes",
        options.slopes.map(|slopes| slopes.into_pyarray(py)),
    )?;
    Ok(gradients)
}

/// The weights, or with `scores` what they are the softmax of, in full.
#[pyfunction]
fn weights<'py>(
    py: Python<'py>,
    q: Any<'py>,
    k: Any<'py>,
    options: Option<Options<'py>>,
    scores: bool,
) -> PyResult<Any<'py>> {
    by_type!(
        q,
        weights_of(py, &q, &k, &options.unwrap_or_default(), scores)
    )
}

fn weights_of<'py, E: Number>(
    py: Python<'py>,
    q: &Any<'py>,
    k: &Any<'py>,
    options: &Options<'py>,
    scores: bool,
) -> PyResult<Any<'py>> {
    let (q, k) = (read4::<E>("q", q)?, read4::<E>("k", k)?);
    let bias = options.bias()?;
    let attention = options.attention(&bias)?;
    let (q, k) = (q.as_array(), k.as_array());
    let weights = py.detach(|| {
        threads::on_them(|| {
            if scores {
                attention.scores(q, k)
            } else {
                attention.weights(q, k)
            }
        })
    });
    Ok(weights.map_err(refused)?.into_pyarray(py).into_any())
}

/// The largest weights of each query, and whose they are: −1 where a query sees fewer.
#[pyfunction]
fn top_weights<'py>(
    py: Python<'py>,
    q: Any<'py>,
    k: Any<'py>,
    count: usize,
    options: Option<Options<'py>>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    by_type!(
        q,
        top_weights_of(py, &q, &k, count, &options.unwrap_or_default())
    )
}

fn top_weights_of<'py, E: Number>(
    py: Python<'py>,
    q: &Any<'py>,
    k: &Any<'py>,
    count: usize,
    options: &Options<'py>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (q, k) = (read4::<E>("q", q)?, read4::<E>("k", k)?);
    let bias = options.bias()?;
    let attention = options.attention(&bias)?;
    let (q, k) = (q.as_array(), k.as_array());
    let keys = k.dim().2;
    if count > keys {
        return Err(refuse(
            "count",
            &count.to_string(),
            &format!("at most the {keys} keys of `k`"),
        ));
    }
    let top = py
        .detach(|| threads::on_them(|| attention.top_weights(q, k, count)))
        .map_err(refused)?;
    let keys = top.keys.mapv(|key| i64::try_from(key).unwrap_or(-1));
    Ok((
        keys.into_pyarray(py).into_any(),
        top.weights.into_pyarray(py).into_any(),
    ))
}

/// What each key gets of the weight of all queries.
#[pyfunction]
fn key_sums<'py>(
    py: Python<'py>,
    q: Any<'py>,
    k: Any<'py>,
    options: Option<Options<'py>>,
) -> PyResult<Any<'py>> {
    by_type!(q, key_sums_of(py, &q, &k, &options.unwrap_or_default()))
}

fn key_sums_of<'py, E: Number>(
    py: Python<'py>,
    q: &Any<'py>,
    k: &Any<'py>,
    options: &Options<'py>,
) -> PyResult<Any<'py>> {
    let (q, k) = (read4::<E>("q", q)?, read4::<E>("k", k)?);
    let bias = options.bias()?;
    let attention = options.attention(&bias)?;
    let (q, k) = (q.as_array(), k.as_array());
    let sums = py.detach(|| threads::on_them(|| attention.key_sums(q, k)));
    Ok(sums.map_err(refused)?.into_pyarray(py).into_any())
}

/// What attention over two sets of keys gives, from what it gives over each.
#[pyfunction]
fn merge<'py>(
    py: Python<'py>,
    out_a: Any<'py>,
    lse_a: Any<'py>,
    out_b: Any<'py>,
    lse_b: Any<'py>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    by_type!(out_a, merge_of(py, [&out_a, &out_b], [&lse_a, &lse_b]))
}

fn merge_of<'py, E: Number>(
    py: Python<'py>,
    [out_a, out_b]: [&Any<'py>; 2],
    [lse_a, lse_b]: [&Any<'py>; 2],
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (out_a, out_b) = (read4::<E>("out_a", out_a)?, read4::<E>("out_b", out_b)?);
    let (lse_a, lse_b) = (
        read3::<E::Sum>("lse_a", lse_a)?,
        read3::<E::Sum>("lse_b", lse_b)?,
    );
    let merged = regard_kernels::merge(
        (out_a.as_array(), lse_a.as_array()),
        (out_b.as_array(), lse_b.as_array()),
    )
    .map_err(refused)?;
    Ok((
        merged.out.into_pyarray(py).into_any(),
        merged.log_sum_exp.into_pyarray(py).into_any(),
    ))
}

/// Names of the instruction sets that there are, and the one that is used.
#[pyfunction]
fn instruction_sets() -> PyResult<(Vec<String>, String)> {
    let names = Isa::available().iter().map(Isa::to_string).collect();
    Ok((names, Isa::chosen().map_err(refused)?.to_string()))
}

/// GFLOP/s of additions and multiplications that the threads can do together, with an instruction set or the one that is used.
#[pyfunction]
fn peak(py: Python<'_>, isa: Option<&str>) -> PyResult<f64> {
    let isa = match isa {
        Some(name) => name.parse().map_err(refused)?,
        None => Isa::chosen().map_err(refused)?,
    };
    let peak = py.detach(|| threads::on_them(|| regard_kernels::peak(isa)));
    Ok(peak.map_err(refused)? / 1e9)
}

#[pymodule]
fn _regard(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(forward, module)?)?;
    module.add_function(wrap_pyfunction!(backward, module)?)?;
    module.add_function(wrap_pyfunction!(weights, module)?)?;
    module.add_function(wrap_pyfunction!(top_weights, module)?)?;
    module.add_function(wrap_pyfunction!(key_sums, module)?)?;
    module.add_function(wrap_pyfunction!(merge, module)?)?;
    module.add_function(wrap_pyfunction!(instruction_sets, module)?)?;
    module.add_function(wrap_pyfunction!(peak, module)?)?;
    module.add_function(wrap_pyfunction!(threads::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(threads::num_threads, module)?)?;
    Ok(())
}
