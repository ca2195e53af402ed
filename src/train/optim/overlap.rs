//! The exchange of gradients between ranks while the backward pass computes others, as in PyTorch's DistributedDataParallel.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::mem::replace;
use std::rc::Rc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata as _};
use burn_autodiff::NodeId;
use burn_autodiff::grads::Gradients as ByNode;

use crate::collective::Wire;
use crate::error::{Error, Result};
use crate::kernels::{GradientWatch, IbotBackend, LossScale, TrainBackend, flat};
use crate::train::optim::gradients::Gradients;
use crate::train::optim::reducer::{
    GradientExchange, NEGATIVE_ZERO, Reducer, all_reduce_or, in_buckets,
};

/// Prepares a step whose gradients are exchanged while the backward pass still runs. Call [`Overlap::begin`] before the forward pass,
/// then [`Overlap::backward`] in place of `loss.backward()`, on one thread.
pub struct Overlap<B: TrainBackend> {
    parameters: Vec<FloatTensor<B>>,
    watch: GradientWatch,
}

/// Sums over the ranks of gradients that were complete before the backward pass was over, in the order of a module's
/// parameters; by default there are none.
pub struct ReducedGrads<B: IbotBackend>(pub(super) Vec<Option<ReducedGrad<B>>>);

/// Of one parameter.
pub(super) struct ReducedGrad<B: IbotBackend> {
    /// Whether this rank had a gradient to add.
    pub contributed: bool,
    /// `[N]`
    pub sum: Tensor<B, 1>,
}

impl<B: IbotBackend> Default for ReducedGrads<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: TrainBackend> Overlap<B> {
    /// To be called before the forward pass of `module`, with its parameters on new nodes.
    pub fn begin<M: Module<B>>(module: &M) -> Self {
        struct Collect<B: TrainBackend>(Vec<FloatTensor<B>>);
        impl<B: TrainBackend> ModuleVisitor<B> for Collect<B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                self.0.push(param.val().into_primitive().tensor());
            }
        }
        let mut collect = Collect::<B>(Vec::new());
        module.visit(&mut collect);
        Self {
            parameters: collect.0,
            watch: GradientWatch::start(),
        }
    }

    /// [`Gradients::backward_scaled`], in which gradients go to the other ranks as soon as they are complete: those that layers of this
    /// crate use, the last parameters first. These are taken out of the gradients that it returns.
    ///
    /// # Errors
    /// As [`Collective`](crate::collective::Collective), and a rank with another model; [`Error::Device`] if the device failed.
    pub fn backward(
        self,
        loss: Tensor<B, 1>,
        loss_scale: Option<&LossScale<B::InnerBackend>>,
        exchange: &GradientExchange,
    ) -> Result<(Gradients<B>, ReducedGrads<B::InnerBackend>)> {
        let nodes = self.parameters.iter().map(B::node_of);
        let nodes: Vec<Option<NodeId>> = nodes.collect();
        let is_used = |node: &Option<NodeId>| node.is_some_and(|node| self.watch.uses(node) > 0);
        let own = nodes.iter().map(|node| u8::from(is_used(node)));
        let is_early = all_reduce_or(own.collect(), &*exchange.collective)?;
        // a backward pass has the last ones first; in one order on all ranks
        let early = (0..is_early.len()).rev().filter(|at| is_early[*at] != 0);
        let waiting = in_buckets(early.map(|at| (at, self.parameters[at].shape().num_elements())));
        let sending = Sending::<B> {
            places: nodes
                .into_iter()
                .enumerate()
                .filter_map(|(at, node)| Some((node?, at)))
                .collect(),
            waiting,
            states: is_early.iter().map(|_| GradState::NotYet).collect(),
            contributed: vec![false; is_early.len()],
            order: Vec::new(),
            wire: exchange.wire,
            reducer: Reducer::start(exchange, &loss.device())?,
            parameters: self.parameters,
            failed: None,
        };
        let sending = Rc::new(RefCell::new(sending));
        let sender = sending.clone();
        self.watch.on_complete(move |node, gradients| {
            sender.borrow_mut().complete(node, gradients);
        });
        let mut gradients = Gradients::backward_scaled(loss, loss_scale);
        drop(self.watch); // and the other owner of `sending`
        let sending = Rc::into_inner(sending).map(RefCell::into_inner);
        let lost = || Error::Training("gradients are still sent after the backward pass".into());
        let early = sending.ok_or_else(lost)?.finish(&mut gradients.by_node)?;
        Ok((gradients, early))
    }
}

/// The gradient of a parameter in a backward pass that goes on.
enum GradState<B: IbotBackend> {
    NotYet,
    /// None where the loss does not depend on the parameter.
    Complete(Option<Tensor<B, 1>>),
}

