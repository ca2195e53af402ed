//! Certifies a device: every operation, a training step and ten steps on it and on the CPU, compared.
//!
//! - `layers`, `losses`, `optimizer`: each operation at odd sizes; `sizes`: what training runs, at the sizes of ViT-S
//! - `steps`: what is run of the method; `submission`: more than a second of work at once
//! - `inputs`: what they compute on; `compare`: tensors of two backends; `report`: what came out
//!
//! A check is one function, generic over the backend, that returns tensors; it runs on both backends with the same
//! inputs, drawn on the host. A device that failed in a check is opened anew for the next one.

use std::time::Instant;

use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;
use ibot::kernels::Autodiff;
use ibot::kernels::Flex;
use ibot::kernels::NdArray;

use ibot::device::{AdapterSummary, DeviceGuard, Selected, reopened_if_lost};
use ibot::error::{Error, Result};
use ibot::kernels::wgsl::{self, Launched, observe};
use ibot::kernels::{Gpu, IbotBackend as _, KernelChoice, TrainBackend};
use ibot::precision::Precision;

use super::check::Check;
use super::compare::compare;
use super::report::{CheckResult, VerifyReport};
use super::{layers, losses, optimizer, sizes, steps, submission};

/// Runs all checks on the selected device and on the CPU (Flex; NdArray where Flex is selected), `report`ing each; with
/// `only`, those whose name holds that text.
///
/// A device that fails in a check fails that check, and is opened anew; it is no error. Where it cannot be opened, all
/// checks that follow fail.
///
/// # Errors
/// The device cannot be opened at first, or no check's name holds `only`.
pub fn verify(
    selected: &Selected,
    precision: Precision,
    only: Option<&str>,
    report: &mut dyn FnMut(&CheckResult),
) -> Result<VerifyReport> {
    let start = Instant::now();
    let names = names(only)?;
    let guard = DeviceGuard::install(selected)?;
    let subgroups = subgroups(selected);
    let found = match selected {
        Selected::Wgpu { device, .. } => {
            Gpu::check_precision(precision, device)?;
            let reopen = reopened(selected);
            let bench = Bench::<Autodiff<Gpu>, _>::new(device.clone(), guard, precision, reopen);
            bench.compare_with::<Autodiff<Flex>>(&names, report)
        }
        Selected::Flex => {
            on_cpu::<Autodiff<Flex>, Autodiff<NdArray<f32>>>(precision, &names, report)
        }
        Selected::NdArray => {
            on_cpu::<Autodiff<NdArray<f32>>, Autodiff<Flex>>(precision, &names, report)
        }
    };
    let adapter = adapter_of(selected);
    Ok(VerifyReport {
        ibot: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        device: selected.to_string(),
        precision,
        reference: match selected {
            Selected::Flex => "NdArray on the CPU",
            _ => "Flex on the CPU",
        },
        subgroups,
        kernels: adapter.is_some().then(KernelChoice::active),
        only: only.map(str::to_owned),
        shaders: wgsl::shader_folder().map(|folder| folder.display().to_string()),
        adapter,
        passed: found.checks.iter().all(|check| check.passed),
        checks: found.checks,
        launched: found.launched,
        reopened: found.reopened,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn adapter_of(selected: &Selected) -> Option<AdapterSummary> {
    match selected {
        Selected::Wgpu { adapter, .. } => Some(adapter.clone()),
        Selected::Flex | Selected::NdArray => None,
    }
}

fn subgroups(selected: &Selected) -> Option<[u32; 2]> {
    match selected {
        Selected::Wgpu { device, .. } => {
            let client = WgpuRuntime::client(device);
            let hardware = &client.properties().hardware;
            Some([hardware.plane_size_min, hardware.plane_size_max])
        }
        Selected::Flex | Selected::NdArray => None,
    }
}

fn on_cpu<B: TrainBackend, R: TrainBackend>(
    precision: Precision,
    names: &[&str],
    report: &mut dyn FnMut(&CheckResult),
) -> Found {
    let never = || Err(Error::Device("a CPU is not opened".into()));
    let bench = Bench::<B, _>::new(Default::default(), DeviceGuard::Cpu, precision, never);
    bench.compare_with::<R>(names, report)
}

/// Opens the selected adapter once more whenever it is called, after the device of the last call failed.
fn reopened(
    selected: &Selected,
) -> impl FnMut() -> Result<(burn_wgpu::WgpuDevice, DeviceGuard)> + use<> {
    let mut last = selected.clone();
    move || {
        last = reopened_if_lost(last.clone())?;
        let guard = DeviceGuard::install(&last)?;
        match &last {
            Selected::Wgpu { device, .. } => Ok((device.clone(), guard)),
            _ => Err(Error::Device("no GPU is selected".into())),
        }
    }
}

fn all_checks<B: TrainBackend>() -> Vec<Check<B>> {
    let mut all = layers::checks();
    all.extend(losses::checks());
    all.extend(optimizer::checks());
    all.extend(sizes::checks());
    all.extend(steps::checks());
    all.extend(submission::checks());
    all
}

/// The names of the checks to run.
fn names(only: Option<&str>) -> Result<Vec<&'static str>> {
    let all: Vec<_> = all_checks::<Autodiff<Flex>>()
        .iter()
        .map(|check| check.name)
        .collect();
    let only = only.unwrap_or_default();
    let names: Vec<_> = all
        .iter()
        .copied()
        .filter(|name| name.contains(only))
        .collect();
    if names.is_empty() {
        Err(Error::config(
            "only",
            only,
            format!("part of the name of a check: {}", all.join("; ")),
        ))
    } else {
        Ok(names)
    }
}

/// What came out of all checks.
#[derive(Default)]
struct Found {
    checks: Vec<CheckResult>,
    launched: Vec<Launched>,
    reopened: usize,
}

/// A device under test.
struct Bench<B: TrainBackend, O> {
    device: B::Device,
    guard: DeviceGuard,
    precision: Precision,
    reopen: O,
    found: Found,
}

impl<B: TrainBackend, O: FnMut() -> Result<(B::Device, DeviceGuard)>> Bench<B, O> {
    fn new(device: B::Device, guard: DeviceGuard, precision: Precision, reopen: O) -> Self {
        Self {
            device,
            guard,
            precision,
            reopen,
            found: Found::default(),
        }
    }

    fn compare_with<R: TrainBackend>(
        mut self,
        names: &[&str],
        report: &mut dyn FnMut(&CheckResult),
    ) -> Found {
        let pairs = all_checks::<B>().into_iter().zip(all_checks::<R>());
        for (check, reference) in pairs.filter(|(check, _)| names.contains(&check.name)) {
            let result = match self.ensure_sound() {
                Ok(()) => self.run(&check, &reference),
                Err(error) => {
                    let error = Err(Error::Device(format!("not run: {error}")));
                    CheckResult::new(check.name, error, 0.0, &[])
                }
            };
            report(&result);
            self.found.checks.push(result);
        }
        self.found
    }

    /// A new device in the place of one that failed.
    fn ensure_sound(&mut self) -> Result<()> {
        if self.guard.check().is_ok() {
            return Ok(());
        }
        let (device, guard) = (self.reopen)()?;
        release(&std::mem::replace(&mut self.guard, guard));
        self.device = device;
        self.found.reopened += 1;
        Ok(())
    }

    fn run<R: TrainBackend>(&mut self, check: &Check<B>, reference: &Check<R>) -> CheckResult {
        let precision = self.precision;
        let expected = precision.autocast(|| (reference.reference)(&Default::default()));
        let start = Instant::now();
        let work = || {
            let run = || precision.autocast(|| (check.run)(&self.device));
            self.guard.read::<B, _>(&self.device, run)
        };
        let (found, launched) = observe(work);
        let seconds = start.elapsed().as_secs_f64();
        self.guard.free_unused();
        let compared = expected.and_then(|expected| compare(&found??, &expected, precision));
        Launched::merge(&mut self.found.launched, &launched);
        CheckResult::new(check.name, compared, seconds, &launched)
    }
}

/// Gives the memory of a failed device back: its guard and burn's thread keep it to the end of the process.
fn release(failed: &DeviceGuard) {
    if let DeviceGuard::Gpu(failed) = failed {
        let device = &failed.setup().device;
        device.destroy();
        if let Err(error) = device.poll(wgpu::PollType::Poll) {
            log::debug!("the failed device's memory may stay in use: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_names_of_their_own() {
        let mut names = names(None).unwrap();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn checks_are_chosen_by_part_of_their_name() {
        assert_eq!(names(Some("AdamW")).unwrap(), ["AdamW of 40 tensors"]);
        let refusal = names(Some("adam")).unwrap_err().to_string();
        assert!(refusal.contains("adam") && refusal.contains("AdamW of 40 tensors"));
    }
}
