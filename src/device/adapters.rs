//! The GPUs that wgpu can see, and the `WgpuDevice` that means exactly one of them.

use std::fmt;

use burn_wgpu::WgpuDevice;
use serde::Serialize;

use crate::device::api::Api;
use crate::device::capacity;
use crate::error::{Error, Result};
use crate::memory::{in_gib, in_mib};

/// What sort of device an adapter is; the order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU lent to a virtual machine.
    Virtual,
    /// Unknown to the driver.
    Other,
    /// A software GPU driver on the CPU, such as lavapipe: correct but slow.
    Software,
}

impl From<wgpu::DeviceType> for AdapterKind {
    fn from(kind: wgpu::DeviceType) -> Self {
        match kind {
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Cpu => Self::Software,
            wgpu::DeviceType::Other => Self::Other,
        }
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete GPU",
            Self::Integrated => "integrated GPU",
            Self::Virtual => "virtual GPU",
            Self::Other => "adapter of unknown kind",
            Self::Software => "CPU adapter (software)",
        })
    }
}

/// Limits of one kernel and one tensor on an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterLimits {
    /// Bytes of the largest buffer.
    pub buffer_bytes: u64,
    /// Bytes of the largest tensor that a kernel can read or write.
    pub binding_bytes: u64,
    /// Storage buffers of one kernel.
    pub storage_buffers: u32,
    /// Bytes of workgroup memory of one kernel.
    pub workgroup_bytes: u32,
    /// Invocations of one workgroup.
    pub workgroup_invocations: u32,
}

impl From<wgpu::Limits> for AdapterLimits {
    fn from(limits: wgpu::Limits) -> Self {
        Self {
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        }
    }
}

/// One adapter, as `ibot devices` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterSummary {
    /// Its place in the list, which [`choose`](crate::device::choose) takes.
    pub index: usize,
    /// Its name, as the driver gives it.
    pub name: String,
    /// What sort of device it is.
    pub kind: AdapterKind,
    /// The API it is reached through.
    pub api: Api,
    /// The driver's name; may be empty.
    pub driver: String,
    /// The driver's version; may be empty.
    pub driver_info: String,
    /// Vendor and model number, `vendor:model` in hexadecimal.
    pub id: String,
    /// Its place on the PCI bus; empty if the driver does not report it.
    pub pci_bus: String,
    /// Bytes of its memory; for an integrated GPU, its part of the processor's. `None` if the driver does not report it.
    pub memory_bytes: Option<u64>,
    /// Whether its shaders have f16.
    pub has_f16: bool,
    /// Limits of one kernel and one tensor.
    pub limits: AdapterLimits,
}

impl AdapterSummary {
    /// Describes `adapter`, reached through `api`, as number `index`.
    pub(crate) fn new(index: usize, api: Api, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        Self {
            index,
            name: info.name,
            kind: info.device_type.into(),
            api,
            driver: info.driver,
            driver_info: info.driver_info,
            id: format!("{:04x}:{:04x}", info.vendor, info.device),
            pci_bus: info.device_pci_bus_id,
            memory_bytes: capacity::memory_bytes(api, adapter),
            has_f16: adapter.features().contains(wgpu::Features::SHADER_F16),
            limits: adapter.limits().into(),
        }
    }

    /// Whether it is a program on the CPU rather than a GPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.kind == AdapterKind::Software
    }

    /// Name, API and kind on one line.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}, {}, {}", self.name, self.api, self.kind)
    }

    /// Whether `other` describes the same adapter behind the same driver, whatever its place in a list.
    pub(crate) fn is_same_adapter(&self, other: &Self) -> bool {
        self.name == other.name
            && self.api == other.api
            && self.driver == other.driver
            && self.driver_info == other.driver_info
            && self.id == other.id
            && self.pci_bus == other.pci_bus
    }
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.limits;
        writeln!(f, "{}: {}", self.index, self.title())?;
        writeln!(
            f,
            "   driver            {} {}",
            self.driver, self.driver_info
        )?;
        writeln!(f, "   vendor:model      {} {}", self.id, self.pci_bus)?;
        if let Some(bytes) = self.memory_bytes {
            writeln!(f, "   memory            {}", in_gib(bytes))?;
        }
        writeln!(f, "   largest buffer    {}", in_mib(limits.buffer_bytes))?;
        writeln!(f, "   largest tensor    {}", in_mib(limits.binding_bytes))?;
        writeln!(
            f,
            "   storage buffers   {} per kernel",
            limits.storage_buffers
        )?;
        write!(
            f,
            "   workgroup         {} invocations, {} KiB of memory",
            limits.workgroup_invocations,
            limits.workgroup_bytes / 1024
        )
    }
}

