// A matrix product for GPUs: a workgroup makes a tile of ROWS x COLUMNS entries, whose operands it brings into workgroup
// memory DEPTH terms at a time, the next ones while it adds up these. A lane keeps ROW_BLOCKS x COLUMN_BLOCKS blocks of
// 4 x 4 sums in registers.
//
// Bindings: those of operands.wgsl.
// Launch: one workgroup a tile of a part of the sums; tiles of one part side by side, in the order of `tile_at`.
// Workgroup memory: DEPTH (ROWS + COLUMNS) entries and padding: 8.5 KiB for 64 x 64, 12.5 KiB for 128 x 64, 16 KiB for
// 128 x 128.
// Not handled: strides, no terms at all, and more than 170 000: lavapipe leaves the loops of a kernel after 65 535 rounds
// of all of them together.
//
// Only whole vectors are stored to workgroup memory: a store of one component may write the whole vector in WGSL
// (gpuweb issue 2112), so that two lanes must not share one.

const ROWS = {{ tile_rows }}u;
const COLUMNS = {{ tile_columns }}u;
const DEPTH = 16u;

const ROW_BLOCKS = {{ row_block }}u;
const COLUMN_BLOCKS = {{ column_block }}u;
/// Lanes side by side along the columns of a tile.
const COLUMN_LANES = COLUMNS / (4u * COLUMN_BLOCKS);
/// Vectors from one term of a tile to the next. With one more than needed, turned blocks are stored without conflicts.
const LEFT_PITCH = ROWS / 4u + {{ padding }}u;
const RIGHT_PITCH = COLUMNS / 4u + {{ padding }}u;
/// Lanes that bring the left operand, then the right one: a block of 4 x 4 each.
const LEFT_LANES = ROWS * DEPTH / 16u;
const RIGHT_LANES = COLUMNS * DEPTH / 16u;

var<workgroup> left_tile: array<vec4<f32>, DEPTH * LEFT_PITCH>;
var<workgroup> right_tile: array<vec4<f32>, DEPTH * RIGHT_PITCH>;

/// The block that a lane brings for each tile of terms.
struct Share {
    /// Elements at which its four rows start, for the first tile.
    starts: vec4<u32>,
    /// Its first term within a tile.
    term: u32,
    /// Where it goes.
    place: u32,
    /// Columns that may be read after the first.
    room: u32,
    /// Element of the last term, of an operand whose rows lie across.
    last: u32,
}

/// Of an operand whose rows are long in terms: a block of 4 rows and 4 terms.
fn share_along_terms(lane: u32, pitch: u32, first: u32, size: u32, start: u32, depth: u32) -> Share {
    let row = lane / (DEPTH / 4u) * 4u;
    let term = lane % (DEPTH / 4u) * 4u;
    let rows = min(vec4<u32>(first + row) + STEPS, vec4<u32>(size - 1u));
    return Share(vec4<u32>(start) + rows * (depth / ENTRIES), term, term * pitch + row / 4u, 3u, 0u);
}

/// Of an operand whose rows lie across: 4 columns of 4 terms, each 4 terms after the one before.
fn share_across(lane: u32, pitch: u32, width: u32, first: u32, size: u32, start: u32, depth: u32) -> Share {
    let column = lane % (width / 4u) * 4u;
    let term = lane / (width / 4u);
    let from_column = min(first + column, (size - 1u) / 4u * 4u);
    let of_term = size / ENTRIES;
    let of_lane = start + from_column / ENTRIES;
    let starts = vec4<u32>(of_lane) + (vec4<u32>(term) + 4u * STEPS) * of_term;
    let last = of_lane + (depth - 1u) * of_term;
    return Share(starts, term, term * pitch + column / 4u, size - 1u - from_column, last);
}

// What a lane brings is asked for while it adds up other terms. So no register waits for it: beyond the last term the last
// one is read, without a branch, and the left one of the two factors becomes zero when it is put to its place.

/// First of a block of terms, at most the last there is.
fn first_along(share: Share, begin: u32, depth: u32) -> u32 {
    return min(begin + share.term, (depth - 1u) / 4u * 4u);
}

