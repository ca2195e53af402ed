// Second half of the gradients with respect to weight and bias: the slabs of columns.wgsl, in an order that depends on their number and
// on TEAM only, so that two runs give the same bits.
//
// Bindings: partial_weight [S, C], partial_bias [S, C], d_weight [C], d_bias [C], info.
// Launch: TEAM lanes a chunk of columns, LANES / TEAM chunks a workgroup, side by side.

struct Info {
    slabs: u32,
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> partial_weight: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> partial_bias: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> d_weight: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> d_bias: array<Chunk>;
@group(0) @binding(4) var<storage, read> info: Info;

const TEAM = {{ team }}u;
const COLUMNS = LANES / TEAM;

{{ each shared }}
var<workgroup> parts: array<Chunk, LANES>;
{{ end }}

/// Sum over the lanes of a chunk of columns.
fn sum_of_team(lane: u32, own: Chunk) -> Chunk {
    {{ each shared }}
    workgroupBarrier(); // everybody has read the sum before
    parts[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half >= COLUMNS; half /= 2u) {
        if lane < half {
            parts[lane] += parts[lane + half];
        }
        workgroupBarrier();
    }
    return parts[lane % COLUMNS];
    {{ end }}
    {{ each alone }}
    return own;
    {{ end }}
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let slabs = info.slabs;
    let own_chunk = number_of(place) * COLUMNS + lane % COLUMNS;
    // beyond the last chunk: that one once more, not written
    let chunk = min(own_chunk, chunks - 1u);
    var of_weight = Chunk(0.0);
    var of_bias = Chunk(0.0);
    for (var slab = lane / COLUMNS; slab < slabs; slab += TEAM) {
        of_weight += partial_weight[slab * chunks + chunk];
        of_bias += partial_bias[slab * chunks + chunk];
    }
    let all_of_weight = sum_of_team(lane, of_weight);
    let all_of_bias = sum_of_team(lane, of_bias);
    if lane < COLUMNS && own_chunk == chunk {
        d_weight[chunk] = all_of_weight;
        d_bias[chunk] = all_of_bias;
    }
}
