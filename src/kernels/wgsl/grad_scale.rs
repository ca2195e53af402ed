//! Launch of `shaders/grad_scale.wgsl`.

use burn::tensor::Tensor;

use super::info::info;
use super::launch::{GpuTensor, Kernel, bindings, contiguous, empty, launch, shader, tensor};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::grad_scale::{GradScale, GradScaleInput};

/// Scalars of a launch, if the device binds as many: a step has at most eight.
pub(super) const MAX_SCALARS: usize = 8;
/// Tensors of a launch beside the scalars.
const OTHERS: u32 = 3;

pub(super) fn kernel(scalars: usize) -> Kernel {
    let count = scalars.to_string();
    let values = vec![("scalar", count.clone()), ("scalars", count)];
    Kernel::new(shader!("grad_scale"), 1, values)
}

/// See [`crate::kernels::IbotBackend::grad_scale`].
pub(super) fn grad_scale(input: GradScaleInput<Gpu>) -> GradScale<Gpu> {
    let scalars: Vec<GpuTensor> = input.scalars.into_iter().map(contiguous).collect();
    let client = scalars[0].client.clone();
    let row = empty(&scalars[0], [scalars.len()]);
    let before = input.before;
    let before = before.unwrap_or_else(|| Tensor::ones([1], &scalars[0].device));
    let mut scale = contiguous(before);
    let largest = input.max_norm.map_or(f32::MAX, |norm| norm as f32);
    let mut first = 0;
    for scalars_of_launch in scalars.chunks(scalars_within(bindings(&client))) {
        let before = std::mem::replace(&mut scale, empty(&row, [1]));
        let mut tensors: Vec<&GpuTensor> = scalars_of_launch.iter().collect();
        tensors.extend([&before, &row, &scale]);
        let info = info! { max_norm: largest, first: first, all: scalars.len() };
        launch(&client, kernel(scalars_of_launch.len()), 1, &tensors, &info);
        first += scalars_of_launch.len();
    }
    GradScale {
        scalars: tensor(row),
        grad_scale: tensor(scale),
    }
}

fn scalars_within(bindings: u32) -> usize {
    (bindings.saturating_sub(OTHERS) as usize).clamp(1, MAX_SCALARS)
}

#[cfg(test)]
mod tests {
    use super::super::launch::MAX_TENSORS;
    use super::*;

    #[test]
    fn launches_fit_the_device() {
        assert_eq!(scalars_within(MAX_TENSORS), 4);
        assert_eq!(scalars_within(30), MAX_SCALARS);
    }
}
