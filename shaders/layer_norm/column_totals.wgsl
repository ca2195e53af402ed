// Second half of the gradients by weight and bias: the slabs of columns.wgsl, in their order, so that two runs give the
// same bits.
//
// Bindings: partial_weight [S, C], partial_bias [S, C], d_weight [C], d_bias [C], info.
// Launch: one lane a chunk of columns.

struct Info {
    slabs: u32,
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> partial_weight: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> partial_bias: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> d_weight: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> d_bias: array<Chunk>;
@group(0) @binding(4) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let slabs = info.slabs;
    let chunk = group_of(place) * LANES + place.lane;
    if chunk >= chunks {
        return;
    }
    var of_weight = Chunk(0.0);
    var of_bias = Chunk(0.0);
    for (var slab = 0u; slab < slabs; slab += 1u) {
        of_weight += partial_weight[slab * chunks + chunk];
        of_bias += partial_bias[slab * chunks + chunk];
    }
    d_weight[chunk] = of_weight;
    d_bias[chunk] = of_bias;
}
