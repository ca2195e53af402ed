//! Potentials of targets for burn's CPU backend Flex: rows, or spans of columns, on all cores; nothing of the size of the
//! logits is stored. One exponential an entry for the first normalization of the prototypes, and one for each iteration.

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use crate::kernels::flex::rows::{contiguous, in_order};
use crate::kernels::flex::vector_math::{Math, largest, sums, vectorized};
use crate::kernels::ops::target_potentials::{Known, TargetPotentials};

/// Columns that one task normalizes: 1 KiB of each row, so that a visit uses whole cache lines.
const SPAN: usize = 256;
/// Rows of a span that are visited twice while they are in a core's first cache.
const BLOCK: usize = 8;
/// Rows that one task normalizes at most: sums of the prototypes are then a 32nd of the logits.
const GROUP: usize = 32;
/// Tasks that fewer rows are shared out to. By shape, not by threads: the same bits on any number of them.
const TASKS: usize = 16;
/// Where sums of prototypes start: no target moves by it, and no sum is a denormal number, which takes the processor
/// a hundred cycles. (An iteration over 944 x 8192 took three times as long with them.)
const TINY: f32 = 1e-37;

pub(super) fn vector(values: Vec<f32>, device: &FlexDevice) -> Tensor<Flex, 1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

pub(super) fn numbers<const D: usize>(tensor: &Tensor<Flex, D>) -> FlexTensor {
    contiguous(tensor.clone())
}

/// Pairs side by side, `[N, 2]`.
pub(super) fn pairs(values: &[[f32; 2]], device: &FlexDevice) -> Tensor<Flex, 2> {
    Tensor::from_data(
        TensorData::new(values.as_flattened().to_vec(), [values.len(), 2]),
        device,
    )
}

/// Potentials of the prototypes as slices.
struct Prototypes<'a> {
    shift: &'a [f32],
    log: &'a [f32],
    inverse_temperature: f32,
}

/// The rows under the prototypes' potentials.
struct Normalized {
    /// Shift and log-normalizer of each row.
    rows: Vec<[f32; 2]>,
    /// What the targets of some rows sum to, by prototype.
    prototype_sums: Vec<Vec<f32>>,
}

/// Normalizes the rows, by groups; each sums up its targets, if they are wanted.
fn normalize_rows(logits: &[f32], prototypes: &Prototypes<'_>, wants_sums: bool) -> Normalized {
    let width = prototypes.shift.len();
    let of_group = |exponentials: &mut Vec<f32>, group: &[f32]| {
        let mut prototype_sums = vec![TINY; if wants_sums { width } else { 0 }];
        let normalize = |row| {
            vectorized(
                #[inline(always)]
                |math| {
                    let [shift, sum] = normalize_row(math, row, prototypes, exponentials);
                    let share = 1.0 / sum;
                    for (total, exponential) in prototype_sums.iter_mut().zip(&*exponentials) {
                        *total = math.multiply_add(*exponential, share, *total);
                    }
                    [shift, sum.ln()]
                },
            )
        };
        let rows: Vec<[f32; 2]> = group.chunks_exact(width).map(normalize).collect();
        (rows, prototype_sums)
    };
    let group = (logits.len() / width).div_ceil(TASKS).clamp(1, GROUP);
    let groups = logits.par_chunks(group * width);
    let normalized = groups.map_init(|| vec![0.0; width], of_group);
    let (rows, prototype_sums): (Vec<_>, Vec<_>) = normalized.unzip();
    Normalized {
        rows: rows.concat(),
        prototype_sums,
    }
}

/// Shift of a row, and the sum of its `exponentials` under it.
#[inline(always)]
fn normalize_row(
    math: Math,
    row: &[f32],
    prototypes: &Prototypes<'_>,
    exponentials: &mut [f32],
) -> [f32; 2] {
    let (shifts, logs) = (prototypes.shift, prototypes.log);
    let inverse_temperature = prototypes.inverse_temperature;
    let row_shift = largest([row, shifts], |[t, shift]| t - shift);
    let entries = row.iter().zip(shifts).zip(logs);
    for (exponential, ((t, shift), log)) in exponentials.iter_mut().zip(entries) {
        *exponential = math.exp((t - shift - row_shift) * inverse_temperature - log);
    }
    let [sum] = sums([&*exponentials], |[exponential]| [exponential]);
    [row_shift, sum]
}

/// Shift and log-normalizer of each prototype, under the rows' potentials.
fn normalize_prototypes(
    logits: &[f32],
    rows: &[[f32; 2]],
    inverse_temperature: f32,
    width: usize,
) -> [Vec<f32>; 2] {
    let (mut shift, mut log) = (vec![f32::NEG_INFINITY; width], vec![0.0; width]);
    let spans = shift.par_chunks_mut(SPAN).zip(log.par_chunks_mut(SPAN));
    spans.enumerate().for_each(|(span, (shift, sums))| {
        let columns = span * SPAN..span * SPAN + shift.len();
        for (block, rows) in logits.chunks(BLOCK * width).zip(rows.chunks(BLOCK)) {
            let block = block.chunks_exact(width).map(|row| &row[columns.clone()]);
            vectorized(
                #[inline(always)]
                |math| add_rows(math, block.zip(rows), inverse_temperature, shift, sums),
            );
        }
        sums.iter_mut().for_each(|sum| *sum = sum.ln());
    });
    [shift, log]
}

