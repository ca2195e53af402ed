//! Which bodies the GPU's operations have.

use std::sync::OnceLock;

use serde::Serialize;

use crate::error::{Error, Result};

/// Name of the variable that chooses.
const VARIABLE: &str = "IBOT_KERNELS";

/// Bodies of the operations on the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelChoice {
    /// The WGSL kernels of `shaders/`.
    #[default]
    Wgsl,
    /// The bodies in tensor operations that every backend has: slower, and what the kernels are tested against. Products of
    /// matrices are in WGSL here too.
    Reference,
}

impl KernelChoice {
    /// What `IBOT_KERNELS` asks for: `wgsl`, the default, or `reference`.
    ///
    /// # Errors
    /// [`Error::Config`] for any other value.
    pub fn from_env() -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::default()),
            Some(value) if value == "wgsl" => Ok(Self::Wgsl),
            Some(value) if value == "reference" => Ok(Self::Reference),
            Some(value) => {
                let remedy = "must be wgsl, the default, or reference";
                Err(Error::config(VARIABLE, value.display(), remedy))
            }
        }
    }

    /// The choice of this process, made once; a value that [`Self::from_env`] refuses counts as the default, where no
    /// `check_device` refused it before.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<KernelChoice> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            Self::from_env().unwrap_or_else(|error| {
                log::warn!("{error}");
                Self::default()
            })
        })
    }
}
