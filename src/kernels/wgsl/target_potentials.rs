//! Launches of `shaders/target_potentials/`.

use burn::tensor::Tensor;

use super::super::target_potentials::shape_of_parts;
use super::super::{Gpu, TargetPotentials};
use super::Chunk;
use super::lanes::{reducing_workgroup, workgroup};
use super::launch::{Client, GpuTensor, Kernel, contiguous, empty, launch, shader, tensor};

/// Rows that one lane folds into a prototype's normalizer: enough of them to hide the second pass over the partial
/// results, few enough that a GPU is busy. Fixed, so that the same logits give the same bits in any number of parts
/// whose rows are a multiple of it.
pub(crate) const SLAB_ROWS: usize = 128;
/// Lanes of a workgroup of columns.wgsl, which shares nothing among them: small ones spread over more of a GPU.
const COLUMN_WORKGROUP: u32 = 64;

fn columns_kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    let lanes = workgroup.min(COLUMN_WORKGROUP);
    Kernel::new(
        shader!("chunk", "target_potentials/columns"),
        lanes,
        chunk.values(),
    )
}

fn column_totals_kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    let shader = shader!(
        "chunk",
        "target_potentials/pairs",
        "target_potentials/column_totals"
    );
    Kernel::new(shader, workgroup, values(chunk))
}

fn rows_kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "target_potentials/pairs", "target_potentials/rows");
    Kernel::new(shader, workgroup, values(chunk))
}

fn values(chunk: Chunk) -> Vec<(&'static str, String)> {
    let mut values = chunk.values();
    values.extend(chunk.pair_values());
    values
}

pub(super) fn kernels(workgroup: u32, chunk: Chunk) -> Vec<Kernel> {
    let make = [columns_kernel, column_totals_kernel, rows_kernel];
    make.map(|make| make(workgroup, chunk)).into()
}

/// Logits in parts, and the vectors that grow out of them.
struct Work {
    client: Client,
    parts: Vec<GpuTensor>,
    chunk: Chunk,
    prototypes: usize,
    inverse_temperature: f32,
    of_prototypes: GpuTensor,
    of_rows: GpuTensor,
}

impl Work {
    fn new(parts: &[Tensor<Gpu, 2>], start: &TargetPotentials<Gpu>) -> Self {
        let parts: Vec<GpuTensor> = parts.iter().cloned().map(contiguous).collect();
        let [prototypes, _] = start.of_prototypes.dims();
        Self {
            client: parts[0].client.clone(),
            parts,
            chunk: Chunk::for_length(prototypes),
            prototypes,
            inverse_temperature: (1.0 / start.temperature) as f32,
            of_prototypes: contiguous(start.of_prototypes.clone()),
            of_rows: contiguous(start.of_rows.clone()),
        }
    }

    fn rows_of(part: &GpuTensor) -> usize {
        part.meta.shape()[0]
    }

    /// Each prototype's normalizer, from the rows' ones; into new vectors.
    fn normalize_prototypes(&mut self) {
        let slabs_of = |part: &GpuTensor| Self::rows_of(part).div_ceil(SLAB_ROWS);
        let slabs: usize = self.parts.iter().map(slabs_of).sum();
        let chunks = self.chunk.count(self.prototypes);
        let lanes = workgroup(&self.client);
        let partial_max = empty(&self.parts[0], [slabs, self.prototypes]);
        let partial_sum = empty(&self.parts[0], [slabs, self.prototypes]);
        let columns = columns_kernel(lanes, self.chunk);
        let spans = chunks.div_ceil(2 * columns.workgroup() as usize);
        let (mut first_slab, mut first_row) = (0, 0);
        for part in &self.parts {
            let info = [
                Self::rows_of(part) as u32,
                chunks as u32,
                spans as u32,
                first_slab as u32,
                SLAB_ROWS as u32,
                self.inverse_temperature.to_bits(),
                slabs_of(part) as u32,
                first_row as u32,
            ];
            let tensors = [part, &self.of_rows, &partial_max, &partial_sum];
            launch(
                &self.client,
                columns.clone(),
                spans * slabs_of(part),
                &tensors,
                &info,
            );
            first_slab += slabs_of(part);
            first_row += Self::rows_of(part);
        }
        self.of_prototypes = empty(&self.parts[0], [self.prototypes, 2]);
        launch(
            &self.client,
            column_totals_kernel(lanes, self.chunk),
            chunks.div_ceil(lanes as usize),
            &[&partial_max, &partial_sum, &self.of_prototypes],
            &[
                slabs as u32,
                chunks as u32,
                self.inverse_temperature.to_bits(),
            ],
        );
    }

    /// Each row's normalizer, from the prototypes' ones; into new vectors.
    fn normalize_rows(&mut self) {
        let rows = self.parts.iter().map(Self::rows_of).sum();
        self.of_rows = empty(&self.parts[0], [rows, 2]);
        let chunks = self.chunk.count(self.prototypes);
        let lanes = reducing_workgroup(&self.client, chunks);
        let mut first_row = 0;
        for part in &self.parts {
            let rows = Self::rows_of(part);
            launch(
                &self.client,
                rows_kernel(lanes, self.chunk),
                rows,
                &[part, &self.of_prototypes, &self.of_rows],
                &[
                    rows as u32,
                    chunks as u32,
                    first_row as u32,
                    self.inverse_temperature.to_bits(),
                ],
            );
            first_row += rows;
        }
    }

    fn finish(self, temperature: f64) -> TargetPotentials<Gpu> {
        TargetPotentials {
            of_prototypes: tensor(self.of_prototypes),
            of_rows: tensor(self.of_rows),
            temperature,
        }
    }
}

/// See [`super::super::IbotBackend::sinkhorn_potentials`].
pub(super) fn sinkhorn(
    parts: &[Tensor<Gpu, 2>],
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<Gpu> {
    let shape = shape_of_parts(parts);
    let start = TargetPotentials::neutral(shape, temperature, &parts[0].device());
    if shape[0] == 0 {
        return start;
    }
    let mut work = Work::new(parts, &start);
    drop(start);
    for _ in 0..iterations {
        work.normalize_prototypes();
        work.normalize_rows();
    }
    work.finish(temperature)
}

/// See [`super::super::IbotBackend::sinkhorn_iteration`].
pub(super) fn sinkhorn_iteration(
    part: Tensor<Gpu, 2>,
    of_rows: Tensor<Gpu, 2>,
    temperature: f64,
) -> TargetPotentials<Gpu> {
    let shape = part.dims();
    let start = TargetPotentials {
        of_rows,
        ..TargetPotentials::neutral(shape, temperature, &part.device())
    };
    start.check(shape);
    let mut work = Work::new(&[part], &start);
    drop(start);
    work.normalize_prototypes();
    work.normalize_rows();
    work.finish(temperature)
}

/// See [`super::super::IbotBackend::centered_potentials`].
pub(super) fn centered(
    parts: &[Tensor<Gpu, 2>],
    center: Option<Tensor<Gpu, 1>>,
    temperature: f64,
) -> TargetPotentials<Gpu> {
    let shape = shape_of_parts(parts);
    let start = TargetPotentials::of_center(shape, center, temperature, &parts[0].device());
    if shape[0] == 0 {
        return start;
    }
    let mut work = Work::new(parts, &start);
    work.normalize_rows();
    work.finish(temperature)
}
