// What the tiled kernels of attention share: two kinds of matrix product through workgroup memory.
//
// A workgroup owns a block of ROWS tokens of one head of one image (its rows: queries, in keys.wgsl keys) and walks over all
// tokens, a tile of COLUMNS at a time (its columns). Of a product [ROWS, COLUMNS] a lane (y, x) holds rows 4 y to 4 y + 3 and
// every ACROSS-th column from x; of sums [ROWS, C] the same rows and every ACROSS-th chunk from x, where there is one. Both
// operands of a product are staged as they lie in memory, 16 entries of the width at a time: 16 KiB hold all.
//
// Vectors are stored whole: WGSL lets a store to one component touch the other three (gpuweb 2112). Pitches are odd, so that
// neighbors read from different banks. On entry and on return of each function here no lane reads workgroup memory.

/// Chunks of qkv, of what is mixed, and of gradients with respect to them.
alias Rows = {{ rows }};

const CHUNKS = {{ head_chunk }}u;
/// Rows of one of the loads that fill a slice.
const LOAD_ROWS = LANES / SLICE;
const ROWS = LOAD_ROWS * {{ row_load }}u;
const COLUMNS = LOAD_ROWS;
/// Lanes that share a row.
const ACROSS = COLUMNS / {{ column }}u;

/// Chunks of the width that a product takes at a time.
const SLICE = 4u;
const SLICE_PITCH = SLICE + 1u;
/// Columns that a sum takes at a time.
const PART = {{ part }}u;
const SHARE_PITCH = ROWS / 4u + 1u;

struct Info {
    batch: u32,
    heads: u32,
    tokens: u32,
    scale: f32,
    /// CHUNKS once more. A loop up to what is only known at run time stays a loop: unrolled, its loads fill AMD's registers.
    chunks: u32,
}

/// Rows' and columns' slices side by side, or columns to sum.
var<workgroup> stage: array<vec4<f32>, {{ stage }}>;
/// Of each column, a weight for each row; between whiles, what lanes of a row tell each other.
var<workgroup> shares: array<vec4<f32>, COLUMNS * SHARE_PITCH>;

/// What `entry` reads.
const QUERIES = 0u;
const KEYS = 1u;
const VALUES = 2u;
const D_MIXED = 3u;

/// What the workgroup works on: the same for all of its lanes, as barriers stand in loops that it bounds.
struct Block {
    /// Whether there is nothing to do.
    is_none: bool,
    /// First row of the image in qkv.
    first_row: u32,
    /// First of this head's entries in row_lse.
    first_log: u32,
    /// First chunk of the head in a part of a row.
    column: u32,
    /// Tokens of an image.
    tokens: u32,
    /// Chunks of a part of a row.
    width: u32,
    /// First of the block's rows, as a token.
    first: u32,
}

/// The lane's place in the block.
struct Lane {
    number: u32,
    x: u32,
    y: u32,
    /// Whether its first row is a token: a lane without skips the arithmetic, never a barrier.
    is_busy: bool,
}

/// A product of the lane's rows, one a component, with each of its columns.
struct Products {
    {{ each column }}
    of_{{ column }}: vec4<f32>,
    {{ end }}
}

/// Sums of the lane's rows, by row and chunk.
struct Sums {
    {{ each output }}
    {{ each row }}
    of_{{ row }}_{{ output }}: vec4<f32>,
    {{ end }}
    {{ end }}
}

fn block_of(group: u32) -> Block {
    let heads = info.heads;
    let tokens = info.tokens;
    let blocks = (tokens + ROWS - 1u) / ROWS;
    let map = group / blocks;
    let first_row = map / heads * tokens;
    let first = group % blocks * ROWS;
    return Block(
        first_row >= info.batch * tokens,
        first_row,
        map * tokens,
        map % heads * CHUNKS,
        tokens,
        heads * CHUNKS,
        first,
    );
}

fn lane_of(number: u32, block: Block) -> Lane {
    let y = number / ACROSS;
    return Lane(number, number % ACROSS, y, y * 4u < block.tokens - block.first);
}

/// Whether the lane's sum of that number is of a chunk that is there.
fn has_output(lane: Lane, output: u32) -> bool {
    {{ each uneven }}
    return lane.x + output * ACROSS < CHUNKS;
    {{ end }}
    {{ each even }}
    return true;
    {{ end }}
}

/// A token's first chunk of this head in a tensor of `parts` parts a row; beyond the last token, that one's.
fn token_at(block: Block, token: u32, parts: u32, part: u32) -> u32 {
    let row = block.first_row + min(token, block.tokens - 1u);
    return (row * parts + part) * block.width + block.column;
}

/// The same in what an operand is read from.
fn operand_at(block: Block, operand: u32, token: u32) -> u32 {
    if operand == D_MIXED {
        return token_at(block, token, 1u, 0u);
    }
    return token_at(block, token, 3u, operand);
}

