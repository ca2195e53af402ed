//! Launches of `shaders/cross_entropy/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::{Info, info};
use super::lanes::{reducing_workgroup, workgroup};
use super::launch::{GpuTensor, Kernel, contiguous, empty, launch, shader, tensor, unshared};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::cross_entropy as tensor_cross_entropy;
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput, Pairing};

/// Chunks that a lane of backward.wgsl handles: enough to pay for what a workgroup reads once, few enough that 8 rows
/// of 65 536 prototypes are work for a whole GPU.
const ROUNDS: usize = 16;

fn values(chunk: Chunk, teacher_views: usize) -> Vec<(&'static str, String)> {
    let mut values = chunk.values();
    values.extend(chunk.pair_values());
    values.push(("view", teacher_views.to_string()));
    values
}

fn forward_kernel(workgroup: u32, chunk: Chunk, teacher_views: usize) -> Kernel {
    let shader = shader!(
        "chunk",
        "target_potentials/pairs",
        "cross_entropy/operands",
        "cross_entropy/forward"
    );
    Kernel::new(shader, workgroup, values(chunk, teacher_views))
}

fn backward_kernel(workgroup: u32, chunk: Chunk, teacher_views: usize) -> Kernel {
    let shader = shader!(
        "chunk",
        "target_potentials/pairs",
        "cross_entropy/operands",
        "cross_entropy/backward"
    );
    let mut values = values(chunk, teacher_views);
    values.push(("rounds", ROUNDS.to_string()));
    Kernel::new(shader, workgroup, values)
}

pub(super) fn total_kernel(workgroup: u32) -> Kernel {
    Kernel::new(shader!("cross_entropy/total"), workgroup, Vec::new())
}

pub(super) fn kernels(workgroup: u32, chunk: Chunk, teacher_views: usize) -> [Kernel; 2] {
    [
        forward_kernel(workgroup, chunk, teacher_views),
        backward_kernel(workgroup, chunk, teacher_views),
    ]
}

/// What both passes bind, in this order, after the student's logits.
struct Operands {
    teacher: GpuTensor,
    of_prototypes: GpuTensor,
    of_targets: GpuTensor,
    row_weights: GpuTensor,
}

impl Operands {
    fn new(input: &CrossEntropyInput<Gpu>) -> Self {
        let potentials = &input.potentials;
        Self {
            teacher: contiguous(input.teacher_logits.clone()),
            of_prototypes: contiguous(potentials.of_prototypes.clone()),
            of_targets: contiguous(potentials.of_rows.clone()),
            row_weights: contiguous(input.row_weights.clone()),
        }
    }

    fn bindings<'a>(
        &'a self,
        student: &'a GpuTensor,
        rest: [&'a GpuTensor; 2],
    ) -> [&'a GpuTensor; 7] {
        [
            student,
            &self.teacher,
            &self.of_prototypes,
            &self.of_targets,
            &self.row_weights,
            rest[0],
            rest[1],
        ]
    }
}

/// The struct of operands.wgsl; `spans` are the workgroups of a row.
fn info_of(input: &CrossEntropyInput<Gpu>, chunk: Chunk, spans: usize) -> Info {
    let [rows, prototypes] = input.student_logits.dims();
    let [_, _, rows_per_view] = input.views();
    let inverse = |temperature: f64| (1.0 / temperature) as f32;
    info! {
        rows: rows,
        chunks: chunk.count(prototypes),
        rows_per_view: rows_per_view,
        skip_own: matches!(input.pairing, Pairing::OtherViews { .. }),
        inverse_student_temperature: inverse(input.student_temperature),
        inverse_target_temperature: inverse(input.potentials.temperature),
        spans: spans,
    }
}

/// See [`crate::kernels::IbotBackend::cross_entropy`].
pub(super) fn forward(input: &CrossEntropyInput<Gpu>) -> CrossEntropyOutput<Gpu> {
    input.check();
    let [rows, prototypes] = input.student_logits.dims();
    if rows == 0 {
        return tensor_cross_entropy::reference(input);
    }
    let student = contiguous(input.student_logits.clone());
    let client = student.client.clone();
    let chunk = Chunk::for_length(prototypes);
    let (of_rows, row_loss) = (empty(&student, [rows, 2]), empty(&student, [rows]));
    let loss = empty(&student, [1]);
    let lanes = reducing_workgroup(&client, chunk.count(prototypes));
    let [_, teacher_views, _] = input.views();
    launch(
        &client,
        forward_kernel(lanes, chunk, teacher_views),
        rows,
        &Operands::new(input).bindings(&student, [&of_rows, &row_loss]),
        &info_of(input, chunk, 1),
    );
    let total = total_kernel(reducing_workgroup(&client, rows));
    launch(
        &client,
        total,
        1,
        &[&row_loss, &loss],
        &info! { rows: rows },
    );
    CrossEntropyOutput {
        loss: tensor(loss),
        of_rows: tensor(of_rows),
    }
}

/// See [`crate::kernels::IbotBackend::cross_entropy_backward`].
pub(super) fn backward(
    input: CrossEntropyInput<Gpu>,
    output: CrossEntropyOutput<Gpu>,
    d_loss: Tensor<Gpu, 1>,
) -> Tensor<Gpu, 2> {
    let [rows, prototypes] = input.student_logits.dims();
    if rows == 0 {
        return input.student_logits;
    }
    let chunk = Chunk::for_length(prototypes);
    let [_, teacher_views, _] = input.views();
    let operands = Operands::new(&input);
    let lanes = workgroup(&operands.teacher.client);
    let spans = chunk.count(prototypes).div_ceil(lanes as usize * ROUNDS);
    let info = info_of(&input, chunk, spans);
    let of_rows = contiguous(output.of_rows);
    let d_loss = contiguous(d_loss);
    drop(input.teacher_logits);
    let student = unshared(contiguous(input.student_logits));
    let client = student.client.clone();
    launch(
        &client,
        backward_kernel(lanes, chunk, teacher_views),
        rows * spans,
        &operands.bindings(&student, [&of_rows, &d_loss]),
        &info,
    );
    tensor(student)
}
