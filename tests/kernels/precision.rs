//! Half precision on a GPU, which keeps rows in f16, against the same rounding on the CPU, operation by operation.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;
use burn_wgpu::WgpuDevice;
use half::f16;
use ibot::kernels::wgsl::AttentionPath;
use ibot::kernels::{
    AttentionInput, Gpu, IbotBackend, L2NormInput, LayerNormInput, LinearLayerInput, Prologue,
    RowIndices, TokenMask, TokensInput, TrainBackend,
};
use ibot::precision::Precision;

use crate::loss_case::error;
use crate::rows::{draw, wide};
use crate::values;

/// Both sides round to the same numbers but where a sum in another order lies beside a middle: there they are one number apart,
/// which is 2^-10 of an entry, and what is made of that in a second rounding.
const BAR: f64 = 2.5e-3;

/// Rows, inputs and outputs: multiples of 4 or not, and sums so long that a GPU makes them in parts.
const SIZES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [5, 8, 12],
    [66, 9, 33],
    [130, 64, 68],
    [1_030, 12, 8],
    [9, 1_028, 12],
    [6, 7, 1_031],
];

/// What an operation gives and its gradients, by their names.
type Outcome = Vec<(String, Vec<f32>)>;

/// A backend, and how it keeps rows.
struct Side<'a, B: TrainBackend> {
    device: &'a B::Device,
    kept: DType,
    /// Whether rows come in as they are kept, or as pixels do: in f32.
    as_kept: bool,
    outcome: Outcome,
}

impl<B: TrainBackend> Side<'_, B> {
    /// Numbers of f16, as a leaf of f32.
    fn leaf<const D: usize>(&self, stream: u64, shape: [usize; D], deviation: f64) -> Tensor<B, D> {
        let drawn = draw(stream, shape.iter().product(), deviation);
        let drawn: Vec<f32> = drawn.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
        Tensor::<B, 1>::from_floats(drawn.as_slice(), self.device)
            .reshape(shape)
            .require_grad()
    }

    fn rows(&self, leaf: &Tensor<B, 2>) -> Tensor<B, 2> {
        if self.as_kept {
            leaf.clone().cast(self.kept)
        } else {
            leaf.clone()
        }
    }

    /// Keeps the result, which has these entries, and the gradients with respect to the leaves.
    fn keep(&mut self, name: &str, y: Tensor<B, 2>, dtype: DType, leaves: &[&dyn Leaf<B>]) {
        assert_eq!(y.dtype(), dtype, "{name}");
        let d_y = self.leaf(99, y.dims(), 1.0).detach();
        let y = y.cast(DType::F32);
        let loss = (y.clone() * d_y).sum_dim(1).sum_dim(0);
        let grads = loss.backward();
        self.outcome.push((name.to_owned(), values(y)));
        for (at, leaf) in leaves.iter().enumerate() {
            self.outcome
                .push((format!("{name}, gradient {at}"), leaf.gradient(&grads)));
        }
    }
}

trait Leaf<B: TrainBackend> {
    fn gradient(&self, grads: &B::Gradients) -> Vec<f32>;
}

impl<B: TrainBackend, const D: usize> Leaf<B> for Tensor<B, D> {
    fn gradient(&self, grads: &B::Gradients) -> Vec<f32> {
        let gradient = self.grad(grads).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        values(gradient)
    }
}

/// A layer of each kind, alone and with a residual, and chains of them.
fn layers<B: TrainBackend>(side: &mut Side<'_, B>, sizes @ [rows, inputs, outputs]: [usize; 3]) {
    let x = side.leaf(70, [rows, inputs], 1.0);
    let [scale, shift] = [71, 72].map(|stream| side.leaf(stream, [inputs], 1.0));
    let weight = side.leaf(73, [inputs, outputs], 1.0 / (inputs as f64).sqrt());
    let bias = side.leaf(74, [outputs], 1.0);
    let residual = side.leaf(75, [rows, outputs], 1.0);
    let layer = |x, prologue, residual, biased: bool| LinearLayerInput {
        x,
        prologue,
        weight: weight.clone(),
        bias: biased.then(|| bias.clone()),
        residual,
    };
    let norm = || Prologue::LayerNorm {
        weight: scale.clone(),
        bias: shift.clone(),
        eps: 1e-6,
    };
    let kept = side.kept;
    let y = B::linear_layer(layer(side.rows(&x), Prologue::Nothing, None, false));
    side.keep(&format!("layer, {sizes:?}"), y, kept, &[&x, &weight]);
    let past = Some(side.rows(&residual));
    let y = B::linear_layer(layer(side.rows(&x), Prologue::Nothing, past, true));
    let leaves: [&dyn Leaf<B>; 4] = [&x, &weight, &bias, &residual];
    side.keep(&format!("residual, {sizes:?}"), y, kept, &leaves);
    let y = B::linear_layer(layer(side.rows(&x), norm(), None, true));
    let leaves: [&dyn Leaf<B>; 5] = [&x, &scale, &shift, &weight, &bias];
    side.keep(&format!("norm and layer, {sizes:?}"), y, kept, &leaves);
    let gelu = Prologue::Gelu { ready: None };
    let y = B::linear_layer(layer(side.rows(&x), gelu, None, true));
    side.keep(
        &format!("GELU and layer, {sizes:?}"),
        y,
        kept,
        &[&x, &weight, &bias],
    );
    // GELU that is made together with the rows before it
    let next = side.leaf(76, [outputs, inputs], 1.0 / (outputs as f64).sqrt());
    let (between, prologue) =
        B::linear_layer_gelu(layer(side.rows(&x), Prologue::Nothing, None, true)).rows();
    let y = B::linear_layer(LinearLayerInput {
        weight: next.clone(),
        bias: None,
        ..layer(between, prologue, None, false)
    });
    let leaves: [&dyn Leaf<B>; 4] = [&x, &weight, &bias, &next];
    side.keep(&format!("two layers, {sizes:?}"), y, kept, &leaves);
}

