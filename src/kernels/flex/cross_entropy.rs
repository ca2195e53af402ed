//! Cross-entropy for burn's CPU backend Flex: rows on all cores; nothing of the size of the logits is stored but their
//! gradient.

use burn::tensor::Tensor;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::kernels::flex::rows::{contiguous, rows_of, writable};
use crate::kernels::flex::target_potentials::{numbers, pairs, vector};
use crate::kernels::flex::vector_math::{Math, largest, sums, vectorized};
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};

/// Entries of a gradient below this, before they are scaled, are zero: beside others of about 1 they say nothing, and as
/// denormal numbers they take the processor a hundred cycles here, and in each product that they go into.
const NEGLIGIBLE: f32 = 1e-30;

/// The teacher's side of a cross-entropy.
struct Teacher {
    logits: FlexTensor,
    /// Shift and log of each prototype.
    of_prototypes: [Vec<f32>; 2],
    /// Shift and log of each row, side by side.
    of_rows: FlexTensor,
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
            of_prototypes: columns(&potentials.of_prototypes),
            of_rows: numbers(&potentials.of_rows),
            targets: rows.collect(),
            width: input.teacher_logits.dims()[1],
            inverse_temperature: (1.0 / potentials.temperature) as f32,
        }
    }

    /// The targets in teacher row `row`, by column.
    #[inline(always)]
    fn row(&self, math: Math, row: usize) -> impl Iterator<Item = f32> {
        let logits = &self.logits.storage::<f32>()[row * self.width..(row + 1) * self.width];
        let [shift, log] = &self.of_prototypes;
        let of_rows = self.of_rows.storage::<f32>();
        let (row_shift, row_lse) = (of_rows[2 * row], of_rows[2 * row + 1]);
        let inverse = self.inverse_temperature;
        let entries = logits.iter().zip(shift).zip(log);
        entries.map(
            #[inline(always)]
            move |((t, shift), log)| math.exp((t - shift - row_shift) * inverse - log - row_lse),
        )
    }
}

/// Pairs, `[N, 2]`, as two vectors.
fn columns(pairs: &Tensor<Flex, 2>) -> [Vec<f32>; 2] {
    let pairs = numbers(pairs);
    let (pairs, _) = pairs.storage::<f32>().as_chunks::<2>();
    [0, 1].map(|of| pairs.iter().map(|pair| pair[of]).collect())
}

/// See [`crate::kernels::IbotBackend::cross_entropy`].
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
    // Exponentials are stored before they are summed: with one loop for both, forward took twice as long.
    let of_row = |exponentials: &mut Vec<f32>, row: &[f32], targets: &[usize], weight: f32| {
        vectorized(
            #[inline(always)]
            |math| {
                let max = largest([row], |[s]| s * inverse);
                for (exponential, s) in exponentials.iter_mut().zip(row) {
                    *exponential = math.exp(s * inverse - max);
                }
                let [sum] = sums([exponentials], |[exponential]| [exponential]);
                let row_lse = sum.ln();
                let mut losses = 0.0;
                for target in targets {
                    for (stored, q) in exponentials.iter_mut().zip(teacher.row(math, *target)) {
                        *stored = q;
                    }
                    let [mass, dot] =
                        sums([exponentials, row], |[q, s]| [q, q * (s * inverse - max)]);
                    losses += mass * row_lse - dot;
                }
                [max, row_lse, weight * losses]
            },
        )
    };
    let rows = rows.zip(weights.storage::<f32>());
    let rows: Vec<[f32; 3]> = rows
        .map_init(
            || vec![0.0; width],
            |exponentials, ((row, targets), weight)| of_row(exponentials, row, targets, *weight),
        )
        .collect();
    // in f64 and in order: the same bits on any number of threads
    let loss: f64 = rows.iter().map(|row| f64::from(row[2])).sum();
    let of_rows: Vec<[f32; 2]> = rows.iter().map(|[max, log, _]| [*max, *log]).collect();
    CrossEntropyOutput {
        loss: vector(vec![loss as f32], &device),
        of_rows: pairs(&of_rows, &device),
    }
}

/// See [`crate::kernels::IbotBackend::cross_entropy_backward`].
pub(super) fn cross_entropy_backward(
    input: CrossEntropyInput<Flex>,
    output: &CrossEntropyOutput<Flex>,
    d_loss: &Tensor<Flex, 1>,
) -> Tensor<Flex, 2> {
    let teacher = Teacher::new(&input);
    let weights = numbers(&input.row_weights);
    let of_rows = numbers(&output.of_rows);
    let (of_rows, _) = of_rows.storage::<f32>().as_chunks::<2>();
    let d_loss = numbers(d_loss);
    let inverse = (1.0 / input.student_temperature) as f32;
    let scale = d_loss.storage::<f32>()[0] * inverse;
    let width = teacher.width;
    let mut student = writable(input.student_logits);
    let rows = student.storage_mut::<f32>().par_chunks_exact_mut(width);
    rows.zip(&teacher.targets)
        .zip(weights.storage::<f32>())
        .zip(of_rows)
        .for_each(|(((row, targets), weight), [max, log])| {
            vectorized(
                #[inline(always)]
                |math| {
                    // values, not references: the row that is written to cannot change them
                    let (count, inverse, factor) = (targets.len() as f32, inverse, scale * weight);
                    let (max, log) = (*max, *log);
                    for logit in row.iter_mut() {
                        *logit = count * math.exp(*logit * inverse - max - log);
                    }
                    for target in targets {
                        for (difference, q) in row.iter_mut().zip(teacher.row(math, *target)) {
                            *difference -= q;
                        }
                    }
                    for entry in row.iter_mut() {
                        let is_negligible = entry.abs() < NEGLIGIBLE;
                        let difference = if is_negligible { 0.0 } else { *entry };
                        *entry = difference * factor;
                    }
                },
            );
        });
    rows_of(student)
}