/// Where the vectors of a block across terms lie.
fn places_across(share: Share, begin: u32, size: u32) -> vec4<u32> {
    return min(share.starts + vec4<u32>(begin * (size / ENTRIES)), vec4<u32>(share.last));
}

/// The vectors with zeros where there is no term, of a block along terms.
fn kept_along(share: Share, block: mat4x4<f32>, begin: u32, depth: u32) -> mat4x4<f32> {
    if begin + DEPTH <= depth {
        return block;
    }
    let there = vec4<u32>(begin + share.term) + STEPS < vec4<u32>(depth);
    let zero = vec4<f32>();
    return mat4x4<f32>(
        select(zero, block[0], there),
        select(zero, block[1], there),
        select(zero, block[2], there),
        select(zero, block[3], there),
    );
}

/// The same of a block across terms.
fn kept_across(share: Share, block: mat4x4<f32>, begin: u32, depth: u32) -> mat4x4<f32> {
    if begin + DEPTH <= depth {
        return block;
    }
    let there = vec4<u32>(begin + share.term) + 4u * STEPS < vec4<u32>(depth);
    let zero = vec4<f32>();
    return mat4x4<f32>(
        select(zero, block[0], there.x),
        select(zero, block[1], there.y),
        select(zero, block[2], there.z),
        select(zero, block[3], there.w),
    );
}

{{ each straight_left }}
{{ each vectors }}
fn bring_left(share: Share, begin: u32, depth: u32, rows: u32) -> mat4x4<f32> {
    let first = first_along(share, begin, depth);
    return left_block(share.starts, first / ENTRIES, depth - 1u - first);
}
{{ end }}

fn put_left(share: Share, block: mat4x4<f32>, begin: u32, depth: u32) {
    let turned = transpose(kept_along(share, block, begin, depth));
    left_tile[share.place] = turned[0];
    left_tile[share.place + LEFT_PITCH] = turned[1];
    left_tile[share.place + 2u * LEFT_PITCH] = turned[2];
    left_tile[share.place + 3u * LEFT_PITCH] = turned[3];
}
{{ end }}
{{ each turned_left }}
{{ each vectors }}
fn bring_left(share: Share, begin: u32, depth: u32, rows: u32) -> mat4x4<f32> {
    return left_block(places_across(share, begin, rows), 0u, share.room);
}
{{ end }}

fn put_left(share: Share, block: mat4x4<f32>, begin: u32, depth: u32) {
    let kept = kept_across(share, block, begin, depth);
    left_tile[share.place] = kept[0];
    left_tile[share.place + 4u * LEFT_PITCH] = kept[1];
    left_tile[share.place + 8u * LEFT_PITCH] = kept[2];
    left_tile[share.place + 12u * LEFT_PITCH] = kept[3];
}
{{ end }}
{{ each straight_right }}
{{ each vectors }}
fn bring_right(share: Share, begin: u32, depth: u32, columns: u32) -> mat4x4<f32> {
    return right_block(places_across(share, begin, columns), 0u, share.room);
}
{{ end }}

fn put_right(share: Share, block: mat4x4<f32>) {
    right_tile[share.place] = block[0];
    right_tile[share.place + 4u * RIGHT_PITCH] = block[1];
    right_tile[share.place + 8u * RIGHT_PITCH] = block[2];
    right_tile[share.place + 12u * RIGHT_PITCH] = block[3];
}
{{ end }}
{{ each turned_right }}
{{ each vectors }}
fn bring_right(share: Share, begin: u32, depth: u32, columns: u32) -> mat4x4<f32> {
    let first = first_along(share, begin, depth);
    return right_block(share.starts, first / ENTRIES, depth - 1u - first);
}
{{ end }}

fn put_right(share: Share, block: mat4x4<f32>) {
    let turned = transpose(block);
    right_tile[share.place] = turned[0];
    right_tile[share.place + RIGHT_PITCH] = turned[1];
    right_tile[share.place + 2u * RIGHT_PITCH] = turned[2];
    right_tile[share.place + 3u * RIGHT_PITCH] = turned[3];
}
{{ end }}

