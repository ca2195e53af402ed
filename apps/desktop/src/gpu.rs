//! The GPU that draws the window. Models and runs have a device of their own, on the same GPU or another.
//!
//! wgpu 29 holds one lock of a device while it waits for a frame, and the same lock for each submission of kernels (`present.rs`,
//! `device/queue.rs` of wgpu-core): on a shared device, a window that is not shown can block training for good (wgpu issue 8597), and
//! training a frame. What is computed comes to the host before it is drawn, so that sharing would save nothing.

use eframe::egui_wgpu::{WgpuSetup, WgpuSetupCreateNew};
use eframe::wgpu::Backends;
use ibot::device::{API_VARIABLE, Api};

/// What eframe opens for the window.
///
/// # Errors
/// `IBOT_API` names no API of this system.
pub fn of_window() -> ibot::Result<WgpuSetup> {
    let mut window = WgpuSetupCreateNew::without_display_handle();
    if let Some(asked) = asked_for()? {
        window.instance_descriptor.backends = asked;
    }
    Ok(WgpuSetup::CreateNew(window))
}

/// The API that `IBOT_API` names: another one's driver may crash when it is asked.
fn asked_for() -> ibot::Result<Option<Backends>> {
    if std::env::var_os(API_VARIABLE).is_none() {
        return Ok(None);
    }
    Ok(Some(match Api::preferred()? {
        Api::Vulkan => Backends::VULKAN,
        Api::Metal => Backends::METAL,
        Api::Dx12 => Backends::DX12,
        Api::Gl => Backends::GL,
    }))
}
