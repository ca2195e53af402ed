//! Kernels of `shaders/attention/` in which a lane holds tokens in its registers: for software devices, and for a GPU's
//! narrow heads.

use super::attention_pass::Pass;
use super::chunk::{Chunk, Element};
use super::lanes::SOFTWARE_SUBGROUP;
use super::launch::{Kernel, shader};

/// Chunks of a head's width, at most: each is a register or four of every lane, several times over.
const MAX_CHUNKS: usize = 64;

/// Widest head that a GPU's lanes take. By keys a lane holds 6 times the width, and RDNA3's compiler takes 120 registers
/// for 16, 132 for 19, and spills from 20 on.
const MAX_GPU_WIDTH: usize = 16;

/// Lanes of a workgroup on a GPU: they share nothing, and small workgroups spread over more of it.
const GPU_LANES: u32 = 64;

/// Chunks of queries that a software device's lane holds in the forward pass, and of queries or keys in the backward
/// pass, which holds twice as much for each. A lane reads all keys once for all of its queries, and reading is what
/// costs there (64 images of 17 tokens, 3 heads of 64: forward 1.5 ms with 4 queries a lane, 3.3 ms with 1).
const SOFTWARE_CHUNKS: [usize; 2] = [64, 32];

/// Tokens of a software device's lane, at most.
const MAX_MEMBERS: usize = 4;

/// Forward, by queries, by keys on a GPU, whose registers hold one token a lane; none for wider heads.
pub(super) fn of_gpu(lanes: u32, head_width: usize, element: Element) -> Option<[Pass; 3]> {
    match head_width {
        ..=MAX_GPU_WIDTH => passes(lanes.min(GPU_LANES), head_width, [1, 1], element),
        _ => None,
    }
}

/// Forward, by queries, by keys on a software device; none for heads wider than 256, or 64 where they are no multiple of 4.
pub(super) fn of_software(head_width: usize, element: Element) -> Option<[Pass; 3]> {
    let chunks = Chunk::for_length(head_width).count(head_width);
    let members = SOFTWARE_CHUNKS.map(|held| (held / chunks.max(1)).clamp(1, MAX_MEMBERS));
    passes(SOFTWARE_SUBGROUP, head_width, members, element)
}

/// `members` are the tokens of a lane in the forward and in the backward pass.
fn passes(
    lanes: u32,
    head_width: usize,
    members: [usize; 2],
    element: Element,
) -> Option<[Pass; 3]> {
    let chunk = Chunk::for_length(head_width);
    let chunks = chunk.count(head_width);
    if !(1..=MAX_CHUNKS).contains(&chunks) {
        return None;
    }
    let pass = |shader, tokens: usize| {
        let mut values = chunk.values();
        values.push(("head_chunk", chunks.to_string()));
        values.push(("member", tokens.to_string()));
        values.push(("rows", chunk.of(element)));
        Pass {
            kernel: Kernel::new(shader, lanes, values),
            tokens,
            workers: lanes as usize,
        }
    };
    let [forward, backward] = members;
    Some([
        pass(
            shader!("chunk", "attention/heads", "attention/forward"),
            forward,
        ),
        pass(
            shader!("chunk", "attention/heads", "attention/queries"),
            backward,
        ),
        pass(
            shader!("chunk", "attention/heads", "attention/keys"),
            backward,
        ),
    ])
}
