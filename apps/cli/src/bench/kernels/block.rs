//! Parts of a transformer block, forward and backward together.

use ibot::burn::tensor::Tensor;

use super::{Bench, KernelTimes};
use ibot::error::Result;
use ibot::kernels::{
    AttentionInput, Gpu, IbotBackend, LayerNormInput, LinearBackwardInput, LinearInput, reference,
};

/// Images, tokens and heads of 64: ViT-Ti/16 at 64 x 64, two views of 32 images.
const IMAGES: usize = 64;
const TOKENS: usize = 17;
const HEADS: usize = 3;
const WIDTH: usize = 64 * HEADS;
const ROWS: usize = IMAGES * TOKENS;
/// Width within the MLP.
const HIDDEN: usize = 4 * WIDTH;

/// Bytes of so many entries.
fn bytes(entries: usize) -> f64 {
    (entries * size_of::<f32>()) as f64
}

impl Bench<'_> {
    pub(super) fn block(&self) -> Result<[KernelTimes; 4]> {
        Ok([
            self.linear_layer()?,
            self.attention()?,
            self.layer_norm()?,
            self.gelu()?,
        ])
    }

    fn linear_layer(&self) -> Result<KernelTimes> {
        let input = LinearInput::<Gpu> {
            x: self.random([ROWS, WIDTH]),
            weight: self.random([WIDTH, HIDDEN]),
            bias: Some(Tensor::ones([HIDDEN], self.device)),
            residual: None,
        };
        let backward = |input: &LinearInput<Gpu>, d_y| LinearBackwardInput {
            x: input.x.clone(),
            weight: input.weight.clone(),
            d_y,
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        };
        let matrices = ROWS * WIDTH + WIDTH * HIDDEN + ROWS * HIDDEN;
        self.compare(
            "linear layer, 1088 x 192 to 768",
            3.0 * bytes(matrices),
            &|| input.clone(),
            &|input| {
                let y = Gpu::linear_rows(input.clone());
                drop(Gpu::linear_rows_backward(backward(&input, y)));
            },
            &|input| {
                let y = reference::linear(input.clone());
                drop(reference::linear_backward(backward(&input, y)));
            },
        )
    }

    fn attention(&self) -> Result<KernelTimes> {
        let input = AttentionInput::<Gpu> {
            qkv: self.random([ROWS, 3 * WIDTH]),
            batch: IMAGES,
            heads: HEADS,
            queries: None,
        };
        self.compare(
            "attention, 64 images of 17 tokens, 3 heads of 64",
            bytes(12 * ROWS * WIDTH),
            &|| input.clone(),
            &|input| {
                let output = Gpu::packed_attention(input.clone());
                let d_context = output.context.clone();
                drop(Gpu::packed_attention_backward(input, output, d_context));
            },
            &|input| {
                let output = reference::attention(input.clone());
                let d_context = output.context.clone();
                drop(reference::attention_backward(input, output, d_context));
            },
        )
    }

    fn layer_norm(&self) -> Result<KernelTimes> {
        let input = LayerNormInput::<Gpu> {
            x: self.random([ROWS, WIDTH]),
            weight: Tensor::ones([WIDTH], self.device),
            bias: Tensor::ones([WIDTH], self.device),
            eps: 1e-6,
        };
        self.compare(
            "layer norm, 1088 x 192",
            bytes(5 * ROWS * WIDTH),
            &|| input.clone(),
            &|input| {
                let y = Gpu::layer_norm_rows(input.clone());
                drop(Gpu::layer_norm_rows_backward(input, y));
            },
            &|input| {
                let y = reference::layer_norm(input.clone());
                drop(reference::layer_norm_backward(input, y));
            },
        )
    }

    fn gelu(&self) -> Result<KernelTimes> {
        let x = self.random([ROWS, HIDDEN]);
        self.compare(
            "GELU, 1088 x 768",
            bytes(5 * ROWS * HIDDEN),
            &|| x.clone(),
            &|x| {
                let y = Gpu::exact_gelu(x.clone());
                drop(Gpu::exact_gelu_backward(x, y));
            },
            &|x| {
                let y = reference::gelu(x.clone());
                drop(reference::gelu_backward(x, y));
            },
        )
    }
}
