// Sum of the rows' losses in an order that depends on their number only: two runs give the same bits.
//
// Bindings: row_loss [M], loss [1], info.
// Launch: one workgroup.

struct Info {
    rows: u32,
}

@group(0) @binding(0) var<storage, read_write> row_loss: array<f32>;
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<storage, read> info: Info;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var row = lane; row < info.rows; row += LANES) {
        sum += row_loss[row];
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        loss[0] = sums[0];
    }
}
