//! Linear layers, attention and passes as large as those of a real step, on a GPU: layers right to the last bit, and how fast
//! all are. `cargo bench --bench gpu_probe`, `-- ROWS` for fewer rows than those of 64 images, `-- --json` for one JSON object
//! a line.
//!
//! Entries of layers are small integers, so that sums are exact in f32 in any order. Ends with 1 where a number is wrong.

mod passes;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use ibot::burn::tensor::backend::BackendTypes;
use ibot::burn::tensor::{Tensor, TensorData};
use ibot::device::{BackendChoice, DeviceGuard, Selected, select};
use ibot::kernels::{AttentionInput, Gpu, IbotBackend, LinearBackwardInput, LinearInput};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Device = <Gpu as BackendTypes>::Device;
type Matrix = Tensor<Gpu, 2>;

/// Two views of 64 images, 197 tokens each.
const ROWS: usize = 25_216;
const TOKENS: usize = 197;
/// Side of a product that any card should do at its best.
const SQUARE: usize = 4096;
/// Rounds that are timed, after two that are not: those compile, and take memory.
const ROUNDS: usize = 7;
/// A round repeats its work for about so long, and waits once: a wait alone takes a tenth of a millisecond.
const ROUND_S: f64 = 0.01;
/// Repetitions of a round, at most.
const MAX_REPEATS: usize = 50;
/// Rows of a result that are compared, spread over all of it: more would take the CPU minutes.
const COMPARED: usize = 6;

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let mut numbers = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--")); // cargo adds --bench
    let rows: usize = numbers.next().map_or(Ok(ROWS), |rows| rows.parse())?;
    let rows = rows.max(TOKENS);
    let selected = select(BackendChoice::Wgpu, None)?;
    let guard = DeviceGuard::install(&selected)?;
    if !json {
        println!("{selected}");
    }
    let Selected::Wgpu { device, .. } = selected else {
        return Err("this needs a GPU".into());
    };
    let gpu = Opened {
        device,
        guard,
        json,
    };
    let images = (rows / TOKENS).max(2);
    let mut wrong = 0;
    for (name, rows, inputs, outputs) in [
        // around 512, where burn's own products ask for more workgroup memory than most GPUs have
        ("edge of 511", 511, 511, 64),
        ("edge of 512", 512, 512, 64),
        ("edge of 600", 600, 1_536, 384),
        ("qkv", rows, 384, 1_152),
        ("projection", rows, 384, 384),
        ("fc1", rows, 384, 1_536),
        ("fc2", rows, 1_536, 384),
        ("heads", rows * 3 / 10, 384, 2_048),
        ("heads, layer 2", rows * 3 / 10, 2_048, 2_048),
        ("patch head", rows * 3 / 10, 256, 8_192),
        ("class head", images, 256, 65_536),
        (
            "square",
            SQUARE.min(rows),
            SQUARE.min(rows),
            SQUARE.min(rows),
        ),
    ] {
        wrong += gpu.layer(name, [rows, inputs, outputs])?;
    }
    gpu.attention(images, 6)?;
    gpu.attention(images / 2, 12)?;
    gpu.passes(rows)?;
    match wrong {
        0 => Ok(()),
        _ => Err(format!("{wrong} numbers are wrong").into()),
    }
}

struct Opened {
    device: Device,
    guard: DeviceGuard,
    /// Whether each line is a JSON object.
    json: bool,
}

impl Opened {
    /// A linear layer forward and backward; gives how many numbers are wrong.
    fn layer(&self, name: &str, [rows, inputs, outputs]: [usize; 3]) -> Result<usize> {
        let x = Entries::new(1, rows, inputs);
        let weight = Entries::new(2, inputs, outputs);
        let d_y = Entries::new(3, rows, outputs);
        let [gpu_x, gpu_weight, gpu_d_y] = [&x, &weight, &d_y].map(|e| e.upload(&self.device));
        let forward = || {
            Gpu::linear_rows(LinearInput {
                x: gpu_x.clone(),
                weight: gpu_weight.clone(),
                bias: None,
                residual: None,
            })
        };
        let backward_input = || LinearBackwardInput {
            x: gpu_x.clone(),
            weight: gpu_weight.clone(),
            d_y: gpu_d_y.clone(),
            wants_x: true,
            wants_weight: true,
            wants_bias: true,
        };
        let gradients = Gpu::linear_rows_backward(backward_input());
        let (Some(d_x), Some(d_weight), Some(d_bias)) =
            (gradients.d_x, gradients.d_weight, gradients.d_bias)
        else {
            return Err("a gradient is missing".into());
        };
        let wrong = [
            wrong(
                &forward(),
                inputs,
                |i, t| x.at(i, t),
                |t, j| weight.at(t, j),
            ),
            wrong(&d_x, outputs, |i, t| d_y.at(i, t), |t, j| weight.at(j, t)),
            wrong(&d_weight, rows, |i, t| x.at(t, i), |t, j| d_y.at(t, j)),
            wrong(&d_bias.unsqueeze(), rows, |_, _| 1.0, |t, j| d_y.at(t, j)),
        ];
        let product = 2e-9 * rows as f64 * inputs as f64 * outputs as f64;
        let size = format!("{name}, {rows} x {inputs} x {outputs}");
        let [y, d_x, d_weight, d_bias] = wrong;
        let milliseconds = self.time(|| drop(forward()))?;
        self.tell(&size, milliseconds, ("tflops", product / milliseconds), y);
        for (what, wants_x, wrong) in [
            ("gradient of rows", true, d_x),
            ("gradient of weights", false, d_weight + d_bias),
        ] {
            let milliseconds = self.time(|| {
                drop(Gpu::linear_rows_backward(LinearBackwardInput {
                    wants_x,
                    wants_weight: !wants_x,
                    wants_bias: !wants_x,
                    ..backward_input()
                }));
            })?;
            let speed = ("tflops", product / milliseconds);
            self.tell(&format!("{size}, {what}"), milliseconds, speed, wrong);
        }
        Ok(wrong.iter().sum())
    }

