//! The guard: no number computed after a device fault gets out.
//!
//! On wgpu, burn swallows errors: a launch that fails leaves its output as it was, and reading it gives zeros or worse.
//! The guard learns of a fault in five ways: wgpu's error handler, its device-lost callback, a panic hook for the device's
//! thread, `sync`, the only one to return compile errors of a kernel, and on Metal a counter (`witness`). All of them happen
//! before a read that was requested later returns, so a check after the read is a check of the read. And each read and sync
//! is waited for with a deadline before burn waits without one (`watchdog`).

use std::fmt;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::backend::Backend;
use burn_wgpu::{WgpuDevice, WgpuRuntime, WgpuSetup};
use cubecl::Runtime;

use crate::device::adapters::AdapterSummary;
use crate::device::api::Api;
use crate::device::faults::{Fault, FaultLog};
use crate::device::watchdog::Watchdog;
use crate::device::{kept_words, panics};
use crate::error::{Error, Result};
use crate::memory::GpuMemory;

/// A failed device may take so long to report whether it is lost, and to end what it has begun.
const PATIENT_POLL: wgpu::PollType = wgpu::PollType::Wait {
    submission_index: None,
    timeout: Some(Duration::from_secs(1)),
};

/// The guard of any device; on the CPU, where errors are panics, it does nothing.
#[derive(Debug, Clone)]
pub enum DeviceGuard {
    /// Flex or NdArray.
    Cpu,
    /// A wgpu device.
    Gpu(GpuGuard),
}

impl DeviceGuard {
    /// See [`GpuGuard::check`].
    ///
    /// # Errors
    /// The device failed.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Gpu(guard) => guard.check(),
        }
    }

    /// See [`GpuGuard::check_sync`].
    ///
    /// # Errors
    /// The device failed.
    pub fn check_sync<B: Backend>(&self, device: &B::Device) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Gpu(guard) => guard.check_sync::<B>(device),
        }
    }

    /// See [`GpuGuard::catch`].
    ///
    /// # Errors
    /// The device failed.
    pub fn catch<R>(&self, work: impl FnOnce() -> R) -> Result<R> {
        match self {
            Self::Cpu => Ok(work()),
            Self::Gpu(guard) => guard.catch(work),
        }
    }

    /// See [`GpuGuard::read`].
    ///
    /// # Errors
    /// The device failed.
    pub fn read<B: Backend, R>(&self, device: &B::Device, work: impl FnOnce() -> R) -> Result<R> {
        match self {
            Self::Cpu => Ok(work()),
            Self::Gpu(guard) => guard.read::<B, R>(device, work),
        }
    }

    /// Gives memory that no tensor uses back to the GPU's driver.
    pub fn free_unused(&self) {
        if let Self::Gpu(guard) = self {
            guard.free_unused();
        }
    }

    /// Memory on the GPU; `None` on the CPU.
    #[must_use]
    pub fn gpu_memory(&self) -> Option<GpuMemory> {
        match self {
            Self::Cpu => None,
            Self::Gpu(guard) => guard.memory(),
        }
    }
}

/// The guard of one wgpu device. Clones share their findings.
#[derive(Clone)]
pub struct GpuGuard {
    pub(super) device: WgpuDevice,
    pub(super) setup: WgpuSetup,
    pub(super) adapter: Arc<AdapterSummary>,
    pub(super) log: Arc<FaultLog>,
    pub(super) watchdog: Arc<Watchdog>,
}

impl fmt::Debug for GpuGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, faults) = (&self.device, self.log.faults());
        write!(
            f,
            "GpuGuard({device:?}, {}, {faults:?})",
            self.adapter.title()
        )
    }
}

impl GpuGuard {
    /// The adapter that was opened (its index is 0, not its place in the list).
    #[must_use]
    pub fn adapter(&self) -> &AdapterSummary {
        &self.adapter
    }

    /// wgpu's own view of the device.
    #[must_use]
    pub fn setup(&self) -> &WgpuSetup {
        &self.setup
    }

