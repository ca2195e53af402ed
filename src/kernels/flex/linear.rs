//! Linear layers for burn's CPU backend Flex: bias and residual lie in the target before the product adds to it.

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::kernels::flex::matrix::Matrix;
use crate::kernels::flex::product::Product;
use crate::kernels::flex::rows::{changed, column_sums, contiguous, piece_of, rows_of};
use crate::kernels::ops::linear::{LinearBackwardInput, LinearGradients, LinearInput};
use crate::precision::Precision;

pub(super) fn linear(input: LinearInput<Flex>) -> Tensor<Flex, 2> {
    let in_bf16 = Precision::current() == Precision::Bf16;
    let input = if in_bf16 { input } else { input.rounded() };
    let [rows, inputs] = input.x.dims();
    let outputs = input.weight.dims()[1];
    let device = input.x.device();
    let (x, weight) = (contiguous(input.x), contiguous(input.weight));
    let bias = input.bias.map(contiguous);
    let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
    let product = Product {
        rows,
        inner: inputs,
        columns: outputs,
        left: (x.storage::<f32>(), Matrix::rows(inputs)),
        right: (weight.storage::<f32>(), Matrix::rows(outputs)),
        factor: 1.0,
        parallel: true,
        in_bf16,
    };
    if let Some(residual) = input.residual {
        let mut target = changed(residual, piece_of(outputs), |piece| {
            for row in piece.chunks_exact_mut(outputs) {
                let bias = bias.unwrap_or_default();
                row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        });
        product.add(target.storage_mut::<f32>(), Matrix::rows(outputs));
        return rows_of(target);
    }
    let y = match bias {
        Some(bias) => {
            let mut y = repeated(bias, rows);
            product.add(&mut y, Matrix::rows(outputs));
            y
        }
        None => product.collect(),
    };
    Tensor::from_data(TensorData::new(y, [rows, outputs]), &device)
}

/// `row` repeated `times` times, written on all cores.
fn repeated(row: &[f32], times: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(times * row.len());
    let width = row.len().max(1);
    rows.spare_capacity_mut()[..times * row.len()]
        .par_chunks_mut(piece_of(width))
        .for_each(|piece| {
            for target in piece.chunks_exact_mut(width) {
                for (y, x) in target.iter_mut().zip(row) {
                    y.write(*x);
                }
            }
        });
    // SAFETY: the pieces hold whole rows and cover all of them, so each entry was written.
    unsafe { rows.set_len(times * row.len()) };
    rows
}

pub(super) fn linear_backward(input: LinearBackwardInput<Flex>) -> LinearGradients<Flex> {
    let in_bf16 = Precision::current() == Precision::Bf16;
    let input = if in_bf16 { input } else { input.rounded() };
    let [rows, inputs] = input.x.dims();
    let outputs = input.weight.dims()[1];
    let device = input.x.device();
    let (x, weight) = (contiguous(input.x), contiguous(input.weight));
    let d_y = contiguous(input.d_y);
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let d_y = d_y.storage::<f32>();
    let of_weight = Product {
        rows: inputs,
        inner: rows,
        columns: outputs,
        left: (x, Matrix::rows(inputs).transposed()),
        right: (d_y, Matrix::rows(outputs)),
        factor: 1.0,
        parallel: true,
        in_bf16,
    };
    let of_x = Product {
        rows,
        inner: outputs,
        columns: inputs,
        left: (d_y, Matrix::rows(outputs)),
        right: (weight, Matrix::rows(outputs).transposed()),
        factor: 1.0,
        parallel: true,
        in_bf16,
    };
    let tensor = |values: Vec<f32>, shape: [usize; 2]| {
        Tensor::<Flex, 2>::from_data(TensorData::new(values, shape), &device)
    };
    LinearGradients {
        d_weight: input
            .wants_weight
            .then(|| tensor(of_weight.collect(), [inputs, outputs])),
        d_x: input
            .wants_x
            .then(|| tensor(of_x.collect(), [rows, inputs])),
        d_bias: input.wants_bias.then(|| {
            let sums = column_sums(d_y, outputs);
            Tensor::from_data(TensorData::new(sums, [outputs]), &device)
        }),
    }
}
