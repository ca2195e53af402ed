//! Linear layers as training chains them, against the same operations one by one: a norm before, GELU between, rows that also
//! go past the layers, and L2 norm behind.

use burn::tensor::Tensor;
use ibot::kernels::{
    IbotBackend, L2NormInput, LayerNormInput, LinearLayerInput, Prologue, TrainBackend,
};

use crate::products::Inner;
use crate::rows::{draw, tensor, wide};
use crate::sizes::compare;
use crate::{assert_close, values};

/// Rows, inputs and outputs: multiples of 4 or not, and so many rows that a GPU makes sums over them in parts.
const SIZES: [[usize; 3]; 6] = [
    [1, 1, 1],
    [5, 8, 12],
    [66, 9, 33],
    [130, 64, 68],
    [1_030, 12, 8],
    [2_600, 7, 66],
];

/// The largest difference between a chain and its pieces, over the largest entry.
const BAR: f64 = 1e-5;

/// What is differentiated: rows, the norm's scale and shift, and a layer's weight and bias.
struct Leaves<B: TrainBackend> {
    x: Tensor<B, 2>,
    scale: Tensor<B, 1>,
    shift: Tensor<B, 1>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 1>,
}

impl<B: TrainBackend> Leaves<B> {
    fn draw([rows, inputs, outputs]: [usize; 3], device: &B::Device) -> Self {
        let weight = draw(33, inputs * outputs, 1.0 / (inputs as f64).sqrt());
        Self {
            x: tensor(&draw(30, rows * inputs, 2.0), [rows, inputs], device),
            scale: tensor(&draw(31, inputs, 1.0), [inputs], device),
            shift: tensor(&draw(32, inputs, 1.0), [inputs], device),
            weight: tensor(&weight, [inputs, outputs], device),
            bias: tensor(&draw(34, outputs, 1.0), [outputs], device),
        }
    }

    fn norm(&self) -> LayerNormInput<B> {
        LayerNormInput {
            x: self.x.clone(),
            weight: self.scale.clone(),
            bias: self.shift.clone(),
            eps: 1e-6,
        }
    }

    fn layer(&self, x: Tensor<B, 2>, prologue: Prologue<B>) -> LinearLayerInput<B> {
        LinearLayerInput {
            x,
            prologue,
            weight: self.weight.clone(),
            bias: Some(self.bias.clone()),
            residual: None,
        }
    }

    fn normed_layer(&self) -> LinearLayerInput<B> {
        let LayerNormInput {
            x,
            weight,
            bias,
            eps,
        } = self.norm();
        self.layer(x, Prologue::LayerNorm { weight, bias, eps })
    }

    /// `y`, and its gradients with respect to those of the leaves that it depends on.
    fn outcome(&self, y: Tensor<B, 2>) -> Vec<Vec<f32>> {
        let [rows, columns] = y.dims();
        let weights = draw(35, rows * columns, 1.0);
        let weights = tensor::<B, 2>(&weights, [rows, columns], &y.device()).detach();
        let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
        let matrices = [&self.x, &self.weight].map(|leaf| leaf.grad(&grads).map(values));
        let vectors = [&self.scale, &self.shift, &self.bias];
        let vectors = vectors.map(|leaf| leaf.grad(&grads).map(values));
        let gradients = matrices.into_iter().chain(vectors).flatten();
        std::iter::once(values(y)).chain(gradients).collect()
    }

    fn assert_equal(&self, name: &str, found: Tensor<B, 2>, expected: Tensor<B, 2>) {
        let expected = self.outcome(expected);
        let expected = expected.iter().map(|values| wide(values)).collect();
        compare(name, &self.outcome(found), &expected, BAR);
    }
}

/// Scale and shift of a norm get their gradients from those of the layer behind it.
pub fn norm_and_layer<B: TrainBackend>(device: &B::Device) {
    for sizes in SIZES {
        let leaves = Leaves::<B>::draw(sizes, device);
        let found = B::linear_layer(leaves.normed_layer());
        let normed = B::layer_norm_rows(leaves.norm());
        let apart = B::linear_layer(leaves.layer(normed, Prologue::Nothing));
        leaves.assert_equal(&format!("norm and layer, {sizes:?}"), found, apart);
    }
}

/// Rows that reach the loss through the layer and past it, as in a residual branch: their gradients are added up once.
pub fn rows_past_the_layer<B: TrainBackend>(device: &B::Device) {
    for [rows, inputs, _] in SIZES {
        let leaves = Leaves::<B>::draw([rows, inputs, inputs], device);
        let found = B::linear_layer(LinearLayerInput {
            residual: Some(leaves.x.clone()),
            ..leaves.normed_layer()
        });
        let normed = B::layer_norm_rows(leaves.norm());
        let apart = B::linear_layer(leaves.layer(normed, Prologue::Nothing)) + leaves.x.clone();
        let name = format!("residual, {rows} x {inputs}");
        leaves.assert_equal(&name, found, apart);
        let leaves = Leaves::<B>::draw([rows, inputs, inputs], device);
        // the first branch is behind the second one's rows
        let first = || B::linear_layer(leaves.normed_layer());
        let found = B::linear_layer(LinearLayerInput {
            residual: Some(leaves.x.clone()),
            ..leaves.layer(first(), Prologue::Gelu { ready: None })
        });
        let second = B::linear_layer(leaves.layer(B::exact_gelu(first()), Prologue::Nothing));
        leaves.assert_equal(&name, found, second + leaves.x.clone());
    }
}

