// A matrix product on cooperative matrices (tensor cores, simdgroup matrices): a workgroup makes a tile of ROWS x COLUMNS
// entries, whose operands it brings into workgroup memory DEPTH terms at a time, the next ones while it multiplies these. A
// subgroup keeps ROW_BLOCKS x COLUMN_BLOCKS matrices of SIDE x SIDE sums. Sums are f32.
//
// Split: each operand is the sum of two f16, high + low / LOW_SCALE, and three products are added up: high high + (high low +
// low high) / LOW_SCALE, outside of the matrices, whose own sums may be rounded toward zero (Ootomo and Yokota 2022,
// "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance"). Operands
// are scaled by powers of two, so that their largest entries are near 2^14 (split.wgsl).
//
// Bindings: those of operands.wgsl. Matrices: cooperative_matrices.wgsl, or cooperative_emulated.wgsl.
// Launch: one workgroup a tile of a part of the sums; tiles of one part side by side, in the order of `tile_at`. A subgroup has
// SUBGROUP lanes or, as all that do the same store the same, a divisor of it.
// Workgroup memory: 10 to 33 KiB.
// Not handled: as in tiled.wgsl. No subgroup operations: NVIDIA's driver has crashed on modules with both.

const ROWS = {{ tile_rows }}u;
const COLUMNS = {{ tile_columns }}u;
/// Terms of a tile of operands; parts of sums are multiples of it.
const DEPTH = 16u;
/// Rows and columns of a matrix.
const SIDE = {{ side }}u;
const SUBGROUP = {{ subgroup }}u;
const ROW_BLOCKS = {{ row_block }}u;
const COLUMN_BLOCKS = {{ column_block }}u;
/// Subgroups side by side along the columns of a tile.
const SUBGROUP_COLUMNS = COLUMNS / (COLUMN_BLOCKS * SIDE);
const SUBGROUPS = LANES / SUBGROUP;

/// What a matrix is loaded from in workgroup memory, and stored to.
alias Staged = {{ staged }};
alias Result = {{ result }};
/// Entries of either.
const TOGETHER = {{ together }}u;

// An operand lies in workgroup memory as it does in its buffer, in lines: of terms, or across them. A line is longer than it
// needs to be, against bank conflicts, by 16 bytes or more: drivers want matrices aligned to 16.
{{ each straight_left }}
const LEFT_LINES = ROWS;
const LEFT_LENGTH = DEPTH;
{{ end }}
{{ each turned_left }}
const LEFT_LINES = DEPTH;
const LEFT_LENGTH = ROWS;
{{ end }}
{{ each straight_right }}
const RIGHT_LINES = DEPTH;
const RIGHT_LENGTH = COLUMNS;
{{ end }}
{{ each turned_right }}
const RIGHT_LINES = COLUMNS;
const RIGHT_LENGTH = DEPTH;
{{ end }}
const LEFT_PITCH = LEFT_LENGTH + 8u;
const RIGHT_PITCH = RIGHT_LENGTH + 8u;
/// Entries of a tile of terms; behind them the low halves.
const LEFT_SIZE = LEFT_LINES * LEFT_PITCH;
const RIGHT_SIZE = RIGHT_LINES * RIGHT_PITCH;
/// Entries of a matrix of sums.
const AREA = SIDE * SIDE;
/// Room for a matrix of each subgroup, and for four sums of a column by each lane.
const RESULT_SIZE = max(SUBGROUPS * AREA, 4u * LANES);

var<workgroup> left_tile: array<Staged, (1u + {{ split }}u) * LEFT_SIZE / TOGETHER>;
var<workgroup> right_tile: array<Staged, (1u + {{ split }}u) * RIGHT_SIZE / TOGETHER>;
var<workgroup> result_tile: array<Result, RESULT_SIZE / TOGETHER>;

/// Where an entry of the left tile lies.
fn left_place(row: u32, term: u32) -> u32 {
    {{ each straight_left }}
    return row * LEFT_PITCH + term;
    {{ end }}
    {{ each turned_left }}
    return term * LEFT_PITCH + row;
    {{ end }}
}

