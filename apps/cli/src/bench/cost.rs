//! What a step costs a GPU, and the host that feeds it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;
use ibot::backbone::VisionTransformer;
use ibot::device::{DeviceGuard, Selected, time_waiting};
use ibot::error::Result;
use ibot::kernels::TrainBackend;
use ibot::kernels::wgsl::{Launched, observe};
use ibot::train::{Rates, StepInput, Trainer};
use serde::{Deserialize, Serialize};

use super::median::median;
use super::traffic::{GpuTraffic, counted, peak_in_use_mib};

/// Steps whose host times are taken, at most: on a software GPU each takes seconds.
const MAX_HOST_STEPS: usize = 3;
/// Kernels that a table names.
const SHOWN: usize = 6;

/// What is timed.
pub(super) type VitTrainer<B> = Trainer<B, VisionTransformer<B>>;

/// What one step, its read of the losses included, costs a GPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GpuCost {
    /// Of the host.
    pub host: HostTimes,
    /// Calls; none where no logger passes them on, see [`super::traffic::observe_log`].
    pub traffic: Option<GpuTraffic>,
    /// Launches of this crate's kernels, the most often launched first; those that are missing are burn's.
    pub kernels: Vec<KernelLaunches>,
    /// Memory in tensors between two steps, in MiB.
    pub at_rest_mib: f64,
    /// Peak memory in tensors that was seen during a step, in MiB.
    pub peak_in_use_mib: f64,
    /// Memory taken from the driver by the end, in MiB.
    pub reserved_mib: f64,
}

/// Seconds of a step without waits between its phases, as in training; medians. Where a driver's submission does the work of
/// the GPU, as lavapipe's does, that is part of the host's time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HostTimes {
    /// Of the thread that trains, until it has queued its last launch, without `waited_s`.
    pub queued_s: f64,
    /// Until the thread of the device has handed all launches to the driver, without `waited_s`.
    pub handed_over_s: f64,
    /// For the device to finish what was under way, so that no more than some 128 launches are.
    pub waited_s: f64,
    /// From the start of the step until the device is done with it.
    pub step_s: f64,
}

/// How often a kernel of this crate was launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLaunches {
    /// Its file in `shaders/`, without the ending.
    pub kernel: String,
    /// How often.
    pub launches: usize,
    /// Workgroups of the largest launch.
    pub most_workgroups: usize,
    /// Lanes of a workgroup and what filled the template, of each variant.
    pub variants: Vec<String>,
}

impl KernelLaunches {
    /// By kernel, whatever the lanes; the most often launched first.
    fn of(seen: &[Launched]) -> Vec<Self> {
        let mut by_kernel: BTreeMap<&str, Self> = BTreeMap::new();
        for launched in seen {
            let of_kernel = by_kernel.entry(launched.name).or_insert_with(|| Self {
                kernel: launched.name.into(),
                launches: 0,
                most_workgroups: 0,
                variants: Vec::new(),
            });
            of_kernel.launches += launched.launches;
            of_kernel.most_workgroups = of_kernel.most_workgroups.max(launched.max_workgroups);
            let variants = launched.variants.iter();
            let variants = variants.map(|variant| format!("{} lanes {variant}", launched.lanes));
            of_kernel.variants.extend(variants);
        }
        let mut all: Vec<Self> = by_kernel.into_values().collect();
        all.sort_by_key(|of_kernel| std::cmp::Reverse(of_kernel.launches));
        all
    }
}

impl GpuCost {
    fn own_launches(&self) -> usize {
        self.kernels.iter().map(|kernel| kernel.launches).sum()
    }

    /// All launches, or those of this crate where burn's were not counted.
    fn launches(&self) -> usize {
        let all = self.traffic.map(|traffic| traffic.launches as usize);
        all.unwrap_or_else(|| self.own_launches())
    }
}

impl fmt::Display for GpuCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostTimes {
            queued_s,
            handed_over_s,
            waited_s,
            step_s,
        } = self.host;
        writeln!(
            f,
            "host: {:.1} ms to hand a step to the driver ({:.1} ms of the training thread), {:.0} us a launch; {:.1} ms of waits \
             for what is under way; {:.1} ms until the step is done, without waits between its phases",
            handed_over_s * 1e3,
            queued_s * 1e3,
            handed_over_s * 1e6 / self.launches().max(1) as f64,
            waited_s * 1e3,
            step_s * 1e3
        )?;
        match &self.traffic {
            Some(traffic) => writeln!(
                f,
                "per step on the GPU: {} launches, {} submits, {} host reads, {} host writes, {} new buffers",
                traffic.launches,
                traffic.submits,
                traffic.host_reads,
                traffic.host_writes,
                traffic.new_buffers
            )?,
            None => writeln!(
                f,
                "calls per step on the GPU: not counted, because no log arrived"
            )?,
        }
        let shown = self.kernels.iter().take(SHOWN);
        let shown = shown.map(|of| format!("{} {}", of.kernel, of.launches));
        let shown: Vec<String> = shown.collect();
        let own = self.own_launches();
        write!(
            f,
            "launches: {own} of this crate's kernels (most: {})",
            shown.join(", ")
        )?;
        if self.traffic.is_some() {
            write!(f, ", {} of burn's", self.launches().saturating_sub(own))?;
        }
        write!(
            f,
            "\nmemory on the GPU: {:.1} MiB in tensors between steps, {:.1} MiB at most, {:.1} MiB taken from the driver",
            self.at_rest_mib, self.peak_in_use_mib, self.reserved_mib
        )
    }
}