/// What stands alone: what leaves the network is f32.
fn norms<B: TrainBackend>(side: &mut Side<'_, B>, sizes @ [rows, width, _]: [usize; 3]) {
    let x = side.leaf(77, [rows, width], 1.0);
    let [weight, bias] = [78, 79].map(|stream| side.leaf(stream, [width], 1.0));
    let y = B::layer_norm_rows(LayerNormInput {
        x: side.rows(&x),
        weight: weight.clone(),
        bias: bias.clone(),
        eps: 1e-6,
    });
    let name = format!("norm, {sizes:?}");
    side.keep(&name, y, DType::F32, &[&x, &weight, &bias]);
    let y = B::l2_normalize_rows(L2NormInput {
        x: side.rows(&x),
        min_squared_norm: 1e-6,
    });
    side.keep(&format!("L2 norm, {sizes:?}"), y, DType::F32, &[&x]);
}

/// Rows by place, which copy them.
fn places<B: TrainBackend>(side: &mut Side<'_, B>, sizes @ [rows, width, _]: [usize; 3]) {
    let x = side.leaf(80, [rows, width], 1.0);
    let dtype = side.rows(&x).dtype();
    let places = RowIndices::new((0..rows as i32).rev().step_by(3).collect(), rows);
    let y = B::gather_rows(side.rows(&x), &places);
    side.keep(&format!("rows by place, {sizes:?}"), y, dtype, &[&x]);
    // twice: the gradient of a slice adds to what is there
    let x = side.leaf(81, [rows + 2, width], 1.0);
    let all = side.rows(&x);
    let parts = [0..rows, 1..rows + 2].map(|part| B::slice_rows(all.clone(), part));
    let y = Tensor::cat(parts.to_vec(), 0);
    side.keep(&format!("sliced rows, {sizes:?}"), y, dtype, &[&x]);
}

fn tokens<B: TrainBackend>(
    side: &mut Side<'_, B>,
    [batch, prefix, patches, width]: [usize; 4],
    is_masked: bool,
) {
    let x = side.leaf(82, [batch * patches, width], 1.0);
    let positions = side.leaf(83, [prefix + patches, width], 1.0);
    let token = side.leaf(84, [width], 1.0);
    let before = (prefix > 0).then(|| side.leaf(85, [prefix, width], 1.0));
    let masked: Vec<f32> = (0..batch * patches).map(|at| (at % 3 / 2) as f32).collect();
    let y = B::assemble_tokens(TokensInput {
        patches: side.rows(&x),
        batch,
        mask: is_masked.then(|| TokenMask {
            masked: Tensor::from_floats(masked.as_slice(), side.device),
            token: token.clone(),
        }),
        prefix: before.clone(),
        positions: positions.clone(),
    });
    let mut leaves: Vec<&dyn Leaf<B>> = vec![&x, &positions];
    if is_masked && batch * patches > 2 {
        leaves.push(&token);
    }
    leaves.extend(before.iter().map(|before| before as &dyn Leaf<B>));
    let name = format!("tokens, {batch} x {prefix} + {patches} x {width}");
    side.keep(&name, y, side.kept, &leaves);
}

fn attention<B: TrainBackend>(
    side: &mut Side<'_, B>,
    sizes @ [batch, tokens, heads, head_width]: [usize; 4],
) {
    let qkv = side.leaf(86, [batch * tokens, 3 * heads * head_width], 1.0);
    let y = B::packed_attention(AttentionInput {
        qkv: side.rows(&qkv),
        batch,
        heads,
        queries: None,
    })
    .context;
    let dtype = side.rows(&qkv).dtype();
    side.keep(&format!("attention, {sizes:?}"), y, dtype, &[&qkv]);
}