/// Where an entry of the right tile lies.
fn right_place(term: u32, column: u32) -> u32 {
    {{ each straight_right }}
    return term * RIGHT_PITCH + column;
    {{ end }}
    {{ each turned_right }}
    return column * RIGHT_PITCH + term;
    {{ end }}
}

/// What the lanes of a workgroup share.
struct Task {
    /// First row and column of the tile.
    row: u32,
    column: u32,
    /// First elements of the two matrices.
    left_start: u32,
    right_start: u32,
}

/// Which entries of an operand a vector of four holds: `line` lines from the first one, from `entry` on.
struct Four {
    line: u32,
    entry: u32,
}

fn four_of(number: u32, length: u32) -> Four {
    return Four(number / (length / 4u), number % (length / 4u) * 4u);
}

/// The terms of a line of terms, zero where there are none.
fn kept(x: vec4<f32>, term: u32) -> vec4<f32> {
    return select(vec4<f32>(), x, vec4<u32>(term) + STEPS < vec4<u32>(info.depth));
}

// Beyond the last row, column or term the last one is read once more. Of terms that are not there one factor is zero; rows and
// columns that are not there are not written.

fn bring_left(task: Task, number: u32, begin: u32) -> vec4<f32> {
    let four = four_of(number, LEFT_LENGTH);
    {{ each straight_left }}
    let term = min(begin + four.entry, (info.depth - 1u) / 4u * 4u);
    let row = min(task.row + four.line, info.rows - 1u);
    let at = task.left_start + row * (info.depth / ENTRIES) + term / ENTRIES;
    return kept(left_at(at, info.depth - 1u - term), begin + four.entry);
    {{ end }}
    {{ each turned_left }}
    let term = min(begin + four.line, info.depth - 1u);
    let row = min(task.row + four.entry, (info.rows - 1u) / 4u * 4u);
    let at = task.left_start + term * (info.rows / ENTRIES) + row / ENTRIES;
    return select(vec4<f32>(), left_at(at, info.rows - 1u - row), begin + four.line < info.depth);
    {{ end }}
}

fn bring_right(task: Task, number: u32, begin: u32) -> vec4<f32> {
    let four = four_of(number, RIGHT_LENGTH);
    {{ each straight_right }}
    let term = min(begin + four.line, info.depth - 1u);
    let column = min(task.column + four.entry, (info.columns - 1u) / 4u * 4u);
    let at = task.right_start + term * (info.columns / ENTRIES) + column / ENTRIES;
    return select(vec4<f32>(), right_at(at, info.columns - 1u - column), begin + four.line < info.depth);
    {{ end }}
    {{ each turned_right }}
    let term = min(begin + four.entry, (info.depth - 1u) / 4u * 4u);
    let column = min(task.column + four.line, info.columns - 1u);
    let at = task.right_start + column * (info.depth / ENTRIES) + term / ENTRIES;
    return kept(right_at(at, info.depth - 1u - term), begin + four.entry);
    {{ end }}
}

fn put_left(number: u32, x: vec4<f32>) {
    let four = four_of(number, LEFT_LENGTH);
    let place = four.line * LEFT_PITCH + four.entry;
    {{ each together_4 }}
    {{ each whole_operands }}
    left_tile[place / 4u] = Staged(x);
    {{ end }}
    {{ each split }}
    let high = high_of(x);
    left_tile[place / 4u] = Staged(high);
    left_tile[(LEFT_SIZE + place) / 4u] = Staged((x - high) * LOW_SCALE);
    {{ end }}
    {{ end }}
    {{ each together_1 }}
    left_tile[place] = x.x;
    left_tile[place + 1u] = x.y;
    left_tile[place + 2u] = x.z;
    left_tile[place + 3u] = x.w;
    {{ end }}
}

