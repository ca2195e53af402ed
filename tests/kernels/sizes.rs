//! The differentiable operations at sizes around vectors, tiles and workgroups, and with entries that break careless
//! kernels: against formulas in f64 on the host, gradients too.

use burn::tensor::Tensor;
use ibot::kernels::{AttentionInput, LayerNormInput, LinearLayerInput, Prologue, TrainBackend};
use ibot::random::{Random, Stream};

use crate::loss::fuzz_seed;
use crate::loss_case::error;
use crate::rows::{attention_f64, draw, gelu_f64, layer_norm_f64, tensor, wide};
use crate::values;

/// Largest difference, over the largest entry of what is expected.
pub const BAR: f64 = 2e-5;

/// What an operation computes: its result, then the gradients of a weighted sum of it.
pub type Outcome = Vec<Vec<f64>>;

pub fn compare(name: &str, found: &[Vec<f32>], expected: &Outcome, bar: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (which, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{name}, tensor {which}");
        let error = error(&wide(found), expected, 1e-6);
        assert!(error < bar, "{name}, tensor {which}: {error}");
    }
}

/// `y`, and the gradients with respect to the leaves of `sum(weights * y)`.
fn outcome<B: TrainBackend>(
    y: Tensor<B, 2>,
    weights: &[f32],
    matrices: &[&Tensor<B, 2>],
    vectors: &[&Tensor<B, 1>],
) -> Vec<Vec<f32>> {
    let weights = tensor::<B, 2>(weights, y.dims(), &y.device()).detach();
    let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let of_matrices = matrices
        .iter()
        .map(|leaf| values(leaf.grad(&grads).unwrap()));
    let of_vectors = vectors
        .iter()
        .map(|leaf| values(leaf.grad(&grads).unwrap()));
    let mut all = vec![values(y)];
    all.extend(of_matrices.chain(of_vectors));
    all
}

fn gelu_of<B: TrainBackend>(name: &str, x: &[f32], device: &B::Device) {
    let weights = draw(2, x.len(), 1.0);
    let input = tensor::<B, 2>(x, [1, x.len()], device);
    let y = B::exact_gelu(input.clone());
    let d_x = wide(x).into_iter().zip(&weights).map(|(x, w)| {
        let below = 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        f64::from(*w) * (below + x * density)
    });
    let expected = vec![gelu_f64(&wide(x)), d_x.collect()];
    compare(name, &outcome(y, &weights, &[&input], &[]), &expected, BAR);
}

fn layer_norm_of<B: TrainBackend>(name: &str, x: &[f32], width: usize, device: &B::Device) {
    let rows = x.len() / width;
    let [weight, bias] = [5, 6].map(|stream| draw(stream, width, 1.0));
    let weights = draw(4, x.len(), 1.0);
    let input = LayerNormInput::<B> {
        x: tensor(x, [rows, width], device),
        weight: tensor(&weight, [width], device),
        bias: tensor(&bias, [width], device),
        eps: 1e-6,
    };
    let y = B::layer_norm_rows(input.clone());
    let leaves = [&input.weight, &input.bias];
    let found = outcome(y, &weights, &[&input.x], &leaves);
    let y = layer_norm_f64(&wide(x), &wide(&weight), &wide(&bias));
    let (mut d_x, mut d_weight, mut d_bias) = (vec![], vec![0.0; width], vec![0.0; width]);
    let mut magnitudes = d_bias.clone();
    let mean = |of: &dyn Fn(usize) -> f64| (0..width).map(of).sum::<f64>() / width as f64;
    for (x, d_y) in wide(x).chunks(width).zip(wide(&weights).chunks(width)) {
        let center = mean(&|at| x[at]);
        let variance = mean(&|at| (x[at] - center).powi(2));
        let scale = 1.0 / (variance + 1e-6).sqrt();
        let unit = |at: usize| (x[at] - center) * scale;
        let d_unit = |at: usize| d_y[at] * f64::from(weight[at]);
        let (average, along) = (mean(&d_unit), mean(&|at| d_unit(at) * unit(at)));
        d_x.extend((0..width).map(|at| (d_unit(at) - average - unit(at) * along) * scale));
        for at in 0..width {
            d_weight[at] += d_y[at] * unit(at);
            d_bias[at] += d_y[at];
            magnitudes[at] += d_y[at].abs();
        }
    }
    let bar = bar_of_sums(&d_bias, &magnitudes).max(5.0 * BAR);
    compare(name, &found[..3], &vec![y, d_x, d_weight], 5.0 * BAR);
    compare(&format!("{name}, bias"), &found[3..], &vec![d_bias], bar);
}

/// What sums of terms may differ by: each of their additions rounds by half a unit of a partial sum, which is as large as
/// the terms are though the sum may not be (`BAR` alone failed for some seeds, on every backend).
fn bar_of_sums(sums: &[f64], of_magnitudes: &[f64]) -> f64 {
    let largest = |values: &[f64]| values.iter().fold(1e-30, |max: f64, x| max.max(x.abs()));
    BAR.max(2.0 * f64::from(f32::EPSILON) * largest(of_magnitudes) / largest(sums))
}

