// Tokens of a transformer, image by image: P class and register tokens, then N patches, masked ones replaced by the mask
// token; positions added to those from first_placed on.
//
// Bindings: patches [B N, C], positions [T - first_placed, C], tokens [B T, C], where they are there prefix [P, C], masked
// [B N] and mask token [C], info. T = P + N, C = D / (lanes of Chunk).
// Launch: a lane takes ROUNDS chunks of tokens.
// Not handled: strides.

alias Patches = {{ patches }};
alias Rows = {{ rows }};

struct Info {
    /// B T C.
    items: u32,
    chunks: u32,
    tokens: u32,
    prefix: u32,
    first_placed: u32,
}

@group(0) @binding(0) var<storage, read_write> patches: array<Patches>;
@group(0) @binding(1) var<storage, read_write> positions: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> tokens: array<Rows>;
{{ each prefixed }}
@group(0) @binding(3) var<storage, read_write> prefix: array<Chunk>;
{{ end }}
{{ each masked }}
@group(0) @binding(3 + {{ prefixed }}) var<storage, read_write> masked: array<f32>;
@group(0) @binding(4 + {{ prefixed }}) var<storage, read_write> mask_token: array<Chunk>;
{{ end }}
@group(0) @binding(3 + {{ prefixed }} + 2 * {{ masked }}) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let chunks = info.chunks;
    let count = info.tokens;
    let of_prefix = info.prefix;
    let first = group_of(place) * LANES * ROUNDS + place.lane;
    let end = min(first + LANES * ROUNDS, info.items);
    for (var at = first; at < end; at += LANES) {
        let chunk = at % chunks;
        let row = at / chunks;
        let token = row % count;
        // a token before the patches reads the first patch, which is not kept
        let patch_row = row / count * (count - of_prefix) + max(token, of_prefix) - of_prefix;
        var y = Chunk(patches[patch_row * chunks + chunk]);
        {{ each masked }}
        if masked[patch_row] != 0.0 {
            y = mask_token[chunk];
        }
        {{ end }}
        {{ each prefixed }}
        if token < of_prefix {
            y = prefix[token * chunks + chunk];
        }
        {{ end }}
        if token >= info.first_placed {
            y += positions[(token - info.first_placed) * chunks + chunk];
        }
        tokens[at] = Rows(y);
    }
}
