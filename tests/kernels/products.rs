//! Matrix products, sums of columns and rows by their places, of small whole numbers: f32 adds those exactly in any order,
//! so that every backend must give exactly what whole numbers on the host give.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::kernels::{
    IbotBackend, Layout, LinearBackwardInput, LinearInput, RowIndices, TrainBackend,
};
use ibot::random::{Random, Stream};

use crate::values;

pub type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Rows, terms and columns: around blocks of 4, tiles of 64 and 128 and depths of 16; multiples of 4 or not.
const SIZES: [[usize; 3]; 10] = [
    [1, 1, 1],
    [1, 4, 4],
    [4, 16, 64],
    [65, 17, 63],
    [64, 32, 128],
    [132, 20, 68],
    [133, 68, 20],
    [131, 19, 67],
    [196, 36, 12],
    [520, 8, 516],
];

pub fn draw(stream: u64, count: usize) -> Vec<i64> {
    let mut random = Random::new(stream, 9, 0, Stream::Init);
    (0..count).map(|_| random.below(7) as i64 - 3).collect()
}

pub fn tensor<B: IbotBackend, const D: usize>(
    entries: &[i64],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let entries: Vec<f32> = entries.iter().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(entries, shape), device)
}

#[track_caller]
pub fn assert_exact<B: IbotBackend, const D: usize>(
    name: &str,
    found: Tensor<B, D>,
    expected: &[i64],
) {
    let found = values(found);
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            *found == *expected as f32,
            "{name}, entry {at}: {found}, not {expected}"
        );
    }
}

/// `[R, T] [T, C]`, the operands given by row and column.
pub fn product(
    [rows, depth, columns]: [usize; 3],
    left: impl Fn(usize, usize) -> i64,
    right: impl Fn(usize, usize) -> i64,
) -> Vec<i64> {
    let mut out = vec![0; rows * columns];
    for (row, at) in (0..rows).flat_map(|row| (0..depth).map(move |at| (row, at))) {
        let of_left = left(row, at);
        for (column, sum) in out[row * columns..][..columns].iter_mut().enumerate() {
            *sum += of_left * right(at, column);
        }
    }
    out
}

pub fn linear<B: TrainBackend>(device: &B::Device) {
    for sizes @ [rows, depth, columns] in SIZES {
        let (x, weight) = (draw(1, rows * depth), draw(2, depth * columns));
        let (bias, residual) = (draw(3, columns), draw(4, rows * columns));
        let plain = product(
            sizes,
            |i, t| x[i * depth + t],
            |t, j| weight[t * columns + j],
        );
        for (with_bias, with_residual) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let y = Inner::<B>::linear_rows(LinearInput {
                x: tensor(&x, [rows, depth], device),
                weight: tensor(&weight, [depth, columns], device),
                bias: with_bias.then(|| tensor(&bias, [columns], device)),
                residual: with_residual.then(|| tensor(&residual, [rows, columns], device)),
            });
            let added = plain.iter().enumerate().map(|(at, sum)| {
                let bias = if with_bias { bias[at % columns] } else { 0 };
                sum + bias + if with_residual { residual[at] } else { 0 }
            });
            let name = format!("{sizes:?}, bias {with_bias}, residual {with_residual}");
            assert_exact(&name, y, &added.collect::<Vec<_>>());
        }
    }
}

pub fn linear_backward<B: TrainBackend>(device: &B::Device) {
    for sizes @ [rows, inputs, outputs] in SIZES {
        let (x, weight) = (draw(5, rows * inputs), draw(6, inputs * outputs));
        let d_y = draw(7, rows * outputs);
        for wants in [
            [true, true, true],
            [true, false, false],
            [false, true, false],
            [false, false, true],
        ] {
            let [wants_x, wants_weight, wants_bias] = wants;
            let found = Inner::<B>::linear_rows_backward(LinearBackwardInput {
                x: tensor(&x, [rows, inputs], device),
                weight: tensor(&weight, [inputs, outputs], device),
                d_y: tensor(&d_y, [rows, outputs], device),
                wants_x,
                wants_weight,
                wants_bias,
            });
            let is_there = [
                found.d_x.is_some(),
                found.d_weight.is_some(),
                found.d_bias.is_some(),
            ];
            assert_eq!(is_there, wants);
            let name = format!("{sizes:?}, {wants:?}");
            let by = |at: usize, column: usize| d_y[at * outputs + column];
            if let Some(d_x) = found.d_x {
                let expected = product([rows, outputs, inputs], by, |t, j| weight[j * outputs + t]);
                assert_exact(&format!("d_x, {name}"), d_x, &expected);
            }
            if let Some(d_weight) = found.d_weight {
                let expected = product([inputs, rows, outputs], |i, t| x[t * inputs + i], by);
                assert_exact(&format!("d_weight, {name}"), d_weight, &expected);
            }
            if let Some(d_bias) = found.d_bias {
                let expected = product([1, rows, outputs], |_, _| 1, by);
                assert_exact(&format!("d_bias, {name}"), d_bias, &expected);
            }
        }
    }
}

