//! The gradients of a step, by parameter.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData};

use crate::kernels::{IbotBackend, TrainBackend};
use crate::weights::{NamedTensor, Pick, named_tensors};

/// The gradients of one backward pass.
pub struct Gradients<B: AutodiffBackend>(pub(super) B::Gradients);

impl<B: TrainBackend> Gradients<B> {
    /// Runs the backward pass from a loss of shape `[1]`.
    pub fn of(loss: &Tensor<B, 1>) -> Self {
        Self(loss.backward())
    }

    /// The sum of both, parameter by parameter of `module`.
    pub fn plus<M: Module<B>>(self, other: Self, module: &M) -> Self {
        struct Add<B: TrainBackend> {
            sum: B::Gradients,
            other: B::Gradients,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for Add<B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let tensor = param.val();
                let Some(more) = tensor.grad_remove(&mut self.other) else {
                    return;
                };
                let sum = match tensor.grad(&self.sum) {
                    Some(grad) => grad + more,
                    None => more,
                };
                tensor.grad_replace(&mut self.sum, sum);
            }
        }
        let mut add = Add::<B> {
            sum: self.0,
            other: other.0,
        };
        module.visit(&mut add);
        Self(add.sum)
    }

    /// The gradient of one parameter, if it has one.
    pub fn get<const D: usize>(&self, tensor: &Tensor<B, D>) -> Option<Tensor<B::InnerBackend, D>> {
        tensor.grad(&self.0)
    }

    /// All gradients by timm's name, in timm's layout; parameters without one are left out.
    pub fn by_name<M: Module<B>>(&self, module: &M) -> BTreeMap<String, NamedTensor> {
        named_tensors(module, self)
    }

    /// Sum of the squares of all gradients of `module`, on the device, `[1]`.
    pub fn squared_norm<M: Module<B>>(
        &self,
        module: &M,
        device: &B::Device,
    ) -> Tensor<B::InnerBackend, 1> {
        struct Collect<'a, B: TrainBackend> {
            grads: &'a Gradients<B>,
            found: Vec<FloatTensor<B::InnerBackend>>,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for Collect<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let grad = self.grads.get(&param.val());
                self.found
                    .extend(grad.map(|grad| grad.into_primitive().tensor()));
            }
        }
        let mut collect = Collect {
            grads: self,
            found: Vec::new(),
        };
        module.visit(&mut collect);
        B::InnerBackend::sum_of_squares(collect.found, device)
    }
}

impl<B: TrainBackend> Pick<B> for Gradients<B> {
    fn pick<const D: usize>(&self, param: Tensor<B, D>) -> Option<TensorData> {
        self.get(&param).map(Tensor::into_data)
    }
}
