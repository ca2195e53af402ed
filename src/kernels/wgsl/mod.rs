//! The operations on the GPU: WGSL kernels of `shaders/`, launched on burn's own queue and buffers.
//!
//! - `template`: fills the shaders; `launch`: a filled shader as a kernel on the device
//! - `chunk`, `target_potentials`, `cross_entropy`, `ema`, `copy`: one module a folder or file of `shaders/`
//!
//! Every storage buffer is bound read-write, inputs too: two tensors may be slices of one wgpu buffer, and wgpu forbids
//! reading and writing of one buffer in a dispatch.

mod chunk;
mod copy;
mod cross_entropy;
mod ema;
mod launch;
mod target_potentials;
mod template;

pub use copy::copy;
pub use ema::packed_ema;
pub use launch::{Kernel, SHADERS_VARIABLE, WORKGROUP_VARIABLE, peak_bytes_in_use, shader_folder};

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;

use crate::error::Result;

use super::choice::KernelChoice;
use super::{
    CrossEntropyInput, CrossEntropyOutput, Gpu, IbotBackend, RowPotentials, TargetPotentials,
    cross_entropy as tensor_cross_entropy, ema as tensor_ema,
    target_potentials as tensor_potentials,
};
use chunk::Chunk;
use launch::{Client, check_bindings, is_software};

/// How a kernel whose lanes share nothing walks through memory: lanes of a workgroup, and chunks that a lane handles one
/// after the other.
#[derive(Debug, Clone, Copy)]
struct Walk {
    lanes: u32,
    rounds: usize,
}

impl Walk {
    /// A CPU wants few lanes that walk far through memory, a GPU many that stand side by side (22 M entries averaged on
    /// lavapipe: 22 ms with 8 lanes of 64 rounds, 29 ms with 256 of 4, 90 ms with 256 of 64).
    const SOFTWARE: Self = Self {
        lanes: 8,
        rounds: 256,
    };
    const GPU: Self = Self {
        lanes: 256,
        rounds: 4,
    };

    fn of(client: &Client) -> Self {
        if is_software(client) {
            return Self::SOFTWARE;
        }
        let lanes = client.properties().hardware.max_units_per_cube;
        Self {
            lanes: Self::GPU.lanes.min(lanes),
            ..Self::GPU
        }
    }

    const ALL: [Self; 2] = [Self::SOFTWARE, Self::GPU];

    fn value(self) -> (&'static str, String) {
        ("rounds", self.rounds.to_string())
    }

    /// Workgroups for this many chunks.
    fn groups(self, chunks: usize) -> usize {
        chunks.div_ceil(self.lanes as usize * self.rounds)
    }
}

/// Every kernel that can reach a device with these workgroups, EMA pairs and teacher views: for tests that validate
/// each of them.
pub fn all_kernels(workgroups: &[u32], pairs: &[usize], teacher_views: &[usize]) -> Vec<Kernel> {
    let mut all = Vec::new();
    for chunk in Chunk::ALL {
        for walk in Walk::ALL {
            all.push(copy::kernel(walk, chunk));
            let of_pairs = |pairs| ema::kernel(walk, chunk, pairs);
            all.extend(pairs.iter().copied().map(of_pairs));
        }
        for workgroup in workgroups {
            all.push(cross_entropy::total_kernel(*workgroup));
            all.extend(target_potentials::kernels(*workgroup, chunk));
            let of_views = |views| cross_entropy::kernels(*workgroup, chunk, views);
            all.extend(teacher_views.iter().copied().flat_map(of_views));
        }
    }
    all
}

impl IbotBackend for Gpu {
    fn check_device(device: &Self::Device) -> Result<()> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => check_bindings(&WgpuRuntime::client(device)),
            KernelChoice::Reference => Ok(()),
        }
    }

    fn max_logit_rows(prototypes: usize, device: &Self::Device) -> usize {
        let largest = WgpuRuntime::client(device)
            .properties()
            .memory
            .max_page_size;
        largest as usize / (prototypes.max(1) * size_of::<f32>())
    }

    fn sinkhorn_potentials(
        teacher_logits: &[Tensor<Self, 2>],
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => {
                target_potentials::sinkhorn(teacher_logits, temperature, iterations)
            }
            KernelChoice::Reference => {
                tensor_potentials::sinkhorn(teacher_logits, temperature, iterations)
            }
        }
    }

    fn sinkhorn_iteration(
        teacher_logits: Tensor<Self, 2>,
        rows: RowPotentials<Self>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => {
                target_potentials::sinkhorn_iteration(teacher_logits, rows, temperature)
            }
            KernelChoice::Reference => {
                tensor_potentials::sinkhorn_iteration(teacher_logits, rows, temperature)
            }
        }
    }

    fn centered_potentials(
        teacher_logits: &[Tensor<Self, 2>],
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => target_potentials::centered(teacher_logits, center, temperature),
            KernelChoice::Reference => {
                tensor_potentials::centered(teacher_logits, center, temperature)
            }
        }
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => cross_entropy::forward(input),
            KernelChoice::Reference => tensor_cross_entropy::reference(input),
        }
    }

    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => cross_entropy::backward(input, output, d_loss),
            KernelChoice::Reference => {
                tensor_cross_entropy::reference_backward(&input, output, d_loss)
            }
        }
    }

    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
    ) -> Vec<FloatTensor<Self>> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => ema::ema(teacher, student, decay),
            KernelChoice::Reference => tensor_ema::reference::<Self>(teacher, student, decay),
        }
    }
}