{{ each singles }}
/// How a lane's block of single entries moves through the terms. Where it lies next is found before the lanes part for the
/// two operands: AMD's compiler otherwise loads the operands into different registers, and waits to exchange those.
struct Walk {
    /// Elements at which its four rows start next.
    next: vec4<u32>,
    /// The same for the last block that there is, which is read once more beyond it.
    last: vec4<u32>,
    /// Elements from one tile of terms to the next.
    stride: u32,
    /// Of rows that are long in terms, the last element of the first one that may be read; of others, how many columns may be
    /// read after the first.
    limit: u32,
    is_along: bool,
}

fn walk_of(share: Share, is_along: bool, size: u32, begin: u32, depth: u32) -> Walk {
    if is_along {
        let last = share.starts + (depth - 1u) / 4u * 4u;
        return Walk(share.starts + begin + share.term, last, DEPTH, share.starts.x + depth - 1u, true);
    }
    return Walk(share.starts + begin * size, vec4<u32>(share.last), DEPTH * size, share.room, false);
}

/// From the first entry of a row of the block to each; beyond what may be read, to the last one.
fn steps_of(walk: Walk, starts: vec4<u32>) -> vec4<u32> {
    return min(STEPS, vec4<u32>(select(walk.limit, walk.limit - starts.x, walk.is_along)));
}
{{ end }}

