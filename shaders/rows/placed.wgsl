// Rows at their place in a larger matrix, zeros in all other rows, plus, where it is there, past: y = past + placed(d).
//
// Bindings: d [M, C], y [R, C], where it is there past [R, C], info. C = D / (lanes of Chunk).
// Launch: a lane takes ROUNDS chunks of y.
// Not handled: strides.

alias Rows = {{ rows }};

struct Info {
    /// R C.
    items: u32,
    /// Chunk of y at which d starts, and at which it ends.
    start: u32,
    end: u32,
}

@group(0) @binding(0) var<storage, read_write> d: array<Rows>;
@group(0) @binding(1) var<storage, read_write> y: array<Rows>;
{{ each past }}
@group(0) @binding(2) var<storage, read_write> past: array<Rows>;
{{ end }}
@group(0) @binding(2 + {{ past }}) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let first = group_of(place) * LANES * ROUNDS + place.lane;
    let end = min(first + LANES * ROUNDS, info.items);
    for (var at = first; at < end; at += LANES) {
        var sum = Chunk(0.0);
        {{ each past }}
        sum = Chunk(past[at]);
        {{ end }}
        if at >= info.start && at < info.end {
            sum += Chunk(d[at - info.start]);
        }
        y[at] = Rows(sum);
    }
}
