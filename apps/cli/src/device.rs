//! Which device to compute on.

use ibot::Result;
use ibot::device::{BackendChoice, Selected, select};
use ibot::error::printable;
use ibot::kernels::{KernelChoice, wgsl};
use ibot::precision::Precision;

use super::choices::{BACKENDS, PRECISIONS, one_of};
use super::output::warn;

/// Which device to compute on; shared by the commands that do.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// Where to compute; auto takes a GPU if there is one, never a software adapter.
    #[arg(long, value_parser = one_of(BACKENDS), default_value = "auto", help_heading = "Device")]
    backend: BackendChoice,
    /// GPU to use: its number or part of its name in `ibot devices`.
    #[arg(long, help_heading = "Device")]
    device: Option<String>,
    /// Number format of matrix multiplications and activations [default: f32, or that of the run's settings].
    #[arg(long, value_parser = one_of(PRECISIONS), help_heading = "Device")]
    pub precision: Option<Precision>,
}

/// Warns if the GPU's operations are not those this program was built with.
fn announce_kernels() -> Result<()> {
    if KernelChoice::from_env()? == KernelChoice::Reference {
        warn(
            "IBOT_KERNELS=reference: tensor operations instead of WGSL kernels, except for matrix multiplication",
        );
    }
    if let Some(folder) = wgsl::shader_folder() {
        warn(format_args!(
            "{}: shaders from {}",
            wgsl::SHADERS_VARIABLE,
            printable(folder)
        ));
    }
    Ok(())
}

impl DeviceArgs {
    /// The same with another backend in place of `auto`.
    pub fn or(self, backend: BackendChoice) -> Self {
        match self.backend {
            BackendChoice::Auto => Self { backend, ..self },
            _ => self,
        }
    }

    /// What `--backend` says.
    pub fn backend(&self) -> BackendChoice {
        self.backend
    }

    /// Whether `--device` names a GPU.
    #[cfg(feature = "mpi")]
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Takes the GPU of this number.
    pub fn set_device(&mut self, number: usize) {
        self.device = Some(number.to_string());
    }

    /// The precision that is asked for, or f32.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or_default()
    }

    /// The same flags, to pass to another process.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--backend".to_owned(), self.backend.to_string()];
        if let Some(device) = &self.device {
            flags.extend(["--device".to_owned(), device.clone()]);
        }
        if let Some(precision) = self.precision {
            flags.extend(["--precision".to_owned(), precision.to_string()]);
        }
        flags
    }

    pub fn select(&self) -> Result<Selected> {
        let selected = select(self.backend, self.device.as_deref())?;
        if matches!(selected, Selected::Wgpu { .. }) {
            announce_kernels()?;
        }
        Ok(selected)
    }
}
