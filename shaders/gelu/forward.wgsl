// y = x P(X < x) for a standard normal X: exact GELU (arXiv 1606.08415).
//
// Bindings: x [C], y [C], info.
// Launch: a lane takes ROUNDS chunks.

struct Info {
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> y: array<Chunk>;
@group(0) @binding(2) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let first = number_of(place) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.chunks);
    for (var at = first; at < end; at += LANES) {
        let entry = x[at];
        y[at] = entry * probability_below(entry, decay_of(entry));
    }
}
