// Gradient of forward.wgsl by the patches: that of their tokens, and zeros where they are masked.
//
// Bindings: d_tokens [B T, C], d_patches [B N, C], where it is there masked [B N], info. C = D / (lanes of Chunk).
// Launch: a lane takes ROUNDS chunks of d_patches.
// Not handled: strides.

alias Patches = {{ patches }};
alias Rows = {{ rows }};

struct Info {
    /// B N C.
    items: u32,
    chunks: u32,
    tokens: u32,
    prefix: u32,
}

@group(0) @binding(0) var<storage, read_write> d_tokens: array<Rows>;
@group(0) @binding(1) var<storage, read_write> d_patches: array<Patches>;
{{ each masked }}
@group(0) @binding(2) var<storage, read_write> masked: array<f32>;
{{ end }}
@group(0) @binding(2 + {{ masked }}) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let chunks = info.chunks;
    let patches = info.tokens - info.prefix;
    let first = group_of(place) * LANES * ROUNDS + place.lane;
    let end = min(first + LANES * ROUNDS, info.items);
    for (var at = first; at < end; at += LANES) {
        let row = at / chunks;
        let token_row = row / patches * info.tokens + info.prefix + row % patches;
        var d = Chunk(d_tokens[token_row * chunks + at % chunks]);
        {{ each masked }}
        if masked[row] != 0.0 {
            d = Chunk(0.0);
        }
        {{ end }}
        d_patches[at] = Patches(d);
    }
}
