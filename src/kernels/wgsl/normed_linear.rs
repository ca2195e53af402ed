//! Launches of `shaders/normed_linear/`: the gradients of a layer norm and the linear layer behind it.

use burn::tensor::Tensor;

use super::chunk::{Chunk, Element};
use super::info::info;
use super::launch::{
    GpuTensor, Kernel, SECTION, contiguous, empty, launch, rows_as, section, shader, tensor,
};
use super::layer_norm;
use super::linear::{unfinished_d_x, unfinished_weight_gradient};
use super::matrix_plan::MAX_TERMS;
use super::row_team::Team;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::layer_norm::LayerNormInput;
use crate::kernels::ops::linear as tensor_linear;
use crate::kernels::ops::linear::{LinearLayerGradients, LinearLayerInput, Prologue};

pub(super) fn kernel(team: Team, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "rows/team", "normed_linear/gradients");
    team.kernel(shader, chunk, [])
}

/// See [`crate::kernels::IbotBackend::linear_layer_backward`].
pub(super) fn backward(
    input: LinearLayerInput<Gpu>,
    d_y: Tensor<Gpu, 2>,
    wants_x: bool,
    past: Option<Tensor<Gpu, 2>>,
) -> LinearLayerGradients<Gpu> {
    let [rows, inputs] = input.x.dims();
    let outputs = d_y.dims()[1];
    let fits = rows * inputs * outputs > 0 && rows.max(outputs) <= MAX_TERMS;
    match (input.prologue.clone(), fits) {
        (Prologue::LayerNorm { weight, bias, eps }, true) => {
            let norm = LayerNormInput {
                x: input.x.clone(),
                weight,
                bias,
                eps,
            };
            normed(input, norm, d_y, past)
        }
        _ => tensor_linear::backward(input, d_y, wants_x, past),
    }
}

fn normed(
    layer: LinearLayerInput<Gpu>,
    norm: LayerNormInput<Gpu>,
    d_y: Tensor<Gpu, 2>,
    past: Option<Tensor<Gpu, 2>>,
) -> LinearLayerGradients<Gpu> {
    let d_y = rows_as(d_y, Element::current());
    let weight = contiguous(layer.weight);
    let element = Element::of_dtype(norm.x.dtype());
    let d_normed = unfinished_d_x(&d_y, &weight, element);
    let affine = [norm.weight.clone(), norm.bias.clone()].map(contiguous);
    let [d_x, units] = layer_norm::backward_of_rows(norm, &d_normed, past);
    let [d_weight, d_bias, d_scale, d_shift] = of_weights(&units, &d_y, &weight, &affine);
    LinearLayerGradients {
        d_x: Some(tensor(d_x)),
        d_norm: [d_scale, d_shift].map(|found| Some(tensor(found))),
        d_weight: Some(tensor(d_weight)),
        d_bias: layer.bias.is_some().then(|| tensor(d_bias)),
    }
}

/// By weight, bias, and the norm's scale and shift.
fn of_weights(
    units: &GpuTensor,
    d_y: &GpuTensor,
    weight: &GpuTensor,
    [scale, shift]: &[GpuTensor; 2],
) -> [GpuTensor; 4] {
    let [inputs, outputs] = [weight.meta.shape()[0], weight.meta.shape()[1]];
    let found = unfinished_weight_gradient(units, d_y);
    let spare = (found.parts * outputs).next_multiple_of(SECTION);
    let second = inputs.next_multiple_of(SECTION);
    let d_weight = empty(weight, [inputs, outputs]);
    let d_norm = empty(weight, [second + inputs]);
    let chunk = Chunk::for_length(outputs);
    let chunks = chunk.count(outputs);
    let team = Team::for_rows(&weight.client, chunks);
    let tensors = [
        &found.product,
        &found.totals,
        weight,
        scale,
        shift,
        &d_weight,
        &d_norm,
    ];
    launch(
        &weight.client,
        kernel(team, chunk),
        team.groups(inputs),
        &tensors,
        &info! {
            rows: inputs,
            chunks: chunks,
            parts: found.parts,
            spare: chunk.count(spare),
            second: second,
        },
    );
    let of_norm = [0, second].map(|start| section(&d_norm, start, inputs));
    let [d_scale, d_shift] = of_norm;
    [
        d_weight,
        section(&found.totals, spare, outputs),
        d_scale,
        d_shift,
    ]
}
