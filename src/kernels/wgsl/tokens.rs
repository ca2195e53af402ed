//! Launches of `shaders/tokens/`.

use burn::tensor::Tensor;

use super::chunk::{Chunk, Element};
use super::info::info;
use super::lanes::{MAX_ROUNDS, workgroup};
use super::launch::{
    GpuTensor, Kernel, cast, contiguous, empty, empty_of, launch, rows_of, shader, taken, tensor,
};
use super::rows::column_sums;
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::tokens as tensor_tokens;
use crate::kernels::ops::tokens::{TokensGradients, TokensInput};

/// Entries of patches and of tokens, or of their gradients.
#[derive(Debug, Clone, Copy)]
struct Elements {
    patches: Element,
    tokens: Element,
}

impl Elements {
    const ALL: [Self; 3] = [
        Self::new(Element::F32, Element::F32),
        Self::new(Element::F32, Element::F16),
        Self::new(Element::F16, Element::F16),
    ];

    const fn new(patches: Element, tokens: Element) -> Self {
        Self { patches, tokens }
    }

    fn values(self, chunk: Chunk) -> [(&'static str, String); 2] {
        [
            ("patches", chunk.of(self.patches)),
            ("rows", chunk.of(self.tokens)),
        ]
    }
}

/// Whether a kernel has a mask, and tokens before the patches.
#[derive(Debug, Clone, Copy)]
struct Parts {
    masked: bool,
    prefixed: bool,
}

fn there(name: &'static str, is_there: bool) -> (&'static str, String) {
    (name, usize::from(is_there).to_string())
}

fn forward_kernel(walk: Walk, chunk: Chunk, elements: Elements, parts: Parts) -> Kernel {
    let mut values = chunk.values();
    values.extend(elements.values(chunk));
    values.extend([
        walk.value(),
        there("masked", parts.masked),
        there("prefixed", parts.prefixed),
    ]);
    Kernel::new(shader!("chunk", "tokens/forward"), walk.lanes, values)
}

fn patches_kernel(walk: Walk, chunk: Chunk, elements: Elements, masked: bool) -> Kernel {
    let mut values = chunk.values();
    values.extend(elements.values(chunk));
    values.extend([walk.value(), there("masked", masked)]);
    Kernel::new(shader!("chunk", "tokens/patches"), walk.lanes, values)
}

fn sums_kernel(lanes: u32, chunk: Chunk, tokens: Element, masked: bool) -> Kernel {
    let mut values = chunk.values();
    values.extend([there("masked", masked), ("rows", chunk.of(tokens))]);
    Kernel::new(shader!("chunk", "tokens/sums"), lanes, values)
}

pub(super) fn walking_kernels(walk: Walk, chunk: Chunk) -> Vec<Kernel> {
    let flags = [false, true];
    let mut all = Vec::new();
    for elements in Elements::ALL {
        for masked in flags {
            let forward =
                |prefixed| forward_kernel(walk, chunk, elements, Parts { masked, prefixed });
            all.extend(flags.map(forward));
            all.push(patches_kernel(walk, chunk, elements, masked));
        }
    }
    all
}

pub(super) fn sums_kernels(lanes: u32, chunk: Chunk, tokens: Element) -> [Kernel; 2] {
    [false, true].map(|masked| sums_kernel(lanes, chunk, tokens, masked))
}

/// See [`crate::kernels::IbotBackend::assemble_tokens`].
pub(super) fn forward(input: TokensInput<Gpu>) -> Tensor<Gpu, 2> {
    let ([prefix, patches, width], batch) = (input.sizes(), input.batch);
    let count = prefix + patches;
    let rows = batch * count;
    let element = Element::current();
    if rows * width == 0 {
        let patches = cast(input.patches, Element::F32);
        return cast(
            tensor_tokens::forward(TokensInput { patches, ..input }),
            element,
        );
    }
    let first_placed = input.first_placed();
    let parts = Parts {
        masked: input.mask.is_some(),
        prefixed: input.prefix.is_some(),
    };
    let (of_patches, positions) = (taken(input.patches), contiguous(input.positions));
    let elements = Elements::new(Element::of(&of_patches), element);
    let tokens = empty_of(elements.tokens, &of_patches, [rows, width]);
    let before = input.prefix.map(contiguous);
    let mask = input.mask;
    let mask = mask.map(|mask| [contiguous(mask.masked), contiguous(mask.token)]);
    let mut tensors = vec![&of_patches, &positions, &tokens];
    tensors.extend(before.as_ref());
    tensors.extend(mask.iter().flatten());
    let walk = Walk::choose(&of_patches.client);
    let chunk = Chunk::for_length(width);
    let chunks = chunk.count(width);
    launch(
        &of_patches.client,
        forward_kernel(walk, chunk, elements, parts),
        walk.groups(rows * chunks),
        &tensors,
        &info! {
            items: rows * chunks,
            chunks: chunks,
            tokens: count,
            prefix: prefix,
            first_placed: first_placed,
        },
    );
    tensor(tokens)
}

/// See [`crate::kernels::IbotBackend::assemble_tokens_backward`].
pub(super) fn backward(input: &TokensInput<Gpu>, d_tokens: Tensor<Gpu, 2>) -> TokensGradients<Gpu> {
    let ([prefix, patches, width], batch) = (input.sizes(), input.batch);
    // sums.wgsl loops over all images
    if batch * patches * width == 0 || batch > MAX_ROUNDS {
        return tensor_tokens::backward(input, cast(d_tokens, Element::F32));
    }
    let d_tokens = rows_of(d_tokens);
    let masked = input.mask.as_ref();
    let masked = masked.map(|mask| contiguous(mask.masked.clone()));
    let d_patches = of_patches(input, &d_tokens, masked.as_ref());
    let sums = empty(&d_tokens, [prefix + patches, width]);
    let masked_sums = empty(&d_tokens, [patches, width]);
    let mut tensors = vec![&d_tokens, &sums];
    if let Some(masked) = &masked {
        tensors.extend([masked, &masked_sums]);
    }
    let chunk = Chunk::for_length(width);
    let chunks = chunk.count(width);
    let lanes = workgroup(&d_tokens.client);
    launch(
        &d_tokens.client,
        sums_kernel(lanes, chunk, Element::of(&d_tokens), masked.is_some()),
        ((prefix + patches) * chunks).div_ceil(lanes as usize),
        &tensors,
        &info! { batch: batch, chunks: chunks, tokens: prefix + patches, prefix: prefix },
    );
    let sums: Tensor<Gpu, 2> = tensor(sums);
    TokensGradients {
        d_patches: tensor(d_patches),
        d_token: masked.map(|_| column_sums(tensor(masked_sums))),
        d_prefix: (prefix > 0).then(|| sums.clone().narrow(0, 0, prefix)),
        d_positions: tensor_tokens::placed(sums, input),
    }
}

fn of_patches(
    input: &TokensInput<Gpu>,
    d_tokens: &GpuTensor,
    masked: Option<&GpuTensor>,
) -> GpuTensor {
    let ([prefix, patches, width], batch) = (input.sizes(), input.batch);
    let elements = Elements {
        patches: Element::of_dtype(input.patches.dtype()),
        tokens: Element::of(d_tokens),
    };
    let d_patches = empty_of(elements.patches, d_tokens, [batch * patches, width]);
    let walk = Walk::choose(&d_tokens.client);
    let chunk = Chunk::for_length(width);
    let chunks = chunk.count(width);
    let items = batch * patches * chunks;
    let mut tensors = vec![d_tokens, &d_patches];
    tensors.extend(masked);
    launch(
        &d_tokens.client,
        patches_kernel(walk, chunk, elements, masked.is_some()),
        walk.groups(items),
        &tensors,
        &info! { items: items, chunks: chunks, tokens: prefix + patches, prefix: prefix },
    );
    d_patches
}