/// `sum` and the outer product of four rows and four columns.
fn next_block(sum: mat4x4<f32>, of_left: vec4<f32>, of_right: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(of_left.x), of_right, sum[0]),
        fma(vec4<f32>(of_left.y), of_right, sum[1]),
        fma(vec4<f32>(of_left.z), of_right, sum[2]),
        fma(vec4<f32>(of_left.w), of_right, sum[3]),
    );
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let rows = info.rows;
    let columns = info.columns;
    let depth = info.depth;
    let tile_rows = (rows + ROWS - 1u) / ROWS;
    let tile_columns = (columns + COLUMNS - 1u) / COLUMNS;
    let group = number_of(place);
    let parts = (depth + info.span - 1u) / info.span;
    let item = group / (tile_rows * tile_columns);
    if item >= info.count * parts {
        return;
    }
    let map = item / parts;
    let first_term = item % parts * info.span;
    let end = min(first_term + info.span, depth);
    let tile = tile_at(group % (tile_rows * tile_columns), tile_rows, tile_columns);
    let row = tile.x * ROWS;
    let column = tile.y * COLUMNS;
    let left_start = map * rows * (depth / ENTRIES);
    let right_start = map * depth * (columns / ENTRIES);

    let brings_left = lane < LEFT_LANES;
    let brings_right = !brings_left && (LANES == LEFT_LANES + RIGHT_LANES || lane < LEFT_LANES + RIGHT_LANES);
    var share: Share;
    if brings_left {
        {{ each straight_left }}
        share = share_along_terms(lane, LEFT_PITCH, row, rows, left_start, depth);
        {{ end }}
        {{ each turned_left }}
        share = share_across(lane, LEFT_PITCH, ROWS, row, rows, left_start, depth);
        {{ end }}
    } else {
        {{ each straight_right }}
        share = share_across(lane - LEFT_LANES, RIGHT_PITCH, COLUMNS, column, columns, right_start, depth);
        {{ end }}
        {{ each turned_right }}
        share = share_along_terms(lane - LEFT_LANES, RIGHT_PITCH, column, columns, right_start, depth);
        {{ end }}
    }
    var held: mat4x4<f32>;
    {{ each singles }}
    var is_along = {{ turned_right }} == 1;
    var size = columns;
    if brings_left {
        is_along = {{ straight_left }} == 1;
        size = rows;
    }
    var walk = walk_of(share, is_along, size, first_term, depth);
    var starts = min(walk.next, walk.last);
    var steps = steps_of(walk, starts);
    if brings_left {
        held = left_entries(starts, steps);
    } else if brings_right {
        held = right_entries(starts, steps);
    }
    {{ end }}
    {{ each vectors }}
    if brings_left {
        held = bring_left(share, first_term, depth, rows);
    } else if brings_right {
        held = bring_right(share, first_term, depth, columns);
    }
    {{ end }}

    // eight lanes along the columns and four along the rows read four and eight different vectors together
    let block = lane / 32u;
    let lane_column = block % (COLUMN_LANES / 8u) * 8u + lane % 8u;
    let lane_row = block / (COLUMN_LANES / 8u) * 4u + lane % 32u / 8u;
    {{ each row_block }}
    {{ each column_block }}
    var sum_{{ row_block }}_{{ column_block }} = mat4x4<f32>();
    {{ end }}
    {{ end }}
    {{ each totals }}
    var total = vec4<f32>();
    {{ end }}
    for (var begin = first_term; begin < end; begin += DEPTH) {
        if brings_left {
            put_left(share, held, begin, depth);
        } else if brings_right {
            {{ each totals }}
            held = kept_across(share, held, begin, depth);
            total += (held[0] + held[1]) + (held[2] + held[3]);
            {{ end }}
            put_right(share, held);
        }
        workgroupBarrier();
        // after the last tile too: what is held would live on if it were not always replaced
        {{ each singles }}
        walk.next += walk.stride;
        starts = min(walk.next, walk.last);
        steps = steps_of(walk, starts);
        if brings_left {
            held = left_entries(starts, steps);
        } else if brings_right {
            held = right_entries(starts, steps);
        } else {
            held = mat4x4<f32>();
        }
        {{ end }}
        {{ each vectors }}
        if brings_left {
            held = bring_left(share, begin + DEPTH, depth, rows);
        } else if brings_right {
            held = bring_right(share, begin + DEPTH, depth, columns);
        } else {
            held = mat4x4<f32>();
        }
        {{ end }}
        for (var term = 0u; term < DEPTH; term += {{ unrolled }}u) {
            let left_of_round = term * LEFT_PITCH + lane_row;
            let right_of_round = term * RIGHT_PITCH + lane_column;
            {{ each unrolled }}
            {
                let left_at = left_of_round + {{ unrolled }}u * LEFT_PITCH;
                let right_at = right_of_round + {{ unrolled }}u * RIGHT_PITCH;
                {{ each row_block }}
                let left_{{ row_block }} = left_tile[left_at + {{ row_block }}u * (ROWS / 4u / ROW_BLOCKS)];
                {{ end }}
                {{ each column_block }}
                let right_{{ column_block }} = right_tile[right_at + {{ column_block }}u * COLUMN_LANES];
                {{ end }}
                {{ each row_block }}
                {{ each column_block }}
                sum_{{ row_block }}_{{ column_block }} =
                    next_block(sum_{{ row_block }}_{{ column_block }}, left_{{ row_block }}, right_{{ column_block }});
                {{ end }}
                {{ end }}
            }
            {{ end }}
        }
        workgroupBarrier();
    }

    let start = item * rows * (columns / ENTRIES);
    {{ each column_block }}
    {
        let of_lane = column + 4u * (lane_column + {{ column_block }}u * COLUMN_LANES);
        if of_lane < columns {
            {{ each row_block }}
            write_block(
                sum_{{ row_block }}_{{ column_block }},
                Target(
                    start,
                    rows,
                    columns,
                    row + 4u * (lane_row + {{ row_block }}u * (ROWS / 4u / ROW_BLOCKS)),
                    of_lane,
                ),
            );
            {{ end }}
        }
    }
    {{ end }}
    {{ each totals }}
    if brings_right {
        right_tile[lane - LEFT_LANES] = total;
    }
    workgroupBarrier();
    let of_lane = column + 4u * lane;
    if row == 0u && lane < COLUMNS / 4u && of_lane < columns {
        var sum = right_tile[lane];
        for (var other = lane + COLUMNS / 4u; other < RIGHT_LANES; other += COLUMNS / 4u) {
            sum += right_tile[other];
        }
        write_totals(sum, item * (columns / ENTRIES), of_lane, columns);
    }
    {{ end }}
}
