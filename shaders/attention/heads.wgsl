// Where the heads lie in packed queries, keys and values, and which tokens a lane takes.
//
// A row of qkv holds 3 parts (queries, keys, values) of H heads of C chunks, C = D / H / (lanes of Chunk). A lane takes
// MEMBERS tokens of one head of one image, so that it reads what they meet once for all of them.

const CHUNKS = {{ head_chunk }}u;
const MEMBERS = {{ member }}u;

struct Info {
    batch: u32,
    heads: u32,
    tokens: u32,
    scale: f32,
}

/// What a lane works on.
struct Work {
    /// First row of the image in qkv; one beyond the batch means that there is nothing to do.
    first_row: u32,
    /// First of this head's entries in row_log.
    first_log: u32,
    head: u32,
    /// First of the lane's tokens.
    token: u32,
}

fn work_of(item: u32, heads: u32, tokens: u32) -> Work {
    let blocks = (tokens + MEMBERS - 1u) / MEMBERS;
    let map = item / blocks;
    return Work(map / heads * tokens, map * tokens, map % heads, item % blocks * MEMBERS);
}
