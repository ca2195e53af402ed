// The lanes that share a row. There are TEAM of them, side by side in a workgroup that has LANES / TEAM rows, or one alone:
// a software device pays more for the barriers than it wins by sharing.

const TEAM = {{ team }}u;

/// A lane's row of a matrix of `info.rows` rows, each of `info.chunks` chunks.
struct Row {
    row: u32,
    /// Whether the launch's row is there. All lanes meet at the barriers, so that a team without a row takes the last one
    /// once more and writes nothing.
    is_own: bool,
    /// First chunk of the row in the matrix.
    start: u32,
    /// The lane's first chunk in the row; the others are TEAM apart.
    first: u32,
    chunks: u32,
    /// End of the chunks that are written.
    written: u32,
}

fn row_of(place: GroupPlace, lane: u32) -> Row {
    let own = number_of(place) * (LANES / TEAM) + lane / TEAM;
    let row = min(own, info.rows - 1u);
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    return Row(row, own == row, row * chunks, lane % TEAM, chunks, select(0u, chunks, own == row));
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