/// Adds the exponentials of a block's rows to the sums of a span, which move along with its largest entries so far.
#[inline(always)]
fn add_rows<'a>(
    math: Math,
    rows: impl Iterator<Item = (&'a [f32], &'a [f32; 2])> + Clone,
    inverse_temperature: f32,
    shift: &mut [f32],
    sums: &mut [f32],
) {
    let mut before = [0.0; SPAN];
    let before = &mut before[..shift.len()];
    before.copy_from_slice(shift);
    for (row, [row_shift, _]) in rows.clone() {
        for (max, t) in shift.iter_mut().zip(row) {
            let shifted = t - row_shift;
            *max = if shifted > *max { shifted } else { *max };
        }
    }
    for ((sum, max), before) in sums.iter_mut().zip(&*shift).zip(&*before) {
        *sum *= math.exp((before - max) * inverse_temperature);
    }
    for (row, [row_shift, row_lse]) in rows {
        for ((sum, max), t) in sums.iter_mut().zip(&*shift).zip(row) {
            *sum += math.exp((t - row_shift - max) * inverse_temperature - row_lse);
        }
    }
}

/// See [`crate::kernels::IbotBackend::sinkhorn_potentials`].
///
/// Only the first iteration asks the logits for the prototypes' normalizers. Later ones multiply what they have by what
/// the targets of all rows sum to, while a row is in cache. That cannot run out of range: once the prototypes are
/// normalized, each has a row with 1/M of it or more, and no row sums up to more than K, so 1/(M K) is left of each.
pub(super) fn sinkhorn(
    logits: Tensor<Flex, 2>,
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<Flex> {
    let [rows, width] = logits.dims();
    let device = logits.device();
    if rows == 0 || iterations == 0 {
        return TargetPotentials::neutral([rows, width], temperature, &device);
    }
    let inverse_temperature = (1.0 / temperature) as f32;
    let logits = contiguous(logits);
    let logits = logits.storage::<f32>();
    let by_row = vec![[0.0; 2]; rows];
    let [shift, mut log] = normalize_prototypes(logits, &by_row, inverse_temperature, width);
    // What each prototype's targets sum to when all are used equally. Without it M/K would go from rows to prototypes
    // with every iteration.
    let fair = rows as f32 / width as f32;
    for _ in 1..iterations {
        let prototypes = Prototypes {
            shift: &shift,
            log: &log,
            inverse_temperature,
        };
        let sums = normalize_rows(logits, &prototypes, true).prototype_sums;
        for (log, sum) in log.iter_mut().zip(in_order(sums, width)) {
            *log += (sum / fair).ln();
        }
    }
    normalized_under([shift, log], logits, temperature, &device)
}

/// See [`crate::kernels::IbotBackend::potentials_under`].
pub(super) fn potentials_under(
    logits: Tensor<Flex, 2>,
    known: Known<Flex>,
    temperature: f64,
) -> Tensor<Flex, 2> {
    let ([_, width], device) = (logits.dims(), logits.device());
    let logits = contiguous(logits);
    let logits = logits.storage::<f32>();
    let found = match known {
        Known::Rows(of_rows) => {
            let of_rows = contiguous(of_rows);
            let (by_row, _) = of_rows.storage::<f32>().as_chunks();
            let inverse_temperature = (1.0 / temperature) as f32;
            side_by_side(&normalize_prototypes(
                logits,
                by_row,
                inverse_temperature,
                width,
            ))
        }
        Known::Prototypes(of_prototypes) => {
            let of_prototypes = contiguous(of_prototypes);
            let (pairs, _) = of_prototypes.storage::<f32>().as_chunks::<2>();
            let pairs = pairs.iter().map(|[shift, log]| (*shift, *log));
            let (shift, log): (Vec<f32>, Vec<f32>) = pairs.unzip();
            rows_under([&shift, &log], logits, temperature)
        }
    };
    pairs(&found, &device)
}

/// Potentials of rows under those of the prototypes, and these.
fn normalized_under(
    prototypes: [Vec<f32>; 2],
    logits: &[f32],
    temperature: f64,
    device: &FlexDevice,
) -> TargetPotentials<Flex> {
    let [shift, log] = &prototypes;
    TargetPotentials {
        of_rows: pairs(&rows_under([shift, log], logits, temperature), device),
        of_prototypes: pairs(&side_by_side(&prototypes), device),
        temperature,
    }
}

fn rows_under([shift, log]: [&[f32]; 2], logits: &[f32], temperature: f64) -> Vec<[f32; 2]> {
    let prototypes = Prototypes {
        shift,
        log,
        inverse_temperature: (1.0 / temperature) as f32,
    };
    normalize_rows(logits, &prototypes, false).rows
}

fn side_by_side([shift, log]: &[Vec<f32>; 2]) -> Vec<[f32; 2]> {
    let pairs = std::iter::zip(shift, log);
    pairs.map(|(shift, log)| [*shift, *log]).collect()
}

/// See [`crate::kernels::IbotBackend::centered_potentials`].
pub(super) fn centered(
    logits: Tensor<Flex, 2>,
    center: Option<Tensor<Flex, 1>>,
    temperature: f64,
) -> TargetPotentials<Flex> {
    let [_, width] = logits.dims();
    let device = logits.device();
    let center = match center {
        Some(center) => numbers(&center).storage::<f32>().to_vec(),
        None => vec![0.0; width],
    };
    assert_eq!(center.len(), width, "one center a prototype");
    let logits = contiguous(logits);
    let prototypes = [center, vec![0.0; width]];
    normalized_under(prototypes, logits.storage::<f32>(), temperature, &device)
}
