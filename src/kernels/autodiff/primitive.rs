//! Tensors as nodes of the graph hold them, and their gradients.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps as _};
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, OpsKind, OpsPrep};
use burn_autodiff::{Autodiff, NodeId};
use burn_flex::Flex;

use crate::kernels::autodiff::watch::count_grad;
use crate::kernels::wrap::wrap;
use crate::precision::Precision;

pub(super) fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// A matrix on the autodiff backend that is in no graph: with the node of another one it names that one's gradient, as burn
/// names gradients by whole tensors, of which it looks at the node alone.
pub(super) fn untracked<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<Autodiff<B>> {
    primitive(Tensor::<Autodiff<B>, 2>::from_inner(wrap(tensor.clone())))
}

/// See [`IbotBackend::join_graphs`](crate::kernels::IbotBackend::join_graphs): parents of one operation are of one graph.
pub(super) fn join_graphs<B: Backend, C: CheckpointStrategy>(leaves: &[Tracked<B, C>]) {
    // burn names parents by their nodes alone: their values, which may lie on a GPU, are not touched
    let constant = primitive(Tensor::<Autodiff<Flex>, 1>::zeros([1], &Default::default()));
    let stand_in = |leaf: &Tracked<B, C>| {
        let (mut stand_in, leaf) = (constant.clone(), leaf.clone());
        (stand_in.node, stand_in.rc) = (leaf.node, leaf.rc);
        stand_in
    };
    if !leaves.is_empty() {
        Autodiff::<Flex>::float_cat(leaves.iter().map(stand_in).collect(), 0);
    }
}

/// Adds a gradient to those of the parent that it belongs to, if it is wanted.
pub(super) fn register<B: Backend, const D: usize>(
    grads: &mut Gradients,
    parent: Option<NodeId>,
    gradient: Option<Tensor<B, D>>,
) {
    if let Some((parent, gradient)) = parent.zip(gradient) {
        grads.register::<B>(parent, primitive(gradient));
        count_grad(parent, grads);
    }
}

/// The result of an operation as a node of the graph; `state` is kept where a parent is tracked.
pub(super) fn node<B, C, O, const N: usize, const D: usize>(
    operation: OpsPrep<O, B, O::State, C, N>,
    state: O::State,
    result: Tensor<B, D>,
) -> Tensor<Autodiff<B, C>, D>
where
    B: Backend,
    C: CheckpointStrategy,
    O: Backward<B, N>,
{
    let result = primitive(result);
    wrap(match operation.compute_bound().stateful() {
        OpsKind::Tracked(operation) => operation.finish(state, result),
        OpsKind::UnTracked(operation) => operation.finish(result),
    })
}

/// What a node of the graph keeps for its backward body, and the precision that its operation ran with.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    state: T,
    precision: Precision,
}

impl<T> Kept<T> {
    pub fn new(state: T) -> Self {
        Self {
            state,
            precision: Precision::current(),
        }
    }

    /// Runs the backward body.
    pub fn backward<R>(self, body: impl FnOnce(T) -> R) -> R {
        self.precision.autocast(|| body(self.state))
    }
}

/// A tensor on the autodiff backend.
pub(super) type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// What a layer may lack. A node of a graph has a fixed number of parents: in the place of what is lacking stands a
/// constant that nobody reads.
pub(super) fn optional<B: Backend, C: CheckpointStrategy, const D: usize>(
    tensor: Option<Tensor<Autodiff<B, C>, D>>,
    device: &B::Device,
) -> (Option<Tensor<B, D>>, Tracked<B, C>) {
    match tensor.map(primitive) {
        Some(tensor) => (Some(wrap(tensor.primitive.clone())), tensor),
        None => {
            let constant = Tensor::<Autodiff<B, C>, 1>::empty([1], device);
            (None, primitive(constant))
        }
    }
}
