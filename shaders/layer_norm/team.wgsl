// What both passes over rows take: info, and the lanes that share a row. There are TEAM of them, all of a workgroup or one
// alone: a software device pays more for the barriers than it wins by sharing.

struct Info {
    rows: u32,
    chunks: u32,
    width: f32,
    eps: f32,
}

const TEAM = {{ team }}u;

/// Number of the row in the launch.
fn row_of(place: Place) -> u32 {
    return group_of(place) * (LANES / TEAM) + place.lane / TEAM;
}

{{ each shared }}
var<workgroup> parts: array<vec2<f32>, LANES>;
{{ end }}

/// Sum over the team, in an order that depends on its size only.
fn sum_of_team(lane: u32, own: vec2<f32>) -> vec2<f32> {
    {{ each shared }}
    workgroupBarrier(); // everybody has read the sum before
    parts[lane] = own;
    workgroupBarrier();
    for (var half = TEAM / 2u; half > 0u; half /= 2u) {
        if lane < half {
            parts[lane] += parts[lane + half];
        }
        workgroupBarrier();
    }
    return parts[0];
    {{ end }}
    {{ each alone }}
    return own;
    {{ end }}
}
