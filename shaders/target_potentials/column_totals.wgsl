// Second half of the prototypes' normalizers: the slabs of columns.wgsl, in their order, to one shift and one log.
//
// Bindings: partial_max [S, C], partial_sum [S, C], of_prototypes [K, 2], info. C = K / (lanes of Chunk).
// Launch: one lane a chunk of columns.
// Not handled: no slabs.

struct Info {
    slabs: u32,
    chunks: u32,
    inverse_temperature: f32,
}

@group(0) @binding(0) var<storage, read_write> partial_max: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> partial_sum: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> of_prototypes: array<Chunk>;
@group(0) @binding(3) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let chunk = number_of(place) * LANES + lane;
    if chunk >= info.chunks {
        return;
    }
    var largest = partial_max[chunk];
    for (var slab = 1u; slab < info.slabs; slab += 1u) {
        largest = max(largest, partial_max[slab * info.chunks + chunk]);
    }
    var sum = Chunk(0.0);
    for (var slab = 0u; slab < info.slabs; slab += 1u) {
        let at = slab * info.chunks + chunk;
        sum += partial_sum[at] * exp((partial_max[at] - largest) * info.inverse_temperature);
    }
    let rest = log(sum);
    of_prototypes[2u * chunk] = low_of(largest, rest);
    of_prototypes[2u * chunk + 1u] = high_of(largest, rest);
}
