// The lanes that share a row. There are TEAM of them, side by side in a workgroup that has LANES / TEAM rows, or one alone:
// a software device pays more for the barriers than it wins by sharing.

const TEAM = {{ team }}u;

/// Number of the lane's row in the launch. There may be more of them than rows: all lanes meet at the barriers, so that
/// a team without a row takes the last one once more and writes nothing.
fn row_of(place: GroupPlace, lane: u32) -> u32 {
    return number_of(place) * (LANES / TEAM) + lane / TEAM;
}

{{ each shared }}
var<workgroup> parts: array<vec2<f32>, LANES>;
{{ end }}

/// Sum over the team, in an order that depends on its size only.
fn sum_of_team(lane: u32, own: vec2<f32>) -> vec2<f32> {
    {{ each shared }}
    let member = lane % TEAM;
    workgroupBarrier(); // everybody has read the sum before
    parts[lane] = own;
    workgroupBarrier();
    for (var half = TEAM / 2u; half > 0u; half /= 2u) {
        if member < half {
            parts[lane] += parts[lane + half];
        }
        workgroupBarrier();
    }
    return parts[lane - member];
    {{ end }}
    {{ each alone }}
    return own;
    {{ end }}
}