pub fn many_small<B: TrainBackend>(device: &B::Device) {
    // the last two keep a GPU busy, which takes larger tiles for them
    for (count, sizes) in [
        (3, [1, 1, 1]),
        (3, [5, 7, 9]),
        (3, [65, 16, 68]),
        (3, [17, 64, 33]),
        (130, [133, 20, 68]),
        (130, [131, 19, 66]),
    ] {
        let [rows, depth, columns] = sizes;
        let (left, right) = (
            draw(8, count * rows * depth),
            draw(9, count * depth * columns),
        );
        let expected = (0..count).flat_map(|map| {
            let left = &left[map * rows * depth..];
            let right = &right[map * depth * columns..];
            product(
                sizes,
                |i, t| left[i * depth + t],
                |t, j| right[t * columns + j],
            )
        });
        let expected: Vec<i64> = expected.collect();
        let left = tensor::<Inner<B>, 3>(&left, [count, rows, depth], device);
        let right = tensor::<Inner<B>, 3>(&right, [count, depth, columns], device);
        // a copy that lies transposed, not a view
        let turned = |x: &Tensor<Inner<B>, 3>| x.clone().swap_dims(1, 2) * 1.0;
        for (layout, left, right) in [
            (Layout::Plain, left.clone(), right.clone()),
            (Layout::RightTransposed, left.clone(), turned(&right)),
            (Layout::LeftTransposed, turned(&left), right.clone()),
        ] {
            let found = Inner::<B>::matrix_products(left, right, layout);
            assert_eq!(found.dims(), [count, rows, columns]);
            assert_exact(&format!("{sizes:?}, {layout:?}"), found, &expected);
        }
    }
}

/// Their gradients with respect to both operands, in each of the three ways in which these lie.
pub fn gradients_of_many_small<B: TrainBackend>(device: &B::Device) {
    let [rows, depth, columns] = [3, 5, 4];
    let [left, right, weights] = [
        (21, rows * depth),
        (22, depth * columns),
        (23, rows * columns),
    ]
    .map(|(stream, count)| draw(stream, count));
    let d_left = product(
        [rows, columns, depth],
        |i, j| weights[i * columns + j],
        |j, t| right[t * columns + j],
    );
    let d_right = product(
        [depth, rows, columns],
        |t, i| left[i * depth + t],
        |i, j| weights[i * columns + j],
    );
    for layout in [
        Layout::Plain,
        Layout::RightTransposed,
        Layout::LeftTransposed,
    ] {
        let leaf = |entries: &[i64], sizes: [usize; 3], is_turned: bool| {
            let leaf = tensor::<Inner<B>, 3>(entries, sizes, device);
            let leaf = if is_turned {
                leaf.swap_dims(1, 2) * 1.0
            } else {
                leaf
            };
            Tensor::<B, 3>::from_inner(leaf).require_grad()
        };
        let turned = [Layout::LeftTransposed, Layout::RightTransposed].map(|of| of == layout);
        let left = leaf(&left, [1, rows, depth], turned[0]);
        let right = leaf(&right, [1, depth, columns], turned[1]);
        let weights = tensor::<B, 3>(&weights, [1, rows, columns], device);
        let y = B::matrix_products(left.clone(), right.clone(), layout);
        let grads = (y * weights).sum().backward();
        for (name, leaf, is_turned, expected) in [
            ("left", left, turned[0], &d_left),
            ("right", right, turned[1], &d_right),
        ] {
            let found = leaf.grad(&grads).unwrap();
            let found = if is_turned {
                found.swap_dims(1, 2) * 1.0
            } else {
                found
            };
            assert_exact(
                &format!("{layout:?}, gradient with respect to {name}"),
                found,
                expected,
            );
        }
    }
}

