//! Gradients in the order of a module's parameters, and their sums over parts of a batch and over ranks.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor};

use crate::collective::Wire;
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, TrainBackend, flat, shaped, wrap};
use crate::train::optim::gradients::Gradients;
use crate::train::optim::overlap::ReducedGrads;
use crate::train::optim::reducer::{
    GradientExchange, NEGATIVE_ZERO, Reducer, all_reduce_or, in_buckets,
};

/// Flags of what a rank has for a parameter: `LATE`, a gradient that is left after the backward pass; `EARLY`, one that was exchanged
/// during it. Both may be set.
const LATE: u8 = 1;
const EARLY: u8 = 2;

/// The gradients of a module's parameters, in the order of the module.
pub struct OrderedGradients<B: IbotBackend>(Vec<ParamGradient<B>>);

struct ParamGradient<B: IbotBackend> {
    shape: Shape,
    /// None where the loss does not depend on the parameter.
    gradient: Option<FloatTensor<B>>,
}

impl<B: TrainBackend> Gradients<B> {
    /// Takes the gradients of `module`'s parameters out.
    pub(crate) fn take_in_order<M: Module<B>>(
        &mut self,
        module: &M,
    ) -> OrderedGradients<B::InnerBackend> {
        struct TakeOut<'a, B: TrainBackend> {
            from: &'a mut B::Gradients,
            found: Vec<ParamGradient<B::InnerBackend>>,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for TakeOut<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let tensor = param.val();
                let gradient = tensor.grad_remove(self.from);
                self.found.push(ParamGradient {
                    shape: tensor.shape(),
                    gradient: gradient.map(|gradient| gradient.into_primitive().tensor()),
                });
            }
        }
        let mut out = TakeOut::<B> {
            from: &mut self.by_node,
            found: Vec::new(),
        };
        module.visit(&mut out);
        OrderedGradients(out.found)
    }

    /// Puts gradients back that were taken out of those of the same module.
    pub(crate) fn put_in_order<M: Module<B>>(
        &mut self,
        module: &M,
        gradients: OrderedGradients<B::InnerBackend>,
    ) {
        struct PutBack<'a, B: TrainBackend> {
            to: &'a mut B::Gradients,
            of_params: std::vec::IntoIter<ParamGradient<B::InnerBackend>>,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for PutBack<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let of_param = self.of_params.next();
                if let Some(gradient) = of_param.and_then(|of_param| of_param.gradient) {
                    param.val().grad_replace(self.to, wrap(gradient));
                }
            }
        }
        module.visit(&mut PutBack::<B> {
            to: &mut self.by_node,
            of_params: gradients.0.into_iter(),
        });
    }
}

impl<B: IbotBackend> OrderedGradients<B> {
    /// The sum of both; a parameter without a gradient in one of them, as of the patch head without masked patches, has that
    /// of the other.
    #[must_use]
    pub fn plus(self, later: Self) -> Self {
        let pairs = self.0.into_iter().zip(later.0);
        let sums = pairs.map(|(before, later)| ParamGradient {
            shape: before.shape,
            gradient: match (before.gradient, later.gradient) {
                (Some(before), Some(later)) => Some(B::float_add(before, later)),
                (one, other) => one.or(other),
            },
        });
        Self(sums.collect())
    }

    /// The sums over all ranks of these gradients, which travel as `exchange.wire` says, and of `scalars`, `[N]`, which go with the
    /// last of them, or by themselves where gradients are rounded. `early` are those that the backward pass has sent.
    ///
    /// # Errors
    /// As [`Collective`](crate::collective::Collective), and a rank with another model; [`Error::Device`] if the device failed.
    pub fn all_reduce(
        self,
        early: ReducedGrads<B>,
        scalars: Tensor<B, 1>,
        exchange: &GradientExchange,
    ) -> Result<(Self, Tensor<B, 1>)> {
        let device = scalars.device();
        let mut early = early.0;
        early.resize_with(self.0.len(), || None);
        let own = self.0.iter().zip(&early).map(|(param, early)| {
            let was_early = early.as_ref().is_some_and(|early| early.contributed);
            LATE * u8::from(param.gradient.is_some()) + EARLY * u8::from(was_early)
        });
        let is_there = all_reduce_or(own.collect(), &*exchange.collective)?;
        let shapes: Vec<Shape> = self.0.iter().map(|param| param.shape.clone()).collect();
        let row = |param: ParamGradient<B>| match param.gradient {
            Some(gradient) => flat::<B>(gradient),
            None => Tensor::full([param.shape.num_elements()], NEGATIVE_ZERO, &device),
        };
        let present = self.0.into_iter().zip(&is_there);
        let present = present.filter_map(|(param, known)| (known & LATE != 0).then(|| row(param)));
        let present = present.map(|tensor| {
            let entries = tensor.dims()[0];
            (tensor, entries)
        });
        let mut buckets = in_buckets(present);
        let alone = match buckets.back_mut() {
            Some(last) if exchange.wire.is_exact() => {
                last.push(scalars);
                Vec::new()
            }
            _ => vec![scalars],
        };
        let mut sums = Reducer::start(exchange, &device)?;
        for bucket in buckets {
            sums.send(bucket, exchange.wire)?;
        }
        sums.send(alone, Wire::F32)?;
        let mut late = sums.finish()?;
        let missing = || Error::Ranks("gradients were lost between ranks".into());
        let scalars = late.pop().ok_or_else(missing)?;
        let mut late = late.into_iter();
        let of_params = shapes.into_iter().zip(is_there).zip(early);
        let params = of_params.map(|((shape, known), early)| {
            let early = early.filter(|_| known & EARLY != 0).map(|early| early.sum);
            let late = (known & LATE != 0).then(|| late.next()).flatten();
            let sum = match (early, late) {
                (Some(early), Some(late)) => Some(early + late),
                (one, other) => one.or(other),
            };
            let gradient = sum.map(|sum| shaped::<B>(sum, shape.clone()));
            ParamGradient { shape, gradient }
        });
        Ok((Self(params.collect()), scalars))
    }
}
