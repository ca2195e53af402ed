//! The extension module `ibot_train._native`: what the Python package ibot-train calls.
//!
//! - `embedder`: a model on a thread of its own; `training`: a run on one, and its `events` as JSON; `choice`: words as arguments
//! - `errors`: the library's errors as Python's exceptions, with Python's names; `waiting`: Ctrl-C while Rust works
//!
//! Names, defaults and documentation are those of `python/ibot_train`; nothing here is for users.

mod choice;
mod embedder;
mod errors;
mod events;
mod training;
mod waiting;

use pyo3::prelude::*;

/// The compiled part of ibot_train.
#[pymodule]
mod _native {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::embedder::Embedder;
    #[pymodule_export]
    use crate::training::Training;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn start(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        ibot_cli::log_to_stderr();
        Ok(())
    }

    /// Runs the command `ibot` with these arguments, the first of which is its name, and ends the process.
    #[pyfunction]
    fn command(py: Python<'_>, arguments: Vec<OsString>) {
        py.detach(|| ibot_cli::main(&arguments));
    }

    /// The model file of a run to use: the best teacher of a run that keeps one, else the last.
    #[pyfunction]
    fn teacher(run: PathBuf) -> OsString {
        let last = || run.join("teacher.safetensors");
        ibot::train::best_teacher(&run).unwrap_or_else(last).into()
    }

    /// The GPUs that wgpu sees, as a JSON array.
    #[pyfunction]
    fn devices(py: Python<'_>) -> PyResult<String> {
        let adapters = py.detach(ibot::device::list_adapters);
        let adapters = adapters.map_err(crate::errors::raised)?;
        Ok(serde_json::json!(adapters).to_string())
    }
}
