//! Panics of device threads: noted as faults of their device, and not printed.
//!
//! cubecl runs each device on a thread named `DSD-<type>-<index>` (or `DSU-`), catches that thread's panics and goes on
//! with the next task. Only a panic hook sees them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Arc, Mutex, Once};

use burn_wgpu::WgpuDevice;
use cubecl::device::Device;

use crate::device::faults::{Fault, FaultKind, FaultLog};
use crate::lock::lock;
use crate::scope::restoring;

/// The guarded devices, by the `<type>-<index>` in their thread's name.
static GUARDED: Mutex<Vec<(String, Arc<FaultLog>)>> = Mutex::new(Vec::new());

/// The reports of `device`, collected from now on; `title` is its name in messages.
pub(crate) fn watch(device: &WgpuDevice, title: &str) -> Arc<FaultLog> {
    install_panic_hook();
    let id = device.to_id();
    let key = format!("{}-{}", id.type_id, id.index_id);
    let mut guarded = lock(&GUARDED);
    if let Some((_, log)) = guarded.iter().find(|(known, _)| *known == key) {
        return Arc::clone(log);
    }
    let log = Arc::new(FaultLog::new(title));
    guarded.push((key, Arc::clone(&log)));
    log
}

/// For the application's logger: until the next sync, cubecl reports a kernel that does not compile only in its log.
///
/// Optional. With it, [`super::GpuGuard::check`] sees such a kernel without waiting for the device.
pub fn observe_log(record: &log::Record<'_>) {
    if record.level() != log::Level::Error || !record.target().starts_with("cubecl") {
        return;
    }
    if let Some(log) = log_of_this_thread() {
        let report = record.args().to_string();
        if FaultKind::of_report(&report) == FaultKind::Shader {
            log.record(Fault::of_report(&report));
        }
    }
}

fn log_of_this_thread() -> Option<Arc<FaultLog>> {
    let thread = std::thread::current();
    let name = thread.name()?;
    let key = name
        .strip_prefix("DSD-")
        .or_else(|| name.strip_prefix("DSU-"))?;
    let guarded = lock(&GUARDED);
    let (_, log) = guarded.iter().find(|(known, _)| known == key)?;
    Some(Arc::clone(log))
}

/// Whether burn, on the thread of the device of `log`, or this crate made the call to wgpu that is under way.
pub(crate) fn is_call_for(log: &Arc<FaultLog>) -> bool {
    is_own_call() || log_of_this_thread().is_some_and(|own| Arc::ptr_eq(&own, log))
}

thread_local! {
    /// Whether [`own_call`] runs on this thread.
    static OWN_CALL: Cell<bool> = const { Cell::new(false) };
    /// `Some` while [`catch`] runs on this thread: what the hook heard instead of printing it.
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A call of this crate's to wgpu on a thread that is not the device's: its errors are faults of the device, not the application's.
pub(crate) fn own_call<R>(call: impl FnOnce() -> R) -> R {
    let outer = OWN_CALL.replace(true);
    restoring(|| OWN_CALL.set(outer), call)
}

/// Whether [`own_call`] runs on this thread.
fn is_own_call() -> bool {
    OWN_CALL.try_with(Cell::get).unwrap_or(false)
}

/// A panic that [`catch`] caught.
pub(crate) struct CaughtPanic {
    /// The panic's message and place.
    pub(crate) report: String,
    /// For `resume_unwind`.
    pub(crate) payload: Box<dyn Any + Send>,
}

/// Runs `work`; a panic of this thread comes back unprinted.
pub(crate) fn catch<R>(work: impl FnOnce() -> R) -> Result<R, CaughtPanic> {
    install_panic_hook();
    let outer = HEARD.replace(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(work));
    let heard = HEARD.replace(outer).unwrap_or_default();
    result.map_err(|payload| CaughtPanic {
        report: heard,
        payload,
    })
}

fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_ours(info) {
                previous(info);
            }
        }));
    });
}

/// Notes a panic of a device's thread or within [`catch`]; any other one is for the previous hook.
fn is_ours(info: &PanicHookInfo<'_>) -> bool {
    let message = info.payload_as_str().unwrap_or("panic without a message");
    if let Some(log) = log_of_this_thread() {
        log.record(Fault::of_report(message));
        return true;
    }
    let place = info
        .location()
        .map(|place| format!(" ({place})"))
        .unwrap_or_default();
    let note = |heard: &RefCell<Option<String>>| match heard.borrow_mut().as_mut() {
        Some(heard) => {
            *heard = format!("{message}{place}");
            true
        }
        None => false,
    };
    // `try_with`: the thread may be at its end.
    HEARD.try_with(note).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_tells_its_message_and_place() {
        let caught = catch(|| std::hint::black_box(Vec::<u8>::new())[3])
            .err()
            .unwrap();
        assert!(caught.report.contains("out of bounds"), "{}", caught.report);
        assert!(caught.report.contains("panics.rs"), "{}", caught.report);
    }

    #[test]
    fn a_device_thread_reports_to_its_own_device() {
        let broken = watch(&WgpuDevice::VirtualGpu(98), "broken");
        let sound = watch(&WgpuDevice::VirtualGpu(99), "sound");
        let work = || {
            let message = "[cubecl-wgpu] WGSL compilation failed for kernel `main`";
            let mut record = log::Record::builder();
            let record = record
                .target("cubecl_wgpu::backend")
                .level(log::Level::Error);
            observe_log(&record.args(format_args!("{message}")).build());
            panic!("can't allocate buffer of size: 1");
        };
        let thread = std::thread::Builder::new().name("DSD-2-98".to_owned());
        thread.spawn(work).unwrap().join().unwrap_err();
        let kinds: Vec<_> = broken.faults().iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, [FaultKind::Shader, FaultKind::OutOfMemory]);
        assert!(broken.is_broken() && !sound.is_broken());
        assert!(
            broken
                .error()
                .to_string()
                .starts_with("shader does not compile on broken")
        );
    }
}
