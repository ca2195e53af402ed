// The operands of a matrix product, and how they are read: in blocks of 4 x 4 entries.
//
// Bindings: left [N, R, T] or, turned, [N, T, R], right [N, T, C] or, turned, [N, C, T], product [N, R, C], then those of
// bias [C], at_gelu [R, C], residual [R, C], totals [C] and activated [R, C] that are there, info. Where sums are cut into P
// parts, product [P, R, C] and totals [P, C] hold those.
//
// An element is a vector of 4 where the rows of all matrices are a multiple of that, else a single entry. Places in a buffer
// count such elements.

alias Left = {{ left_stored }};
alias Right = {{ right_stored }};
/// Of what the product becomes, and of GELU of it.
alias Stored = {{ stored }};
/// Of at_gelu and residual.
alias Beside = {{ beside }};
/// Of bias and totals.
alias Whole = {{ whole }};
/// What operands are rounded to before they are multiplied, in f32.
alias Operand = {{ operand }};

/// Entries of an element.
const ENTRIES = {{ entries }}u;
/// Elements of 4 entries.
const STRIDE = 4u / ENTRIES;
const STEPS = vec4<u32>(0u, 1u, 2u, 3u);

struct Info {
    rows: u32,
    columns: u32,
    /// Terms of each sum.
    depth: u32,
    /// Number N of products.
    count: u32,
    /// Terms of a part of a sum. The last part may have fewer; only tiled.wgsl cuts sums.
    span: u32,
    /// Tile rows of a band; only tiled.wgsl has bands.
    band: u32,
}

@group(0) @binding(0) var<storage, read_write> left: array<Left>;
@group(0) @binding(1) var<storage, read_write> right: array<Right>;
@group(0) @binding(2) var<storage, read_write> product: array<Stored>;
{{ each bias }}
@group(0) @binding(3) var<storage, read_write> bias: array<Whole>;
{{ end }}
{{ each gelu_gradient }}
@group(0) @binding(3 + {{ bias }}) var<storage, read_write> at_gelu: array<Beside>;
{{ end }}
{{ each residual }}
@group(0) @binding(3 + {{ bias }} + {{ gelu_gradient }}) var<storage, read_write> residual: array<Beside>;
{{ end }}
{{ each totals }}
@group(0) @binding(3 + {{ bias }} + {{ gelu_gradient }} + {{ residual }}) var<storage, read_write> totals: array<Whole>;
{{ end }}
{{ each activated }}
@group(0) @binding(3 + {{ bias }} + {{ gelu_gradient }} + {{ residual }} + {{ totals }})
var<storage, read_write> activated: array<Stored>;
{{ end }}
@group(0) @binding(3 + {{ bias }} + {{ gelu_gradient }} + {{ residual }} + {{ totals }} + {{ activated }})
var<storage, read> info: Info;

/// Four places of one row, of which the last ones may lie beyond its end: `room` more may be read after the first.
fn within(at: u32, room: u32) -> vec4<u32> {
    return vec4<u32>(at) + min(STEPS, vec4<u32>(room));
}

{{ each singles }}
fn left_four(places: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(Operand(vec4(left[places.x], left[places.y], left[places.z], left[places.w])));
}
{{ end }}

fn left_at(at: u32, room: u32) -> vec4<f32> {
    {{ each vectors }}
    return vec4<f32>(Operand(left[at]));
    {{ end }}
    {{ each singles }}
    return left_four(within(at, room));
    {{ end }}
}

{{ each singles }}
fn right_four(places: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(Operand(vec4(right[places.x], right[places.y], right[places.z], right[places.w])));
}
{{ end }}

fn right_at(at: u32, room: u32) -> vec4<f32> {
    {{ each vectors }}
    return vec4<f32>(Operand(right[at]));
    {{ end }}
    {{ each singles }}
    return right_four(within(at, room));
    {{ end }}
}

fn left_block(starts: vec4<u32>, at: u32, room: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        left_at(starts.x + at, room),
        left_at(starts.y + at, room),
        left_at(starts.z + at, room),
        left_at(starts.w + at, room),
    );
}

fn right_block(starts: vec4<u32>, at: u32, room: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        right_at(starts.x + at, room),
        right_at(starts.y + at, room),
        right_at(starts.z + at, room),
        right_at(starts.w + at, room),
    );
}

{{ each singles }}
/// Four rows of four entries: where they start, and the steps to the entries of each.
fn left_entries(starts: vec4<u32>, steps: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        left_four(starts.x + steps),
        left_four(starts.y + steps),
        left_four(starts.z + steps),
        left_four(starts.w + steps),
    );
}

fn right_entries(starts: vec4<u32>, steps: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        right_four(starts.x + steps),
        right_four(starts.y + steps),
        right_four(starts.z + steps),
        right_four(starts.w + steps),
    );
}
{{ end }}
