//! How fast this device multiplies with this program's own product, and copies: the most that a few sizes reach.

use std::time::Instant;

use ibot::burn::tensor::{Distribution, Tensor};
use ibot::device::{DeviceGuard, Selected};
use ibot::error::Result;
use ibot::kernels::wgsl;
use ibot::kernels::{IbotBackend, LinearInput, OnBackend};

use super::cards::Ceiling;

/// Sides of square products, until one takes longer than [`ENOUGH_S`].
const SIDES: [usize; 4] = [512, 1024, 2048, 4096];
const ENOUGH_S: f64 = 0.25;
/// Entries that are copied: 88 MB, more than caches hold.
const COPIED: usize = 22_000_000;
/// Rounds of each, after one that is not counted; the fastest counts.
const ROUNDS: usize = 5;
/// Products between two waits for a GPU.
const LAUNCHES: usize = 4;
/// Copies between two waits: one takes 60 us on the fastest cards, a wait as long.
const COPIES: usize = 16;

/// What the device reaches.
///
/// # Errors
/// The device failed.
pub(super) fn measure(selected: &Selected, guard: &DeviceGuard) -> Result<Ceiling> {
    let tflops = selected.dispatch(Products { guard })?;
    let gb_s = match selected {
        Selected::Wgpu { device, .. } => {
            let source = Tensor::<ibot::kernels::Gpu, 1>::ones([COPIED], device);
            let copies = || {
                for _ in 0..COPIES {
                    drop(wgsl::copy(source.clone()));
                }
                guard.check_sync::<ibot::kernels::Gpu>(device)
            };
            moved_gb(COPIES) / fastest(copies)?
        }
        _ => host_copy_gb_s()?,
    };
    Ok(Ceiling::measured(&selected.to_string(), tflops, gb_s))
}

/// Read and written, in GB.
fn moved_gb(copies: usize) -> f64 {
    2e-9 * (copies * COPIED * size_of::<f32>()) as f64
}

/// Seconds of the fastest of some rounds.
fn fastest(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Of all cores.
fn host_copy_gb_s() -> Result<f64> {
    let source = vec![1.0_f32; COPIED];
    let mut target = vec![0.0_f32; COPIED];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let part = COPIED.div_ceil(cores);
    let seconds = fastest(|| {
        std::thread::scope(|scope| {
            for (target, source) in target.chunks_mut(part).zip(source.chunks(part)) {
                scope.spawn(move || target.copy_from_slice(source));
            }
        });
        std::hint::black_box(&mut target);
        Ok(())
    })?;
    Ok(moved_gb(1) / seconds)
}

/// The best rate of square products, in TFLOP/s.
struct Products<'a> {
    guard: &'a DeviceGuard,
}

impl OnBackend for Products<'_> {
    type Output = Result<f64>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        let mut best = 0.0_f64;
        for side in SIDES {
            let matrix = || -> Tensor<B, 2> {
                Tensor::random([side, side], Distribution::Normal(0.0, 1.0), &device)
            };
            let (x, weight) = (matrix(), matrix());
            let seconds = fastest(|| {
                for _ in 0..LAUNCHES {
                    let y = B::linear_rows(LinearInput {
                        x: x.clone(),
                        weight: weight.clone(),
                        bias: None,
                        residual: None,
                    });
                    std::hint::black_box(y);
                }
                self.guard.check_sync::<B>(&device)
            })?;
            let flops = 2.0 * LAUNCHES as f64 * (side as f64).powi(3);
            best = best.max(1e-12 * flops / seconds);
            if seconds > ENOUGH_S {
                break;
            }
        }
        Ok(best)
    }
}
