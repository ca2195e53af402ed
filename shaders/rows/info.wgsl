// What the norms of rows take beside their tensors.

struct Info {
    rows: u32,
    chunks: u32,
    width: f32,
    eps: f32,
    /// Parts in which a gradient comes; only layer_norm/backward.wgsl adds them up.
    parts: u32,
}
