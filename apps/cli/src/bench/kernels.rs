//! Times the WGSL kernels against the same operations in burn's tensor operations, on one device.
//!
//! - `block`: those of a transformer block
//! - `passes`: those over all parameters

mod block;
mod passes;

pub(super) use passes::default_shapes;

use std::fmt;
use std::time::Instant;

use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use ibot::burn::tensor::{Distribution, Tensor};
use serde::Serialize;

use super::median::median;
use ibot::device::{DeviceGuard, Selected};
use ibot::error::{Error, Result};
use ibot::kernels::{
    CrossEntropyInput, CrossEntropyOutput, Gpu, IbotBackend, Pairing, TargetPotentials, reference,
    wgsl,
};
use ibot::memory::GpuMemory;

/// Masked patches and prototypes: 16 images of the default recipe.
pub(super) const PATCH_LOGITS: [usize; 2] = [944, 8192];
/// Class tokens and prototypes: two views of 4 images.
const CLS_LOGITS: [usize; 2] = [8, 65_536];
/// Iterations of Sinkhorn-Knopp, as in the default recipe.
pub(super) const ITERATIONS: usize = 3;
pub(super) const TEACHER_TEMPERATURE: f64 = 0.04;
pub(super) const STUDENT_TEMPERATURE: f64 = 0.1;
/// Entries that the copy kernel moves: 88 MB, more than any cache.
const COPIED: usize = 22_000_000;
const MB: f64 = 1e6;

/// One operation, medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct KernelTimes {
    /// What was timed.
    pub operation: String,
    /// Milliseconds of the WGSL kernels.
    pub wgsl_ms: f64,
    /// Milliseconds of the same in tensor operations; none for the copy kernel.
    pub tensor_ms: Option<f64>,
    /// Bytes that any implementation reads and writes, in MB.
    pub moved_mb: f64,
}

impl KernelTimes {
    /// Bytes moved a second, in GB/s.
    #[must_use]
    pub fn bandwidth_gb_s(&self) -> f64 {
        self.moved_mb / self.wgsl_ms
    }
}

/// All operations on one device.
#[derive(Debug, Clone, Serialize)]
pub struct KernelReport {
    /// The device.
    pub device: String,
    /// Rounds that the medians are taken over.
    pub rounds: usize,
    /// The copy kernel first.
    pub times: Vec<KernelTimes>,
    /// Bytes of one matrix of patch logits, in MB.
    pub logits_mb: f64,
    /// Peak bytes in use in the patch loss with its targets and gradient, beyond what was in use before, in MB; the two
    /// logit matrices are part of it.
    pub loss_peak_mb: f64,
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, medians of {} rounds", self.device, self.rounds)?;
        writeln!(
            f,
            "{:<48} {:>9} {:>11} {:>7} {:>8} {:>8}",
            "operation", "WGSL ms", "tensor ms", "ratio", "GB/s", "of copy"
        )?;
        let copy = self
            .times
            .first()
            .map_or(f64::NAN, KernelTimes::bandwidth_gb_s);
        for times in &self.times {
            let (tensor, ratio) = match times.tensor_ms {
                Some(ms) => (format!("{ms:.1}"), format!("{:.1}x", ms / times.wgsl_ms)),
                None => ("-".into(), "-".into()),
            };
            writeln!(
                f,
                "{:<48} {:>9.1} {tensor:>11} {ratio:>7} {:>8.2} {:>7.0}%",
                times.operation,
                times.wgsl_ms,
                times.bandwidth_gb_s(),
                100.0 * times.bandwidth_gb_s() / copy,
            )?;
        }
        write!(
            f,
            "memory of the patch loss with targets and gradient: {:.1} MB at most, {:.2} logit matrices of {:.1} MB",
            self.loss_peak_mb,
            self.loss_peak_mb / self.logits_mb,
            self.logits_mb
        )
    }
}

