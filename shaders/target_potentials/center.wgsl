// Potentials of prototypes that a center shifts: pairs of it and a zero.
//
// Bindings: center [K], of_prototypes [K, 2], info.
// Launch: a lane takes ROUNDS prototypes.

struct Info {
    prototypes: u32,
}

@group(0) @binding(0) var<storage, read_write> center: array<f32>;
@group(0) @binding(1) var<storage, read_write> of_prototypes: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let first = group_of(place) * LANES * ROUNDS + place.lane;
    let end = min(first + LANES * ROUNDS, info.prototypes);
    for (var at = first; at < end; at += LANES) {
        of_prototypes[at] = vec2<f32>(center[at], 0.0);
    }
}
