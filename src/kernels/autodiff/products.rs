//! Products of matrices on burn's autodiff backend: their gradients are products of the inner backend too, and not burn's.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::kernels::autodiff::primitive::{Kept, node, primitive, register};
use crate::kernels::autodiff::watch::count_use;
use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::product::Layout;
use crate::kernels::wrap::wrap;

#[derive(Debug)]
struct Products;

#[derive(Debug, Clone)]
struct Operands<B: Backend> {
    left: Tensor<B, 3>,
    right: Tensor<B, 3>,
    layout: Layout,
}

impl<B: IbotBackend> Operands<B> {
    /// Gradient with respect to the left operand.
    fn d_left(&self, d_y: Tensor<B, 3>) -> Tensor<B, 3> {
        let right = self.right.clone();
        match self.layout {
            Layout::Plain => B::matrix_products(d_y, right, Layout::RightTransposed),
            Layout::RightTransposed => B::matrix_products(d_y, right, Layout::Plain),
            Layout::LeftTransposed => B::matrix_products(right, d_y, Layout::RightTransposed),
        }
    }

    /// Gradient with respect to the right operand.
    fn d_right(&self, d_y: Tensor<B, 3>) -> Tensor<B, 3> {
        let left = self.left.clone();
        match self.layout {
            Layout::Plain => B::matrix_products(left, d_y, Layout::LeftTransposed),
            Layout::RightTransposed => B::matrix_products(d_y, left, Layout::LeftTransposed),
            Layout::LeftTransposed => B::matrix_products(left, d_y, Layout::Plain),
        }
    }
}

impl<B: IbotBackend> Backward<B, 2> for Products {
    type State = Kept<Operands<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y: Tensor<B, 3> = wrap(grads.consume::<B>(&ops.node));
        let [left, right] = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let wanted = [left.is_some(), right.is_some()];
        let [d_left, d_right] = ops.state.backward(|of| {
            [
                wanted[0].then(|| of.d_left(d_y.clone())),
                wanted[1].then(|| of.d_right(d_y)),
            ]
        });
        register::<B, 3>(grads, left, d_left);
        register::<B, 3>(grads, right, d_right);
    }
}

/// See [`IbotBackend::matrix_products`].
pub(super) fn matrix_products<B: IbotBackend, C: CheckpointStrategy>(
    left: Tensor<Autodiff<B, C>, 3>,
    right: Tensor<Autodiff<B, C>, 3>,
    layout: Layout,
) -> Tensor<Autodiff<B, C>, 3> {
    let parents = [primitive(left), primitive(right)];
    count_use::<B, C>(&parents);
    let [left, right] = parents.each_ref().map(|of| of.primitive.clone());
    let inner = Operands::<B> {
        left: wrap(left),
        right: wrap(right),
        layout,
    };
    let y = B::matrix_products(inner.left.clone(), inner.right.clone(), layout);
    node(
        Products.prepare(parents.map(|parent| parent.node)),
        Kept::new(inner),
        y,
    )
}
