//! Launches of `shaders/target_potentials/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::info;
use super::lanes::{reducing_workgroup, workgroup};
use super::launch::{Client, GpuTensor, Kernel, contiguous, empty, launch, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::target_potentials::{Drift, Known, TargetPotentials, taken_back};

/// Rows that one lane folds into a prototype's normalizer: enough of them to hide the second pass over the partial
/// results, few enough that a GPU is busy.
const SLAB_ROWS: usize = 128;
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

/// Logits, and the vectors that grow out of them.
struct Work {
    client: Client,
    logits: GpuTensor,
    chunk: Chunk,
    rows: usize,
    prototypes: usize,
    inverse_temperature: f32,
    of_prototypes: GpuTensor,
    of_rows: GpuTensor,
}

impl Work {
    /// With one of the two potentials, from which the other one is made; the other is not read before.
    fn new(logits: Tensor<Gpu, 2>, start: Tensor<Gpu, 2>, temperature: f64) -> Self {
        let [rows, prototypes] = logits.dims();
        let logits = contiguous(logits);
        let start = contiguous(start);
        Self {
            client: logits.client.clone(),
            logits,
            chunk: Chunk::for_length(prototypes),
            rows,
            prototypes,
            inverse_temperature: (1.0 / temperature) as f32,
            of_prototypes: start.clone(),
            of_rows: start,
        }
    }

    /// Each prototype's normalizer, from the rows' ones; into new vectors.
    fn normalize_prototypes(&mut self) {
        let slabs = self.rows.div_ceil(SLAB_ROWS);
        let chunks = self.chunk.count(self.prototypes);
        let lanes = workgroup(&self.client);
        let partial_max = empty(&self.logits, [slabs, self.prototypes]);
        let partial_sum = empty(&self.logits, [slabs, self.prototypes]);
        let columns = columns_kernel(lanes, self.chunk);
        let spans = chunks.div_ceil(2 * columns.workgroup() as usize);
        launch(
            &self.client,
            columns,
            spans * slabs,
            &[&self.logits, &self.of_rows, &partial_max, &partial_sum],
            &info! {
                rows: self.rows,
                chunks: chunks,
                spans: spans,
                slab_rows: SLAB_ROWS,
                inverse_temperature: self.inverse_temperature,
                slabs: slabs,
            },
        );
        self.of_prototypes = empty(&self.logits, [self.prototypes, 2]);
        launch(
            &self.client,
            column_totals_kernel(lanes, self.chunk),
            chunks.div_ceil(lanes as usize),
            &[&partial_max, &partial_sum, &self.of_prototypes],
            &info! {
                slabs: slabs,
                chunks: chunks,
                inverse_temperature: self.inverse_temperature,
            },
        );
    }

    /// Each row's normalizer, from the prototypes' ones; into new vectors.
    fn normalize_rows(&mut self) {
        let chunks = self.chunk.count(self.prototypes);
        let lanes = reducing_workgroup(&self.client, chunks);
        self.of_rows = empty(&self.logits, [self.rows, 2]);
        launch(
            &self.client,
            rows_kernel(lanes, self.chunk),
            self.rows,
            &[&self.logits, &self.of_prototypes, &self.of_rows],
            &info! {
                rows: self.rows,
                chunks: chunks,
                inverse_temperature: self.inverse_temperature,
            },
        );
    }

    fn finish(self, temperature: f64) -> TargetPotentials<Gpu> {
        TargetPotentials {
            of_prototypes: tensor(self.of_prototypes),
            of_rows: tensor(self.of_rows),
            temperature,
        }
    }
}

/// See [`crate::kernels::IbotBackend::sinkhorn_potentials`].
pub(super) fn sinkhorn(
    logits: Tensor<Gpu, 2>,
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<Gpu> {
    let shape @ [rows, _] = logits.dims();
    if rows == 0 || iterations == 0 {
        return TargetPotentials::neutral(shape, temperature, &logits.device());
    }
    let start = Tensor::zeros([rows, 2], &logits.device());
    let mut work = Work::new(logits, start, temperature);
    let mut drift = Drift::new(rows, work.prototypes);
    for iteration in 0..iterations {
        if iteration > 0
            && let Some(drift) = drift.after_iteration()
        {
            let of_rows = tensor::<2>(work.of_rows);
            work.of_rows = contiguous(taken_back(of_rows, Some(drift)));
        }
        work.normalize_prototypes();
        work.normalize_rows();
    }
    work.finish(temperature)
}

/// See [`crate::kernels::IbotBackend::potentials_under`].
pub(super) fn potentials_under(
    logits: Tensor<Gpu, 2>,
    known: Known<Gpu>,
    temperature: f64,
) -> Tensor<Gpu, 2> {
    let [rows, prototypes] = logits.dims();
    tensor(match known {
        Known::Rows(of_rows) => {
            assert_eq!(of_rows.dims(), [rows, 2], "of_rows");
            let mut work = Work::new(logits, of_rows, temperature);
            work.normalize_prototypes();
            work.of_prototypes
        }
        Known::Prototypes(of_prototypes) => {
            assert_eq!(of_prototypes.dims(), [prototypes, 2], "of_prototypes");
            let mut work = Work::new(logits, of_prototypes, temperature);
            work.normalize_rows();
            work.of_rows
        }
    })
}

pub(super) fn center_kernel(walk: Walk) -> Kernel {
    Kernel::new(
        shader!("target_potentials/center"),
        walk.lanes,
        vec![walk.value()],
    )
}

/// Potentials of prototypes that `center`, `[K]`, shifts: `[K, 2]`.
fn of_center(center: GpuTensor) -> Tensor<Gpu, 2> {
    let prototypes = center.meta.shape().num_elements();
    let of_prototypes = empty(&center, [prototypes, 2]);
    let walk = Walk::choose(&center.client);
    launch(
        &center.client,
        center_kernel(walk),
        walk.groups(prototypes),
        &[&center, &of_prototypes],
        &info! { prototypes: prototypes },
    );
    tensor(of_prototypes)
}

/// See [`crate::kernels::IbotBackend::centered_potentials`].
pub(super) fn centered(
    logits: Tensor<Gpu, 2>,
    center: Option<Tensor<Gpu, 1>>,
    temperature: f64,
) -> TargetPotentials<Gpu> {
    let shape @ [rows, prototypes] = logits.dims();
    let device = logits.device();
    if rows == 0 {
        return TargetPotentials::of_center(shape, center, temperature, &device);
    }
    let start = match center {
        Some(center) => of_center(contiguous(center)),
        None => Tensor::zeros([prototypes, 2], &device),
    };
    assert_eq!(start.dims(), [prototypes, 2], "center");
    let mut work = Work::new(logits, start, temperature);
    work.normalize_rows();
    work.finish(temperature)
}
