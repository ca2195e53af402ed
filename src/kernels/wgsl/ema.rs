//! Launches of `shaders/ema.wgsl`: many tensors a dispatch.

use burn::tensor::{DType, Tensor};
use burn_wgpu::into_contiguous;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{GpuTensor, Kernel, contiguous, shader, unshared, uploaded};
use super::pack::{Item, Packed, tensors_per_dispatch, values};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::ema as tensor_ema;

/// Teacher and student.
const BUFFERS: usize = 2;

pub(super) fn kernel(walk: Walk, chunk: Chunk, tensors: usize) -> Kernel {
    let values = values(walk, chunk, tensors);
    Kernel::new(shader!("chunk", "ema"), walk.lanes, values)
}

/// See [`crate::kernels::IbotBackend::ema`].
pub(super) fn ema(
    teacher: Vec<GpuTensor>,
    student: Vec<GpuTensor>,
    decay: f64,
    grad_scale: Option<Tensor<Gpu, 1>>,
) -> Vec<GpuTensor> {
    let first = teacher.first();
    let most = first.map_or(1, |t| tensors_per_dispatch(&t.client, BUFFERS));
    packed_ema(teacher, student, decay, grad_scale, most)
}

/// [`crate::kernels::IbotBackend::ema`] with up to this many pairs a dispatch, or as many as fit.
pub fn packed_ema(
    teacher: Vec<GpuTensor>,
    student: Vec<GpuTensor>,
    decay: f64,
    grad_scale: Option<Tensor<Gpu, 1>>,
    max_pairs: usize,
) -> Vec<GpuTensor> {
    assert_eq!(teacher.len(), student.len(), "one student a teacher");
    let is_other = |t: &GpuTensor| t.dtype != DType::F32;
    if teacher.iter().chain(&student).any(is_other) {
        return tensor_ema::reference::<Gpu>(teacher, student, decay, grad_scale);
    }
    let Some(first) = teacher.first() else {
        return teacher;
    };
    let grad_scale = contiguous(grad_scale.unwrap_or_else(|| Tensor::ones([1], &first.device)));
    let teacher = teacher.into_iter();
    let teacher: Vec<GpuTensor> = teacher.map(|t| unshared(into_contiguous(t))).collect();
    let student: Vec<GpuTensor> = student.into_iter().map(into_contiguous).collect();
    let pairs = teacher.iter().zip(&student);
    let pairs = pairs.map(|(teacher, student)| Item::new([teacher, student], info! {}));
    let items: Vec<Item<'_, BUFFERS>> = pairs.collect();
    let rates = uploaded(&grad_scale, &[decay as f32, (1.0 - decay) as f32]);
    let packed = Packed {
        kernel,
        shared: &[&grad_scale, &rates],
        head: &|_| info! {},
        max_tensors: max_pairs,
    };
    packed.launch(&items);
    teacher
}
