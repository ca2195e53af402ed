//! The devices of this process, and listening to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn_wgpu::{WgpuDevice, WgpuSetup};

use crate::device::adapters::AdapterSummary;
use crate::device::api::Api;
use crate::device::faults::{Fault, FaultKind, FaultLog};
use crate::device::guard::GpuGuard;
use crate::device::matrices::Matrices;
use crate::device::watchdog::Watchdog;
use crate::device::{known, panics};
use crate::error::Result;
use crate::lock::lock;

/// The application's callback for errors of its own calls.
pub(super) type OnError = Arc<dyn Fn(wgpu::Error) + Send + Sync>;

/// The application's callback for the loss of its device.
pub(super) type OnLost = Arc<dyn Fn(wgpu::DeviceLostReason, String) + Send + Sync>;

/// Whose calls a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// burn's alone.
    Burn,
    /// An application's too.
    App,
}

/// The devices of this process, each opened and guarded once.
#[derive(Default)]
pub(super) struct Guarded(HashMap<WgpuDevice, (GpuGuard, Owner)>);

impl Guarded {
    /// Held to the end of `work`: two threads must not both start one device.
    pub fn lock<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        static GUARDED: Mutex<Option<Guarded>> = Mutex::new(None);
        work(lock(&GUARDED).get_or_insert_default())
    }

    pub fn get(&self, device: &WgpuDevice) -> Option<(GpuGuard, Owner)> {
        self.0.get(device).cloned()
    }

    /// The devices of this crate's own on `adapter`: those without a fault, and the others.
    pub fn own(&self, adapter: &AdapterSummary) -> (Vec<GpuGuard>, Vec<GpuGuard>) {
        let own = self.0.values().filter(|(guard, owner)| {
            *owner == Owner::Burn && guard.adapter.is_same_adapter(adapter)
        });
        let own = own.map(|(guard, _)| guard.clone());
        own.partition(|guard| !guard.log.is_broken())
    }

    /// Turns wgpu's two callbacks and the device's thread into entries of one log. What happens on other threads of an
    /// application's device is the application's.
    pub fn watch(
        &mut self,
        device: &WgpuDevice,
        api: Api,
        setup: WgpuSetup,
        owner: Owner,
        on_error: Option<OnError>,
        on_lost: Option<OnLost>,
    ) -> Result<GpuGuard> {
        let adapter = AdapterSummary::new(0, api, &setup.adapter);
        let matrices = Matrices::asked_for(api, &setup)?;
        let log = panics::watch(device, &adapter.title());
        let watchdog = Watchdog::start(device, &setup, &adapter, &log)?;
        known::remember(device, &adapter, matrices, &watchdog, &setup.queue);
        let ear = Ear(Arc::clone(&log));
        setup.device.on_uncaptured_error(Arc::new(move |error| {
            if owner == Owner::Burn || panics::is_call_for(&ear.0) {
                ear.0.record(fault_of(&error));
            } else {
                apps_error(on_error.as_ref(), error);
            }
        }));
        let heard = Arc::clone(&log);
        setup
            .device
            .set_device_lost_callback(move |reason, message| {
                let kind = match FaultKind::of_report(&message) {
                    FaultKind::OutOfMemory => FaultKind::OutOfMemory,
                    _ => FaultKind::DeviceLost,
                };
                let report = format!("device lost ({reason:?}) {message}");
                heard.record(Fault::new(kind, &report));
                if let Some(on_lost) = &on_lost {
                    on_lost(reason, message);
                }
            });
        let guard = GpuGuard {
            device: device.clone(),
            setup,
            adapter: Arc::new(adapter),
            log,
            watchdog,
        };
        self.0.insert(device.clone(), (guard.clone(), owner));
        Ok(guard)
    }
}

/// Receives a device's errors. The guard keeps the device for good, so this is dropped only if another handler takes its
/// place, and the guard would miss all later errors.
struct Ear(Arc<FaultLog>);

impl Drop for Ear {
    fn drop(&mut self) {
        let report = "the application set another error handler on the device, or adopted it twice: pass the handler to \
                      ExistingDevice, adopt a device once, and keep the result";
        self.0.record(Fault::new(FaultKind::Other, report));
    }
}

fn fault_of(error: &wgpu::Error) -> Fault {
    let report = match std::error::Error::source(error) {
        // Out of memory: the error itself says no more than that.
        Some(source) if matches!(error, wgpu::Error::OutOfMemory { .. }) => {
            format!("{error}: {source}")
        }
        _ => error.to_string(),
    };
    let kind = match error {
        wgpu::Error::OutOfMemory { .. } => FaultKind::OutOfMemory,
        wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => {
            match FaultKind::of_report(&report) {
                FaultKind::Other => FaultKind::Validation,
                kind => kind,
            }
        }
    };
    Fault::new(kind, &report)
}

/// An error of an application's own call, which is not to be lost.
#[expect(
    clippy::panic,
    reason = "what wgpu does where an application set no handler"
)]
fn apps_error(on_error: Option<&OnError>, error: wgpu::Error) {
    match on_error {
        Some(on_error) => on_error(error),
        None => panic!("wgpu error: {error}"),
    }
}
