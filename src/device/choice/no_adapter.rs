//! What to install where wgpu finds no GPU.

use crate::device::api::API_VARIABLE;
use crate::error::Error;

pub(super) const WSL: &str =
    "WSL has no conformant Vulkan driver for the GPU; use the Windows build of ibot";

/// Whether this Linux is one within Windows (WSL).
#[must_use]
pub fn is_wsl() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.is_ok_and(|release| release.to_lowercase().contains("microsoft"))
}

pub(super) fn no_adapter() -> Error {
    let install = if cfg!(target_os = "macos") {
        "wgpu needs Metal, which every Mac since 2012 has; this session may have no access to the GPU"
    } else if cfg!(target_os = "windows") {
        "install the GPU maker's current driver, which brings Vulkan and Direct3D 12"
    } else if is_wsl() {
        WSL
    } else {
        "install the Vulkan driver: NVIDIA's own driver; AMD and Intel: mesa-vulkan-drivers (Debian, Ubuntu, Fedora) \
         or vulkan-radeon / vulkan-intel (Arch), which on Debian also brings the software adapter lavapipe; in a \
         container, pass the GPU in (NVIDIA: with the graphics capability); vulkaninfo must list it, with a first queue family \
         that has graphics, which AMD Instinct has not: wgpu leaves out a GPU without"
    };
    let narrowed = match std::env::var_os(API_VARIABLE) {
        Some(api) => format!(" through {}", api.to_string_lossy()),
        None => String::new(),
    };
    Error::Device(format!(
        "wgpu finds no adapter{narrowed}: {install}; or compute on the CPU with `backend` flex"
    ))
}
