// to = level * scale + offset by channel: images that came as bytes, normalized.
//
// Bindings: words [B 3 H W / 4] of four levels each, the first in the lowest byte, to [C], info.
// Launch: a lane takes ROUNDS chunks.

/// A chunk's bits.
alias Bits = {{ bits }};

struct Info {
    chunks: u32,
    /// Chunks in a channel of an image.
    of_plane: u32,
    /// 0, which only the host knows.
    nothing: u32,
    red_scale: f32,
    red_offset: f32,
    green_scale: f32,
    green_offset: f32,
    blue_scale: f32,
    blue_offset: f32,
}

@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> to: array<Chunk>;
@group(0) @binding(2) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

/// The levels of a chunk.
fn levels(at: u32) -> Chunk {
    return {{ levels }};
}

/// The product as it is in f32. A compiler that knew that this changes nothing could fuse it with the sum after it, which
/// rounds once where the host rounds twice: last bits would depend on the device.
fn rounded(product: Chunk) -> Chunk {
    return bitcast<Chunk>(bitcast<Bits>(product) ^ Bits(info.nothing));
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let first = number_of(place) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.chunks);
    for (var at = first; at < end; at += LANES) {
        let channel = (at / info.of_plane) % 3u;
        var scale = info.blue_scale;
        var offset = info.blue_offset;
        if channel == 0u {
            scale = info.red_scale;
            offset = info.red_offset;
        } else if channel == 1u {
            scale = info.green_scale;
            offset = info.green_offset;
        }
        to[at] = rounded(levels(at) * scale) + offset;
    }
}
