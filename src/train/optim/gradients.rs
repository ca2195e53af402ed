//! The gradients of a step, by parameter.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData};

use crate::files::{NamedTensor, Pick, named_tensors};
use crate::kernels::{IbotBackend, LossScale, TrainBackend};

/// Puts each parameter on a new node of the autodiff graph, all in one graph; values stay the same. Call it before a forward pass if
/// a backward pass has been through these parameters and other threads run backward passes; a [`Trainer`](crate::train::Trainer)
/// does. Take the gradients of `module` out first: they are stored by node.
///
/// burn-autodiff 0.21 keeps the graphs of all threads in one place (`runtime/graph.rs`). A backward pass, once it is over,
/// frees in every graph, those of other threads too, what no tensor refers to, unless some tensor refers to a node of that
/// graph (issue 5573). A graph with a parameter is safe by that; in one without, no tensor refers to the nodes between two
/// operations, and a pass that ends on another thread just then frees them, so that gradients lack a term. There are two
/// ways into a graph without parameters, and this closes both:
/// - A backward pass takes the nodes that it reached out of their graph, parameters included: hence new nodes.
/// - Graphs become one where an operation has parents in two. When the outcome is merged again, the nodes whose graph was
///   merged first are not told: a second use of such a parameter, as for the local views, begins a graph without it.
///   Hence one graph from the start, which nothing is merged with.
pub fn on_new_nodes<B: TrainBackend, M: Module<B>>(module: M) -> M {
    struct Renew<B: TrainBackend> {
        leaves: Vec<FloatTensor<B>>,
    }
    impl<B: TrainBackend> ModuleMapper<B> for Renew<B> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, old, mapper) = param.consume();
            // a leaf on a new node, with the same values
            let new = Param::from_mapped_value(id, old.detach(), mapper);
            self.leaves.push(new.val().into_primitive().tensor());
            new
        }
    }
    let mut renew = Renew { leaves: Vec::new() };
    let module = module.map(&mut renew);
    B::join_graphs(&renew.leaves);
    module
}

/// The gradients of one backward pass.
pub struct Gradients<B: AutodiffBackend> {
    pub(super) by_node: B::Gradients,
    /// What the loss was multiplied by, `[1]`.
    pub(super) loss_scale: Option<Tensor<B::InnerBackend, 1>>,
}

impl<B: TrainBackend> Gradients<B> {
    /// Runs the backward pass from a loss of shape `[1]`.
    pub fn backward(loss: &Tensor<B, 1>) -> Self {
        Self {
            by_node: loss.backward(),
            loss_scale: None,
        }
    }

    /// Those of the loss times the loss scale, where there is one.
    pub fn backward_scaled(
        loss: Tensor<B, 1>,
        loss_scale: Option<&LossScale<B::InnerBackend>>,
    ) -> Self {
        let Some(state) = loss_scale else {
            return Self::backward(&loss);
        };
        let scaled = loss * Tensor::from_inner(state.scale.clone());
        Self {
            loss_scale: Some(state.scale.clone()),
            ..Self::backward(&scaled)
        }
    }

    /// The gradient of one parameter, if it has one.
    pub fn get<const D: usize>(&self, tensor: &Tensor<B, D>) -> Option<Tensor<B::InnerBackend, D>> {
        tensor.grad(&self.by_node)
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
        let layer = on_new_nodes(layer);
        assert!(has_gradient(&layer));
    }

    /// Whether the first two weights have the gradients of all their uses: together in one operation, and each once more
    /// after the outcome met the third.
    fn has_all_terms(layers: &[Linear<B>]) -> bool {
        let [a, b, c] = [0, 1, 2].map(|at| layers[at].weight.val());
        let product = a.clone() * b.clone() * c.clone();
        let again = slow_identity(a.clone() * 2.0) + slow_identity(b.clone() * 2.0);
        let gradients = Gradients::backward(&(product + again).sum());
        let has = |of: &Tensor<B, 2>, other: Tensor<B, 2>| {
            let expected = other.inner() * c.clone().inner() + 2.0;
            gradients.get(of).unwrap().into_data() == expected.into_data()
        };
        has(&a, b.clone()) && has(&b, a.clone())
    }

    /// Which of two graphs becomes the other one is left to chance.
    #[test]
    fn nodes_of_one_graph_keep_the_gradients_of_a_second_use() {
        let layers = || {
            let layer = || LinearConfig::new(2, 3).init::<B>(&Default::default());
            [layer(), layer(), layer()].to_vec()
        };
        assert!((0..40).all(|_| has_all_terms(&on_new_nodes(layers()))));
        assert!(
            !(0..40).all(|_| has_all_terms(&layers())),
            "burn-autodiff loses nothing any more: join_graphs can go"
        );
    }

    #[test]
    fn gradients_of_parts_add_up() {
        let mut layer = LinearConfig::new(2, 3).init::<B>(&Default::default());
        let mut of_part = |factor: f32| {
            layer = on_new_nodes(layer.clone());
            let mut found = Gradients::backward(&(layer.weight.val() * factor).sum());
            (found.take_in_order(&layer), found)
        };
        let [(first, _), (second, mut last)] = [of_part(2.0), of_part(3.0)];
        last.put_in_order(&layer, first.plus(second));
        let sum = last.get(&layer.weight.val()).unwrap().into_data();
        assert_eq!(sum.iter::<f32>().collect::<Vec<_>>(), [5.0; 6]);
        assert!(last.get(&layer.bias.as_ref().unwrap().val()).is_none());
    }
}
