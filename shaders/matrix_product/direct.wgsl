// A matrix product for a device that is a program on the CPU, which pays more for reading and for barriers than for
// arithmetic: each lane keeps a tile of blocks 4 x 4 in registers, shares nothing, and reads an entry of either operand
// once for each block that it meets.
//
// Bindings: those of operands.wgsl.
// Launch: one lane a tile of 4 ROW_BLOCKS x 4 COLUMN_BLOCKS entries; tiles of one product side by side.
// Not handled: strides, no terms at all, and more than 262 140: lavapipe leaves a loop after 65 535 rounds.

const ROW_BLOCKS = {{ row_block }}u;
const COLUMN_BLOCKS = {{ column_block }}u;

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

@compute @workgroup_size(LANES)
fn main(place: Place) {
    // read once: a software device goes to memory each time
    let rows = info.rows;
    let columns = info.columns;
    let depth = info.depth;
    let row_chunks = (rows + 3u) / 4u;
    let column_chunks = (columns + 3u) / 4u;
    let tile_rows = (row_chunks + ROW_BLOCKS - 1u) / ROW_BLOCKS;
    let tile_columns = (column_chunks + COLUMN_BLOCKS - 1u) / COLUMN_BLOCKS;
    let item = group_of(place) * LANES + place.lane;
    let map = item / (tile_rows * tile_columns);
    if map >= info.count {
        return;
    }
    let tile = item % (tile_rows * tile_columns);
    let row_chunk = tile / tile_columns * ROW_BLOCKS;
    let column_chunk = tile % tile_columns * COLUMN_BLOCKS;
    // elements from one row to the next
    let of_depth = depth / ENTRIES;
    let of_rows = rows / ENTRIES;
    let of_columns = columns / ENTRIES;
    let left_start = map * rows * of_depth;
    let right_start = map * depth * of_columns;
    // beyond the last row or column a block is the last one once more, and is not written
    {{ each row_block }}
    let row_chunk_{{ row_block }} = min(row_chunk + {{ row_block }}u, row_chunks - 1u);
    {{ each straight_left }}
    let left_{{ row_block }}_starts = left_start
        + min(vec4<u32>(4u * (row_chunk + {{ row_block }}u)) + STEPS, vec4<u32>(rows - 1u)) * of_depth;
    {{ end }}
    {{ each turned_left }}
    let left_{{ row_block }}_at = left_start + row_chunk_{{ row_block }} * STRIDE;
    let left_{{ row_block }}_room = rows - 1u - 4u * row_chunk_{{ row_block }};
    {{ end }}
    {{ end }}
    {{ each column_block }}
    let column_{{ column_block }} = 4u * min(column_chunk + {{ column_block }}u, column_chunks - 1u);
    {{ each straight_right }}
    let right_{{ column_block }}_at = right_start + column_{{ column_block }} / ENTRIES;
    let right_{{ column_block }}_room = columns - 1u - column_{{ column_block }};
    {{ end }}
    {{ each turned_right }}
    let right_{{ column_block }}_starts = right_start
        + min(vec4<u32>(column_{{ column_block }}) + STEPS, vec4<u32>(columns - 1u)) * of_depth;
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
        let room = depth - 1u - 4u * chunk;
        {{ each row_block }}
        {{ each straight_left }}
        let left_{{ row_block }} = left_block(left_{{ row_block }}_starts, chunk * STRIDE, room);
        {{ end }}
        {{ each turned_left }}
        let left_{{ row_block }} =
            transpose(left_block(terms * of_rows, left_{{ row_block }}_at, left_{{ row_block }}_room));
        {{ end }}
        {{ end }}
        {{ each column_block }}
        {{ each straight_right }}
        let right_{{ column_block }} =
            scaled(right_block(terms * of_columns, right_{{ column_block }}_at, right_{{ column_block }}_room), share);
        {{ end }}
        {{ each turned_right }}
        {{ each vectors }}
        let right_{{ column_block }} = transpose(right_block(right_{{ column_block }}_starts, chunk, room));
        {{ end }}
        {{ each singles }}
        let right_{{ column_block }} =
            scaled(transpose(right_block(right_{{ column_block }}_starts, 4u * chunk, room)), share);
        {{ end }}
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
    let start = map * rows * of_columns;
    {{ each column_block }}
    if column_chunk + {{ column_block }}u < column_chunks {
        {{ each row_block }}
        write_block(
            sum_{{ row_block }}_{{ column_block }},
            Target(start, rows, columns, 4u * (row_chunk + {{ row_block }}u), column_{{ column_block }}),
        );
        {{ end }}
        {{ each totals }}
        if row_chunk == 0u {
            write_totals(total_{{ column_block }}, 0u, column_{{ column_block }}, columns);
        }
        {{ end }}
    }
    {{ end }}
}
