//! Targets and cross-entropy for burn's CPU backend Flex: rows, or spans of columns, on all cores; nothing of the size of
//! the logits is stored but their gradient.

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use super::flex_rows::{contiguous, rows_of, writable};
use super::target_potentials::shape_of_parts;
use super::vector_math::{exp, largest, sums, vectorized};
use super::{CrossEntropyInput, CrossEntropyOutput, RowPotentials, TargetPotentials};

/// Columns that one task normalizes: 1 KiB of each row, so that a visit uses whole cache lines.
const SPAN: usize = 256;

fn vector(values: Vec<f32>, device: &FlexDevice) -> Tensor<Flex, 1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

fn numbers(tensor: &Tensor<Flex, 1>) -> FlexTensor {
    contiguous(tensor.clone())
}

/// Potentials as slices.
struct Potentials<'a> {
    shift: &'a [f32],
    log: &'a [f32],
    inverse_temperature: f32,
}

/// Shift and log-normalizer of each row of a part, under the prototypes' potentials.
fn normalize_rows(part: &[f32], prototypes: &Potentials<'_>) -> Vec<[f32; 2]> {
    let width = prototypes.shift.len();
    let (shifts, logs) = (prototypes.shift, &prototypes.log[..width]);
    let inverse_temperature = prototypes.inverse_temperature;
    let normalize = |row: &[f32]| {
        vectorized(
            #[inline(always)]
            || {
                let row = &row[..width];
                let shifted = |at: usize| row[at] - shifts[at];
                let shift = largest(width, shifted);
                let [sum] = sums(width, |at| {
                    [exp((shifted(at) - shift) * inverse_temperature - logs[at])]
                });
                [shift, sum.ln()]
            },
        )
    };
    part.par_chunks_exact(width).map(normalize).collect()
}

/// Shift and log-normalizer of each prototype over all parts, under the rows' potentials.
fn normalize_prototypes(
    parts: &[&[f32]],
    rows: &[Vec<[f32; 2]>],
    inverse_temperature: f32,
    width: usize,
) -> [Vec<f32>; 2] {
    let (mut shift, mut log) = (vec![f32::NEG_INFINITY; width], vec![0.0; width]);
    let spans = shift.par_chunks_mut(SPAN).zip(log.par_chunks_mut(SPAN));
    spans.enumerate().for_each(|(span, (shift, log))| {
        let first = span * SPAN;
        let count = shift.len();
        let each_row = |visit: &mut dyn FnMut(&[f32], [f32; 2])| {
            for (part, rows) in parts.iter().zip(rows) {
                for (row, potentials) in part.chunks_exact(width).zip(rows) {
                    visit(&row[first..first + count], *potentials);
                }
            }
        };
        each_row(&mut |row, [row_shift, _]| {
            vectorized(
                #[inline(always)]
                || {
                    for (max, t) in shift.iter_mut().zip(row) {
                        let shifted = t - row_shift;
                        *max = if shifted > *max { shifted } else { *max };
                    }
                },
            );
        });
        each_row(&mut |row, [row_shift, row_log]| {
            vectorized(
                #[inline(always)]
                || {
                    for ((sum, max), t) in log.iter_mut().zip(shift.iter()).zip(row) {
                        *sum += exp((t - row_shift - max) * inverse_temperature - row_log);
                    }
                },
            );
        });
        log.iter_mut().for_each(|sum| *sum = sum.ln());
    });
    [shift, log]
}

