//! Weights by name, in timm's layout: in memory, and as safetensors files.

mod file;
mod path;
mod state_dict;

pub(crate) use file::write_tensors;
pub use file::{read_metadata, read_safetensors, write_safetensors, write_safetensors_with};
pub use path::ParamPath;
pub use state_dict::{LoadReport, NamedTensor, load_state_dict, state_dict};
pub(crate) use state_dict::{Pick, named_tensors};

use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;

use crate::error::{Error, Result};

/// `module` with the weights of a timm safetensors file.
///
/// # Errors
/// [`Error::Weights`] that lists every missing, misshapen and unused key; only a classifier's keys may be unused.
pub fn load_pretrained<B: Backend, M: Module<B>>(module: M, path: &Path) -> Result<M> {
    let tensors = read_safetensors(path)?;
    let (module, mut report) = load_state_dict(module, tensors);
    report.ignore_classifier();
    if report.is_clean() {
        Ok(module)
    } else {
        Err(Error::Weights {
            path: path.to_path_buf(),
            reason: format!("does not fit the model: {report}"),
        })
    }
}

/// Writes the weights of `module` under timm's names and shapes; a half-written file never takes the final name.
///
/// # Errors
/// [`Error::Io`] or [`Error::Weights`] where the file cannot be written.
pub fn save<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<()> {
    write_safetensors(path, &state_dict(module))
}
