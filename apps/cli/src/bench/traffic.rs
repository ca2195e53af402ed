//! GPU calls of a piece of work, counted where every call passes: in wgpu's log.
//!
//! Launches of burn, of cubecl and of this crate all end in wgpu-core, which logs each call at trace level, on the thread
//! that makes it and before it returns. So the counts are exact, for any backend, and cost nothing while nobody counts.
//! They need a logger that passes its records to [`observe_log`], as the command's does; without one there are none.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{Level, LevelFilter, Record};
use serde::{Deserialize, Serialize};

use ibot::device::DeviceGuard;

/// Calls that reached the driver's queue, and buffers that were asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuTraffic {
    /// Kernels started: dispatches.
    pub launches: u64,
    /// Command buffers handed to the device.
    pub submits: u64,
    /// Buffers mapped for the host to read.
    pub host_reads: u64,
    /// Writes from the host, of which each kernel with numbers beside its tensors makes one.
    pub host_writes: u64,
    /// Buffers made; zero where all memory comes from the pool.
    pub new_buffers: u64,
}

/// One kind of call: the beginnings of its lines in wgpu-core 29, and how many there were.
struct Call {
    target: &'static str,
    lines: &'static [&'static str],
    count: AtomicU64,
}

impl Call {
    const fn new(target: &'static str, lines: &'static [&'static str]) -> Self {
        Self {
            target,
            lines,
            count: AtomicU64::new(0),
        }
    }
}

static LAUNCHES: Call = Call::new("wgpu_core::command::compute", &["ComputePass::dispatch"]);
static SUBMITS: Call = Call::new(
    "wgpu_core::device::queue",
    &["Queue::submit returned submit index"],
);
static READS: Call = Call::new("wgpu_core::device::global", &["Buffer::map_async"]);
static WRITES: Call = Call::new(
    "wgpu_core::device::queue",
    &["Queue::write_buffer", "Queue::create_staging_buffer"],
);
static BUFFERS: Call = Call::new("wgpu_core::device::global", &["Device::create_buffer("]);

static IS_COUNTING: AtomicBool = AtomicBool::new(false);

fn calls() -> [&'static Call; 5] {
    [&LAUNCHES, &SUBMITS, &READS, &WRITES, &BUFFERS]
}

/// For the application's logger: counts wgpu's calls while a benchmark asks for it. Costs one atomic load otherwise.
pub fn observe_log(record: &Record<'_>) {
    if record.level() != Level::Trace || !IS_COUNTING.load(Ordering::Relaxed) {
        return;
    }
    let of_target = |call: &&Call| call.target == record.target();
    if !calls().iter().any(of_target) {
        return;
    }
    let line = record.args().to_string();
    for call in calls().into_iter().filter(of_target) {
        if call.lines.iter().any(|start| line.starts_with(start)) {
            call.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Held by each test of this program that uses a GPU: calls are counted on all threads.
#[cfg(test)]
pub(super) fn alone_on_the_gpu() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Counts the GPU calls of `work`, as long as nothing else uses a GPU; none if no log arrived.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, Option<GpuTraffic>) {
    let result = {
        let _counting = Counting::begin();
        work()
    };
    let count = |call: &Call| call.count.load(Ordering::Relaxed);
    let traffic = GpuTraffic {
        launches: count(&LAUNCHES),
        submits: count(&SUBMITS),
        host_reads: count(&READS),
        host_writes: count(&WRITES),
        new_buffers: count(&BUFFERS),
    };
    (result, (traffic.submits > 0).then_some(traffic))
}

/// Lets wgpu's calls through to the log until it is dropped.
struct Counting {
    level_before: LevelFilter,
}

impl Counting {
    fn begin() -> Self {
        for call in calls() {
            call.count.store(0, Ordering::Relaxed);
        }
        let level_before = log::max_level();
        log::set_max_level(LevelFilter::Trace);
        IS_COUNTING.store(true, Ordering::Relaxed);
        Self { level_before }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        IS_COUNTING.store(false, Ordering::Relaxed);
        log::set_max_level(self.level_before);
    }
}

/// The most memory in tensors that a second thread saw on the GPU while `work` ran, in MiB; none on the CPU.
///
/// It asks without a pause, and each question waits in the device's queue behind what `work` sent before: a peak that
/// lasts shorter than a few launches may be missed. Asking submits what is queued, so this is no time to count or to time.
pub(super) fn peak_in_use_mib<R>(
    guard: &DeviceGuard,
    work: impl FnOnce() -> R,
) -> (R, Option<f64>) {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak: Option<f64> = None;
            while !is_done.load(Ordering::Relaxed) {
                let Some(memory) = guard.gpu_memory() else {
                    break;
                };
                peak = Some(peak.unwrap_or(0.0).max(memory.in_use_mib));
            }
            peak
        });
        let result = {
            let _done = Done(&is_done);
            work()
        };
        (result, watcher.join().ok().flatten())
    })
}