/// Runs every operation `rounds` times with each body, in turn, and takes medians.
///
/// # Errors
/// A device that is no GPU, or one that failed.
pub fn bench_kernels(selected: &Selected, rounds: usize) -> Result<KernelReport> {
    let Selected::Wgpu { device, adapter } = selected else {
        return Err(Error::Device(format!(
            "the kernels are WGSL and need a GPU, not {selected}; --backend wgpu takes the first one"
        )));
    };
    if rounds == 0 {
        return Err(Error::config("--steps", 0, "must be at least 1"));
    }
    let guard = DeviceGuard::install(selected)?;
    guard.catch(|| {
        let bench = Bench {
            device,
            guard: &guard,
            rounds,
        };
        Ok(KernelReport {
            device: adapter.title(),
            rounds,
            times: bench.times()?,
            logits_mb: bytes(PATCH_LOGITS) / MB,
            loss_peak_mb: bench.loss_peak_mb()?,
        })
    })?
}

fn bytes([rows, prototypes]: [usize; 2]) -> f64 {
    (rows * prototypes * size_of::<f32>()) as f64
}

struct Bench<'a> {
    device: &'a WgpuDevice,
    guard: &'a DeviceGuard,
    rounds: usize,
}

/// A body of an operation: takes what `prepare` made, and the result is waited for and dropped.
type Body<'a, I> = &'a dyn Fn(I);

