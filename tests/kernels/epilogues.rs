//! What products do beside multiplying: GELU's slope as part of them, long sums in parts, each of their tiles, and the order
//! of those.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_wgpu::WgpuDevice;
use ibot::kernels::wgsl::{Tile, with_tile, with_workgroup};
use ibot::kernels::{Gpu, IbotBackend, LinearBackwardInput, LinearInput, TrainBackend};
use ibot::random::{Random, Stream};

use crate::loss_case::error;
use crate::products::{self, Inner, assert_exact, draw, product, tensor};
use crate::rows::wide;
use crate::values;

/// Rows, terms and columns around blocks of 4 and tiles of 64 and 128; multiples of 4 or not.
const SIZES: [[usize; 3]; 5] = [
    [1, 1, 1],
    [5, 12, 68],
    [66, 17, 65],
    [132, 20, 132],
    [129, 33, 131],
];

/// Gradients of a layer whose rows are GELU of others: by those with the derivative, by the weight as without.
pub fn gelu_gradient<B: TrainBackend>(device: &B::Device) {
    for sizes @ [rows, inputs, outputs] in SIZES {
        let weight = draw(46, inputs * outputs);
        let d_y = draw(47, rows * outputs);
        let before: Vec<f32> = draw(48, rows * inputs)
            .iter()
            .enumerate()
            .map(|(at, x)| *x as f32 * 0.7 + (at % 5) as f32 * 0.1)
            .collect();
        let before: Tensor<Inner<B>, 2> =
            Tensor::<Inner<B>, 1>::from_floats(before.as_slice(), device).reshape([rows, inputs]);
        let input = |x| LinearBackwardInput {
            x,
            weight: tensor(&weight, [inputs, outputs], device),
            d_y: tensor(&d_y, [rows, outputs], device),
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        };
        let plain = Inner::<B>::linear_rows_backward(input(Inner::<B>::exact_gelu(before.clone())));
        let found = Inner::<B>::linear_gelu_backward(input(before.clone()));
        // to rounding: GELU is the same formula in another kernel
        let [found_weight, plain_weight] =
            [found.d_weight, plain.d_weight].map(|d| values(d.unwrap()));
        let difference = error(&wide(&found_weight), &wide(&plain_weight), 1e-6);
        assert!(difference < 1e-6, "{sizes:?}: {difference}");
        let d_y = product(
            [rows, outputs, inputs],
            |i, t| d_y[i * outputs + t],
            |t, j| weight[j * outputs + t],
        );
        let largest = d_y.iter().fold(1, |largest: i64, y| largest.max(y.abs()));
        let before = values(before);
        for ((found, d_y), x) in values(found.d_x.unwrap()).iter().zip(&d_y).zip(before) {
            let x = f64::from(x);
            let below = 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let expected = *d_y as f64 * (below + x * density);
            let error = (f64::from(*found) - expected).abs() / largest as f64;
            assert!(error < 2e-6, "{sizes:?}: {found}, not {expected}");
        }
    }
}

/// Sums of so many terms that a GPU makes them in parts: around a multiple of a depth, and of whole vectors or not.
pub fn long_sums<B: TrainBackend>(device: &B::Device) {
    for [rows, inputs, outputs] in [
        [1_023, 8, 68],
        [1_024, 65, 4],
        [1_041, 7, 66],
        [2_600, 12, 12],
        [5, 68, 1_539],
        [9, 12, 2_052],
    ] {
        let (x, weight) = (draw(50, rows * inputs), draw(51, inputs * outputs));
        let d_y = draw(52, rows * outputs);
        let found = Inner::<B>::linear_rows_backward(LinearBackwardInput {
            x: tensor(&x, [rows, inputs], device),
            weight: tensor(&weight, [inputs, outputs], device),
            d_y: tensor(&d_y, [rows, outputs], device),
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        });
        let name = format!("{rows} x {inputs} to {outputs}");
        let by = |at: usize, column: usize| d_y[at * outputs + column];
        let of_x = product([rows, outputs, inputs], by, |t, j| weight[j * outputs + t]);
        assert_exact(&format!("d_x, {name}"), found.d_x.unwrap(), &of_x);
        let of_weight = product([inputs, rows, outputs], |i, t| x[t * inputs + i], by);
        assert_exact(
            &format!("d_weight, {name}"),
            found.d_weight.unwrap(),
            &of_weight,
        );
        let of_bias = product([1, rows, outputs], |_, _| 1, by);
        assert_exact(&format!("d_bias, {name}"), found.d_bias.unwrap(), &of_bias);
    }
}

