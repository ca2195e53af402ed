// y = x P(X < x) for a standard normal X: exact GELU (arXiv 1606.08415).
//
// Bindings: x [C], y [C], info; x and y of one kind.
// Launch: a lane takes ROUNDS chunks.

alias Rows = {{ rows }};

struct Info {
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> y: array<Rows>;
@group(0) @binding(2) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let first = number_of(place) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.chunks);
    for (var at = first; at < end; at += LANES) {
        let entry = Chunk(x[at]);
        y[at] = Rows(entry * probability_below(entry, decay_of(entry)));
    }
}