fn put_right(number: u32, x: vec4<f32>) {
    let four = four_of(number, RIGHT_LENGTH);
    let place = four.line * RIGHT_PITCH + four.entry;
    {{ each together_4 }}
    {{ each whole_operands }}
    right_tile[place / 4u] = Staged(x);
    {{ end }}
    {{ each split }}
    let high = high_of(x);
    right_tile[place / 4u] = Staged(high);
    right_tile[(RIGHT_SIZE + place) / 4u] = Staged((x - high) * LOW_SCALE);
    {{ end }}
    {{ end }}
    {{ each together_1 }}
    right_tile[place] = x.x;
    right_tile[place + 1u] = x.y;
    right_tile[place + 2u] = x.z;
    right_tile[place + 3u] = x.w;
    {{ end }}
}

fn put_result(place: u32, x: vec4<f32>) {
    {{ each together_4 }}
    result_tile[place / 4u] = x;
    {{ end }}
    {{ each together_1 }}
    result_tile[place] = x.x;
    result_tile[place + 1u] = x.y;
    result_tile[place + 2u] = x.z;
    result_tile[place + 3u] = x.w;
    {{ end }}
}

fn result_at(place: u32) -> vec4<f32> {
    {{ each together_4 }}
    return result_tile[place / 4u];
    {{ end }}
    {{ each together_1 }}
    return vec4<f32>(result_tile[place], result_tile[place + 1u], result_tile[place + 2u], result_tile[place + 3u]);
    {{ end }}
}

