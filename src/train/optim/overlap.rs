//! The exchange of gradients between ranks while the backward pass computes others, as in PyTorch's DistributedDataParallel.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::mem::replace;
use std::rc::Rc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::ops::{FloatTensor, FloatTensorOps as _};
use burn::tensor::{Shape, Tensor, TensorMetadata as _};
use burn_autodiff::NodeId;
use burn_autodiff::grads::Gradients as ByNode;

use crate::collective::Wire;
use crate::error::{Error, Result};
use crate::kernels::{GradientWatch, IbotBackend, LossScale, TrainBackend, wrap};
use crate::train::optim::buckets::{BUCKET, Buckets, Link, NOTHING, known_to_any};
use crate::train::optim::gradients::Gradients;

/// A forward pass on this thread whose backward pass is to overlap with the exchange: begun before it.
pub struct Overlap<B: TrainBackend> {
    parameters: Vec<FloatTensor<B>>,
    watch: GradientWatch,
}

/// Sums over the ranks of gradients that were complete before the backward pass was over, in the order of a module's
/// parameters; by default there are none.
pub struct Early<B: IbotBackend> {
    pub(super) of_params: Vec<Option<OfEarly<B>>>,
    /// Buckets that were sent before the backward pass was over, and all of these gradients.
    pub buckets: [usize; 2],
}

/// A sum over the ranks.
pub(super) struct OfEarly<B: IbotBackend> {
    /// Whether this rank had a gradient.
    pub had: bool,
    /// `[N]`
    pub sum: Tensor<B, 1>,
}

impl<B: IbotBackend> Default for Early<B> {
    fn default() -> Self {
        Self {
            of_params: Vec::new(),
            buckets: [0; 2],
        }
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
        link: &Link,
    ) -> Result<(Gradients<B>, Early<B::InnerBackend>)> {
        let nodes = self.parameters.iter().map(B::node_of);
        let nodes: Vec<Option<NodeId>> = nodes.collect();
        let is_used = |node: &Option<NodeId>| node.is_some_and(|node| self.watch.uses(node) > 0);
        let own = nodes.iter().map(|node| u8::from(is_used(node)));
        let is_early = known_to_any(own.collect(), &*link.collective)?;
        let sizes = self.parameters.iter().map(|of| of.shape().num_elements());
        let sizes: Vec<usize> = sizes.collect();
        let sending = Sending::<B> {
            places: nodes
                .into_iter()
                .enumerate()
                .filter_map(|(at, node)| Some((node?, at)))
                .collect(),
            waiting: buckets_of(&sizes, &is_early),
            found: is_early.iter().map(|_| Found::NotYet).collect(),
            had: vec![false; is_early.len()],
            order: Vec::new(),
            wire: link.wire,
            buckets: Buckets::start(link, &loss.device())?,
            parameters: self.parameters,
            failed: None,
        };
        let sending = Rc::new(RefCell::new(sending));
        let sender = sending.clone();
        self.watch.hand_out(move |node, gradients| {
            sender.borrow_mut().complete(node, gradients);
        });
        let mut gradients = Gradients::backward_scaled(loss, loss_scale);
        drop(self.watch); // and the other owner of `sending`
        let sending = Rc::into_inner(sending).map(RefCell::into_inner);
        let lost = || Error::Training("gradients are still sent after the backward pass".into());
        let early = sending.ok_or_else(lost)?.finish(&mut gradients.0)?;
        Ok((gradients, early))
    }
}

/// Parameters whose gradients travel together, in the order in which they go: a backward pass has the last ones first. The same on
/// all ranks. `sizes` are the numbers of their entries.
fn buckets_of(sizes: &[usize], is_early: &[u8]) -> VecDeque<Vec<usize>> {
    let (mut buckets, mut bucket, mut entries) = (VecDeque::new(), Vec::new(), 0);
    for at in (0..sizes.len()).rev().filter(|at| is_early[*at] != 0) {
        bucket.push(at);
        entries += sizes[at];
        if entries >= BUCKET {
            buckets.push_back(std::mem::take(&mut bucket));
            entries = 0;
        }
    }
    buckets.extend((!bucket.is_empty()).then_some(bucket));
    buckets
}