impl Bench<'_> {
    /// Medians of both bodies, in milliseconds; the first round of each compiles and is not counted.
    fn time<I>(&self, prepare: &dyn Fn() -> I, bodies: &[Body<'_, I>]) -> Result<Vec<f64>> {
        let mut times = vec![Vec::new(); bodies.len()];
        for round in 0..=self.rounds {
            for (body, times) in bodies.iter().zip(&mut times) {
                let input = prepare();
                self.guard.check_sync::<Gpu>(self.device)?;
                let start = Instant::now();
                body(input);
                self.guard.check_sync::<Gpu>(self.device)?;
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        Ok(times.into_iter().map(median).collect())
    }

    fn compare<I>(
        &self,
        operation: impl Into<String>,
        moved: f64,
        prepare: &dyn Fn() -> I,
        wgsl: Body<'_, I>,
        tensor: Body<'_, I>,
    ) -> Result<KernelTimes> {
        let found = self.time(prepare, &[wgsl, tensor])?;
        Ok(KernelTimes {
            operation: operation.into(),
            wgsl_ms: found[0],
            tensor_ms: Some(found[1]),
            moved_mb: moved / MB,
        })
    }

    fn times(&self) -> Result<Vec<KernelTimes>> {
        let mut all = vec![self.copy()?];
        all.extend(self.potentials()?);
        all.extend(self.losses()?);
        all.extend(self.block()?);
        all.extend(self.passes()?);
        Ok(all)
    }

    fn copy(&self) -> Result<KernelTimes> {
        let source = Tensor::<Gpu, 1>::ones([COPIED], self.device);
        let found = self.time(
            &|| source.clone(),
            &[&|source| drop(wgsl::copy(source)) as ()],
        )?;
        Ok(KernelTimes {
            operation: "copy kernel, 22 M entries".into(),
            wgsl_ms: found[0],
            tensor_ms: None,
            moved_mb: 2.0 * (COPIED * size_of::<f32>()) as f64 / MB,
        })
    }

    fn potentials(&self) -> Result<[KernelTimes; 2]> {
        let logits = self.random(PATCH_LOGITS);
        let matrix = bytes(PATCH_LOGITS);
        let sinkhorn = self.compare(
            "Sinkhorn targets, 3 iterations, 944 x 8192",
            matrix * 2.0 * ITERATIONS as f64,
            &|| logits.clone(),
            &|logits| {
                Gpu::sinkhorn_potentials(logits, TEACHER_TEMPERATURE, ITERATIONS);
            },
            &|logits| {
                reference::sinkhorn_potentials(logits, TEACHER_TEMPERATURE, ITERATIONS);
            },
        )?;
        let centered = self.compare(
            "centered targets, 944 x 8192",
            matrix,
            &|| logits.clone(),
            &|logits| {
                Gpu::centered_potentials(logits, None, TEACHER_TEMPERATURE);
            },
            &|logits| {
                reference::centered_potentials(logits, None, TEACHER_TEMPERATURE);
            },
        )?;
        Ok([sinkhorn, centered])
    }

    fn losses(&self) -> Result<Vec<KernelTimes>> {
        let mut all = Vec::from(self.loss("patch loss", PATCH_LOGITS, Pairing::SameRow)?);
        let other_views = Pairing::OtherViews { images: 4 };
        all.extend(self.loss("cls loss", CLS_LOGITS, other_views)?);
        Ok(all)
    }

    /// One loss forward, backward and both.
    fn loss(&self, name: &str, shape: [usize; 2], pairing: Pairing) -> Result<[KernelTimes; 3]> {
        let name = |pass| format!("{name} {pass}, {} x {}", shape[0], shape[1]);
        let input = self.loss_input(shape, pairing);
        let output = Gpu::cross_entropy(&input);
        let d_loss = Tensor::<Gpu, 1>::ones([1], self.device);
        // each round owns its student logits, as in training; copying them is not timed
        let student = input.student_logits.clone();
        let fresh = || CrossEntropyInput {
            student_logits: unshared(&student),
            ..input.clone()
        };
        let matrix = bytes(shape);
        let wgsl = |input: CrossEntropyInput<Gpu>, output: CrossEntropyOutput<Gpu>| {
            drop(Gpu::cross_entropy_backward(input, output, d_loss.clone()));
        };
        let tensor = |input: CrossEntropyInput<Gpu>, output: CrossEntropyOutput<Gpu>| {
            let d_loss = d_loss.clone();
            drop(reference::cross_entropy_backward(&input, output, d_loss));
        };
        let forward = self.compare(
            name("forward"),
            2.0 * matrix,
            &fresh,
            &|input| drop(Gpu::cross_entropy(&input)),
            &|input| drop(reference::cross_entropy(&input)),
        )?;
        let backward = self.compare(
            name("backward"),
            3.0 * matrix,
            &fresh,
            &|input| wgsl(input, output.clone()),
            &|input| tensor(input, output.clone()),
        )?;
        let both = self.compare(
            name("forward + backward"),
            5.0 * matrix,
            &fresh,
            &|input| {
                let output = Gpu::cross_entropy(&input);
                wgsl(input, output);
            },
            &|input| {
                let output = reference::cross_entropy(&input);
                tensor(input, output);
            },
        )?;
        Ok([forward, backward, both])
    }

    /// Targets, loss and gradient of patch logits that only the graph holds.
    fn loss_peak_mb(&self) -> Result<f64> {
        let client = WgpuRuntime::client(self.device);
        self.guard.check_sync::<Gpu>(self.device)?;
        client.memory_cleanup();
        let usage = || -> Result<f64> {
            let memory = self.guard.gpu_memory();
            memory
                .map(|GpuMemory { in_use_mib, .. }| in_use_mib * f64::from(1 << 20))
                .ok_or_else(|| Error::Device("the device does not report its memory".into()))
        };
        let before = usage()?;
        let peak = wgsl::peak_bytes_in_use(&mut || {
            let input = self.loss_input(PATCH_LOGITS, Pairing::SameRow);
            let output = Gpu::cross_entropy(&input);
            let d_loss = Tensor::ones([1], self.device);
            drop(Gpu::cross_entropy_backward(input, output, d_loss));
        });
        self.guard.check_sync::<Gpu>(self.device)?;
        Ok((peak as f64 - before) / MB)
    }

    fn random(&self, shape: [usize; 2]) -> Tensor<Gpu, 2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), self.device)
    }

    fn loss_input(&self, shape: [usize; 2], pairing: Pairing) -> CrossEntropyInput<Gpu> {
        let teacher_logits = self.random(shape);
        let potentials: TargetPotentials<Gpu> =
            Gpu::sinkhorn_potentials(teacher_logits.clone(), TEACHER_TEMPERATURE, ITERATIONS);
        CrossEntropyInput {
            student_logits: self.random(shape),
            teacher_logits,
            potentials,
            pairing,
            row_weights: Tensor::full([shape[0]], 1.0 / shape[0] as f64, self.device),
            student_temperature: STUDENT_TEMPERATURE,
        }
    }
}

fn unshared(logits: &Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let [rows, columns] = logits.dims();
    wgsl::copy(logits.clone().reshape([rows * columns])).reshape([rows, columns])
}
