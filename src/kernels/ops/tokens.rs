//! Embedded patches to the tokens of a transformer: masked ones replaced, class and register tokens before them, positions
//! added.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::rounding::as_stored;

/// What [`crate::kernels::IbotBackend::assemble_tokens`] takes: B images of N patches, with T - N prefix tokens before those.
#[derive(Debug, Clone)]
pub struct TokensInput<B: Backend> {
    /// Embedded patches, image by image, `[B N, D]`.
    pub patches: Tensor<B, 2>,
    /// Number B of images.
    pub batch: usize,
    /// Which patches are replaced by which token.
    pub mask: Option<TokenMask<B>>,
    /// Class and register tokens, `[T - N, D]`.
    pub prefix: Option<Tensor<B, 2>>,
    /// Position embedding, `[T, D]`, or `[N, D]` of patches alone.
    pub positions: Tensor<B, 2>,
}

/// Masked patches, and what stands in their place.
#[derive(Debug, Clone)]
pub struct TokenMask<B: Backend> {
    /// 1 where a patch is masked, else 0, `[B N]`.
    pub masked: Tensor<B, 1>,
    /// `[D]`.
    pub token: Tensor<B, 1>,
}

/// Gradients of [`TokensInput`].
#[derive(Debug, Clone)]
pub struct TokensGradients<B: Backend> {
    /// `[B N, D]`.
    pub d_patches: Tensor<B, 2>,
    /// `[D]`.
    pub d_token: Option<Tensor<B, 1>>,
    /// `[T - N, D]`.
    pub d_prefix: Option<Tensor<B, 2>>,
    /// As the positions.
    pub d_positions: Tensor<B, 2>,
}

impl<B: Backend> TokensInput<B> {
    /// P, N and D.
    pub(in crate::kernels) fn sizes(&self) -> [usize; 3] {
        let [rows, width] = self.patches.dims();
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.dims()[0]);
        [prefix, rows / self.batch, width]
    }

    /// First token with a position: 0, or P where only patches have one.
    pub(in crate::kernels) fn first_placed(&self) -> usize {
        let [prefix, patches, _] = self.sizes();
        prefix + patches - self.positions.dims()[0]
    }
}

/// The tokens, `[B T, D]`.
pub fn forward<B: IbotBackend>(input: TokensInput<B>) -> Tensor<B, 2> {
    let ([prefix, patches, width], batch) = (input.sizes(), input.batch);
    let places_all = input.first_placed() == 0;
    let positions = input.positions.unsqueeze_dim::<3>(0);
    let mut tokens = input.patches.reshape([batch, patches, width]);
    if let Some(TokenMask { masked, token }) = input.mask {
        let masked = masked.reshape([batch, patches, 1]);
        let visible = masked.clone().neg().add_scalar(1.0);
        tokens = tokens * visible + token.reshape([1, 1, width]) * masked;
    }
    if !places_all {
        tokens = tokens + positions.clone();
    }
    if let Some(before) = input.prefix {
        let before = before.unsqueeze_dim::<3>(0).expand([batch, prefix, width]);
        tokens = Tensor::cat(vec![before, tokens], 1);
    }
    if places_all {
        tokens = tokens + positions;
    }
    as_stored(tokens.reshape([batch * (prefix + patches), width]))
}

/// Gradients of [`forward`].
pub fn backward<B: IbotBackend>(
    input: &TokensInput<B>,
    d_tokens: Tensor<B, 2>,
) -> TokensGradients<B> {
    let ([prefix, patches, width], batch) = (input.sizes(), input.batch);
    let d_tokens = d_tokens.reshape([batch, prefix + patches, width]);
    let of_batch = d_tokens.clone().sum_dim(0).squeeze_dim::<2>(0);
    let mut d_patches = d_tokens.narrow(1, prefix, patches);
    let mut d_token = None;
    if let Some(mask) = &input.mask {
        let masked = mask.masked.clone().reshape([batch, patches, 1]);
        let of_token = d_patches.clone() * masked.clone();
        d_token = Some(of_token.sum_dim(0).sum_dim(1).reshape([width]));
        d_patches = d_patches * masked.neg().add_scalar(1.0);
    }
    TokensGradients {
        d_patches: d_patches.reshape([batch * patches, width]),
        d_token,
        d_prefix: (prefix > 0).then(|| of_batch.clone().narrow(0, 0, prefix)),
        d_positions: placed(of_batch, input),
    }
}

/// The rows of those `[T, D]` tokens that have a position.
pub(in crate::kernels) fn placed<B: Backend>(
    tokens: Tensor<B, 2>,
    input: &TokensInput<B>,
) -> Tensor<B, 2> {
    match input.first_placed() {
        0 => tokens,
        first => tokens.narrow(0, first, input.positions.dims()[0]),
    }
}
