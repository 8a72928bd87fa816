//! Burn's CPU tensors as slices and array views, and back, without copies.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Tensor, TensorData};
use ndarray::{
    Array, ArrayView, ArrayView2, ArrayView4, Axis, Dim, Dimension, IntoDimension, ShapeBuilder,
};

/// A tensor of Burn's CPU back end.
pub(crate) type FlexTensor = FloatTensor<Flex>;

/// The CPU tensor inside; `None` on another device, or with automatic differentiation.
pub(crate) fn flex<const D: usize>(tensor: Tensor<D>) -> Option<FlexTensor> {
    tensor.try_into_primitive::<Flex>().ok()
}

/// The inverse of [`flex`].
pub(crate) fn unflex<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// A view of four axes with the tensor's own strides.
pub(super) fn view4(tensor: &FlexTensor) -> ArrayView4<'_, f32> {
    view(tensor)
}

/// A view of two axes with the tensor's own strides.
pub(super) fn view2(tensor: &FlexTensor) -> ArrayView2<'_, f32> {
    view(tensor)
}

/// Rows one after the other as a matrix.
pub(super) fn matrix(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    match ArrayView2::from_shape((rows, columns), values) {
        Ok(view) => view,
        Err(error) => panic!("{rows} rows of {columns}: {error}"),
    }
}

fn view<const D: usize>(tensor: &FlexTensor) -> ArrayView<'_, f32, Dim<[usize; D]>>
where
    [usize; D]: IntoDimension<Dim = Dim<[usize; D]>>,
    Dim<[usize; D]>: Dimension,
{
    let layout = tensor.layout();
    let shape: [usize; D] = match layout.shape().to_vec().try_into() {
        Ok(shape) => shape,
        Err(shape) => panic!("expected a tensor of {D} axes, found {shape:?}"),
    };
    let mut start = layout.start_offset();
    let mut strides = [0; D];
    for (axis, &stride) in layout.strides().iter().enumerate() {
        strides[axis] = stride.unsigned_abs();
        if stride < 0 {
            // A flipped axis is viewed from its other end, and turned around below.
            start -= strides[axis] * shape[axis].saturating_sub(1);
        }
    }
    let storage = tensor.storage::<f32>();
    let empty = shape.contains(&0);
    let elements = if empty { &[] } else { &storage[start..] };
    let shape = shape.into_dimension().strides(strides.into_dimension());
    let mut view = match ArrayView::from_shape(shape, elements) {
        Ok(view) => view,
        Err(error) => panic!("a tensor's layout {layout:?} does not fit its storage: {error}"),
    };
    for (axis, &stride) in layout.strides().iter().enumerate() {
        if stride < 0 {
            view.invert_axis(Axis(axis));
        }
    }
    view
}

/// An array as a tensor; its memory is taken over where it is in the usual order.
pub(super) fn from_array<D: Dimension>(array: Array<f32, D>) -> FlexTensor {
    let shape = array.shape().to_vec();
    let values = if array.is_standard_layout() {
        let length = array.len();
        let (mut values, offset) = array.into_raw_vec_and_offset();
        if offset.is_none_or(|offset| offset == 0) {
            values.truncate(length);
            values
        } else {
            values.drain(..offset.unwrap_or(0));
            values.truncate(length);
            values
        }
    } else {
        array.iter().copied().collect()
    };
    from_vec(values, shape)
}

/// Elements in the usual order as a tensor; takes the memory over.
pub(super) fn from_vec(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The elements in the usual order of a tensor that is contiguous.
pub(super) fn elements(tensor: &FlexTensor) -> &[f32] {
    match tensor.as_slice::<f32>() {
        Some(elements) => elements,
        None => panic!("expected a contiguous f32 tensor, found {tensor:?}"),
    }
}

/// Adds gradients to those of the parents that want one.
pub(super) fn register<const N: usize>(
    grads: &mut Gradients,
    parents: [Option<NodeId>; N],
    gradients: [FlexTensor; N],
) {
    for (parent, gradient) in parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            grads.register::<Flex>(parent, gradient);
        }
    }
}

/// The elements in the usual order: the tensor itself where they are.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// Lengths of the axes.
pub(super) fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// The elements, in memory that is taken over where they are single precision.
pub(crate) fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    match data.try_into_vec() {
        Ok(numbers) => numbers,
        Err(error) => unreachable!("just made single precision: {error:?}"),
    }
}
