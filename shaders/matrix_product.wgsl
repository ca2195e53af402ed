// A matrix product whose operands may be stored transposed, for a device that is a program on the CPU.
//
// Bindings: left [R, T] or, turned, [T, R], right [T, C] or, turned, [C, T], product [R, C], then those of bias [C],
// residual [R, C] and totals [C] that are there, info. The product is left x right + bias + residual; totals are the sums
// of the columns of right.
// Launch: one lane a tile of 4 ROW_BLOCKS x 4 COLUMN_BLOCKS entries. Reading costs such a device more than
// arithmetic, and nothing is shared without barriers, so each lane keeps a tile of blocks 4 x 4 in registers and reads
// an entry of either operand once for each block that it meets.
// Not handled: strides, and rows of any of the matrices that are no multiple of 4.

struct Info {
    rows: u32,
    columns: u32,
    /// Terms of each sum.
    depth: u32,
}

@group(0) @binding(0) var<storage, read_write> left: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> right: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> product: array<vec4<f32>>;
{{ each bias }}
@group(0) @binding(3) var<storage, read_write> bias: array<vec4<f32>>;
{{ end }}
{{ each residual }}
@group(0) @binding(3 + {{ bias }}) var<storage, read_write> residual: array<vec4<f32>>;
{{ end }}
{{ each totals }}
@group(0) @binding(3 + {{ bias }} + {{ residual }}) var<storage, read_write> totals: array<vec4<f32>>;
{{ end }}
@group(0) @binding(3 + {{ bias }} + {{ residual }} + {{ totals }}) var<storage, read> info: Info;

const ROW_BLOCKS = {{ row_block }}u;
const COLUMN_BLOCKS = {{ column_block }}u;
const STEPS = vec4<u32>(0u, 1u, 2u, 3u);

fn left_block(starts: vec4<u32>, at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(left[starts.x + at], left[starts.y + at], left[starts.z + at], left[starts.w + at]);
}

fn right_block(starts: vec4<u32>, at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(right[starts.x + at], right[starts.y + at], right[starts.z + at], right[starts.w + at]);
}

/// One row of a block of sums, and one of the left operand.
fn next_row(sum: vec4<f32>, of_right: mat4x4<f32>, of_left: vec4<f32>) -> vec4<f32> {
    let first = fma(vec4<f32>(of_left.x), of_right[0], sum);
    let second = fma(vec4<f32>(of_left.y), of_right[1], first);
    let third = fma(vec4<f32>(of_left.z), of_right[2], second);
    return fma(vec4<f32>(of_left.w), of_right[3], third);
}

/// `sum` and the products of four terms: a block of right with its depth by depth, a block of left row by row.
fn next_block(sum: mat4x4<f32>, of_right: mat4x4<f32>, of_left: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        next_row(sum[0], of_right, of_left[0]),
        next_row(sum[1], of_right, of_left[1]),
        next_row(sum[2], of_right, of_left[2]),
        next_row(sum[3], of_right, of_left[3]),
    );
}

/// The block with each of its four vectors times its share.
fn scaled(block: mat4x4<f32>, shares: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(block[0] * shares.x, block[1] * shares.y, block[2] * shares.z, block[3] * shares.w);
}

fn write_row(sum: vec4<f32>, row: u32, chunk: u32, rows: u32, chunks: u32) {
    if row < rows {
        let at = row * chunks + chunk;
        {{ each residual }}
        product[at] = sum + residual[at];
        {{ end }}
        {{ each no_residual }}
        product[at] = sum;
        {{ end }}
    }
}

fn write_block(sum: mat4x4<f32>, added: vec4<f32>, row: u32, chunk: u32, rows: u32, chunks: u32) {
    write_row(sum[0] + added, row, chunk, rows, chunks);
    write_row(sum[1] + added, row + 1u, chunk, rows, chunks);
    write_row(sum[2] + added, row + 2u, chunk, rows, chunks);
    write_row(sum[3] + added, row + 3u, chunk, rows, chunks);
}