/// The gradient of a parameter in a backward pass that goes on.
enum Found<B: IbotBackend> {
    NotYet,
    /// None where the loss does not depend on the parameter.
    Complete(Option<Tensor<B, 1>>),
}

/// What the backward pass has sent, and has to send.
struct Sending<B: TrainBackend> {
    parameters: Vec<FloatTensor<B>>,
    places: HashMap<NodeId, usize>,
    found: Vec<Found<B::InnerBackend>>,
    /// Whether this rank has sent a gradient, of each parameter.
    had: Vec<bool>,
    waiting: VecDeque<Vec<usize>>,
    /// Parameters that were sent.
    order: Vec<usize>,
    buckets: Buckets<B::InnerBackend>,
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
        while self.is_next_complete() {
            let bucket = self.waiting.pop_front();
            self.send(bucket.unwrap_or_default());
        }
    }

    /// Whether the next bucket can go.
    fn is_next_complete(&self) -> bool {
        let is_complete = |at: &usize| matches!(self.found[*at], Found::Complete(_));
        let next = self.waiting.front();
        next.is_some_and(|bucket| bucket.iter().all(is_complete))
    }

    fn take_out(&mut self, at: usize, gradients: &mut ByNode) {
        let gradient = B::grad_remove(&self.parameters[at], gradients);
        let flat = |gradient: FloatTensor<B::InnerBackend>| {
            let entries = Shape::new([gradient.shape().num_elements()]);
            wrap(B::InnerBackend::float_reshape(gradient, entries))
        };
        self.found[at] = Found::Complete(gradient.map(flat));
    }

    fn send(&mut self, bucket: Vec<usize>) {
        let tensors = bucket.iter().map(|&at| {
            let found = replace(&mut self.found[at], Found::NotYet);
            if let Found::Complete(Some(gradient)) = found {
                self.had[at] = true;
                return gradient;
            }
            let parameter = &self.parameters[at];
            let entries = parameter.shape().num_elements();
            Tensor::full([entries], NOTHING, &B::float_device(parameter))
        });
        let tensors = tensors.collect();
        if self.failed.is_none() {
            self.failed = self.buckets.send(tensors, self.wire).err();
        }
        self.order.extend(bucket);
    }

    /// Sends what the backward pass has not completed, and waits for all sums.
    fn finish(mut self, gradients: &mut ByNode) -> Result<Early<B::InnerBackend>> {
        let late = self.waiting.len();
        while let Some(bucket) = self.waiting.pop_front() {
            for &at in &bucket {
                if matches!(self.found[at], Found::NotYet) {
                    self.take_out(at, gradients);
                }
            }
            self.send(bucket);
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let all = self.buckets.sent();
        let sums = self.buckets.finish()?;
        let mut of_params: Vec<_> = self.had.iter().map(|_| None).collect();
        for (at, sum) in self.order.into_iter().zip(sums) {
            let had = self.had[at];
            of_params[at] = Some(OfEarly { had, sum });
        }
        Ok(Early {
            of_params,
            buckets: [all - late, all],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;

    use super::*;
    use crate::collective::Threads;
    use crate::device::DeviceGuard;
    use crate::kernels::{LinearLayerInput, Prologue};
    use crate::train::optim::gradients::on_new_nodes;

    type B = Autodiff<Flex>;

    /// Uses layers one after the other; on the last rank only so many of them. `again` are used by operations of burn too.
    fn loss(layers: &[Linear<B>], link: &Link, of_last: usize, again: usize) -> Tensor<B, 1> {
        let rank = link.collective.rank();
        let used = match rank + 1 == link.collective.size() {
            true => of_last,
            false => layers.len(),
        };
        let first = [[0.3, -1.2 + rank as f32, 0.7], [1.1, 0.4, -0.6]];
        let mut x = Tensor::<B, 2>::from_data(first, &Default::default());
        for layer in &layers[..used] {
            x = B::linear_layer(LinearLayerInput {
                x,
                prologue: Prologue::Nothing,
                weight: layer.weight.val(),
                bias: layer.bias.as_ref().map(Param::val),
                residual: None,
            });
        }
        let again = layers[..again].iter().map(|layer| {
            let weight = layer.weight.val();
            (weight.clone() * weight).sum()
        });
        again.fold((x.clone() * x).sum(), |sum, term| sum + term)
    }

    /// Of each parameter its gradient, and the buckets that were sent early of how many.
    type OnRank = (Vec<Option<Vec<f32>>>, [usize; 2]);

    /// Sums of gradients over two ranks, on each; see [`loss`].
    fn sums(layers: &[Linear<B>], overlaps: bool, of_last: usize, again: usize) -> Vec<OnRank> {
        let of_rank = |rank: Threads| {
            let layers = on_new_nodes(layers.to_vec());
            let link = Link {
                collective: Arc::new(rank),
                wire: Wire::F32,
                guard: DeviceGuard::Cpu,
            };
            std::thread::spawn(move || {
                let overlap = Overlap::begin(&layers);
                let loss = loss(&layers, &link, of_last, again);
                let (mut gradients, early) = match overlaps {
                    true => overlap.backward(loss, None, &link).unwrap(),
                    false => (Gradients::backward(&loss), Early::default()),
                };
                let buckets = early.buckets;
                let own = gradients.take_in_order(&layers);
                let scalar = Tensor::<Flex, 1>::ones([1], &Default::default());
                let (sums, scalar) = own.over_ranks(early, scalar, &link).unwrap();
                assert_eq!(scalar.into_scalar(), 2.0);
                gradients.put_in_order(&layers, sums);
                let found = layers.iter().flat_map(|layer| {
                    let bias = layer.bias.as_ref().unwrap().val();
                    let weight = gradients.get(&layer.weight.val());
                    let bias = gradients.get(&bias);
                    [weight.map(Tensor::into_data), bias.map(Tensor::into_data)]
                });
                let values = |data: TensorData| data.to_vec::<f32>().unwrap();
                (found.map(|data| data.map(values)).collect(), buckets)
            })
        };
        let threads = Threads::group(2).into_iter().map(of_rank);
        let threads: Vec<_> = threads.collect();
        let ranks = threads.into_iter().map(|rank| rank.join().unwrap());
        ranks.collect()
    }

    fn layers() -> Vec<Linear<B>> {
        let layer = |_| LinearConfig::new(3, 3).init::<B>(&Default::default());
        // with weights: burn draws them where they are first asked for, in each copy others
        on_new_nodes((0..4).map(layer).collect())
    }

    #[test]
    fn gradients_are_sent_before_the_backward_pass_is_over() {
        let layers = layers();
        let [early, late] = [true, false].map(|overlaps| sums(&layers, overlaps, 4, 0));
        assert_eq!(early[0].0, late[0].0);
        assert_eq!(early[1].0, late[0].0);
        // a layer a bucket
        assert_eq!(
            [early[0].1, early[1].1, late[0].1],
            [[4, 4], [4, 4], [0, 0]]
        );
    }

    #[test]
    fn a_rank_without_a_gradient_adds_nothing() {
        let layers = layers();
        let [early, late] = [true, false].map(|overlaps| sums(&layers, overlaps, 3, 0));
        assert_eq!(early[0].0, late[0].0);
        assert_eq!(early[1].0, late[0].0);
        // the last layer goes first, and the rank that does not use it knows so only at the end
        assert_eq!([early[0].1, early[1].1], [[4, 4], [0, 4]]);
        let nobody = sums(&layers, true, 0, 0);
        assert!(nobody[1].0.iter().all(Option::is_some), "rank 0 has them");
    }

    #[test]
    fn what_other_operations_add_later_is_not_lost() {
        let layers = layers();
        let [early, late] = [true, false].map(|overlaps| sums(&layers, overlaps, 4, 2));
        assert_eq!(early[0].0, early[1].0);
        for (early, late) in early[0].0.iter().flatten().zip(late[0].0.iter().flatten()) {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
            assert!(early.iter().zip(late).all(near), "{early:?} {late:?}");
        }
    }
}