/// `[R, T] [T, C]`, each given as a function of row and column.
fn product(
    [rows, depth, columns]: [usize; 3],
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let entry = |row: usize, column: usize| {
        let terms = (0..depth).map(|at| f64::from(left(row, at)) * f64::from(right(at, column)));
        terms.sum::<f64>()
    };
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    places.map(|(row, column)| entry(row, column)).collect()
}

/// [`product`], and what its entries may differ by.
fn product_and_bar(
    sizes: [usize; 3],
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> (Vec<f64>, f64) {
    let sums = product(sizes, &left, &right);
    let magnitudes = product(
        sizes,
        |row, at| left(row, at).abs(),
        |at, column| right(at, column).abs(),
    );
    let bar = bar_of_sums(&sums, &magnitudes);
    (sums, bar)
}

/// A layer with all of its parts; `x`, its weight, its bias and its residual come from `entries`.
fn linear_of<B: TrainBackend>(
    name: &str,
    [rows, inputs, outputs]: [usize; 3],
    entries: &mut dyn FnMut(usize) -> Vec<f32>,
    device: &B::Device,
) {
    let (x, weight) = (entries(rows * inputs), entries(inputs * outputs));
    let (bias, residual) = (entries(outputs), entries(rows * outputs));
    let weights = draw(26, rows * outputs, 1.0);
    let input = LinearLayerInput::<B> {
        x: tensor(&x, [rows, inputs], device),
        prologue: Prologue::Nothing,
        weight: tensor(&weight, [inputs, outputs], device),
        bias: Some(tensor(&bias, [outputs], device)),
        residual: Some(tensor(&residual, [rows, outputs], device)),
    };
    let y = B::linear_layer(input.clone());
    let (of_bias, of_residual) = (input.bias.unwrap(), input.residual.unwrap());
    let leaves = [&input.x, &input.weight, &of_residual];
    let found = outcome(y, &weights, &leaves, &[&of_bias]);
    assert_eq!(found.len(), 5, "{name}: the result and four gradients");
    let of_x = |row: usize, at: usize| x[row * inputs + at];
    let of_weight = |at: usize, column: usize| weight[at * outputs + column];
    let mut y = product([rows, inputs, outputs], of_x, of_weight);
    let magnitudes = product(
        [rows, inputs, outputs],
        |row, at| of_x(row, at).abs(),
        |at, column| of_weight(at, column).abs(),
    );
    for (at, y) in y.iter_mut().enumerate() {
        *y += f64::from(bias[at % outputs]) + f64::from(residual[at]);
    }
    let bar = bar_of_sums(&y, &magnitudes);
    compare(&format!("{name}, y"), &found[..1], &vec![y], bar);
    let of_y = |at: usize, column: usize| weights[at * outputs + column];
    let gradients = [
        product_and_bar([rows, outputs, inputs], of_y, |at, column| {
            of_weight(column, at)
        }),
        product_and_bar([inputs, rows, outputs], |row, at| of_x(at, row), of_y),
        (wide(&weights), BAR),
        product_and_bar([1, rows, outputs], |_, _| 1.0, of_y),
    ];
    for ((expected, bar), found) in gradients.into_iter().zip(found[1..].chunks(1)) {
        compare(&format!("{name}, gradients"), found, &vec![expected], bar);
    }
}

/// Gradient of `sum(d_context * context)` by the packed input.
pub fn d_qkv_f64(
    qkv: &[f64],
    d_context: &[f64],
    [batch, tokens, heads, head_width]: [usize; 4],
) -> Vec<f64> {
    let (width, scale) = (heads * head_width, 1.0 / (head_width as f64).sqrt());
    let mut d_qkv = vec![0.0; qkv.len()];
    for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
        let at = |token: usize, part: usize| {
            (image * tokens + token) * 3 * width + part * width + head * head_width
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let part = |token, part| &qkv[at(token, part)..][..head_width];
        for query in 0..tokens {
            let scores = (0..tokens).map(|key| scale * dot(part(query, 0), part(key, 1)));
            let scores: Vec<f64> = scores.collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            let share = |key: usize| (scores[key] - max).exp() / total;
            let d =
                &d_context[(image * tokens + query) * width + head * head_width..][..head_width];
            let along: f64 = (0..tokens)
                .map(|key| share(key) * dot(d, part(key, 2)))
                .sum();
            for key in 0..tokens {
                let d_score = share(key) * (dot(d, part(key, 2)) - along) * scale;
                for c in 0..head_width {
                    d_qkv[at(query, 0) + c] += d_score * part(key, 1)[c];
                    d_qkv[at(key, 1) + c] += d_score * part(query, 0)[c];
                    d_qkv[at(key, 2) + c] += share(key) * d[c];
                }
            }
        }
    }
    d_qkv
}

fn attention_of<B: TrainBackend>(
    name: &str,
    sizes: [usize; 4],
    qkv: &[f32],
    bar: f64,
    device: &B::Device,
) {
    let [batch, tokens, heads, head_width] = sizes;
    let (rows, width) = (batch * tokens, heads * head_width);
    let weights = draw(8, rows * width, 1.0);
    let input = AttentionInput::<B> {
        qkv: tensor(qkv, [rows, 3 * width], device),
        batch,
        heads,
        queries: None,
    };
    let context = B::packed_attention(input.clone()).context;
    let found = outcome(context, &weights, &[&input.qkv], &[]);
    let (qkv, weights) = (wide(qkv), wide(&weights));
    let expected = vec![attention_f64(&qkv, sizes), d_qkv_f64(&qkv, &weights, sizes)];
    compare(name, &found, &expected, bar);
}

pub fn gelu<B: TrainBackend>(device: &B::Device) {
    for length in [1, 4, 7, 8, 2_047, 2_048, 2_052, 70_000] {
        gelu_of::<B>(&format!("{length}"), &draw(1, length, 3.0), device);
    }
    // their squares are infinite
    gelu_of::<B>("huge entries", &[1e20, -1e20, 1e20, 3.0], device);
}

pub fn layer_norm<B: TrainBackend>(device: &B::Device) {
    for rows in [1, 7, 8, 9, 64, 65, 257] {
        for width in [1, 3, 4, 192, 257, 1_028] {
            let x = draw(3, rows * width, 2.0);
            layer_norm_of::<B>(&format!("{rows} x {width}"), &x, width, device);
        }
    }
    // more slabs of 64 rows than lanes that share a column
    for width in [3, 4, 68] {
        let x = draw(3, 2_200 * width, 2.0);
        layer_norm_of::<B>(&format!("2200 x {width}"), &x, width, device);
    }
}

pub fn linear<B: TrainBackend>(device: &B::Device) {
    for rows in [1, 15, 16, 17, 131] {
        for [inputs, outputs] in [[1, 3], [4, 4], [12, 20], [64, 132], [68, 16], [33, 64]] {
            let mut stream = 30;
            let mut entries = |count| {
                stream += 1;
                draw(stream, count, 1.0)
            };
            let sizes = [rows, inputs, outputs];
            linear_of::<B>(&format!("{sizes:?}"), sizes, &mut entries, device);
        }
    }
}

/// Batch, tokens, heads, width of a head: one token, members of a lane and one more, odd widths, one too wide for a lane's
/// registers, and one more token than a tile of each of the shapes has.
pub fn attention<B: TrainBackend>(device: &B::Device) {
    for sizes in [
        [1, 1, 1, 64],
        [2, 17, 3, 64],
        [3, 4, 2, 8],
        [1, 65, 2, 24],
        [3, 9, 2, 7],
        [1, 300, 1, 4],
        [2, 6, 1, 132],
        [1, 5, 1, 260],
        [2, 33, 2, 64],
        [1, 65, 1, 32],
        [1, 33, 1, 128],
    ] {
        let [batch, tokens, heads, head_width] = sizes;
        let qkv = draw(7, batch * tokens * 3 * heads * head_width, 1.5);
        attention_of::<B>(&format!("{sizes:?}"), sizes, &qkv, BAR, device);
    }
}

/// Random shapes with denormals, zeros of both signs, large entries and equal rows.
pub fn poison<B: TrainBackend>(device: &B::Device) {
    let seed = fuzz_seed();
    let mut random = Random::new(seed, 1, 0, Stream::Init);
    for round in 0..20 {
        let [rows, width, outputs] = [(); 3].map(|()| 1 + random.below(70));
        let kinds: &[f32] = match random.below(3) {
            0 => &[1e4, -1e4, 1e-40, -1e-40, 0.0, -0.0, 1.0],
            1 => &[1e-40, -1e-40, 1e-38, 0.0, -0.0],
            _ => &[1e4, -1e4],
        };
        let equal_rows = random.chance(0.3);
        let mut entries = |count: usize| -> Vec<f32> {
            let drawn: Vec<f32> = (0..count)
                .map(|_| kinds[random.below(kinds.len())])
                .collect();
            let from = |at: usize| if equal_rows { at % width } else { at };
            (0..count).map(|at| drawn[from(at)]).collect()
        };
        let name = format!("IBOT_FUZZ_SEED={seed}, round {round}, {rows} x {width}");
        gelu_of::<B>(&format!("GELU, {name}"), &entries(rows * width), device);
        let x = entries(rows * width);
        // of two entries the gradient is zero but for eps, and what is found is rounding
        if width != 2 {
            layer_norm_of::<B>(&format!("layer norm, {name}"), &x, width, device);
        }
        let sizes = [rows, width, outputs];
        linear_of::<B>(
            &format!("linear, {name} to {outputs}"),
            sizes,
            &mut entries,
            device,
        );
        // Scores of hundreds. With larger ones the gradient is mostly rounding: it has the scores' error times keys and values
        // (`attention_of_extremes` has scores of thousands).
        let qkv: Vec<f32> = entries(rows * 3 * width);
        let qkv: Vec<f32> = qkv.iter().map(|x| x.clamp(-8.0, 8.0)).collect();
        attention_of::<B>(
            &format!("attention, {name}"),
            [1, rows, 1, width],
            &qkv,
            1e-3,
            device,
        );
    }
}