/// All of this and the products' own tests with each tile, whichever the device would choose.
pub fn each_tile(device: &WgpuDevice) {
    for tile in Tile::ALL {
        let with_tile_of_gpus = |check: fn(&WgpuDevice)| {
            with_workgroup(256, || with_tile(tile, || check(device)));
        };
        with_tile_of_gpus(products::linear::<Autodiff<Gpu>>);
        with_tile_of_gpus(products::linear_backward::<Autodiff<Gpu>>);
        with_tile_of_gpus(products::many_small::<Autodiff<Gpu>>);
        with_tile_of_gpus(gelu_gradient::<Autodiff<Gpu>>);
        with_tile_of_gpus(long_sums::<Autodiff<Gpu>>);
    }
}

/// More tiles along both sides than one band has rows; the last band has one row.
pub fn bands(device: &WgpuDevice) {
    for sizes @ [rows, depth, columns] in [[2_107, 4, 2_116], [2_060, 3, 2_111]] {
        let (x, weight) = (draw(60, rows * depth), draw(61, depth * columns));
        let y = with_workgroup(256, || {
            with_tile(Tile::SMALL, || {
                Gpu::linear_rows(LinearInput {
                    x: tensor(&x, [rows, depth], device),
                    weight: tensor(&weight, [depth, columns], device),
                    bias: None,
                    residual: None,
                })
            })
        });
        let expected = product(
            sizes,
            |i, t| x[i * depth + t],
            |t, j| weight[t * columns + j],
        );
        assert_exact(&format!("{sizes:?}"), y, &expected);
    }
}

/// Products of numbers whose sums are rounded, sums in parts and sums of columns among them, have the same bits with each
/// tile: which one is the fastest on a device moves no number.
pub fn same_bits_of_each_tile(device: &WgpuDevice) {
    for [rows, inputs, outputs] in [[133, 37, 70], [1_041, 68, 132], [2_600, 65, 12]] {
        let numbers = |stream: u64, shape: [usize; 2]| -> Tensor<Gpu, 2> {
            let mut random = Random::new(stream, 9, 0, Stream::Init);
            let drawn = random.fill(shape[0] * shape[1], Random::normal);
            Tensor::<Gpu, 1>::from_floats(drawn.as_slice(), device).reshape(shape)
        };
        let run = || -> Vec<Vec<u32>> {
            let x = numbers(70, [rows, inputs]);
            let weight = numbers(71, [inputs, outputs]);
            let y = Gpu::linear_rows(LinearInput {
                x: x.clone(),
                weight: weight.clone(),
                bias: Some(numbers(72, [1, outputs]).reshape([outputs])),
                residual: Some(numbers(73, [rows, outputs])),
            });
            let input = LinearBackwardInput {
                x,
                weight,
                d_y: numbers(74, [rows, outputs]),
                wants_x: true,
                wants_weight: true,
                wants_bias: true,
            };
            let gradients = Gpu::linear_gelu_backward(input);
            let d_bias = gradients.d_bias.unwrap().reshape([1, outputs]);
            let found = [
                y,
                gradients.d_x.unwrap(),
                gradients.d_weight.unwrap(),
                d_bias,
            ];
            let bits = |x| values(x).iter().map(|x: &f32| x.to_bits()).collect();
            found.map(bits).into()
        };
        let with = |tile| with_workgroup(256, || with_tile(tile, run));
        let expected = with(Tile::SMALL);
        for tile in [Tile::TALL, Tile::LARGE] {
            assert!(with(tile) == expected, "{rows} x {inputs}, {tile:?}");
        }
    }
}
