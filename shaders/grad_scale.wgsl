// Gathers the scalars of a step, and says how far its gradients may move the parameters: scaled to the largest norm, and
// not at all where a scalar is not finite or the step before might not.
//
// Bindings: scalar 0 [1], scalar 1 [1], ..., before [1], row [all scalars], scale [1], info. The last scalar of all is the
// sum of the squares of all gradients.
// Launch: one lane, for SCALARS of the scalars, from number first on; the scale of one launch is the `before` of the next.
// Scalars are bits here: a compiler may assume finite math (no infinity, no NaN).

const SCALARS = {{ scalars }}u;
const EXPONENT = 0x7f800000u;

struct Info {
    max_norm: f32,
    first: u32,
    /// Scalars of all launches.
    all: u32,
}

{{ each scalar }}
@group(0) @binding({{ scalar }}) var<storage, read_write> scalar_{{ scalar }}: array<u32>;
{{ end }}
@group(0) @binding({{ scalars }}) var<storage, read_write> before: array<f32>;
@group(0) @binding({{ scalars }} + 1) var<storage, read_write> row: array<u32>;
@group(0) @binding({{ scalars }} + 2) var<storage, read_write> scale: array<f32>;
@group(0) @binding({{ scalars }} + 3) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    if lane > 0u || number_of(place) > 0u {
        return;
    }
    var bits = 0u;
    var moves = before[0] != 0.0;
    {{ each scalar }}
    bits = scalar_{{ scalar }}[0];
    row[info.first + {{ scalar }}u] = bits;
    moves = moves && (bits & EXPONENT) != EXPONENT;
    {{ end }}
    var found = 0.0;
    if moves {
        found = 1.0;
        if info.first + SCALARS == info.all {
            let norm = sqrt(bitcast<f32>(bits));
            if norm > info.max_norm {
                found = info.max_norm / norm;
            }
        }
    }
    scale[0] = found;
}
