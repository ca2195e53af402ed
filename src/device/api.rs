//! The graphics APIs that wgpu can compute through.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};

/// Name of the variable that holds the one API to ask for adapters, for listing and for choosing.
///
/// It avoids a driver that crashes when it is queried (AMDVLK issue 422), and selects a second driver of the same GPU.
pub const API_VARIABLE: &str = "IBOT_API";

/// A graphics API that wgpu can compute through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// Vulkan: Linux and Windows.
    Vulkan,
    /// Metal: macOS.
    Metal,
    /// Direct3D 12: Windows.
    Dx12,
    /// OpenGL: listed only where none of the others finds an adapter, and taken only where a device is named.
    Gl,
}

impl Api {
    const ALL: [Self; 4] = [Self::Vulkan, Self::Metal, Self::Dx12, Self::Gl];

    /// The APIs that are searched for adapters, the preferred one first, which is also cubecl's `AutoGraphicsApi`.
    pub(super) const BY_PREFERENCE: &[Self] = if cfg!(target_os = "macos") {
        &[Self::Metal]
    } else if cfg!(target_os = "windows") {
        &[Self::Vulkan, Self::Dx12]
    } else {
        &[Self::Vulkan]
    };

    /// The value of [`API_VARIABLE`], if it is set.
    ///
    /// # Errors
    /// [`Error::Config`] for anything but vulkan, metal, dx12 or gl, and for an API that this system does not have.
    pub(super) fn asked_for() -> Result<Option<Self>> {
        let value = std::env::var_os(API_VARIABLE);
        let value = value.as_ref().map(|value| value.to_string_lossy());
        value.map(|value| Self::named(&value)).transpose()
    }

    pub(super) fn named(value: &str) -> Result<Self> {
        let known = Self::ALL
            .into_iter()
            .filter(|api| !matches!(api, Self::Gl) || !cfg!(target_os = "macos"))
            .filter(|api| matches!(api, Self::Gl) || Self::BY_PREFERENCE.contains(api));
        let known: Vec<Self> = known.collect();
        let is_named = |api: &&Self| api.name().eq_ignore_ascii_case(value.trim());
        known.iter().find(is_named).copied().ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|api| api.name()).collect();
            let names = names.join(", ");
            let remedy = format!("must be one of {names} on this system; or unset the variable");
            Error::config(API_VARIABLE, value, remedy)
        })
    }

    /// The API that is queried first: that of [`API_VARIABLE`], or cubecl's default.
    ///
    /// # Errors
    /// The variable names no API of this system.
    pub fn preferred() -> Result<Self> {
        Ok(Self::asked_for()?.unwrap_or(Self::BY_PREFERENCE[0]))
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::Gl => "gl",
        }
    }

    pub(super) const fn backend(self) -> wgpu::Backend {
        match self {
            Self::Vulkan => wgpu::Backend::Vulkan,
            Self::Metal => wgpu::Backend::Metal,
            Self::Dx12 => wgpu::Backend::Dx12,
            Self::Gl => wgpu::Backend::Gl,
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vulkan => "Vulkan",
            Self::Metal => "Metal",
            Self::Dx12 => "Direct3D 12",
            Self::Gl => "OpenGL",
        })
    }
}