/// Every adapter that wgpu sees, in a fixed order; empty if there is none. [`crate::device::API_VARIABLE`] narrows it to one API.
///
/// # Errors
/// The variable names no API of this system.
pub fn list_adapters() -> Result<Vec<AdapterSummary>> {
    let mut adapters = Vec::new();
    if let Some(api) = Api::asked_for()? {
        append_adapters(api, &mut adapters);
        return Ok(adapters);
    }
    for &api in Api::BY_PREFERENCE {
        append_adapters(api, &mut adapters);
    }
    if adapters.is_empty() && !cfg!(target_os = "macos") {
        append_adapters(Api::Gl, &mut adapters);
    }
    Ok(adapters)
}

/// The adapter that cubecl picks for `device`.
pub(super) fn adapter_of(device: &WgpuDevice, api: Api) -> Option<AdapterSummary> {
    let mut adapters = Vec::new();
    append_adapters(api, &mut adapters);
    let is_its = |index| wgpu_device(&adapters, index).is_ok_and(|known| known == *device);
    let index = (0..adapters.len()).find(|&index| is_its(index))?;
    Some(adapters.swap_remove(index))
}

/// Lists one API as cubecl does (one instance of that API alone), so that the order is cubecl's.
fn append_adapters(api: Api, adapters: &mut Vec<AdapterSummary>) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: api.backend().into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = cubecl::future::block_on(instance.enumerate_adapters(api.backend().into()));
    for adapter in &found {
        adapters.push(AdapterSummary::new(adapters.len(), api, adapter));
    }
}

/// The `WgpuDevice` through which cubecl picks exactly `adapters[index]`.
///
/// cubecl counts within one API and one kind (cubecl-wgpu 0.10.0, `select_from_adapter_list`). It has no name for an
/// adapter of unknown kind, and only one for software; but a number beyond the adapters of its kind counts among
/// those of unknown kind, from zero.
///
/// # Errors
/// An adapter that cubecl cannot name: the second software adapter, or one of unknown kind behind others.
pub fn wgpu_device(adapters: &[AdapterSummary], index: usize) -> Result<WgpuDevice> {
    let Some(adapter) = adapters.get(index) else {
        return Err(Error::Device(format!("there is no adapter {index}")));
    };
    let before = |kind| {
        let same = |a: &&AdapterSummary| a.api == adapter.api && a.kind == kind;
        adapters[..index].iter().filter(same).count()
    };
    let all = |kind| {
        let same = |a: &&AdapterSummary| a.api == adapter.api && a.kind == kind;
        adapters.iter().filter(same).count()
    };
    let number = before(adapter.kind);
    let device = match adapter.kind {
        AdapterKind::Discrete => Some(WgpuDevice::DiscreteGpu(number)),
        AdapterKind::Integrated => Some(WgpuDevice::IntegratedGpu(number)),
        AdapterKind::Virtual => Some(WgpuDevice::VirtualGpu(number)),
        AdapterKind::Software => (number == 0).then_some(WgpuDevice::Cpu),
        AdapterKind::Other if all(AdapterKind::Virtual) <= number => {
            Some(WgpuDevice::VirtualGpu(number))
        }
        AdapterKind::Other if all(AdapterKind::Integrated) <= number => {
            Some(WgpuDevice::IntegratedGpu(number))
        }
        AdapterKind::Other => {
            (all(AdapterKind::Discrete) <= number).then_some(WgpuDevice::DiscreteGpu(number))
        }
    };
    device.ok_or_else(|| {
        Error::Device(format!(
            "cubecl cannot address adapter {index} ({}) next to the others; use another one, or hide the others from \
             the driver (Vulkan: VK_LOADER_DRIVERS_SELECT)",
            adapter.title()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::api::API_VARIABLE;

    #[test]
    fn an_api_is_named_as_its_variable_has_it() {
        let first = Api::BY_PREFERENCE[0];
        assert_eq!(Api::named(first.name()).unwrap(), first);
        assert_eq!(Api::named(&first.name().to_uppercase()).unwrap(), first);
        let elsewhere = if cfg!(target_os = "linux") {
            "dx12"
        } else {
            "directx"
        };
        for bad in ["", "opencl", elsewhere] {
            let error = Api::named(bad).unwrap_err().to_string();
            let start = format!("{API_VARIABLE} = {bad}: must be one of ");
            assert!(
                error.starts_with(&start) && error.contains(first.name()),
                "{error}"
            );
        }
    }
}