/// Writes a matrix of sums that its subgroup has put into its part of workgroup memory. `row` and `column` are its first ones.
fn write_sums(start: u32, row: u32, column: u32, lane: u32, factors: vec2<f32>) {
    let own = lane / SUBGROUP * AREA;
    for (var entry = lane % SUBGROUP * 4u; entry < AREA; entry += 4u * SUBGROUP) {
        let of_lane = column + entry % SIDE;
        if of_lane < info.columns {
            let sums = result_at(own + entry) * factors.x * factors.y;
            write_row(sums, Target(start, info.rows, info.columns, row + entry / SIDE, of_lane), 0u);
        }
    }
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let tile_rows = (info.rows + ROWS - 1u) / ROWS;
    let tile_columns = (info.columns + COLUMNS - 1u) / COLUMNS;
    let group = number_of(place);
    let parts = (info.depth + info.span - 1u) / info.span;
    let item = group / (tile_rows * tile_columns);
    if item >= info.count * parts {
        return;
    }
    let map = item / parts;
    let first_term = item % parts * info.span;
    let end = min(first_term + info.span, info.depth);
    let tile = tile_at(group % (tile_rows * tile_columns), tile_rows, tile_columns);
    let task = Task(
        tile.x * ROWS,
        tile.y * COLUMNS,
        map * info.rows * (info.depth / ENTRIES),
        map * info.depth * (info.columns / ENTRIES),
    );

    var left_scale = 1.0;
    var right_scale = 1.0;
    var factors = vec2<f32>(1.0);
    {{ each split }}
    if lane < 2u {
        atomicStore(&largest_bits[lane], 0u);
    }
    workgroupBarrier();
    for (var at = lane; at < 2u * GROUPS; at += LANES) {
        atomicMax(&largest_bits[at / GROUPS], maxima[at]);
    }
    workgroupBarrier();
    let left_bits = atomicLoad(&largest_bits[0]);
    let right_bits = atomicLoad(&largest_bits[1]);
    let left_exponent = exponent_for(left_bits);
    let right_exponent = exponent_for(right_bits);
    left_scale = power_of_two(left_exponent, left_bits);
    right_scale = power_of_two(right_exponent, right_bits);
    // in two steps, as both scales together may be no f32
    let back = -(left_exponent + right_exponent);
    factors = vec2<f32>(power_of_two(back / 2, left_bits), power_of_two(back - back / 2, right_bits));
    {{ end }}

    {{ each left_four }}
    var left_{{ left_four }} = bring_left(task, lane + {{ left_four }}u * LANES, first_term);
    {{ end }}
    {{ each right_four }}
    var right_{{ right_four }} = bring_right(task, lane + {{ right_four }}u * LANES, first_term);
    {{ end }}
    {{ each totals }}
    // the vectors that a lane brings lie below each other
    var total = vec4<f32>();
    {{ end }}
    let subgroup = lane / SUBGROUP;
    let first_row = subgroup / SUBGROUP_COLUMNS * ROW_BLOCKS * SIDE;
    let first_column = subgroup % SUBGROUP_COLUMNS * COLUMN_BLOCKS * SIDE;
    {{ each together_1 }}
    for (var at = lane; at < RESULT_SIZE / 4u; at += LANES) {
        put_result(4u * at, vec4<f32>());
    }
    workgroupBarrier();
    {{ end }}
    {{ each row_block }}
    {{ each column_block }}
    var sums_{{ row_block }}_{{ column_block }} = no_sums();
    {{ end }}
    {{ end }}

    for (var begin = first_term; begin < end; begin += DEPTH) {
        {{ each left_four }}
        put_left(lane + {{ left_four }}u * LANES, left_{{ left_four }} * left_scale);
        {{ end }}
        {{ each right_four }}
        {{ each totals }}
        total += right_{{ right_four }};
        {{ end }}
        put_right(lane + {{ right_four }}u * LANES, right_{{ right_four }} * right_scale);
        {{ end }}
        workgroupBarrier();
        {{ each left_four }}
        left_{{ left_four }} = bring_left(task, lane + {{ left_four }}u * LANES, begin + DEPTH);
        {{ end }}
        {{ each right_four }}
        right_{{ right_four }} = bring_right(task, lane + {{ right_four }}u * LANES, begin + DEPTH);
        {{ end }}
        for (var term = 0u; term < DEPTH; term += SIDE) {
            {{ each row_block }}
            let left_at_{{ row_block }} = left_place(first_row + {{ row_block }}u * SIDE, term);
            let high_{{ row_block }} = left_matrix(left_at_{{ row_block }});
            {{ each split }}
            let low_{{ row_block }} = left_matrix(LEFT_SIZE + left_at_{{ row_block }});
            {{ end }}
            {{ end }}
            {{ each column_block }}
            {
                let right_at = right_place(term, first_column + {{ column_block }}u * SIDE);
                let high = right_matrix(right_at);
                {{ each split }}
                let low = right_matrix(RIGHT_SIZE + right_at);
                {{ end }}
                {{ each row_block }}
                {
                    {{ each whole_operands }}
                    sums_{{ row_block }}_{{ column_block }} =
                        multiply_add(high_{{ row_block }}, high, sums_{{ row_block }}_{{ column_block }}, lane);
                    {{ end }}
                    {{ each split }}
                    let beside = multiply_add(high_{{ row_block }}, low, no_sums(), lane);
                    let corrections = multiply_add(low_{{ row_block }}, high, beside, lane);
                    let products = multiply_add(high_{{ row_block }}, high, no_sums(), lane);
                    sums_{{ row_block }}_{{ column_block }} =
                        corrected(sums_{{ row_block }}_{{ column_block }}, products, corrections);
                    {{ end }}
                }
                {{ end }}
            }
            {{ end }}
        }
        workgroupBarrier();
    }

    let start = item * info.rows * (info.columns / ENTRIES);
    {{ each row_block }}
    {{ each column_block }}
    put_sums(sums_{{ row_block }}_{{ column_block }}, subgroup * AREA, lane);
    workgroupBarrier();
    write_sums(
        start,
        task.row + first_row + {{ row_block }}u * SIDE,
        task.column + first_column + {{ column_block }}u * SIDE,
        lane,
        factors,
    );
    workgroupBarrier();
    {{ end }}
    {{ end }}
    {{ each totals }}
    put_result(4u * lane, total);
    workgroupBarrier();
    let of_lane = task.column + 4u * lane;
    if task.row == 0u && lane < COLUMNS / 4u && of_lane < info.columns {
        var sum = result_at(4u * lane);
        for (var other = lane + COLUMNS / 4u; other < LANES; other += COLUMNS / 4u) {
            sum += result_at(4u * other);
        }
        write_totals(sum, item * (info.columns / ENTRIES), of_lane, info.columns);
    }
    {{ end }}
}
