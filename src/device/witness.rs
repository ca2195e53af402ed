//! A counter on the device, for an API that calls failed work done.
//!
//! A command buffer that Metal ends with an error (out of memory, over its time) has completed for wgpu-hal 29, which does not look
//! at the status (wgpu issue 9545): nothing is reported, and its kernels' outputs are what lay there before. So a kernel that
//! adds one to a counter is launched between the others, and numbers count as sound only once the counter has all of
//! these. It does not see a kernel that fails behind the last count of its command buffer, nor a buffer of burn's kernels
//! alone. Never run on Metal; on lavapipe it counts right.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use burn_wgpu::{KernelSource, SourceKernel, SourceTemplate, WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use cubecl::client::ComputeClient;
use cubecl::prelude::{CubeCount, CubeDim, KernelId};
use cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};

use crate::device::api::Api;
use crate::device::faults::{Fault, FaultKind, FaultLog};
use crate::device::panics;

/// Name of the variable that has the work of any GPU counted, as that of Metal is, where it is 1.
pub const WITNESS_VARIABLE: &str = "IBOT_WITNESS";

/// After this many launches of this crate, one of the counter: cubecl puts 8 into a command buffer of an integrated GPU, about
/// two of them burn's own.
const EVERY: u32 = 4;

const WGSL: &str = "
@group(0) @binding(0) var<storage, read_write> count: array<u32, 1>;

@compute @workgroup_size(1, 1, 1)
fn main() {
    count[0] = count[0] + 1u;
}
";

/// Adds one to the counter.
struct Count;

impl KernelSource for Count {
    fn source(&self) -> SourceTemplate {
        SourceTemplate::new(WGSL)
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().cube_dim(CubeDim::new_1d(1))
    }
}

/// The counter of one device.
pub(super) struct Witness {
    client: ComputeClient<WgpuRuntime>,
    counter: Handle,
    /// Launches that count.
    counted: AtomicU32,
    /// All others.
    others: AtomicU32,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({:?})", self.counted)
    }
}

impl Witness {
    /// One for a device that needs it.
    pub fn of(api: Api, device: &WgpuDevice) -> Option<Self> {
        let is_asked = std::env::var_os(WITNESS_VARIABLE).is_some_and(|value| value == "1");
        let is_needed = api == Api::Metal || is_asked;
        is_needed.then(|| Self::new(WgpuRuntime::client(device)))
    }

    fn new(client: ComputeClient<WgpuRuntime>) -> Self {
        Self {
            counter: client.create_from_slice(&0_u32.to_ne_bytes()),
            client,
            counted: AtomicU32::new(0),
            others: AtomicU32::new(0),
        }
    }

    /// To be called after each launch of this crate.
    pub fn launched(&self) {
        let number = self.others.fetch_add(1, Ordering::Relaxed);
        if number % EVERY == EVERY - 1 {
            self.count();
        }
    }

    /// Counts once more.
    pub fn count(&self) {
        let arguments = KernelArguments::new()
            .with_buffers(vec![self.counter.clone().binding()])
            .with_info(MetadataBindingInfo::custom(Vec::new()));
        let kernel = Box::new(SourceKernel::new(Count, CubeDim::new_1d(1)));
        // SAFETY: one lane adds to the only entry of the only buffer.
        unsafe {
            self.client
                .launch_unchecked(kernel, CubeCount::Static(1, 1, 1), arguments);
        }
        // after the launch: whoever reads in between must not miss it
        self.counted.fetch_add(1, Ordering::Release);
    }

    /// Records a fault where work that was launched was not done; all of it must be over.
    pub fn check(&self, log: &FaultLog) {
        let expected = self.counted.load(Ordering::Acquire);
        let read = panics::catch(|| self.client.read_one(self.counter.clone()));
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return log.record(Fault::of_report(&error.to_string())),
            Err(panic) => return log.record_symptom(&panic.report),
        };
        let found = <[u8; 4]>::try_from(&bytes[..]).map_or(0, u32::from_ne_bytes);
        if is_behind(found, expected) {
            let report = format!(
                "the GPU called its work done, but {} of {expected} counted launches did not run: most likely its memory was full, or a \
                 kernel took too long",
                expected.wrapping_sub(found)
            );
            log.record(Fault::new(FaultKind::DeviceLost, &report));
        }
    }
}

/// Whether a counter that wraps has less; other threads may have counted on meanwhile.
fn is_behind(found: u32, expected: u32) -> bool {
    expected.wrapping_sub(found).wrapping_sub(1) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_may_wrap() {
        assert!(is_behind(0, 1) && is_behind(4, 9) && is_behind(u32::MAX, 0));
        assert!(!is_behind(0, 0) && !is_behind(9, 9) && !is_behind(12, 9));
        assert!(!is_behind(0, u32::MAX) && !is_behind(3, u32::MAX));
    }
}
