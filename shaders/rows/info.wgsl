// What the norms of rows take beside their tensors.

struct Info {
    rows: u32,
    chunks: u32,
    width: f32,
    eps: f32,
}
