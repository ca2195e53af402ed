//! Sums of tensors over the ranks, bucket by bucket, on a thread beside the one that computes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use burn::tensor::{Tensor, TensorData};

use crate::collective::{Collective, Wire, all_reduce_sum_as};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::kernels::IbotBackend;

/// Entries that ranks exchange at a time: 16 MiB, which is large beside the latency of a network and small beside a memory.
/// A larger gradient goes by itself.
#[cfg(not(test))]
const BUCKET: usize = 4 << 20;
/// The same code for the small modules of tests.
#[cfg(test)]
const BUCKET: usize = 10;

/// What a rank without a gradient adds: unlike 0 it leaves -0 as it is, so that sums have the bits of those without it.
pub(super) const NEGATIVE_ZERO: f32 = -0.0;

/// The ranks that gradients are summed over, and how they travel.
#[derive(Debug, Clone)]
pub struct GradientExchange {
    /// The ranks.
    pub collective: Arc<dyn Collective>,
    /// Number format in which ranks exchange gradients.
    pub wire: Wire,
    /// Of the device that they are read from.
    pub guard: DeviceGuard,
}

/// Tensors on their way, which come back as sums in the order in which they were sent. PyTorch's DistributedDataParallel has a class
/// of this name.
pub(super) struct Reducer<B: IbotBackend> {
    guard: DeviceGuard,
    device: B::Device,
    to_sum: Sender<(Vec<f32>, Wire)>,
    sums: Receiver<Result<Vec<f32>>>,
    /// Of the tensors of each bucket that is on its way.
    lengths: VecDeque<Vec<usize>>,
    /// Sums that are back.
    summed: Vec<Tensor<B, 1>>,
}

impl<B: IbotBackend> Reducer<B> {
    /// Starts the thread. Until [`Reducer::finish`] nothing else may use the ranks.
    pub fn start(exchange: &GradientExchange, device: &B::Device) -> Result<Self> {
        let (to_sum, unsummed) = channel::<(Vec<f32>, Wire)>();
        let (summed, sums) = channel();
        let collective = exchange.collective.clone();
        let sum_all = move || {
            for (mut entries, wire) in unsummed {
                let sum = all_reduce_sum_as(&*collective, &mut entries, wire).map(|()| entries);
                let is_last = sum.is_err();
                if summed.send(sum).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ibot-exchange".into());
        thread
            .spawn(sum_all)
            .map_err(|error| Error::Ranks(format!("no thread to exchange gradients: {error}")))?;
        Ok(Self {
            guard: exchange.guard.clone(),
            device: device.clone(),
            to_sum,
            sums,
            lengths: VecDeque::new(),
            summed: Vec::new(),
        })
    }

    /// Reads tensors from the device, `[N]` each, and passes them to the thread as one bucket. Sums that are back go to the device, so
    /// that the host does not keep those of all buckets.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed, and as [`Collective`] for earlier buckets.
    pub fn send(&mut self, tensors: Vec<Tensor<B, 1>>, wire: Wire) -> Result<()> {
        if tensors.is_empty() {
            return Ok(());
        }
        let lengths = tensors.iter().map(|tensor| tensor.dims()[0]);
        self.lengths.push_back(lengths.collect());
        // one read for all, because each waits for the device
        let read = || Tensor::cat(tensors, 0).into_data();
        let data = self.guard.read::<B, _>(&self.device, read)?;
        let entries = data.convert::<f32>().into_vec::<f32>();
        let entries = entries
            .map_err(|error| Error::Device(format!("gradients cannot be read: {error:?}")))?;
        // a thread that has ended has left its error for `finish`
        let _ = self.to_sum.send((entries, wire));
        while let Ok(sums) = self.sums.try_recv() {
            self.take(&sums?);
        }
        Ok(())
    }

    /// The sums of all tensors that were sent.
    ///
    /// # Errors
    /// As [`Collective`].
    pub fn finish(mut self) -> Result<Vec<Tensor<B, 1>>> {
        let ended = |_| Error::Ranks("the thread that exchanges gradients has ended".into());
        while !self.lengths.is_empty() {
            let sums = self.sums.recv().map_err(ended)??;
            self.take(&sums);
        }
        Ok(self.summed)
    }

    /// The sums of the oldest bucket on its way, as the tensors that they are of.
    fn take(&mut self, mut sums: &[f32]) {
        for length in self.lengths.pop_front().unwrap_or_default() {
            let (own, others) = sums.split_at(length);
            sums = others;
            let data = TensorData::new(own.to_vec(), [length]);
            self.summed.push(Tensor::from_data(data, &self.device));
        }
    }
}

/// Pieces of so many entries each, in order, as buckets of at least [`BUCKET`] entries but for the last one.
pub(super) fn in_buckets<T>(pieces: impl Iterator<Item = (T, usize)>) -> VecDeque<Vec<T>> {
    let (mut buckets, mut bucket, mut entries) = (VecDeque::new(), Vec::new(), 0);
    for (piece, size) in pieces {
        bucket.push(piece);
        entries += size;
        if entries >= BUCKET {
            buckets.push_back(std::mem::take(&mut bucket));
            entries = 0;
        }
    }
    buckets.extend((!bucket.is_empty()).then_some(bucket));
    buckets
}

/// The bitwise OR over the ranks of one byte of flags a parameter.
pub(super) fn all_reduce_or(own: Vec<u8>, ranks: &dyn Collective) -> Result<Vec<u8>> {
    let mut any = vec![0; own.len()];
    for (rank, of_rank) in ranks.all_gather(own)?.iter().enumerate() {
        if of_rank.len() != any.len() {
            let (found, expected) = (of_rank.len(), any.len());
            let own = ranks.rank();
            return Err(Error::Ranks(format!(
                "rank {rank} trains {found} parameters and rank {own} {expected}: all need the same settings"
            )));
        }
        for (any, known) in any.iter_mut().zip(of_rank) {
            *any |= known;
        }
    }
    Ok(any)
}
