// d_x = d_y (P(X < x) + x p(x)) for a standard normal X with density p.
//
// Bindings: x [C], d_y [C], d_x [C], info; all of one kind.
// Launch: a lane takes ROUNDS chunks.

alias Rows = {{ rows }};

struct Info {
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> d_y: array<Rows>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Rows>;
@group(0) @binding(3) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let first = number_of(place) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.chunks);
    for (var at = first; at < end; at += LANES) {
        let entry = Chunk(x[at]);
        let decay = decay_of(entry);
        d_x[at] = Rows(Chunk(d_y[at]) * (probability_below(entry, decay) + entry * (PEAK * decay)));
    }
}
