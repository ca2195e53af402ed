//! A piece of work on a device, from opening it to giving its memory back.

use crate::device::choice::Selected;
use crate::device::existing::reopened_if_lost;
use crate::device::guard::DeviceGuard;
use crate::error::Result;

/// Does `work` on the selected device, or on another one of its adapter if that failed in earlier work of this process.
///
/// # Errors
/// The device cannot be opened, or fails meanwhile; those of `work`.
pub(crate) fn on_device<R>(
    selected: &Selected,
    work: impl FnOnce(&Selected, &DeviceGuard) -> Result<R>,
) -> Result<R> {
    let selected = reopened_if_lost(selected.clone())?;
    let guard = DeviceGuard::install(&selected)?;
    // burn panics after a device fault; here that becomes an error with the cause
    let result = guard.catch(|| work(&selected, &guard));
    // the next work cannot use buffers of these sizes
    guard.free_unused();
    result?
}