#[cfg(test)]
mod tests {
    use ibot::burn::tensor::Tensor;
    use ibot::kernels::{Gpu, wgsl};

    use super::*;
    use crate::gpu;

    /// Passes every record on, as the command's logger does.
    struct Passes;

    impl log::Log for Passes {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            observe_log(record);
        }

        fn flush(&self) {}
    }

    fn say(target: &str, level: Level, line: &str) {
        let mut record = Record::builder();
        let record = record.target(target).level(level);
        observe_log(&record.args(format_args!("{line}")).build());
    }

    #[test]
    fn calls_are_told_apart_and_counted_only_when_asked() {
        let compute = "wgpu_core::command::compute";
        let queue = "wgpu_core::device::queue";
        let global = "wgpu_core::device::global";
        say(compute, Level::Trace, "ComputePass::dispatch [9, 9, 9]");
        let ((), traffic) = counted(|| {
            say(compute, Level::Trace, "ComputePass::dispatch [1, 2, 3]");
            say(compute, Level::Trace, "ComputePass::dispatch_indirect");
            say(compute, Level::Debug, "ComputePass::dispatch [1, 2, 3]");
            say("elsewhere", Level::Trace, "ComputePass::dispatch [1, 2, 3]");
            say(queue, Level::Trace, "Queue::submit");
            say(queue, Level::Trace, "Queue::submit returned submit index 7");
            say(queue, Level::Trace, "Queue::write_buffer");
            say(global, Level::Trace, "Buffer::map_async Id(0,1) offset 0");
            say(global, Level::Trace, "Buffer::unmap Id(0,1)");
            say(
                global,
                Level::Trace,
                "Device::create_buffer(\"\") -> Id(0,1)",
            );
        });
        assert_eq!(
            traffic,
            Some(GpuTraffic {
                launches: 2,
                submits: 1,
                host_reads: 1,
                host_writes: 1,
                new_buffers: 1,
            })
        );
        assert_eq!(counted(|| ()).1, None);
    }

    /// The counts of a device: each launch, submit and read, and nothing else.
    #[test]
    fn launches_of_a_device_are_counted() {
        let _alone = alone_on_the_gpu();
        let Some((device, guard)) = gpu::device() else {
            return;
        };
        let source = Tensor::<Gpu, 1>::ones([1000], &device);
        let copies = || {
            let copies: Vec<_> = (0..3).map(|_| wgsl::copy(source.clone())).collect();
            guard.check_sync::<Gpu>(&device).unwrap();
            copies
        };
        copies();
        assert_eq!(counted(copies).1, None, "without a logger nothing is known");
        log::set_logger(&Passes).unwrap();
        let (copies, traffic) = counted(copies);
        let traffic = traffic.unwrap();
        let found = (traffic.launches, traffic.host_reads);
        assert_eq!(found, (3, 0), "{traffic:?}");
        assert!(traffic.submits >= 1, "{traffic:?}");
        let (data, traffic) = counted(|| copies[0].clone().into_data());
        let traffic = traffic.unwrap();
        let found = (traffic.launches, traffic.host_reads);
        assert_eq!(found, (0, 1), "{traffic:?}");
        assert_eq!(data.iter::<f32>().sum::<f32>(), 1000.0);
    }
}
