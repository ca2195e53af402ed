//! The kernels of attention that a device of another kind would take: each path against f64 on the device that is here.

use burn::tensor::{Tensor, TensorData};
use burn_wgpu::WgpuDevice;
use ibot::kernels::wgsl::AttentionPath;
use ibot::kernels::{AttentionInput, Gpu};

use crate::rows::{attention_f64, draw, wide};
use crate::sizes::{BAR, compare, d_qkv_f64};
use crate::values;

/// Each path at all numbers of tokens around its tiles' 32 and 64, of a vision transformer at 224 pixels, and one; and with
/// entries that break careless kernels.
pub fn paths(device: &WgpuDevice) {
    for (path, head_widths) in [
        (AttentionPath::SoftwareLanes, &[7, 64][..]),
        (AttentionPath::GpuLanes, &[1, 12, 15, 16]),
        (AttentionPath::LargeTiles, &[20, 32, 44, 48, 64, 80, 96]),
        (AttentionPath::SmallTiles, &[20, 32, 48, 64, 88, 112, 128]),
    ] {
        for head_width in head_widths {
            assert!(
                path.takes(*head_width),
                "{path:?} does not take {head_width}"
            );
            for [batch, tokens, heads] in [
                [2, 1, 2],
                [1, 5, 2],
                [2, 33, 1],
                [1, 37, 1],
                [1, 64, 1],
                [1, 65, 2],
                [2, 69, 1],
                [1, 128, 1],
                [1, 197, 1],
            ] {
                let sizes = [batch, tokens, heads, *head_width];
                let qkv = draw(7, batch * tokens * 3 * heads * head_width, 1.5);
                path_of(path, "", sizes, &qkv, BAR, device);
            }
            poison(path, *head_width, device);
        }
    }
}

/// Scores of hundreds, denormals, zeros of both signs, and rows that are all equal.
fn poison(path: AttentionPath, head_width: usize, device: &WgpuDevice) {
    let tokens = 41;
    let count = tokens * 3 * head_width;
    let cycle = |kinds: &[f32]| -> Vec<f32> {
        let pick = |at: usize| kinds[(at * 7 + at / 5) % kinds.len()];
        (0..count).map(pick).collect()
    };
    let row = draw(9, 3 * head_width, 2.0);
    let equal_rows = row.iter().copied().cycle().take(count);
    let cases = [
        // the gradient has the scores' rounding times keys and values
        ("large scores", draw(8, count, 4.0), 1e-3),
        ("denormals", cycle(&[1e-40, -1e-40, 1e-38, 0.0, -0.0]), BAR),
        (
            "large and tiny",
            cycle(&[8.0, -8.0, 1e-40, 0.0, -0.0, 1.0]),
            1e-3,
        ),
        // the gradient with respect to queries and keys is nothing but rounding
        ("equal rows", equal_rows.collect(), 1e-4),
    ];
    for (name, qkv, bar) in cases {
        let sizes = [1, tokens, 1, head_width];
        path_of(path, name, sizes, &qkv, bar, device);
    }
}

fn path_of(
    path: AttentionPath,
    name: &str,
    sizes: [usize; 4],
    qkv: &[f32],
    bar: f64,
    device: &WgpuDevice,
) {
    let [batch, tokens, heads, head_width] = sizes;
    let (rows, width) = (batch * tokens, heads * head_width);
    let weights = draw(8, rows * width, 1.0);
    let matrix = |values: &[f32], columns| {
        let data = TensorData::new(values.to_vec(), [rows, columns]);
        Tensor::<Gpu, 2>::from_data(data, device)
    };
    let input = AttentionInput {
        qkv: matrix(qkv, 3 * width),
        batch,
        heads,
        queries: None,
    };
    let output = path.forward(input.clone());
    let d_qkv = path.backward(input, output.clone(), matrix(&weights, width));
    let found = [values(output.context), values(d_qkv)];
    let (qkv, weights) = (wide(qkv), wide(&weights));
    let expected = vec![attention_f64(&qkv, sizes), d_qkv_f64(&qkv, &weights, sizes)];
    compare(
        &format!("{path:?} {name} {sizes:?}"),
        &found,
        &expected,
        bar,
    );
}