/// Products of rows of one operand with the columns of another from `first` on; a column beyond the last token is that one
/// once more.
fn products(block: Block, lane: Lane, of_rows: u32, of_columns: u32, first: u32) -> Products {
    let chunk = lane.number % SLICE;
    let staged = lane.number / SLICE;
    let to = staged * SLICE_PITCH + chunk;
    {{ each row_load }}
    let row_at_{{ row_load }} = operand_at(block, of_rows, block.first + {{ row_load }}u * LOAD_ROWS + staged) + chunk;
    {{ end }}
    let column_at = operand_at(block, of_columns, first + staged) + chunk;
    var products: Products;
    for (var slice = 0u; slice < info.chunks; slice += SLICE) {
        {{ each whole }}
        let of_slice = slice;
        {{ end }}
        {{ each ragged }}
        // the last slice is not full: the last chunk once more, times zero
        let of_slice = min(slice, CHUNKS - 1u - chunk);
        {{ end }}
        {{ each row_load }}
        {
            var row = entry(of_rows, row_at_{{ row_load }} + of_slice);
            {{ each ragged }}
            row = select(vec4(0.0), row, of_slice == slice);
            {{ end }}
            stage[to + {{ row_load }}u * LOAD_ROWS * SLICE_PITCH] = row;
        }
        {{ end }}
        stage[to + ROWS * SLICE_PITCH] = entry(of_columns, column_at + of_slice);
        workgroupBarrier();
        if lane.is_busy {
            products = with_slice(lane, products);
        }
        workgroupBarrier();
    }
    return products;
}

fn with_slice(lane: Lane, before: Products) -> Products {
    var products = before;
    for (var k = 0u; k < SLICE; k += 1u) {
        {{ each row }}
        let row_{{ row }} = stage[(lane.y * 4u + {{ row }}u) * SLICE_PITCH + k];
        {{ end }}
        let x = vec4(row_0.x, row_1.x, row_2.x, row_3.x);
        let y = vec4(row_0.y, row_1.y, row_2.y, row_3.y);
        let z = vec4(row_0.z, row_1.z, row_2.z, row_3.z);
        let w = vec4(row_0.w, row_1.w, row_2.w, row_3.w);
        {{ each column }}
        {
            let column = stage[(ROWS + lane.x + {{ column }}u * ACROSS) * SLICE_PITCH + k];
            var sum = products.of_{{ column }};
            sum = fma(x, vec4(column.x), sum);
            sum = fma(y, vec4(column.y), sum);
            sum = fma(z, vec4(column.z), sum);
            products.of_{{ column }} = fma(w, vec4(column.w), sum);
        }
        {{ end }}
    }
    return products;
}

/// Puts the lane's products away, so that no register waits for them while others are made. `with_columns` puts its weights
/// there too.
fn put_away(lane: Lane, weights: Products) {
    {{ each column }}
    shares[(lane.x + {{ column }}u * ACROSS) * SHARE_PITCH + lane.y] = weights.of_{{ column }};
    {{ end }}
}

/// What the lane has put away.
fn taken_back(lane: Lane) -> Products {
    var weights: Products;
    {{ each column }}
    weights.of_{{ column }} = shares[(lane.x + {{ column }}u * ACROSS) * SHARE_PITCH + lane.y];
    {{ end }}
    return weights;
}

/// Adds the operand's columns from `first` on, each times the rows' weights of it; none beyond the last token.
fn with_columns(block: Block, lane: Lane, before: Sums, weights: Products, operand: u32, first: u32) -> Sums {
    var sums = before;
    put_away(lane, weights);
    let there = min(COLUMNS, block.tokens - first);
    for (var part = 0u; part < there; part += PART) {
        {{ each load }}
        {
            let at = lane.number + {{ load }}u * LANES;
            stage[at] = entry(operand, operand_at(block, operand, first + part + at / CHUNKS) + at % CHUNKS);
        }
        {{ end }}
        workgroupBarrier();
        if lane.is_busy {
            sums = with_part(lane, sums, part, min(part + PART, there));
        }
        workgroupBarrier();
    }
    return sums;
}

fn with_part(lane: Lane, before: Sums, part: u32, end: u32) -> Sums {
    var sums = before;
    for (var column = part; column < end; column += 1u) {
        let weights = shares[column * SHARE_PITCH + lane.y];
        {{ each output }}
        {
            let staged = stage[(column - part) * CHUNKS + lane.x + {{ output }}u * ACROSS];
            {{ each row }}
            sums.of_{{ row }}_{{ output }} = fma(vec4(weights[{{ row }}]), staged, sums.of_{{ row }}_{{ output }});
            {{ end }}
        }
        {{ end }}
    }
    return sums;
}

/// The largest of what the lanes of a row bring, for each row.
fn largest_of_rows(lane: Lane, mine: vec4<f32>) -> vec4<f32> {
    shares[lane.x * SHARE_PITCH + lane.y] = mine;
    workgroupBarrier();
    var most = mine;
    for (var x = 0u; x < ACROSS; x += 1u) {
        most = max(most, shares[x * SHARE_PITCH + lane.y]);
    }
    workgroupBarrier();
    return most;
}

/// The total of what the lanes of a row bring, for each row.
fn total_of_rows(lane: Lane, mine: vec4<f32>) -> vec4<f32> {
    shares[lane.x * SHARE_PITCH + lane.y] = mine;
    workgroupBarrier();
    var all = vec4(0.0);
    for (var x = 0u; x < ACROSS; x += 1u) {
        all += shares[x * SHARE_PITCH + lane.y];
    }
    workgroupBarrier();
    return all;
}
