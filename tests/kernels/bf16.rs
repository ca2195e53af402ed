//! Operands in bf16, on backends that have it: what is rounded, and what is not.

use burn::tensor::{Tensor, TensorData};
use burn_ndarray::NdArray;
use half::bf16;
use ibot::kernels::{
    AttentionInput, IbotBackend, LinearBackwardInput, LinearInput, RowIndices, TrainBackend,
};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};

use crate::products::{Inner, assert_exact, product, tensor};
use crate::rows::draw;
use crate::values;

/// Whole numbers of up to ten bits, of which bf16 keeps eight.
fn long_numbers(stream: u64, count: usize) -> Vec<i64> {
    let mut random = Random::new(stream, 9, 0, Stream::Init);
    (0..count)
        .map(|_| random.below(1_023) as i64 - 511)
        .collect()
}

fn nearest(numbers: &[i64]) -> Vec<i64> {
    let nearest = |x: &i64| bf16::from_f32(*x as f32).to_f32() as i64;
    numbers.iter().map(nearest).collect()
}

/// Sums of whole numbers are exact: each operand is rounded once, and nothing else is.
pub fn linear<B: TrainBackend>(device: &B::Device) {
    if Inner::<B>::check_precision(Precision::Bf16, device).is_err() {
        return;
    }
    for [rows, inputs, outputs] in [[1, 1, 1], [3, 5, 7], [33, 17, 50], [50, 40, 130]] {
        let (x, weight) = (
            long_numbers(1, rows * inputs),
            long_numbers(2, inputs * outputs),
        );
        let (bias, d_y) = (long_numbers(3, outputs), long_numbers(4, rows * outputs));
        let residual = long_numbers(5, rows * outputs);
        let tensor = |entries, shape| tensor::<Inner<B>, 2>(entries, shape, device);
        let input = LinearInput::<Inner<B>> {
            x: tensor(&x, [rows, inputs]),
            weight: tensor(&weight, [inputs, outputs]),
            bias: Some(crate::products::tensor(&bias, [outputs], device)),
            residual: Some(tensor(&residual, [rows, outputs])),
        };
        let backward = LinearBackwardInput {
            x: input.x.clone(),
            weight: input.weight.clone(),
            d_y: tensor(&d_y, [rows, outputs]),
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        };
        let (y, found) = Precision::Bf16.autocast(|| {
            let y = Inner::<B>::linear_rows(input);
            (y, Inner::<B>::linear_rows_backward(backward))
        });
        let [x, weight, rounded_d_y] = [&x, &weight, &d_y].map(|numbers| nearest(numbers));
        let at = |numbers: &[i64], width: usize, row: usize, column: usize| {
            numbers[row * width + column]
        };
        let mut expected = product(
            [rows, inputs, outputs],
            |row, at_| at(&x, inputs, row, at_),
            |at_, column| at(&weight, outputs, at_, column),
        );
        for (place, y) in expected.iter_mut().enumerate() {
            *y += residual[place] + bias[place % outputs];
        }
        assert_exact("y", y, &expected);
        let d_x = product(
            [rows, outputs, inputs],
            |row, at_| at(&rounded_d_y, outputs, row, at_),
            |at_, column| at(&weight, outputs, column, at_),
        );
        assert_exact("d_x", found.d_x.unwrap(), &d_x);
        let d_weight = product(
            [inputs, rows, outputs],
            |row, at_| at(&x, inputs, at_, row),
            |at_, column| at(&rounded_d_y, outputs, at_, column),
        );
        assert_exact("d_weight", found.d_weight.unwrap(), &d_weight);
        let mut d_bias = vec![0; outputs];
        for (place, d_y) in d_y.iter().enumerate() {
            d_bias[place % outputs] += d_y;
        }
        assert_exact("d_bias", found.d_bias.unwrap(), &d_bias);
    }
}

/// Context and gradient of attention, `[B T, D]` and `[B T, 3 D]`, of which those of some queries count.
fn attention_of<B: IbotBackend>(
    [batch, tokens, heads, head_width]: [usize; 4],
    queries: Option<&RowIndices>,
    device: &B::Device,
) -> [Vec<f32>; 2] {
    let (rows, width) = (batch * tokens, heads * head_width);
    let numbers = |stream, shape: [usize; 2]| -> Tensor<B, 2> {
        let entries = draw(stream, shape[0] * shape[1], 1.0);
        Tensor::from_data(TensorData::new(entries, shape), device)
    };
    let input = AttentionInput::<B> {
        qkv: numbers(7, [rows, 3 * width]),
        batch,
        heads,
        queries: queries.cloned(),
    };
    let mut d_context = numbers(8, [rows, width]);
    if let Some(queries) = queries {
        d_context = B::scatter_rows(B::gather_rows(d_context, queries), queries);
    }
    let output = B::packed_attention(input.clone());
    let mut context = output.context.clone();
    if let Some(queries) = queries {
        context = B::gather_rows(context, queries);
    }
    let d_qkv = B::packed_attention_backward(input, output, d_context);
    [values(context), values(d_qkv)]
}

/// As the reference rounds, but for numbers so near the middle of two that another order of sums takes them to the other; and
/// near f32.
pub fn attention<B: TrainBackend>(device: &B::Device) {
    if Inner::<B>::check_precision(Precision::Bf16, device).is_err() {
        return;
    }
    for sizes @ [batch, tokens, ..] in [[1, 1, 1, 4], [2, 5, 3, 4], [2, 50, 2, 64], [1, 37, 3, 20]]
    {
        let some =
            (tokens > 1).then(|| RowIndices::new(vec![0, (tokens - 1) as i32], batch * tokens));
        let chosen = [None, some.as_ref()];
        for queries in chosen {
            let found = |precision: Precision| {
                precision.autocast(|| attention_of::<Inner<B>>(sizes, queries, device))
            };
            let (in_bf16, in_f32) = (found(Precision::Bf16), found(Precision::F32));
            let reference = Precision::Bf16
                .autocast(|| attention_of::<NdArray<f32>>(sizes, queries, &Default::default()));
            for (which, found) in in_bf16.iter().enumerate() {
                let off = |other: &[f32]| {
                    let pairs = found.iter().zip(other);
                    let largest = other.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
                };
                let [of_rounding, of_order] = [off(&in_f32[which]), off(&reference[which])];
                assert!(
                    of_rounding > 1e-4 && of_rounding < 2e-2 && of_order < 2e-3,
                    "{sizes:?} {which}: {of_rounding} {of_order}"
                );
            }
        }
    }
}
