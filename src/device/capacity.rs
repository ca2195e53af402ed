//! The memory of a GPU. wgpu does not report it, so the driver is queried where possible.

use crate::device::api::Api;

/// Bytes of the adapter's memory: a discrete GPU's own, or an integrated one's part of the processor's. `None` if it is
/// not known: Metal (wgpu-hal 29 keeps the adapter to itself) and OpenGL.
#[cfg_attr(
    target_vendor = "apple",
    expect(unused_variables, reason = "Metal does not tell")
)]
pub(super) fn memory_bytes(api: Api, adapter: &wgpu::Adapter) -> Option<u64> {
    match api {
        #[cfg(not(target_vendor = "apple"))]
        Api::Vulkan => of_vulkan(adapter),
        #[cfg(target_os = "windows")]
        Api::Dx12 => of_dx12(adapter),
        _ => None,
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