/// See [`super::IbotBackend::sinkhorn_potentials`].
pub(super) fn sinkhorn(
    parts: &[Tensor<Flex, 2>],
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<Flex> {
    let [rows, width] = shape_of_parts(parts);
    let device = parts[0].device();
    if rows == 0 {
        return TargetPotentials::neutral([rows, width], temperature, &device);
    }
    let inverse_temperature = (1.0 / temperature) as f32;
    let parts: Vec<FlexTensor> = parts.iter().cloned().map(contiguous).collect();
    let parts: Vec<&[f32]> = parts.iter().map(FlexTensor::storage::<f32>).collect();
    let none = |part: &&[f32]| vec![[0.0; 2]; part.len() / width];
    let mut by_row: Vec<Vec<[f32; 2]>> = parts.iter().map(none).collect();
    let [mut shift, mut log] = [vec![0.0; width], vec![0.0; width]];
    for _ in 0..iterations {
        [shift, log] = normalize_prototypes(&parts, &by_row, inverse_temperature, width);
        let prototypes = Potentials {
            shift: &shift,
            log: &log,
            inverse_temperature,
        };
        let normalized = parts.iter().map(|part| normalize_rows(part, &prototypes));
        by_row = normalized.collect();
    }
    potentials_of([shift, log], &by_row, temperature, &device)
}

/// See [`super::IbotBackend::sinkhorn_iteration`].
pub(super) fn sinkhorn_iteration(
    part: Tensor<Flex, 2>,
    rows: RowPotentials<Flex>,
    temperature: f64,
) -> TargetPotentials<Flex> {
    let [_, width] = part.dims();
    let device = part.device();
    let inverse_temperature = (1.0 / temperature) as f32;
    let part = contiguous(part);
    let part: &[f32] = part.storage();
    let (shift, log) = (numbers(&rows.shift), numbers(&rows.log));
    let by_row = shift.storage::<f32>().iter().zip(log.storage::<f32>());
    let by_row = [by_row.map(|(shift, log)| [*shift, *log]).collect()];
    let [shift, log] = normalize_prototypes(&[part], &by_row, inverse_temperature, width);
    let prototypes = Potentials {
        shift: &shift,
        log: &log,
        inverse_temperature,
    };
    let by_row = [normalize_rows(part, &prototypes)];
    potentials_of([shift, log], &by_row, temperature, &device)
}

fn potentials_of(
    [shift, log]: [Vec<f32>; 2],
    by_row: &[Vec<[f32; 2]>],
    temperature: f64,
    device: &FlexDevice,
) -> TargetPotentials<Flex> {
    let row = |of: usize| by_row.iter().flatten().map(|row| row[of]).collect();
    TargetPotentials {
        row_shift: vector(row(0), device),
        row_log: vector(row(1), device),
        prototype_shift: vector(shift, device),
        prototype_log: vector(log, device),
        temperature,
    }
}

/// See [`super::IbotBackend::centered_potentials`].
pub(super) fn centered(
    parts: &[Tensor<Flex, 2>],
    center: Option<Tensor<Flex, 1>>,
    temperature: f64,
) -> TargetPotentials<Flex> {
    let shape = shape_of_parts(parts);
    let device = parts[0].device();
    let mut potentials = TargetPotentials::neutral(shape, temperature, &device);
    if let Some(center) = center {
        potentials.prototype_shift = center;
    }
    potentials.check(shape);
    let (shift, log) = (
        numbers(&potentials.prototype_shift),
        numbers(&potentials.prototype_log),
    );
    let prototypes = Potentials {
        shift: shift.storage(),
        log: log.storage(),
        inverse_temperature: (1.0 / temperature) as f32,
    };
    let parts = parts.iter().cloned().map(contiguous);
    let rows = parts.map(|part| normalize_rows(part.storage(), &prototypes));
    let rows: Vec<[f32; 2]> = rows.flatten().collect();
    potentials.row_shift = vector(rows.iter().map(|row| row[0]).collect(), &device);
    potentials.row_log = vector(rows.iter().map(|row| row[1]).collect(), &device);
    potentials
}

/// The teacher's side of a cross-entropy.
struct Teacher {
    logits: FlexTensor,
    potentials: [FlexTensor; 4],
    /// Teacher rows of each student row.
    targets: Vec<Vec<usize>>,
    width: usize,
    inverse_temperature: f32,
}

impl Teacher {
    fn new(input: &CrossEntropyInput<Flex>) -> Self {
        let potentials = &input.potentials;
        let [student_views, _, images] = input.views();
        let rows = (0..student_views * images).map(|row| {
            let views = input.targets_of(row / images).into_iter();
            views.map(|view| view * images + row % images).collect()
        });
        Self {
            logits: contiguous(input.teacher_logits.clone()),
            potentials: [
                &potentials.prototype_shift,
                &potentials.prototype_log,
                &potentials.row_shift,
                &potentials.row_log,
            ]
            .map(numbers),
            targets: rows.collect(),
            width: input.teacher_logits.dims()[1],
            inverse_temperature: (1.0 / potentials.temperature) as f32,
        }
    }

    /// The targets in teacher row `row`, by column.
    #[inline(always)]
    fn row(&self, row: usize) -> impl Fn(usize) -> f32 + '_ {
        let logits = &self.logits.storage::<f32>()[row * self.width..(row + 1) * self.width];
        let [shift, log, row_shift, row_log] =
            self.potentials.each_ref().map(FlexTensor::storage::<f32>);
        let (shift, log) = (&shift[..self.width], &log[..self.width]);
        let (row_shift, row_log) = (row_shift[row], row_log[row]);
        let inverse = self.inverse_temperature;
        move |at| exp((logits[at] - shift[at] - row_shift) * inverse - log[at] - row_log)
    }
}