fn outcome<B: TrainBackend>(device: &B::Device, kept: DType, as_kept: bool) -> Outcome {
    let mut side = Side::<B> {
        device,
        kept,
        as_kept,
        outcome: Vec::new(),
    };
    Precision::F16.autocast(|| {
        for sizes in SIZES {
            layers(&mut side, sizes);
            norms(&mut side, sizes);
            places(&mut side, sizes);
        }
        for (sizes, is_masked) in [
            ([1, 0, 1, 1], false),
            ([2, 1, 3, 4], true),
            ([3, 1, 5, 7], true),
            ([2, 5, 9, 64], false),
        ] {
            tokens(&mut side, sizes, is_masked);
        }
        if as_kept {
            for sizes in [
                [1, 1, 1, 1],
                [2, 5, 2, 3],
                [2, 33, 2, 16],
                [1, 65, 1, 64],
                [1, 41, 2, 20],
                [1, 7, 1, 260],
            ] {
                attention(&mut side, sizes);
            }
            let x = side.leaf(87, [67, 13], 1.5);
            let y = B::exact_gelu(side.rows(&x));
            side.keep("GELU", y, kept, &[&x]);
        }
    });
    side.outcome
}

#[track_caller]
fn compare(found: &Outcome, expected: &Outcome) {
    assert_eq!(found.len(), expected.len());
    let mut far = Vec::new();
    for ((name, found), (of_expected, expected)) in found.iter().zip(expected) {
        assert_eq!(name, of_expected);
        let error = error(&wide(found), &wide(expected), 1e-3);
        // NaN is far
        if error.is_nan() || error >= BAR {
            far.push(format!("{name}: {error}"));
        }
    }
    assert!(far.is_empty(), "{}", far.join("\n"));
}

/// Whether the adapter has f16; one without refuses it, and says why.
pub fn is_there(device: &WgpuDevice) -> bool {
    let refused = Gpu::check_precision(Precision::F16, device).err();
    if let Some(error) = &refused {
        let message = error.to_string();
        assert!(message.contains("SHADER_F16"), "{message}");
        println!("SKIPPED: THE ADAPTER HAS NO F16");
    }
    refused.is_none()
}

/// Every operation forward and backward, with rows of f16 and of f32.
pub fn operations(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    for as_kept in [true, false] {
        let expected = outcome::<Autodiff<NdArray>>(&Default::default(), DType::F32, as_kept);
        let found = outcome::<Autodiff<Gpu>>(device, DType::F16, as_kept);
        compare(&found, &expected);
    }
}

/// The kernels of attention that other GPUs take.
pub fn attention_paths(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    for (path, head_width) in [
        (AttentionPath::SoftwareLanes, 7),
        (AttentionPath::SoftwareLanes, 64),
        (AttentionPath::GpuLanes, 12),
        (AttentionPath::GpuLanes, 15),
        (AttentionPath::LargeTiles, 32),
        (AttentionPath::LargeTiles, 64),
        (AttentionPath::SmallTiles, 64),
        (AttentionPath::SmallTiles, 88),
        (AttentionPath::Reference, 9),
    ] {
        for tokens in [1, 37, 65] {
            let [batch, heads] = [2, 2];
            let width = heads * head_width;
            let numbers = |stream, columns: usize| {
                let drawn = draw(stream, batch * tokens * columns, 1.0);
                drawn
                    .iter()
                    .map(|x| f16::from_f32(*x).to_f32())
                    .collect::<Vec<f32>>()
            };
            let (qkv, d_context) = (numbers(88, 3 * width), numbers(89, width));
            let input = |dtype| AttentionInput::<Gpu> {
                qkv: of(&qkv, [batch * tokens, 3 * width], device).cast(dtype),
                batch,
                heads,
                queries: None,
            };
            let run = |dtype| {
                let output = path.forward(input(dtype));
                let d_context = of(&d_context, [batch * tokens, width], device).cast(dtype);
                let d_qkv = path.backward(input(dtype), output.clone(), d_context);
                assert_eq!((output.context.dtype(), d_qkv.dtype()), (dtype, dtype));
                [
                    values(output.context),
                    values(output.row_lse),
                    values(d_qkv),
                ]
            };
            // the same arithmetic, rounded where it is stored
            let [found, expected] = [DType::F16, DType::F32].map(run);
            for (found, expected) in found.iter().zip(&expected) {
                let error = error(&wide(found), &wide(expected), 1e-3);
                assert!(error < BAR, "{path:?}, {tokens} x {head_width}: {error}");
            }
        }
    }
}

pub fn of<B: Backend>(numbers: &[f32], shape: [usize; 2], device: &B::Device) -> Tensor<B, 2> {
    Tensor::<B, 1>::from_floats(numbers, device).reshape(shape)
}
