//! Properties of a guarded device for kernels and thresholds, by burn's names for it.

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};

use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use cubecl::client::ComputeClient;

use crate::device::adapters::{AdapterKind, AdapterSummary};
use crate::device::matrices::Matrices;
use crate::device::watchdog::Watchdog;

/// One guarded device.
struct RegisteredDevice {
    device: WgpuDevice,
    client: usize,
    adapter: Arc<AdapterSummary>,
    matrices: Option<Matrices>,
    watchdog: Arc<Watchdog>,
    queue: wgpu::Queue,
}

static KNOWN: RwLock<Vec<RegisteredDevice>> = RwLock::new(Vec::new());

/// A client does not say whose it is, but all clients of a device share its properties, for as long as the process lives.
pub(super) fn client_key(client: &ComputeClient<WgpuRuntime>) -> usize {
    std::ptr::from_ref(client.properties()).addr()
}

/// Remembers a device that was opened.
pub(super) fn remember(
    device: &WgpuDevice,
    adapter: &AdapterSummary,
    matrices: Option<Matrices>,
    watchdog: &Arc<Watchdog>,
    queue: &wgpu::Queue,
) {
    let known = RegisteredDevice {
        device: device.clone(),
        client: client_key(&WgpuRuntime::client(device)),
        adapter: Arc::new(adapter.clone()),
        matrices,
        watchdog: Arc::clone(watchdog),
        queue: queue.clone(),
    };
    KNOWN
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .push(known);
}

fn find<R>(
    is_it: impl Fn(&RegisteredDevice) -> bool,
    get: impl Fn(&RegisteredDevice) -> R,
) -> Option<R> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    known.iter().find(|known| is_it(known)).map(get)
}

/// What sort of adapter a client's device is; `None` where it has no guard.
pub(crate) fn kind_of(client: &ComputeClient<WgpuRuntime>) -> Option<AdapterKind> {
    let key = client_key(client);
    find(|known| known.client == key, |known| known.adapter.kind)
}

/// The adapter of a client's device, the same `Arc` for as long as the device is open; `None` where it has no guard.
pub(crate) fn adapter_behind(client: &ComputeClient<WgpuRuntime>) -> Option<Arc<AdapterSummary>> {
    let key = client_key(client);
    find(
        |known| known.client == key,
        |known| Arc::clone(&known.adapter),
    )
}

/// The cooperative matrices that the user asks a client's device for; `None` too where it has no guard.
pub(crate) fn matrices_of(client: &ComputeClient<WgpuRuntime>) -> Option<Matrices> {
    let key = client_key(client);
    find(|known| known.client == key, |known| known.matrices)?
}

/// The queue of a client's device; `None` where it has no guard.
pub(super) fn queue_of(client: &ComputeClient<WgpuRuntime>) -> Option<wgpu::Queue> {
    let key = client_key(client);
    find(|known| known.client == key, |known| known.queue.clone())
}

/// To be called after each launch: keeps burn from waiting without bound for what was launched long before.
///
/// # Panics
/// The device does not answer; [`super::GpuGuard::catch`] makes an error of it.
pub(crate) fn launched(client: &ComputeClient<WgpuRuntime>) {
    let key = client_key(client);
    let watchdog = find(|known| known.client == key, |known| known.watchdog.clone());
    if let Some(watchdog) = watchdog {
        watchdog.launched();
    }
}

/// Bytes of a GPU's own memory; `None` on the CPU, on a software adapter, and if the driver does not report it.
pub fn memory_bytes<D: Any>(device: &D) -> Option<u64> {
    let device = (device as &dyn Any).downcast_ref::<WgpuDevice>()?;
    let of_hardware = |known: &RegisteredDevice| match known.adapter.kind {
        AdapterKind::Software => None,
        _ => known.adapter.memory_bytes,
    };
    find(|known| known.device == *device, of_hardware)?
}

/// Waits, with a deadline, for all that was queued on a guarded device.
///
/// # Panics
/// The device does not answer; [`super::GpuGuard::catch`] makes an error of it.
pub(crate) fn synchronize_client(client: &ComputeClient<WgpuRuntime>) {
    let key = client_key(client);
    let watchdog = find(|known| known.client == key, |known| known.watchdog.clone());
    if let Some(watchdog) = watchdog {
        watchdog.synchronize_or_panic();
    }
}

/// To be called before a read that no guard makes: waits, with a deadline, for all that burn queued on a guarded device;
/// nothing on others.
///
/// # Panics
/// The device does not answer; [`super::GpuGuard::catch`] makes an error of it.
pub fn synchronize<D: Any>(device: &D) {
    let Some(device) = (device as &dyn Any).downcast_ref::<WgpuDevice>() else {
        return;
    };
    let watchdog = find(
        |known| known.device == *device,
        |known| known.watchdog.clone(),
    );
    if let Some(watchdog) = watchdog {
        watchdog.synchronize_or_panic();
    }
}
