//! Launch of `shaders/step_scale.wgsl`.

use burn::tensor::Tensor;

use super::super::{StepScale, StepScaleInput, step_scale as tensor_step_scale};
use super::Gpu;
use super::launch::{GpuTensor, Kernel, contiguous, empty, launch, shader, tensor};

/// Scalars that every device binds beside three other tensors; a step has at most six.
pub(super) const MOST_SCALARS: usize = 7;

pub(super) fn kernel(scalars: usize) -> Kernel {
    let count = scalars.to_string();
    let values = vec![("scalar", count.clone()), ("scalars", count)];
    Kernel::new(shader!("step_scale"), 1, values)
}

/// See [`super::super::IbotBackend::step_scale`].
pub(super) fn step_scale(input: StepScaleInput<Gpu>) -> StepScale<Gpu> {
    if !(1..=MOST_SCALARS).contains(&input.scalars.len()) {
        return tensor_step_scale::reference(input);
    }
    let scalars: Vec<GpuTensor> = input.scalars.into_iter().map(contiguous).collect();
    let first = &scalars[0];
    let before = input.before;
    let before = contiguous(before.unwrap_or_else(|| Tensor::ones([1], &first.device)));
    let (row, scale) = (empty(first, [scalars.len()]), empty(first, [1]));
    let mut tensors: Vec<&GpuTensor> = scalars.iter().collect();
    tensors.extend([&before, &row, &scale]);
    let largest = input.largest_norm.map_or(f32::MAX, |norm| norm as f32);
    launch(
        &first.client,
        kernel(scalars.len()),
        1,
        &tensors,
        &[largest.to_bits()],
    );
    StepScale {
        scalars: tensor(row),
        scale: tensor(scale),
    }
}