/// See [`super::IbotBackend::cross_entropy`].
pub(super) fn cross_entropy(input: &CrossEntropyInput<Flex>) -> CrossEntropyOutput<Flex> {
    input.check();
    let device = input.row_weights.device();
    let teacher = Teacher::new(input);
    let student = contiguous(input.student_logits.clone());
    let weights = numbers(&input.row_weights);
    let inverse = (1.0 / input.student_temperature) as f32;
    let width = teacher.width;
    let rows = student
        .storage::<f32>()
        .par_chunks_exact(width)
        .zip(&teacher.targets);
    let of_row = |row: &[f32], targets: &[usize], weight: f32| {
        vectorized(
            #[inline(always)]
            || {
                let row = &row[..width];
                let max = largest(width, |at| row[at] * inverse);
                let [sum] = sums(width, |at| [exp(row[at] * inverse - max)]);
                let log = sum.ln();
                let mut losses = 0.0;
                for target in targets {
                    let target = teacher.row(*target);
                    let [mass, dot] = sums(width, |at| {
                        let q = target(at);
                        [q, q * (row[at] * inverse - max)]
                    });
                    losses += mass * log - dot;
                }
                [max, log, weight * losses]
            },
        )
    };
    let rows = rows.zip(weights.storage::<f32>());
    let rows: Vec<[f32; 3]> = rows
        .map(|((row, targets), weight)| of_row(row, targets, *weight))
        .collect();
    // in f64 and in order: the same bits on any number of threads
    let loss: f64 = rows.iter().map(|row| f64::from(row[2])).sum();
    let column = |of: usize| vector(rows.iter().map(|row| row[of]).collect(), &device);
    CrossEntropyOutput {
        loss: vector(vec![loss as f32], &device),
        row_max: column(0),
        row_log: column(1),
    }
}

/// See [`super::IbotBackend::cross_entropy_backward`].
pub(super) fn cross_entropy_backward(
    input: CrossEntropyInput<Flex>,
    output: &CrossEntropyOutput<Flex>,
    d_loss: &Tensor<Flex, 1>,
) -> Tensor<Flex, 2> {
    let teacher = Teacher::new(&input);
    let weights = numbers(&input.row_weights);
    let (max, log) = (numbers(&output.row_max), numbers(&output.row_log));
    let d_loss = numbers(d_loss);
    let inverse = (1.0 / input.student_temperature) as f32;
    let scale = d_loss.storage::<f32>()[0] * inverse;
    let width = teacher.width;
    let mut student = writable(input.student_logits);
    let rows = student.storage_mut::<f32>().par_chunks_exact_mut(width);
    rows.zip(&teacher.targets)
        .zip(weights.storage::<f32>())
        .zip(max.storage::<f32>().par_iter().zip(log.storage::<f32>()))
        .for_each(|(((row, targets), weight), (max, log))| {
            vectorized(
                #[inline(always)]
                || {
                    let row = &mut row[..width];
                    let count = targets.len() as f32;
                    for logit in row.iter_mut() {
                        *logit = count * exp(*logit * inverse - max - log);
                    }
                    for target in targets {
                        let target = teacher.row(*target);
                        for (at, difference) in row.iter_mut().enumerate() {
                            *difference -= target(at);
                        }
                    }
                    row.iter_mut().for_each(|entry| *entry *= scale * weight);
                },
            );
        });
    rows_of(student)
}