    /// Attention with heads of 64, timed; `ibot verify` compares its numbers.
    fn attention(&self, images: usize, heads: usize) -> Result<()> {
        let qkv = Entries::new(5, images * TOKENS, 3 * 64 * heads).upload(&self.device) / 4.0;
        let input = || AttentionInput::<Gpu> {
            qkv: qkv.clone(),
            batch: images,
            heads,
            queries: None,
        };
        let output = Gpu::packed_attention(input());
        let name = format!("attention, {images} x {TOKENS}, {heads} heads of 64");
        let product = 2e-9 * (images * heads * TOKENS * TOKENS * 64) as f64;
        let forward = self.time(|| drop(Gpu::packed_attention(input())))?;
        self.tell(&name, forward, ("tflops", 2.0 * product / forward), 0);
        let backward = self.time(|| {
            let d_context = output.context.clone();
            drop(Gpu::packed_attention_backward(
                input(),
                output.clone(),
                d_context,
            ));
        })?;
        // two kernels, which both make the map and its gradient
        let speed = ("tflops", 7.0 * product / backward);
        self.tell(&format!("{name}, gradient"), backward, speed, 0);
        Ok(())
    }

    /// One line; `speed` is `tflops` or `gb_s`.
    fn tell(&self, name: &str, milliseconds: f64, (unit, speed): (&str, f64), wrong: usize) {
        if self.json {
            // the names above have no character that JSON escapes
            println!(
                "{{\"part\": \"{name}\", \"ms\": {milliseconds:.5}, \"{unit}\": {speed:.6}, \"wrong\": {wrong}}}"
            );
            return;
        }
        let verdict = if wrong == 0 { "" } else { "  WRONG" };
        println!("{name:<64} {milliseconds:>9.3} ms {speed:>9.2} {unit}{verdict}");
    }

    /// Median milliseconds of one repetition.
    fn time(&self, work: impl Fn()) -> Result<f64> {
        let round = |repeats: usize| -> Result<f64> {
            self.guard.check_sync::<Gpu>(&self.device)?;
            let start = Instant::now();
            (0..repeats).for_each(|_| work());
            self.guard.check_sync::<Gpu>(&self.device)?;
            Ok(start.elapsed().as_secs_f64() / repeats as f64)
        };
        round(1)?;
        let repeats = (ROUND_S / round(1)?) as usize;
        let repeats = repeats.clamp(1, MAX_REPEATS);
        let all = (0..ROUNDS).map(|_| round(repeats));
        let mut all: Vec<f64> = all.collect::<Result<_>>()?;
        all.sort_by(f64::total_cmp);
        Ok(all[ROUNDS / 2] * 1e3)
    }
}

/// How many entries of some rows of a product of two matrices are not what they should be.
fn wrong(
    product: &Matrix,
    depth: usize,
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> usize {
    let [rows, columns] = product.dims();
    let compared = (0..COMPARED.min(rows)).map(|at| at * (rows - 1) / (COMPARED - 1));
    let wrong_in_row = |row: usize| {
        let found = product.clone().narrow(0, row, 1).into_data();
        let mut expected = vec![0.0; columns];
        for t in 0..depth {
            let factor = f64::from(left(row, t));
            for (column, sum) in expected.iter_mut().enumerate() {
                *sum += factor * f64::from(right(t, column));
            }
        }
        let pairs = found.iter::<f64>().zip(expected);
        pairs.filter(|(found, expected)| found != expected).count()
    };
    compared.map(wrong_in_row).sum()
}

/// A matrix on the host.
struct Entries {
    values: Vec<f32>,
    columns: usize,
}

impl Entries {
    /// -2 ..= 2 without a pattern.
    fn new(seed: u64, rows: usize, columns: usize) -> Self {
        let entry = |at: usize| {
            let mut x = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (seed << 40);
            x ^= x >> 31;
            x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x ^= x >> 29;
            (x % 5) as f32 - 2.0
        };
        Self {
            values: (0..rows * columns).map(entry).collect(),
            columns,
        }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.columns + column]
    }

    fn upload(&self, device: &Device) -> Matrix {
        let shape = [self.values.len() / self.columns, self.columns];
        Tensor::from_data(TensorData::new(self.values.clone(), shape), device)
    }
}
