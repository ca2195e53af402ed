//! The gradients of a step, by parameter.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData};

use crate::files::{NamedTensor, Pick, named_tensors};
use crate::kernels::{IbotBackend, TrainBackend};

/// Puts each parameter on a new node of the autodiff graph, with its gradient of `gradients`; values stay the same. To be
/// called before a forward from parameters that a backward pass has seen, where other threads run backward passes too; a
/// [`Trainer`](crate::train::Trainer) does.
///
/// burn-autodiff 0.21 keeps the graphs of all threads in one place (`runtime/graph.rs`). A backward pass takes the nodes
/// that it reached out of there, parameters included, and then frees in every graph, those of other threads too, what no
/// tensor refers to, unless some tensor refers to a node of that graph. A graph with a parameter is safe by that. A forward
/// from parameters that were taken out makes graphs without one: between two operations no tensor refers to their nodes,
/// and a backward pass that ends on another thread just then frees them, so that gradients lack a term.
pub fn on_new_nodes<B: TrainBackend, M: Module<B>>(
    module: M,
    gradients: Option<Gradients<B>>,
) -> (M, Option<Gradients<B>>) {
    struct Renew<B: TrainBackend>(Option<B::Gradients>);
    impl<B: TrainBackend> ModuleMapper<B> for Renew<B> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, old, mapper) = param.consume();
            let new = old.clone().detach(); // a leaf on a new node, with the same values
            // gradients are keyed by node too, so that of the earlier parts must move along
            if let Some(gradients) = &mut self.0
                && let Some(gradient) = old.grad_remove(gradients)
            {
                new.grad_replace(gradients, gradient);
            }
            Param::from_mapped_value(id, new, mapper)
        }
    }
    let mut renew = Renew(gradients.map(|gradients| gradients.0));
    let module = module.map(&mut renew);
    (module, renew.0.map(Gradients))
}

/// The gradients of one backward pass.
pub struct Gradients<B: AutodiffBackend>(pub(super) B::Gradients);

impl<B: TrainBackend> Gradients<B> {
    /// Runs the backward pass from a loss of shape `[1]`.
    pub fn backward(loss: &Tensor<B, 1>) -> Self {
        Self(loss.backward())
    }

    /// The sum of both, parameter by parameter of `module`.
    pub fn accumulate<M: Module<B>>(self, other: Self, module: &M) -> Self {
        struct Add<B: TrainBackend> {
            sum: B::Gradients,
            other: B::Gradients,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for Add<B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let tensor = param.val();
                // removed, so that its memory is free once it is added
                let Some(more) = tensor.grad_remove(&mut self.other) else {
                    return; // no gradient in this part, as of the patch head without masked patches
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
                // frozen prototypes count as well: in DINO, clipping sees their gradients before they are cancelled
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
        // one call for all gradients, and no root yet: the host takes it when it reads the losses
        B::InnerBackend::sum_of_squares(collect.found, device)
    }
}

impl<B: TrainBackend> Pick<B> for Gradients<B> {
    fn pick<const D: usize>(&self, param: Tensor<B, D>) -> Option<TensorData> {
        self.get(&param).map(Tensor::into_data)
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn_autodiff::Autodiff;
    use burn_autodiff::checkpoint::base::Checkpointer;
    use burn_autodiff::checkpoint::strategy::NoCheckpointing;
    use burn_autodiff::grads::Gradients as ByNode;
    use burn_autodiff::ops::{Backward, Ops, unary};
    use burn_flex::Flex;

    use super::*;
    use crate::kernels::wrap;

    type B = Autodiff<Flex>;

    #[derive(Debug)]
    struct Identity;

    impl Backward<Flex, 1> for Identity {
        type State = ();

        fn backward(self, ops: Ops<(), 1>, grads: &mut ByNode, _checkpointer: &mut Checkpointer) {
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| grad);
        }
    }

    /// An operation that has taken its input when a backward pass ends on another thread.
    fn slow_identity(x: Tensor<B, 2>) -> Tensor<B, 2> {
        let x = x.into_primitive().tensor();
        let (input, node) = (x.primitive.clone(), x.node.clone());
        drop(x); // now no tensor refers to the node
        let backward = || {
            let leaf = Tensor::<B, 1>::ones([1], &Default::default()).require_grad();
            drop((leaf * 2.0).backward());
        };
        std::thread::spawn(backward).join().unwrap();
        let operation = Identity.prepare::<NoCheckpointing>([node]);
        wrap(operation.compute_bound().stateless(input))
    }

    fn has_gradient(layer: &Linear<B>) -> bool {
        let y = slow_identity(layer.weight.val() * 2.0);
        let gradients = Gradients::backward(&y.sum());
        gradients.get(&layer.weight.val()).is_some()
    }

    #[test]
    fn new_nodes_keep_their_gradients_beside_other_threads() {
        let layer = LinearConfig::new(2, 3).init::<B>(&Default::default());
        assert!(has_gradient(&layer));
        assert!(
            !has_gradient(&layer),
            "burn-autodiff loses nothing any more: on_new_nodes can go"
        );
        let (layer, _) = on_new_nodes(layer, None);
        assert!(has_gradient(&layer));
    }

    #[test]
    fn gradients_come_along() {
        let layer = LinearConfig::new(2, 3).init::<B>(&Default::default());
        let found = Gradients::backward(&(layer.weight.val() * 2.0).sum());
        let (layer, found) = on_new_nodes(layer, Some(found));
        let more = Gradients::backward(&(layer.weight.val() * 3.0).sum());
        let sum = found.unwrap().accumulate(more, &layer);
        let sum = sum.get(&layer.weight.val()).unwrap().into_data();
        assert_eq!(sum.iter::<f32>().collect::<Vec<_>>(), [5.0; 6]);
    }
}