@compute @workgroup_size(LANES)
fn main(place: Place) {
    // read once: a software device goes to memory each time
    let rows = info.rows;
    let columns = info.columns;
    let depth = info.depth;
    let column_chunks = columns / 4u;
    let tile_columns = (column_chunks + COLUMN_BLOCKS - 1u) / COLUMN_BLOCKS;
    let tile = group_of(place) * LANES + place.lane;
    let row = tile / tile_columns * ROW_BLOCKS * 4u;
    let column_chunk = tile % tile_columns * COLUMN_BLOCKS;
    if row >= rows {
        return;
    }
    let row_chunk = row / 4u;
    // beyond the last row or column a block is the last one once more, and is not written
    {{ each row_block }}
    {{ each straight_left }}
    let left_{{ row_block }}_starts =
        min(vec4<u32>(row + 4u * {{ row_block }}u) + STEPS, vec4<u32>(rows - 1u)) * (depth / 4u);
    {{ end }}
    {{ each turned_left }}
    let left_{{ row_block }}_at = min(row_chunk + {{ row_block }}u, rows / 4u - 1u);
    {{ end }}
    {{ end }}
    {{ each column_block }}
    let chunk_{{ column_block }} = min(column_chunk + {{ column_block }}u, column_chunks - 1u);
    {{ each turned_right }}
    let right_{{ column_block }}_starts = (vec4<u32>(4u * chunk_{{ column_block }}) + STEPS) * (depth / 4u);
    {{ end }}
    {{ end }}
    {{ each row_block }}
    {{ each column_block }}
    var sum_{{ row_block }}_{{ column_block }} = mat4x4<f32>();
    {{ end }}
    {{ end }}
    {{ each totals }}
    {{ each column_block }}
    var total_{{ column_block }} = vec4<f32>();
    {{ end }}
    {{ end }}
    let depth_chunks = (depth + 3u) / 4u;
    for (var chunk = 0u; chunk < depth_chunks; chunk += 1u) {
        // beyond the last term: the last one once more, times zero
        let next = vec4<u32>(4u * chunk) + STEPS;
        let terms = min(next, vec4<u32>(depth - 1u));
        let share = select(vec4<f32>(1.0), vec4<f32>(0.0), next >= vec4<u32>(depth));
        {{ each row_block }}
        {{ each straight_left }}
        let left_{{ row_block }} = left_block(left_{{ row_block }}_starts, chunk);
        {{ end }}
        {{ each turned_left }}
        let left_{{ row_block }} = transpose(left_block(terms * (rows / 4u), left_{{ row_block }}_at));
        {{ end }}
        {{ end }}
        {{ each column_block }}
        {{ each straight_right }}
        let right_{{ column_block }} = scaled(right_block(terms * column_chunks, chunk_{{ column_block }}), share);
        {{ end }}
        {{ each turned_right }}
        let right_{{ column_block }} = transpose(right_block(right_{{ column_block }}_starts, chunk));
        {{ end }}
        {{ each totals }}
        total_{{ column_block }} += (right_{{ column_block }}[0] + right_{{ column_block }}[1])
            + (right_{{ column_block }}[2] + right_{{ column_block }}[3]);
        {{ end }}
        {{ end }}
        {{ each row_block }}
        {{ each column_block }}
        sum_{{ row_block }}_{{ column_block }} =
            next_block(sum_{{ row_block }}_{{ column_block }}, right_{{ column_block }}, left_{{ row_block }});
        {{ end }}
        {{ end }}
    }
    {{ each column_block }}
    if column_chunk + {{ column_block }}u < column_chunks {
        var added = vec4<f32>();
        {{ each bias }}
        added = bias[chunk_{{ column_block }}];
        {{ end }}
        {{ each row_block }}
        write_block(sum_{{ row_block }}_{{ column_block }}, added, row + 4u * {{ row_block }}u, chunk_{{ column_block }}, rows, column_chunks);
        {{ end }}
        {{ each totals }}
        if row == 0u {
            totals[chunk_{{ column_block }}] = total_{{ column_block }};
        }
        {{ end }}
    }
    {{ end }}
}