/// More terms than one launch adds up, in each of the three ways in which operands lie.
pub fn many_terms<B: TrainBackend>(device: &B::Device) {
    let terms = 450_003;
    let [a, b] = [19, 20].map(|stream| draw(stream, 2 * terms));
    let rows = |entries: &[i64]| tensor::<Inner<B>, 2>(entries, [2, terms], device);
    let columns = |entries: &[i64]| tensor::<Inner<B>, 2>(entries, [terms, 2], device);
    let backward = |x, weight, d_y| {
        Inner::<B>::linear_rows_backward(LinearBackwardInput {
            x,
            weight,
            d_y,
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        })
    };
    let dot = |left: &dyn Fn(usize, usize) -> i64, right: &dyn Fn(usize, usize) -> i64| {
        product([2, terms, 2], left, right)
    };
    let (row, column) = (
        |x: usize, t: usize| x * terms + t,
        |t: usize, x: usize| t * 2 + x,
    );
    let y = Inner::<B>::linear_rows(LinearInput {
        x: rows(&a),
        weight: columns(&b),
        bias: Some(tensor(&[5, -7], [2], device)),
        residual: None,
    });
    let expected = dot(&|i, t| a[row(i, t)], &|t, j| b[column(t, j)]);
    assert_exact(
        "sums",
        y,
        &[
            expected[0] + 5,
            expected[1] - 7,
            expected[2] + 5,
            expected[3] - 7,
        ],
    );
    let d_x = backward(tensor(&draw(21, 4), [2, 2], device), rows(&a), rows(&b))
        .d_x
        .unwrap();
    let expected = dot(&|i, t| b[row(i, t)], &|t, j| a[row(j, t)]);
    assert_exact("d_x", d_x, &expected);
    let found = backward(
        columns(&a),
        tensor(&draw(22, 4), [2, 2], device),
        columns(&b),
    );
    let expected = dot(&|i, t| a[column(t, i)], &|t, j| b[column(t, j)]);
    assert_exact("d_weight", found.d_weight.unwrap(), &expected);
    let expected = product([1, terms, 2], |_, _| 1, |t, j| b[column(t, j)]);
    assert_exact("d_bias", found.d_bias.unwrap(), &expected);
}

/// A product of views: of every second row of a matrix, and of some of its columns.
pub fn views<B: TrainBackend>(device: &B::Device) {
    let whole = draw(10, 40 * 24);
    let x = tensor::<Inner<B>, 2>(&whole, [40, 24], device);
    let weight = x.clone().narrow(1, 3, 8).transpose(); // [8, 40]
    let y = Inner::<B>::linear_rows(LinearInput {
        x: x.clone().narrow(1, 11, 8),
        weight,
        bias: None,
        residual: None,
    });
    let expected = product(
        [40, 8, 40],
        |i, t| whole[i * 24 + 11 + t],
        |t, j| whole[j * 24 + 3 + t],
    );
    assert_exact("views", y, &expected);
}

pub fn column_sums<B: TrainBackend>(device: &B::Device) {
    for [rows, width] in [[1, 1], [3, 4], [64, 20], [65, 7], [4_160, 12], [4_097, 5]] {
        let x = draw(13, rows * width);
        let found = Inner::<B>::column_sums(tensor(&x, [rows, width], device));
        let expected = product(
            [1, rows, width],
            |_, _| 1,
            |at, column| x[at * width + column],
        );
        assert_exact(&format!("{rows} x {width}"), found, &expected);
    }
}

/// Rows at their places, and the gradient back at them.
pub fn rows_by_place<B: TrainBackend>(device: &B::Device) {
    for (rows, width, places) in [
        (5, 4, vec![4, 0, 2]),
        (70, 7, (0..70).rev().collect::<Vec<i32>>()),
        (3, 8, vec![]),
        (1, 1, vec![0]),
    ] {
        let x = draw(17, rows * width);
        let chosen = RowIndices::new(places.clone(), rows);
        let leaf = tensor::<B, 2>(&x, [rows, width], device).require_grad();
        let y = B::gather_rows(leaf.clone(), &chosen);
        let expected = places
            .iter()
            .flat_map(|row| &x[*row as usize * width..][..width]);
        assert_exact("rows", y.clone(), &expected.copied().collect::<Vec<_>>());
        if places.is_empty() {
            continue;
        }
        let weights = draw(18, places.len() * width);
        let weighted = y * tensor::<B, 2>(&weights, [places.len(), width], device);
        let gradient = leaf.grad(&weighted.sum().backward()).unwrap();
        let mut expected = vec![0; rows * width];
        for (at, row) in places.iter().enumerate() {
            expected[*row as usize * width..][..width]
                .copy_from_slice(&weights[at * width..][..width]);
        }
        assert_exact("gradient", gradient, &expected);
    }
}
