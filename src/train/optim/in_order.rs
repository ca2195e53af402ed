//! Gradients in the order of a module's parameters, and their sums over parts of a batch and over ranks.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorData};

use crate::collective::{Collective, Wire, sum_by};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, TrainBackend, wrap};
use crate::train::optim::gradients::Gradients;

/// Entries that ranks exchange at a time: 16 MiB, which is large beside the latency of a network and small beside a memory.
/// A larger gradient goes by itself.
const BUCKET: usize = 4 << 20;
/// What a rank without a gradient adds: unlike 0 it leaves -0 as it is, so that sums have the bits of those without it.
const NOTHING: f32 = -0.0;

/// The gradients of a module's parameters, in the order of the module.
pub struct InOrder<B: IbotBackend>(Vec<OfParam<B>>);

struct OfParam<B: IbotBackend> {
    shape: Shape,
    /// None where the loss does not depend on the parameter.
    gradient: Option<FloatTensor<B>>,
}

impl<B: TrainBackend> Gradients<B> {
    /// Takes the gradients of `module`'s parameters out.
    pub fn take_in_order<M: Module<B>>(&mut self, module: &M) -> InOrder<B::InnerBackend> {
        struct TakeOut<'a, B: TrainBackend> {
            from: &'a mut B::Gradients,
            found: Vec<OfParam<B::InnerBackend>>,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for TakeOut<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let tensor = param.val();
                let gradient = tensor.grad_remove(self.from);
                self.found.push(OfParam {
                    shape: tensor.shape(),
                    gradient: gradient.map(|gradient| gradient.into_primitive().tensor()),
                });
            }
        }
        let mut out = TakeOut::<B> {
            from: &mut self.0,
            found: Vec::new(),
        };
        module.visit(&mut out);
        InOrder(out.found)
    }

    /// Puts gradients back that were taken out of those of the same module.
    pub fn put_in_order<M: Module<B>>(&mut self, module: &M, gradients: InOrder<B::InnerBackend>) {
        struct PutBack<'a, B: TrainBackend> {
            to: &'a mut B::Gradients,
            of_params: std::vec::IntoIter<OfParam<B::InnerBackend>>,
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
            to: &mut self.0,
            of_params: gradients.0.into_iter(),
        });
    }
}

impl<B: IbotBackend> InOrder<B> {
    /// The sum of both; a parameter without a gradient in one of them, as of the patch head without masked patches, has that
    /// of the other.
    #[must_use]
    pub fn plus(self, later: Self) -> Self {
        let pairs = self.0.into_iter().zip(later.0);
        let sums = pairs.map(|(before, later)| OfParam {
            shape: before.shape,
            gradient: match (before.gradient, later.gradient) {
                (Some(before), Some(later)) => Some(B::float_add(before, later)),
                (one, other) => one.or(other),
            },
        });
        Self(sums.collect())
    }

    /// The sums over all ranks of these gradients, which travel as `wire` says, and of `scalars`, `[N]`, which go with the last
    /// of them, or by themselves where gradients are rounded.
    ///
    /// # Errors
    /// As [`Collective`], and a rank with another model; [`Error::Device`] if the device failed.
    pub fn over_ranks(
        self,
        scalars: Tensor<B, 1>,
        wire: Wire,
        ranks: &dyn Collective,
        guard: &DeviceGuard,
    ) -> Result<(Self, Tensor<B, 1>)> {
        let device = scalars.device();
        let is_there = self.known_to_any(ranks)?;
        let shapes: Vec<Shape> = self.0.iter().map(|param| param.shape.clone()).collect();
        let flat = |param: OfParam<B>| -> Tensor<B, 1> {
            let entries = param.shape.num_elements();
            match param.gradient {
                Some(gradient) => wrap(B::float_reshape(gradient, Shape::new([entries]))),
                None => Tensor::full([entries], NOTHING, &device),
            }
        };
        let present = self.0.into_iter().zip(&is_there);
        let present = present.filter_map(|(param, is_there)| is_there.then(|| flat(param)));
        let mut summed = Vec::new();
        let (mut bucket, mut entries) = (Vec::new(), 0);
        let exchange = |bucket, wire| exchanged(bucket, wire, ranks, guard);
        for tensor in present {
            entries += tensor.dims()[0];
            bucket.push(tensor);
            if entries >= BUCKET {
                summed.extend(exchange(std::mem::take(&mut bucket), wire)?);
                entries = 0;
            }
        }
        if !wire.is_exact() {
            summed.extend(exchange(std::mem::take(&mut bucket), wire)?);
        }
        bucket.push(scalars);
        summed.extend(exchange(bucket, Wire::F32)?);
        let missing = || Error::Training("gradients were lost between ranks".into());
        let scalars = summed.pop().ok_or_else(missing)?;
        let mut summed = summed.into_iter();
        let params = shapes.into_iter().zip(is_there).map(|(shape, is_there)| {
            let sum = is_there.then(|| summed.next()).flatten();
            let reshape =
                |sum: Tensor<B, 1>| B::float_reshape(sum.into_primitive().tensor(), shape.clone());
            let gradient = sum.map(reshape);
            OfParam { shape, gradient }
        });
        Ok((Self(params.collect()), scalars))
    }

    /// Whether a rank has it, of the gradient of each parameter.
    fn known_to_any(&self, ranks: &dyn Collective) -> Result<Vec<bool>> {
        let own: Vec<u8> = self
            .0
            .iter()
            .map(|param| u8::from(param.gradient.is_some()))
            .collect();
        let mut any = vec![false; own.len()];
        for (rank, of_rank) in ranks.all_gather(own)?.iter().enumerate() {
            if of_rank.len() != any.len() {
                let (found, expected) = (of_rank.len(), any.len());
                let own = ranks.rank();
                return Err(Error::Training(format!(
                    "rank {rank} trains {found} parameters and rank {own} {expected}: all need the same settings"
                )));
            }
            for (any, is_there) in any.iter_mut().zip(of_rank) {
                *any |= *is_there != 0;
            }
        }
        Ok(any)
    }
}

/// The sums over the ranks of flat tensors, in one exchange.
fn exchanged<B: IbotBackend>(
    tensors: Vec<Tensor<B, 1>>,
    wire: Wire,
    ranks: &dyn Collective,
    guard: &DeviceGuard,
) -> Result<Vec<Tensor<B, 1>>> {
    let Some(device) = tensors.first().map(Tensor::device) else {
        return Ok(Vec::new());
    };
    let lengths: Vec<usize> = tensors.iter().map(|tensor| tensor.dims()[0]).collect();
    // one read for all, because each waits for the device
    let data = guard.read::<B, _>(&device, || Tensor::cat(tensors, 0).into_data())?;
    let entries = data.convert::<f32>().into_vec::<f32>();
    let mut entries =
        entries.map_err(|error| Error::Device(format!("gradients cannot be read: {error:?}")))?;
    sum_by(ranks, &mut entries, wire)?;
    let mut rest = &entries[..];
    let tensors = lengths.into_iter().map(|length| {
        let (own, others) = rest.split_at(length);
        rest = others;
        Tensor::from_data(TensorData::new(own.to_vec(), [length]), &device)
    });
    Ok(tensors.collect())
}