/// What the backward pass has sent, and has to send.
struct Sending<B: TrainBackend> {
    parameters: Vec<FloatTensor<B>>,
    places: HashMap<NodeId, usize>,
    states: Vec<GradState<B::InnerBackend>>,
    /// Whether this rank has sent a gradient, of each parameter.
    contributed: Vec<bool>,
    waiting: VecDeque<Vec<usize>>,
    /// Parameters that were sent.
    order: Vec<usize>,
    reducer: Reducer<B::InnerBackend>,
    wire: Wire,
    failed: Option<Error>,
}

impl<B: TrainBackend> Sending<B> {
    /// Sends the buckets whose gradients are all complete, in their order.
    fn complete(&mut self, node: NodeId, gradients: &mut ByNode) {
        let Some(&at) = self.places.get(&node) else {
            return;
        };
        self.take_out(at, gradients);
        while let Some(bucket) = self.next_complete() {
            self.send(bucket);
        }
    }

    /// The next bucket, if it can go.
    fn next_complete(&mut self) -> Option<Vec<usize>> {
        let is_complete = |at: &usize| matches!(self.states[*at], GradState::Complete(_));
        let next = self.waiting.front()?;
        if next.iter().all(is_complete) {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    fn take_out(&mut self, at: usize, gradients: &mut ByNode) {
        let gradient = B::grad_remove(&self.parameters[at], gradients);
        self.states[at] = GradState::Complete(gradient.map(flat::<B::InnerBackend>));
    }

    fn send(&mut self, bucket: Vec<usize>) {
        let tensors = bucket.iter().map(|&at| {
            let found = replace(&mut self.states[at], GradState::NotYet);
            if let GradState::Complete(Some(gradient)) = found {
                self.contributed[at] = true;
                return gradient;
            }
            let parameter = &self.parameters[at];
            let entries = parameter.shape().num_elements();
            Tensor::full([entries], NEGATIVE_ZERO, &B::float_device(parameter))
        });
        let tensors = tensors.collect();
        if self.failed.is_none() {
            self.failed = self.reducer.send(tensors, self.wire).err();
        }
        self.order.extend(bucket);
    }

    /// Sends what the backward pass has not completed, and waits for all sums.
    fn finish(mut self, gradients: &mut ByNode) -> Result<ReducedGrads<B::InnerBackend>> {
        while let Some(bucket) = self.waiting.pop_front() {
            for &at in &bucket {
                if matches!(self.states[at], GradState::NotYet) {
                    self.take_out(at, gradients);
                }
            }
            self.send(bucket);
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let sums = self.reducer.finish()?;
        let mut of_params: Vec<_> = self.contributed.iter().map(|_| None).collect();
        for (at, sum) in self.order.into_iter().zip(sums) {
            let contributed = self.contributed[at];
            of_params[at] = Some(ReducedGrad { contributed, sum });
        }
        Ok(ReducedGrads(of_params))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_autodiff::checkpoint::base::Checkpointer;
    use burn_autodiff::checkpoint::strategy::NoCheckpointing;
    use burn_autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn_flex::Flex;

    use super::*;
    use crate::collective::{Collective, LocalRanks};
    use crate::device::DeviceGuard;
    use crate::kernels::wrap;
    use crate::kernels::{LinearLayerInput, Prologue};
    use crate::train::optim::gradients::on_new_nodes;

    type B = Autodiff<Flex>;

    /// A rank that counts its exchanges.
    #[derive(Debug)]
    struct Counted(LocalRanks, AtomicUsize);

    impl Collective for Counted {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
            self.0.all_to_all(sent)
        }

        fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
            let got = self.0.all_gather(bytes);
            self.1.fetch_add(1, Ordering::Relaxed);
            got
        }
    }

    /// An operation whose backward pass waits until a rank has gathered so often.
    #[derive(Debug)]
    struct Gate(usize);

    impl Backward<Flex, 1> for Gate {
        type State = Arc<Counted>;

        fn backward(self, ops: Ops<Arc<Counted>, 1>, grads: &mut ByNode, _: &mut Checkpointer) {
            let begun = Instant::now();
            while ops.state.1.load(Ordering::Relaxed) < self.0 {
                let waited = begun.elapsed().as_secs();
                assert!(waited < 20, "nothing is sent during the backward pass");
                std::thread::yield_now();
            }
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| grad);
        }
    }

    fn gated(x: Tensor<B, 2>, rank: &Arc<Counted>, gathers: usize) -> Tensor<B, 2> {
        let x = x.into_primitive().tensor();
        let prep = Gate(gathers).prepare::<NoCheckpointing>([x.node]);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(rank.clone(), x.primitive),
            OpsKind::UnTracked(prep) => prep.finish(x.primitive),
        })
    }

    /// How two ranks use four layers.
    #[derive(Clone, Copy)]
    struct Case {
        /// With overlap; then the backward pass of the first layer waits for the sums of those after it, where both ranks use all.
        overlaps: bool,
        /// Layers that the last rank uses.
        of_last: usize,
        /// Layers that operations of burn use too.
        again: usize,
    }

    fn loss(layers: &[Linear<B>], rank: &Arc<Counted>, case: Case) -> Tensor<B, 1> {
        let first = [[0.3, -1.2 + rank.rank() as f32, 0.7], [1.1, 0.4, -0.6]];
        let mut x = Tensor::<B, 2>::from_data(first, &Default::default());
        let used = if rank.rank() + 1 == rank.size() {
            case.of_last
        } else {
            layers.len()
        };
        for (at, layer) in layers[..used].iter().enumerate() {
            if at == 1 && case.overlaps && case.of_last == layers.len() {
                // which parameters are early, and a bucket for each layer after this place
                x = gated(x, rank, 1 + layers[1..].len());
            }
            x = B::linear_layer(LinearLayerInput {
                x,
                prologue: Prologue::Nothing,
                weight: layer.weight.val(),
                bias: layer.bias.as_ref().map(Param::val),
                residual: None,
            });
        }
        let again = layers[..case.again].iter().map(|layer| {
            let weight = layer.weight.val();
            (weight.clone() * weight).sum()
        });
        again.fold((x.clone() * x).sum(), |sum, term| sum + term)
    }

    /// Of each parameter its gradient, summed over two ranks, on each.
    fn sums(layers: &[Linear<B>], case: Case) -> [Vec<Option<Vec<f32>>>; 2] {
        let of_rank = |rank: LocalRanks| {
            let layers = on_new_nodes(layers.to_vec());
            std::thread::spawn(move || {
                let rank = Arc::new(Counted(rank, AtomicUsize::new(0)));
                let exchange = GradientExchange {
                    collective: rank.clone(),
                    wire: Wire::F32,
                    guard: DeviceGuard::Cpu,
                };
                let overlap = Overlap::begin(&layers);
                let loss = loss(&layers, &rank, case);
                let (mut gradients, early) = if case.overlaps {
                    overlap.backward(loss, None, &exchange).unwrap()
                } else {
                    (Gradients::backward(&loss), ReducedGrads::default())
                };
                let own = gradients.take_in_order(&layers);
                let scalar = Tensor::<Flex, 1>::ones([1], &Default::default());
                let (sums, scalar) = own.all_reduce(early, scalar, &exchange).unwrap();
                assert_eq!(scalar.into_scalar(), 2.0);
                gradients.put_in_order(&layers, sums);
                let found = layers.iter().flat_map(|layer| {
                    let bias = layer.bias.as_ref().unwrap().val();
                    let weight = gradients.get(&layer.weight.val());
                    let bias = gradients.get(&bias);
                    [weight.map(Tensor::into_data), bias.map(Tensor::into_data)]
                });
                let values = |data: TensorData| data.to_vec::<f32>().unwrap();
                found.map(|data| data.map(values)).collect()
            })
        };
        let threads = LocalRanks::group(2).into_iter().map(of_rank);
        let threads: Vec<_> = threads.collect();
        let ranks = threads.into_iter().map(|rank| rank.join().unwrap());
        ranks.collect::<Vec<_>>().try_into().unwrap()
    }

    /// With overlap, which both ranks have alike, and without.
    fn with_and_without(of_last: usize, again: usize) -> [Vec<Option<Vec<f32>>>; 2] {
        let layer = |_| LinearConfig::new(3, 3).init::<B>(&Default::default());
        // with weights: burn draws them where they are first asked for, in each copy others
        let layers: Vec<Linear<B>> = on_new_nodes((0..4).map(layer).collect());
        [true, false].map(|overlaps| {
            let case = Case {
                overlaps,
                of_last,
                again,
            };
            let [first, last] = sums(&layers, case);
            assert_eq!(first, last);
            first
        })
    }

    #[test]
    fn gradients_are_summed_before_the_backward_pass_is_over() {
        let [with, without] = with_and_without(4, 0);
        assert_eq!(with, without);
    }

    #[test]
    fn a_rank_without_a_gradient_adds_nothing() {
        for of_last in [3, 0] {
            let [with, without] = with_and_without(of_last, 0);
            assert_eq!(with, without);
            assert!(with.iter().all(Option::is_some), "the first rank has them");
        }
    }

    #[test]
    fn what_other_operations_add_later_is_not_lost() {
        let [with, without] = with_and_without(4, 2);
        for (with, without) in with.iter().flatten().zip(without.iter().flatten()) {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
            assert!(with.iter().zip(without).all(near), "{with:?} {without:?}");
        }
    }
}