/// GELU that is made together with the rows before it, and again in the next layer's backward.
pub fn layer_and_gelu<B: TrainBackend>(device: &B::Device) {
    for [rows, inputs, outputs] in SIZES {
        let leaves = Leaves::<B>::draw([rows, inputs, outputs], device);
        let first = || leaves.layer(leaves.x.clone(), Prologue::Nothing);
        let apart = B::exact_gelu(B::linear_layer(first()));
        let next = draw(36, outputs * inputs, 1.0 / (outputs as f64).sqrt());
        let next = tensor::<B, 2>(&next, [outputs, inputs], device);
        let second = |(x, prologue)| {
            B::linear_layer(LinearLayerInput {
                x,
                prologue,
                weight: next.clone(),
                bias: None,
                residual: None,
            })
        };
        let found = second(B::linear_layer_gelu(first()).rows());
        let apart = second((apart, Prologue::Nothing));
        leaves.assert_equal(&format!("GELU, {rows} x {outputs}"), found, apart);
        // without a graph there is nothing before GELU to keep
        let inner = LinearLayerInput::<Inner<B>> {
            x: leaves.x.clone().inner(),
            prologue: Prologue::Nothing,
            weight: leaves.weight.clone().inner(),
            bias: Some(leaves.bias.clone().inner()),
            residual: None,
        };
        let [before, after] = Inner::<B>::linear_layer_and_gelu(inner.clone());
        let alone = Inner::<B>::linear_layer_gelu(inner);
        assert!(alone.before.is_none());
        assert_close(&values(alone.after), &wide(&values(after.clone())), 1e-5);
        let expected = Inner::<B>::exact_gelu(before);
        assert_close(&values(after), &wide(&values(expected)), 1e-5);
    }
}

/// A matrix cut in two, whose gradients come one after the other, and rows of it that reach the loss twice.
pub fn sliced_rows<B: TrainBackend>(device: &B::Device) {
    for [rows, width, first] in [[2, 1, 1], [5, 7, 2], [66, 12, 65], [131, 64, 4]] {
        let x = draw(39, rows * width, 1.0);
        let weights = draw(40, rows * width, 1.0);
        let input = tensor::<B, 2>(&x, [rows, width], device);
        let weighted = |part: Tensor<B, 2>, start: usize| {
            let [count, _] = part.dims();
            let of_part = &weights[start * width..(start + count) * width];
            let of_part = tensor::<B, 2>(of_part, [count, width], device).detach();
            (part * of_part).sum_dim(1).sum_dim(0)
        };
        let parts = [0..first, first..rows, first..first + 1];
        let found: Vec<Vec<f32>> = parts
            .clone()
            .map(|part| values(B::slice_rows(input.clone(), part)))
            .to_vec();
        for (found, part) in found.iter().zip(parts.clone()) {
            assert_eq!(*found, x[part.start * width..part.end * width]);
        }
        let [a, b, again] =
            parts.map(|part| weighted(B::slice_rows(input.clone(), part.clone()), part.start));
        let grads = (a + b + again).backward();
        let mut expected = wide(&weights);
        for (d, weight) in expected[first * width..(first + 1) * width]
            .iter_mut()
            .zip(&weights[first * width..])
        {
            *d += f64::from(*weight);
        }
        assert_close(&values(input.grad(&grads).unwrap()), &expected, 1e-6);
    }
}

/// Rows of length 1: against the formula, with a row of zeros and one that is shorter than the least norm.
pub fn l2_norm<B: TrainBackend>(device: &B::Device) {
    let min_squared_norm = 1e-4;
    for [rows, width] in [[4, 1], [5, 7], [6, 64], [9, 256], [3, 771]] {
        let mut x = draw(37, rows * width, 1.0);
        x[..width].fill(0.0);
        x[width..2 * width].fill(1e-3 / width as f32);
        let weights = draw(38, rows * width, 1.0);
        let input = tensor::<B, 2>(&x, [rows, width], device);
        let y = B::l2_normalize_rows(L2NormInput {
            x: input.clone(),
            min_squared_norm,
        });
        let d_y = tensor::<B, 2>(&weights, [rows, width], device).detach();
        let grads = (y.clone() * d_y).sum_dim(1).sum_dim(0).backward();
        let (mut expected, mut d_x) = (Vec::new(), Vec::new());
        for (x, d_y) in wide(&x).chunks(width).zip(wide(&weights).chunks(width)) {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let norm = dot(x, x).max(min_squared_norm).sqrt();
            let is_short = dot(x, x) < min_squared_norm;
            let along = if is_short {
                0.0
            } else {
                dot(x, d_y) / norm.powi(2)
            };
            expected.extend(x.iter().map(|x| x / norm));
            d_x.extend(x.iter().zip(d_y).map(|(x, d)| (d - x * along) / norm));
        }
        let found = [values(y), values(input.grad(&grads).unwrap())];
        let name = format!("L2 norm, {rows} x {width}");
        compare(&name, &found, &vec![expected, d_x], BAR);
    }
}
