//! Which device a run computes on, and how its faults become errors.
//!
//! - [`adapters`]: the GPUs that wgpu can see, and the exact one behind a number or a name
//! - [`choice`]: a backend and, if given, a device's number or name -> one device, with the reason as a sentence
//! - [`guard`]: cubecl swallows GPU errors; the guard collects them, so that no number computed after a fault gets out
//! - [`watchdog`]: no wait without bound; `witness`: a counter that shows whether work was done
//! - `opening`: a device is opened once and observed; [`existing`]: the same for one that an application opened; `session`: a piece
//!   of work, on a device that is opened again if it failed before
//! - `known`: properties of a device for kernels and thresholds; `capacity`: a GPU's memory; `pools`: how it is allocated;
//!   `kept_words`: sizes that kernels take, on the device once; `matrices`: cooperative matrices, where they are asked for
//! - [`faults`]: what a fault is, and the log of one device's faults
//! - [`panics`]: the panics of device threads, as faults

pub mod adapters;
mod api;
mod capacity;
pub mod choice;
pub mod existing;
pub mod faults;
pub mod guard;
mod kept_words;
mod known;
mod matrices;
mod opening;
pub mod panics;
mod pools;
mod registry;
mod session;
pub mod watchdog;
mod witness;

pub use adapters::{AdapterKind, AdapterLimits, AdapterSummary, list_adapters};
pub use api::{API_VARIABLE, Api};
pub use choice::{BackendChoice, DeviceChoice, Selected, auto_choice, choose, is_wsl, select};
pub use existing::{ExistingDevice, device_descriptor, reopened_if_lost};
pub use faults::{Fault, FaultKind};
pub use guard::{DeviceGuard, GpuGuard};
pub(crate) use kept_words::kept;
pub(crate) use known::{adapter_behind, kind_of, launched, matrices_of, synchronize_client};
pub use known::{memory_bytes, synchronize};
pub use matrices::{Cooperative, MATRICES_VARIABLE, Matrices};
#[cfg(test)]
pub(crate) use matrices::{LEAST_MATRIX_WORKGROUP_BYTES, MATRIX_SUBGROUPS};
pub use opening::init_wgpu;
pub use panics::observe_log;
pub(crate) use session::on_device;
pub use watchdog::{
    DEADLINE_VARIABLE, end_process, end_process_at_once, on_no_answer, time_waiting,
};
pub use witness::WITNESS_VARIABLE;
