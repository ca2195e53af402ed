//! Launches of `shaders/attention/`.

use burn::tensor::Tensor;

use super::super::attention::Sizes;
use super::super::{AttentionInput, AttentionOutput, Gpu};
use super::Chunk;
use super::launch::{
    Client, Kernel, MOST_ROUNDS, SOFTWARE_SUBGROUP, contiguous, empty, is_software, launch, shader,
    tensor, workgroup,
};

/// Chunks of a head's width, at most: each is a register or four of every lane, several times over.
const MOST_CHUNKS: usize = 64;

/// Lanes of a workgroup on a GPU: they share nothing, and small workgroups spread over more of it.
const GPU_LANES: u32 = 64;

/// Chunks of queries that a software device's lane holds in the forward pass, and of queries or keys in the backward
/// pass, which holds twice as much for each. A lane reads all keys once for all of its queries, and reading is what
/// costs there (64 images of 17 tokens, 3 heads of 64: forward 1.5 ms with 4 queries a lane, 3.3 ms with 1).
const SOFTWARE_CHUNKS: [usize; 2] = [64, 32];

/// Tokens of a software device's lane, at most.
const MOST_MEMBERS: usize = 4;

/// Lanes of a workgroup, and tokens of each in the forward and in the backward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    lanes: u32,
    members: [usize; 2],
}

impl Shares {
    /// A GPU's registers hold one token a lane.
    pub(super) fn of_gpu(lanes: u32) -> Self {
        Self {
            lanes: lanes.min(GPU_LANES),
            members: [1, 1],
        }
    }

    pub(super) fn of_software(chunks: usize) -> Self {
        Self {
            lanes: SOFTWARE_SUBGROUP,
            members: SOFTWARE_CHUNKS.map(|held| (held / chunks).clamp(1, MOST_MEMBERS)),
        }
    }

    fn of(client: &Client, chunks: usize) -> Self {
        match is_software(client) {
            true => Self::of_software(chunks),
            false => Self::of_gpu(workgroup(client)),
        }
    }

    /// Workgroups of a pass in which each lane takes so many members of each map.
    fn groups(self, sizes: &Sizes, members: usize) -> usize {
        let items = sizes.batch * sizes.heads * sizes.tokens.div_ceil(members);
        items.div_ceil(self.lanes as usize)
    }
}

fn values(chunk: Chunk, chunks: usize, members: usize) -> Vec<(&'static str, String)> {
    let mut values = chunk.values();
    values.push(("head_chunk", chunks.to_string()));
    values.push(("member", members.to_string()));
    values
}

fn forward_kernel(shares: Shares, chunk: Chunk, chunks: usize) -> Kernel {
    let shader = shader!("chunk", "attention/heads", "attention/forward");
    Kernel::new(
        shader,
        shares.lanes,
        values(chunk, chunks, shares.members[0]),
    )
}

fn queries_kernel(shares: Shares, chunk: Chunk, chunks: usize) -> Kernel {
    let shader = shader!("chunk", "attention/heads", "attention/queries");
    Kernel::new(
        shader,
        shares.lanes,
        values(chunk, chunks, shares.members[1]),
    )
}

fn keys_kernel(shares: Shares, chunk: Chunk, chunks: usize) -> Kernel {
    let shader = shader!("chunk", "attention/heads", "attention/keys");
    Kernel::new(
        shader,
        shares.lanes,
        values(chunk, chunks, shares.members[1]),
    )
}

pub(super) fn kernels(shares: Shares, chunk: Chunk, chunks: usize) -> [Kernel; 3] {
    [forward_kernel, queries_kernel, keys_kernel].map(|make| make(shares, chunk, chunks))
}

/// Whether a lane can hold a head's queries: widths of up to 256, or 64 where they are no multiple of 4.
pub(super) fn suits(input: &AttentionInput<Gpu>) -> bool {
    let sizes = Sizes::of(input);
    let chunks = Chunk::for_length(sizes.head_width).count(sizes.head_width);
    (1..=MOST_ROUNDS).contains(&sizes.tokens) && (1..=MOST_CHUNKS).contains(&chunks)
}

fn info(sizes: &Sizes) -> [u32; 4] {
    [
        sizes.batch as u32,
        sizes.heads as u32,
        sizes.tokens as u32,
        (sizes.scale() as f32).to_bits(),
    ]
}

/// See [`super::super::IbotBackend::packed_attention`].
pub(super) fn forward(input: AttentionInput<Gpu>) -> AttentionOutput<Gpu> {
    let sizes = Sizes::of(&input);
    let chunk = Chunk::for_length(sizes.head_width);
    let chunks = chunk.count(sizes.head_width);
    let qkv = contiguous(input.qkv);
    let rows = sizes.batch * sizes.tokens;
    let mixed = empty(&qkv, [rows, sizes.heads * sizes.head_width]);
    let row_log = empty(&qkv, [rows * sizes.heads]);
    let shares = Shares::of(&qkv.client, chunks);
    launch(
        &qkv.client,
        forward_kernel(shares, chunk, chunks),
        shares.groups(&sizes, shares.members[0]),
        &[&qkv, &mixed, &row_log],
        &info(&sizes),
    );
    AttentionOutput {
        mixed: tensor(mixed),
        row_log: tensor(row_log),
    }
}

/// See [`super::super::IbotBackend::packed_attention_backward`].
pub(super) fn backward(
    input: AttentionInput<Gpu>,
    output: AttentionOutput<Gpu>,
    d_mixed: Tensor<Gpu, 2>,
) -> Tensor<Gpu, 2> {
    let sizes = Sizes::of(&input);
    let chunk = Chunk::for_length(sizes.head_width);
    let chunks = chunk.count(sizes.head_width);
    let qkv = contiguous(input.qkv);
    let rows = sizes.batch * sizes.tokens;
    let (mixed, row_log) = (contiguous(output.mixed), contiguous(output.row_log));
    let d_mixed = contiguous(d_mixed);
    let d_qkv = empty(&qkv, [rows, 3 * sizes.heads * sizes.head_width]);
    let along = empty(&qkv, [rows * sizes.heads]);
    let shares = Shares::of(&qkv.client, chunks);
    let groups = shares.groups(&sizes, shares.members[1]);
    launch(
        &qkv.client,
        queries_kernel(shares, chunk, chunks),
        groups,
        &[&qkv, &row_log, &mixed, &d_mixed, &d_qkv, &along],
        &info(&sizes),
    );
    launch(
        &qkv.client,
        keys_kernel(shares, chunk, chunks),
        groups,
        &[&qkv, &row_log, &along, &d_mixed, &d_qkv],
        &info(&sizes),
    );
    tensor(d_qkv)
}
