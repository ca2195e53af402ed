//! The memory of a GPU. wgpu does not report it, so the driver is queried where possible.

use crate::device::api::Api;
#[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
use crate::memory::machine_bytes;

/// Bytes of the adapter's memory: a discrete GPU's own, or an integrated one's part of the processor's. `None` if it is
/// not known: OpenGL, and Metal on Macs with Intel's processors.
#[cfg_attr(
    target_vendor = "apple",
    expect(unused_variables, reason = "wgpu-hal 29 keeps it to itself")
)]
pub(super) fn memory_bytes(api: Api, adapter: &wgpu::Adapter) -> Option<u64> {
    match api {
        #[cfg(not(target_vendor = "apple"))]
        Api::Vulkan => of_vulkan(adapter),
        #[cfg(target_os = "windows")]
        Api::Dx12 => of_dx12(adapter),
        #[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
        Api::Metal => machine_bytes().map(working_set),
        _ => None,
    }
}

/// What Metal lets the programs of a Mac with Apple's processor keep for the GPU (`recommendedMaxWorkingSetSize`), of the machine's
/// memory: work fails or is swapped beyond it. wgpu-hal 29 keeps the adapter, which could be asked, to itself; reported are 10.7 GiB
/// of 16, 21.3 of 32, 48 of 64, and more than 3/4 of 128. Not tried on a Mac.
#[cfg(any(test, all(target_vendor = "apple", target_arch = "aarch64")))]
fn working_set(machine: u64) -> u64 {
    if machine <= 36 << 30 {
        machine / 3 * 2
    } else {
        machine / 4 * 3
    }
}

/// The largest heap that is the device's own: all of the memory in use stays there, so the sum of several would be wrong.
#[cfg(not(target_vendor = "apple"))]
fn of_vulkan(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the driver's objects are only asked, within the life of the adapter that owns them.
    let heaps = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let count = (heaps.memory_heap_count as usize).min(heaps.memory_heaps.len());
    let own = heaps.memory_heaps[..count]
        .iter()
        .filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    own.map(|heap| heap.size).max().filter(|bytes| *bytes > 0)
}

/// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
#[cfg(not(target_vendor = "apple"))]
const DEVICE_LOCAL: u32 = 1;

/// Dedicated memory, or what an integrated GPU shares. Compiled for Windows, not run there.
#[cfg(target_os = "windows")]
fn of_dx12(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the adapter's description is only asked for, within the life of the adapter that owns it.
    let description = unsafe {
        let dx12 = adapter.as_hal::<wgpu::hal::api::Dx12>()?;
        dx12.raw_adapter().GetDesc2().ok()?
    };
    let bytes = match adapter.get_info().device_type {
        wgpu::DeviceType::IntegratedGpu => description.SharedSystemMemory,
        _ => description.DedicatedVideoMemory,
    };
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::working_set;

    #[test]
    fn a_mac_gives_the_gpu_a_part_of_its_memory() {
        let of = |gib: u64| working_set(gib << 30) as f64 / f64::from(1 << 30);
        assert!((of(16) - 10.67).abs() < 0.01, "{}", of(16));
        assert!((of(36) - 24.0).abs() < 0.01, "{}", of(36));
        assert_eq!(of(64), 48.0);
    }
}
