// Gradient of forward.wgsl by what all images share: for each token the sum over the images, and for each patch the sum over
// the images that mask it, in one order, so that two runs give the same bits.
//
// Bindings: d_tokens [B T, C], sums [T, C], where they are there masked [B N] and masked_sums [N, C], info.
// C = D / (lanes of Chunk).
// Launch: one lane for each chunk of a token.
// Not handled: strides.

alias Rows = {{ rows }};

struct Info {
    batch: u32,
    chunks: u32,
    tokens: u32,
    prefix: u32,
}

@group(0) @binding(0) var<storage, read_write> d_tokens: array<Rows>;
@group(0) @binding(1) var<storage, read_write> sums: array<Chunk>;
{{ each masked }}
@group(0) @binding(2) var<storage, read_write> masked: array<f32>;
@group(0) @binding(3) var<storage, read_write> masked_sums: array<Chunk>;
{{ end }}
@group(0) @binding(2 + 2 * {{ masked }}) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let of_image = info.tokens * chunks;
    let batch = info.batch;
    let item = group_of(place) * LANES + place.lane;
    if item >= of_image {
        return;
    }
    var sum = Chunk(0.0);
    {{ each masked }}
    let patches = info.tokens - info.prefix;
    let token = item / chunks;
    let is_patch = token >= info.prefix;
    // a token before the patches looks at the first patch, and keeps nothing of it
    let patch_of_image = max(token, info.prefix) - info.prefix;
    var masked_sum = Chunk(0.0);
    {{ end }}
    for (var image = 0u; image < batch; image += 1u) {
        let d = Chunk(d_tokens[image * of_image + item]);
        sum += d;
        {{ each masked }}
        if masked[image * patches + patch_of_image] != 0.0 {
            masked_sum += d;
        }
        {{ end }}
    }
    sums[item] = sum;
    {{ each masked }}
    if is_patch {
        masked_sums[item - info.prefix * chunks] = masked_sum;
    }
    {{ end }}
}
