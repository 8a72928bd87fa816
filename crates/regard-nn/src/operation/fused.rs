//! The kernels as a Burn operation: strided views of Burn's storage in, a hand-written backward behind.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, NodeId, backend_extension};
use burn::tensor::{Tensor, TensorData};
use ndarray::{Array, Array3, Array4, ArrayView4, Dimension, ShapeBuilder};
use regard_kernels::{Attention, Causal};

use super::{AttentionOptions, Inner, dispatch};

/// The options as the kernels take them: plain data, kept for the backward.
#[derive(Clone, Debug)]
pub(super) struct Plan(Arc<Settled>);

#[derive(Debug)]
struct Settled {
    scale: Option<f32>,
    causal: Option<Causal>,
    visible_keys: Option<Vec<usize>>,
    bias: Option<Array4<f32>>,
}

impl Plan {
    fn new(options: &AttentionOptions) -> Self {
        Self(Arc::new(Settled {
            scale: options.scale,
            causal: options.causal,
            visible_keys: options.visible_keys.clone(),
            bias: options.bias.clone().map(|bias| {
                let shape = bias.dims();
                let values = bias.inner_if_autodiff().into_data().iter::<f32>().collect();
                Array4::from_shape_vec(shape, values).expect("a tensor holds as many values as its shape says")
            }),
        }))
    }

    fn kernel(&self) -> Attention<'_> {
        let settled = &*self.0;
        let mut kernel = Attention::new();
        if let Some(scale) = settled.scale {
            kernel = kernel.scale(scale);
        }
        if let Some(causal) = settled.causal {
            kernel = kernel.causal(causal);
        }
        if let Some(visible_keys) = &settled.visible_keys {
            kernel = kernel.visible_keys(visible_keys);
        }
        if let Some(bias) = &settled.bias {
            kernel = kernel.bias(bias.view());
        }
        kernel
    }
}

#[backend_extension(Autodiff, Flex)]
pub(super) trait FusedAttention: Backend {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
}

pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    let plan = Plan::new(options);
    Tensor::from_dispatch(<Dispatch as FusedAttention>::fused_attention(dispatch(q), dispatch(k), dispatch(v), plan))
}

impl FusedAttention for Flex {
    fn fused_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, plan: Plan) -> FlexTensor {
        forward(&q, &k, &v, &plan).0
    }
}

impl<C: CheckpointStrategy> FusedAttention for Autodiff<Flex, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let prepared = AttentionBackward.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful();
        let (out, log_sum_exp) = forward(q.primitive(), k.primitive(), v.primitive(), &plan);
        match prepared {
            OpsKind::UnTracked(prepared) => prepared.finish(out),
            OpsKind::Tracked(mut prepared) => {
                let inputs = [prepared.checkpoint(&q), prepared.checkpoint(&k), prepared.checkpoint(&v)];
                let kept = Kept { inputs, out: out.clone(), log_sum_exp: Arc::new(log_sum_exp), plan };
                prepared.finish(kept, out)
            }
        }
    }
}

/// d q, d k and d v from d out.
#[derive(Debug)]
struct AttentionBackward;

/// What the backward needs of the forward: never the weights.
#[derive(Clone, Debug)]
struct Kept {
    inputs: [NodeId; 3],
    out: FlexTensor,
    log_sum_exp: Arc<Array3<f32>>,
    plan: Plan,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node);
        let kept = ops.state;
        let [q, k, v] = kept.inputs.map(|id| checkpointer.retrieve_node_output::<FlexTensor>(id)).map(readable);
        let (out, d_out) = (readable(kept.out), readable(d_out));
        let lse = kept.log_sum_exp.view();
        let gradients = kept.plan.kernel().backward(view(&q), view(&k), view(&v), view(&out), lse, view(&d_out));
        let gradients = gradients.unwrap_or_else(|error| panic!("attention: {error}"));
        let found = [gradients.q, gradients.k, gradients.v];
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(gradient));
            }
        }
    }
}

fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, plan: &Plan) -> (FlexTensor, Array3<f32>) {
    let [q, k, v] = [q, k, v].map(|tensor| readable(tensor.clone()));
    let found = plan.kernel().forward(view(&q), view(&k), view(&v));
    let found = found.unwrap_or_else(|error| panic!("attention: {error}"));
    (tensor(found.out), found.log_sum_exp)
}

/// The tensor itself, or a copy if its strides run backwards, which a view cannot say.
fn readable(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().has_positive_strides() || tensor.layout().strides().iter().all(|stride| *stride >= 0) {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// A view of the tensor's storage, uncopied, whatever its strides.
fn view(tensor: &FlexTensor) -> ArrayView4<'_, f32> {
    let layout = tensor.layout();
    let shape: [usize; 4] = layout.shape().dims();
    let mut strides = [0; 4];
    for (stride, found) in strides.iter_mut().zip(layout.strides()) {
        *stride = usize::try_from(*found).expect("`readable` leaves no negative stride");
    }
    let storage = &tensor.storage::<f32>()[layout.start_offset()..];
    ArrayView4::from_shape(shape.strides(strides), storage).expect("a tensor's strides stay within its storage")
}

/// The array as a tensor; its buffer moves, nothing is copied.
fn tensor<D: Dimension>(array: Array<f32, D>) -> FlexTensor {
    let shape = array.shape().to_vec();
    debug_assert!(array.is_standard_layout());
    FlexTensor::from_data(TensorData::new(array.into_raw_vec_and_offset().0, shape))
}
