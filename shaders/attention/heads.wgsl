// Where the heads lie in packed queries, keys and values, and which tokens a lane takes.
//
// A row of qkv holds 3 parts (queries, keys, values) of H heads of C chunks, C = D / H / (lanes of Chunk). A lane takes
// MEMBERS tokens of one head of one image, so that it reads what they meet once for all of them.

/// Chunks of qkv, of what is mixed, and of gradients with respect to them.
alias Rows = {{ rows }};

const CHUNKS = {{ head_chunk }}u;
const MEMBERS = {{ member }}u;

/// Without its last word, which is for the tiles.
struct Info {
    batch: u32,
    heads: u32,
    tokens: u32,
    scale: f32,
}

/// What a lane works on, with what it needs of info: a software device goes to memory each time that it reads that.
struct Work {
    /// Whether there is nothing to do.
    is_none: bool,
    /// First row of the image in qkv.
    first_row: u32,
    /// First of this head's entries in row_lse.
    first_log: u32,
    /// First chunk of the head in a part of a row.
    column: u32,
    /// First of the lane's tokens.
    token: u32,
    /// Tokens of an image.
    tokens: u32,
    /// Chunks of a part of a row.
    width: u32,
    scale: f32,
}

fn work_of(place: Place) -> Work {
    let heads = info.heads;
    let tokens = info.tokens;
    let item = group_of(place) * LANES + place.lane;
    let blocks = (tokens + MEMBERS - 1u) / MEMBERS;
    let map = item / blocks;
    let first_row = map / heads * tokens;
    return Work(
        first_row >= info.batch * tokens,
        first_row,
        map * tokens,
        map % heads * CHUNKS,
        item % blocks * MEMBERS,
        tokens,
        heads * CHUNKS,
        info.scale,
    );
}