    /// The faults so far, the first one first.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.log.faults()
    }

    /// Whether the device is sound, as far as is known. Costs one atomic load.
    ///
    /// # Errors
    /// [`Error::Device`] with the first report and the remedy.
    pub fn check(&self) -> Result<()> {
        if self.log.is_broken() {
            return Err(self.error());
        }
        Ok(())
    }

    /// Waits for the device, with a deadline, so that it reports all faults, then checks.
    ///
    /// # Errors
    /// [`Error::Device`] with the first report and the remedy.
    pub fn check_sync<B: Backend>(&self, device: &B::Device) -> Result<()> {
        self.synchronize()?;
        match panics::catch(|| B::sync(device)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.log.record(Fault::of_report(&error.to_string())),
            Err(panic) => self.log.record_symptom(&panic.report),
        }
        self.watchdog.check_done();
        if self.adapter.api == Api::Dx12 {
            // a fence of a device that was removed says that all is done; a submission says that it was removed
            panics::own_call(|| self.setup.queue.submit([]));
        }
        self.poll(wgpu::PollType::Poll);
        self.check()
    }

    /// Runs work on the device; a panic that a device fault causes becomes that fault's error, any other one is resumed.
    ///
    /// # Errors
    /// The device failed before or meanwhile.
    pub fn catch<R>(&self, work: impl FnOnce() -> R) -> Result<R> {
        self.check()?;
        match panics::catch(work) {
            Ok(result) => self.check().map(|()| result),
            Err(panic) => {
                self.poll(wgpu::PollType::Poll);
                if self.log.is_broken() || is_device_symptom(&panic.report) {
                    self.log.record_symptom(&panic.report);
                    return Err(self.error());
                }
                // not `eprintln!`, which panics where stderr is full or closed
                let _ = writeln!(std::io::stderr(), "panic: {}", panic.report);
                resume_unwind(panic.payload)
            }
        }
    }

    /// Reads numbers from the device, and returns them only if everything that led to them was sound.
    ///
    /// # Errors
    /// The device failed before or meanwhile.
    pub fn read<B: Backend, R>(&self, device: &B::Device, work: impl FnOnce() -> R) -> Result<R> {
        self.synchronize()?;
        let result = self.catch(work)?;
        self.check_sync::<B>(device)?;
        Ok(result)
    }

    /// Waits, with a deadline, until the device has done all of its work, then checks.
    fn synchronize(&self) -> Result<()> {
        self.watchdog.synchronize();
        self.check()
    }

    /// Memory that burn holds on the device; `None` after a fault. Submits what is queued.
    #[must_use]
    pub fn memory(&self) -> Option<GpuMemory> {
        self.synchronize().ok()?;
        let usage = self
            .catch(|| WgpuRuntime::client(&self.device).memory_usage())
            .ok()?
            .ok()?;
        Some(GpuMemory::from_bytes(
            usage.bytes_in_use,
            usage.bytes_reserved,
        ))
    }

    /// Gives memory that no tensor uses back to the driver; nothing after a fault.
    pub fn free_unused(&self) {
        let cleanup = || {
            let client = WgpuRuntime::client(&self.device);
            kept_words::forget(&client);
            client.memory_cleanup();
        };
        if let Err(error) = self.synchronize().and_then(|()| self.catch(cleanup)) {
            log::debug!("memory is not freed: {error}");
        }
    }

    /// Gives all memory of a broken device back, which no tensor of it does, and ends its threads. What still uses it fails as
    /// before. A device that does not answer is left alone: the driver would wait for it.
    pub(super) fn destroy(&self) {
        if self.watchdog.is_silent() {
            return;
        }
        self.watchdog.retire();
        let words = || kept_words::forget(&WgpuRuntime::client(&self.device));
        if let Err(panic) = panics::catch(words) {
            log::debug!("kept words are not freed: {}", panic.report);
        }
        // wgpu frees the memory of a device that is gone as it is polled, once its queue is empty; it panics where the driver
        // says then that the device is lost
        let destroy = || {
            self.setup.device.destroy();
            self.poll(PATIENT_POLL);
        };
        if let Err(panic) = panics::catch(destroy) {
            log::debug!("memory is not freed: {}", panic.report);
        }
    }

    /// The cause of the faults; wgpu may report a lost device only once its queue is empty.
    fn error(&self) -> Error {
        if self.log.is_vague() {
            self.poll(PATIENT_POLL);
        }
        self.log.error()
    }

    /// wgpu reports a lost device in a poll; a device that does not answer would block the poll.
    fn poll(&self, how: wgpu::PollType) {
        if self.watchdog.is_silent() {
            return;
        }
        if let Err(error) = self.setup.device.poll(how) {
            log::debug!("poll: {error}");
        }
    }
}

/// Panics with which cubecl and burn answer on the caller's thread after the device's thread failed.
fn is_device_symptom(report: &str) -> bool {
    let signs = [
        "CallError",
        "Failed to map buffer",
        "buffer slice result",
        "Error while reading data",
        "An error happened during execution",
        "server is in an invalid state",
        "cubecl-runtime",
        "cubecl-common",
        "cubecl-wgpu",
    ];
    signs.iter().any(|sign| report.contains(sign))
}