/// More steps without waits between their phases: some whose host times are taken, then one whose calls are counted and one
/// whose memory is watched, as neither counting nor watching leaves the times alone.
pub(super) fn gpu_cost<B: TrainBackend>(
    trainer: &mut VitTrainer<B>,
    input: &StepInput<B>,
    rates: &Rates,
    (selected, guard): (&Selected, &DeviceGuard),
    steps: usize,
) -> Result<Option<GpuCost>> {
    let device = trainer.device().clone();
    guard.check_sync::<B>(&device)?;
    let Some(at_rest) = guard.gpu_memory() else {
        return Ok(None);
    };
    let steps = 0..steps.min(MAX_HOST_STEPS);
    let host = steps.map(|_| host_times(trainer, input, rates, (selected, guard)));
    let host: Vec<HostTimes> = host.collect::<Result<_>>()?;
    let middle = |of: fn(&HostTimes) -> f64| median(host.iter().map(of).collect());
    let mut step = || -> Result<()> {
        trainer.step(input, rates)?;
        guard.check_sync::<B>(&device)
    };
    let ((stepped, seen), traffic) = counted(|| observe(&mut step));
    stepped?;
    let (stepped, peak) = peak_in_use_mib(guard, &mut step);
    stepped?;
    let memory = guard.gpu_memory();
    Ok(peak.zip(memory).map(|(peak, memory)| GpuCost {
        host: HostTimes {
            queued_s: middle(|times| times.queued_s),
            handed_over_s: middle(|times| times.handed_over_s),
            waited_s: middle(|times| times.waited_s),
            step_s: middle(|times| times.step_s),
        },
        traffic,
        kernels: KernelLaunches::of(&seen),
        at_rest_mib: at_rest.in_use_mib,
        peak_in_use_mib: peak,
        reserved_mib: memory.reserved_mib,
    }))
}

fn host_times<B: TrainBackend>(
    trainer: &mut VitTrainer<B>,
    input: &StepInput<B>,
    rates: &Rates,
    (selected, guard): (&Selected, &DeviceGuard),
) -> Result<HostTimes> {
    let device = trainer.device().clone();
    guard.check_sync::<B>(&device)?;
    let (start, waited_before) = (Instant::now(), time_waiting());
    let seconds = || start.elapsed().as_secs_f64();
    trainer.advance(input, rates)?;
    let waited_s = (time_waiting() - waited_before).as_secs_f64();
    let queued_s = seconds() - waited_s;
    if let Selected::Wgpu { device, .. } = selected {
        // returns once the device's thread has encoded and submitted all that was queued; a fault shows in the wait below
        let _ = WgpuRuntime::client(device).flush();
    }
    let handed_over_s = seconds() - waited_s;
    guard.check_sync::<B>(&device)?;
    let step_s = seconds();
    trainer.read_losses().1?;
    Ok(HostTimes {
        queued_s,
        handed_over_s,
        waited_s,
        step_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(name: &'static str, lanes: u32, launches: usize) -> Launched {
        Launched {
            name,
            lanes,
            launches,
            max_workgroups: launches,
            variants: [format!("rounds={launches}")].into(),
            infos: BTreeMap::new(),
            sizes: BTreeMap::new(),
        }
    }

    #[test]
    fn launches_are_told_by_kernel_and_burn_has_the_rest() {
        let seen = [
            launched("copy", 8, 2),
            launched("copy", 64, 3),
            launched("ema", 64, 7),
        ];
        let kernels = KernelLaunches::of(&seen);
        let found: Vec<_> = kernels
            .iter()
            .map(|of| (of.kernel.as_str(), of.launches, of.most_workgroups))
            .collect();
        assert_eq!(found, [("ema", 7, 7), ("copy", 5, 3)]);
        assert_eq!(
            kernels[1].variants,
            ["8 lanes rounds=2", "64 lanes rounds=3"]
        );
        let cost = GpuCost {
            host: HostTimes {
                queued_s: 0.001,
                handed_over_s: 0.002,
                waited_s: 0.05,
                step_s: 0.1,
            },
            traffic: Some(GpuTraffic {
                launches: 20,
                submits: 1,
                host_reads: 1,
                host_writes: 0,
                new_buffers: 0,
            }),
            kernels,
            at_rest_mib: 1.0,
            peak_in_use_mib: 2.0,
            reserved_mib: 3.0,
        };
        let text = cost.to_string();
        for part in [
            "2.0 ms to hand a step to the driver (1.0 ms of the training thread), 100 us a launch; 50.0 ms of waits",
            "12 of this crate's kernels (most: ema 7, copy 5), 8 of burn's",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
