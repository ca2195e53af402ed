//! The window's GPU, and the device of models: the same one if it is a real GPU.

use eframe::egui_wgpu::{WgpuSetup, WgpuSetupCreateNew, WgpuSetupExisting};
use eframe::wgpu::{self, Adapter, Device, DeviceType, Instance, Queue};
use ibot::app::DeviceRequest;
use ibot::device::{API_VARIABLE, Api, BackendChoice, ExistingDevice, device_descriptor};

/// Where things are drawn and computed.
pub struct Opened {
    /// For eframe.
    pub window: WgpuSetup,
    /// For models and runs.
    pub device: DeviceRequest,
    /// Why models do not share the window's GPU, if they should have.
    pub note: Option<String>,
}

/// One device for both if `backend` and the machine allow it; else eframe opens its own.
///
/// # Errors
/// `IBOT_API` names no API of this system.
pub fn open(backend: BackendChoice) -> ibot::Result<Opened> {
    let asked = asked_for()?;
    let apart = |note| {
        let mut window = WgpuSetupCreateNew::without_display_handle();
        if let Some(asked) = asked {
            window.instance_descriptor.backends = asked;
        }
        Opened {
            window: WgpuSetup::CreateNew(window),
            device: backend.into(),
            note,
        }
    };
    if matches!(backend, BackendChoice::Flex | BackendChoice::NdArray) {
        return Ok(apart(None));
    }
    let backends = asked.unwrap_or(wgpu::Backends::PRIMARY);
    Ok(match pollster::block_on(shared(backend, backends)) {
        Ok(Some(opened)) => opened,
        Ok(None) => apart(None),
        Err(reason) => apart(Some(format!(
            "Models do not share the window's GPU: {reason}"
        ))),
    })
}

/// The API that `IBOT_API` names: another one's driver may crash when it is asked.
fn asked_for() -> ibot::Result<Option<wgpu::Backends>> {
    if std::env::var_os(API_VARIABLE).is_none() {
        return Ok(None);
    }
    Ok(Some(match Api::preferred()? {
        Api::Vulkan => wgpu::Backends::VULKAN,
        Api::Metal => wgpu::Backends::METAL,
        Api::Dx12 => wgpu::Backends::DX12,
        Api::Gl => wgpu::Backends::GL,
    }))
}

/// None if there is no GPU that `backend` would take.
async fn shared(
    backend: BackendChoice,
    backends: wgpu::Backends,
) -> Result<Option<Opened>, String> {
    let instance = Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let Ok(adapter) = instance.request_adapter(&options).await else {
        return Ok(None);
    };
    let info = adapter.get_info();
    let is_software = info.device_type == DeviceType::Cpu;
    // computing through OpenGL is untested
    if info.backend == wgpu::Backend::Gl || (is_software && backend == BackendChoice::Auto) {
        return Ok(None);
    }
    // with all features that burn's kernels use: a device with wgpu's defaults could not be shared
    let opened = adapter.request_device(&device_descriptor(&adapter)).await;
    let (device, queue) = opened.map_err(|error| error.to_string())?;
    let selected = adopted(&instance, &adapter, &device, &queue)?;
    let window = WgpuSetupExisting {
        instance,
        adapter,
        device,
        queue,
    };
    Ok(Some(Opened {
        window: WgpuSetup::Existing(window),
        device: selected,
        note: None,
    }))
}

fn adopted(
    instance: &Instance,
    adapter: &Adapter,
    device: &Device,
    queue: &Queue,
) -> Result<DeviceRequest, String> {
    let existing = ExistingDevice::new(instance, adapter, device, queue);
    let selected = existing.adopt().map_err(|error| error.to_string())?;
    Ok(selected.into())
}
