//! Tensors between the ranks of a run, through the host.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::collective::{Collective, Wire};
use crate::device::synchronize;
use crate::error::Result;

/// `reduce` over the ranks' tensors, entry by entry; with one rank the tensor itself.
///
/// # Errors
/// As [`Collective`].
pub(super) fn all_reduce<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
    ranks: &dyn Collective,
    reduce: fn(&dyn Collective, &mut [f32]) -> Result<()>,
) -> Result<Tensor<B, D>> {
    if ranks.size() == 1 {
        return Ok(tensor);
    }
    let (shape, device) = (tensor.dims(), tensor.device());
    let mut entries = on_host(tensor);
    reduce(ranks, &mut entries)?;
    Ok(Tensor::from_data(TensorData::new(entries, shape), &device))
}

/// For [`Pairwise`](crate::collective::Pairwise): a part without rows has a place in the order of the sum, and adds nothing.
pub(super) fn plus<B: Backend, const D: usize>(
    before: Option<Tensor<B, D>>,
    later: Option<Tensor<B, D>>,
) -> Option<Tensor<B, D>> {
    match (before, later) {
        (Some(before), Some(later)) => Some(before + later),
        (one, other) => one.or(other),
    }
}

/// The rows of all ranks, in the order of the ranks.
///
/// # Shapes
/// `[M_r, D]` on rank r -> `[M, D]`.
///
/// # Errors
/// As [`Collective`].
pub(super) fn all_gather<B: Backend>(
    rows: Tensor<B, 2>,
    ranks: &dyn Collective,
) -> Result<Tensor<B, 2>> {
    if ranks.size() == 1 {
        return Ok(rows);
    }
    let ([_, width], device) = (rows.dims(), rows.device());
    let own = Wire::F32.bytes(&on_host(rows));
    let all = ranks.all_gather(own)?;
    let entries: Vec<f32> = all.iter().flat_map(|own| Wire::F32.values(own)).collect();
    let shape = [entries.len() / width.max(1), width];
    Ok(Tensor::from_data(TensorData::new(entries, shape), &device))
}

fn on_host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    synchronize(&tensor.device()); // burn waits for a read without a deadline; this one has it
    tensor.into_data().iter::<f32>().collect()
}
