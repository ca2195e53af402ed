//! Opens a device, once in a process, and observes its errors.

use std::sync::{Arc, Once};

use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, graphics, init_setup};
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use crate::device::adapters::{AdapterKind, AdapterSummary, adapter_of};
use crate::device::api::Api;
use crate::device::choice::Selected;
use crate::device::faults::Fault;
use crate::device::guard::{DeviceGuard, GpuGuard};
use crate::device::registry::{Guarded, Owner};
use crate::device::{panics, pools};
use crate::error::{Error, Result};

/// Kernels that cubecl batches into one submission. From 64 writes on it waits for the GPU, and a launch whose sizes are not
/// yet on the device (`kept_words`) makes one.
const TASKS_MAX: usize = 32;
/// The same on an integrated GPU. amdgpu, Metal and Intel's drivers end a *submission* that takes longer than 2 to 10
/// seconds, and one product of ViT-S at 64 images (30 GFLOP) takes a third of a second at 100 GFLOP/s; 125 submissions a
/// step instead of 31 cost such a GPU about 10 ms of several seconds (estimates: no such GPU was at hand).
const INTEGRATED_TASKS_MAX: usize = 8;

/// Starts and guards a device of the API that is searched first (`IBOT_API`; else Metal on macOS, Vulkan elsewhere), once;
/// later calls share the guard.
///
/// [`super::DeviceGuard::install`] does the same for a selected adapter, whatever its API.
///
/// # Errors
/// The device cannot be opened or is in use without a guard.
pub fn init_wgpu(device: &WgpuDevice) -> Result<GpuGuard> {
    init(device, Api::preferred()?, None)
}

/// `adapter` is the one that `device` means, where that is known.
pub(super) fn init(
    device: &WgpuDevice,
    api: Api,
    adapter: Option<&AdapterSummary>,
) -> Result<GpuGuard> {
    Guarded::lock(|guarded| {
        if let Some((guard, _)) = guarded.get(device) {
            if guard.adapter.api == api {
                return Ok(guard);
            }
            return Err(Error::Device(format!(
                "{device:?} is already open through {}, and one process cannot open it through {api} as well",
                guard.adapter.api
            )));
        }
        if matches!(device, WgpuDevice::Existing(_)) {
            return Err(Error::Device(format!(
                "{device:?} was created elsewhere; guard it with ibot::device::ExistingDevice"
            )));
        }
        warn_of_features();
        use_one_stream()?;
        let listed = || adapter_of(device, api);
        let adapter = adapter.cloned().or_else(listed);
        let setup = open(device, api, adapter.as_ref())?;
        guarded.watch(device, api, setup, Owner::Burn, None, None)
    })
}

impl DeviceGuard {
    /// Starts the selected device and guards it. Call it before any other use of that device.
    ///
    /// # Errors
    /// The device cannot be opened, is in use without a guard, or is another adapter than the one selected.
    pub fn install(selected: &Selected) -> Result<Self> {
        let Selected::Wgpu { device, adapter } = selected else {
            return Ok(Self::Cpu);
        };
        let guard = init(device, adapter.api, Some(adapter))?;
        if guard.adapter().is_same_adapter(adapter) {
            return Ok(Self::Gpu(guard));
        }
        Err(Error::Device(format!(
            "{} was selected, but cubecl opened {}: the drivers' list of adapters changed; start again",
            adapter.title(),
            guard.adapter().title()
        )))
    }
}

/// How burn is to use the adapter; as it would by itself where it is not known.
pub(super) fn runtime_options(adapter: Option<&AdapterSummary>) -> RuntimeOptions {
    let Some(adapter) = adapter else {
        return RuntimeOptions {
            tasks_max: TASKS_MAX,
            ..RuntimeOptions::default()
        };
    };
    RuntimeOptions {
        tasks_max: match adapter.kind {
            AdapterKind::Integrated => INTEGRATED_TASKS_MAX,
            _ => TASKS_MAX,
        },
        memory_config: pools::configuration(adapter.limits.binding_bytes, adapter.memory_bytes),
    }
}

/// What is known against the features of this build, once.
fn warn_of_features() {
    static WARNED: Once = Once::new();
    if cfg!(feature = "autotune") {
        // burn issues 5257, 5079, 5626
        WARNED.call_once(|| {
            log::warn!(
                "this build has the feature autotune: it selects the fastest of burn's kernels, and one may be fast because \
                 it is wrong; run `ibot verify` before you trust it"
            );
        });
    }
}

/// One stream for all threads: with more, cubecl 0.10 gives a buffer to one thread that another still reads.
pub(super) fn use_one_stream() -> Result<()> {
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.streaming.max_streams = 1;
    let mut storage = CubeClRuntimeConfig::storage().lock();
    match storage.as_ref() {
        None => *storage = Some(Arc::new(config)),
        Some(config) if config.streaming.max_streams == 1 => {}
        Some(_) => {
            let reason = "burn's GPU runtime was used before its guard was installed; install the guard first";
            return Err(Error::Device(reason.to_owned()));
        }
    }
    Ok(())
}

/// Opens the device; cubecl panics where it cannot.
fn open(device: &WgpuDevice, api: Api, adapter: Option<&AdapterSummary>) -> Result<WgpuSetup> {
    let options = runtime_options(adapter);
    let setup = panics::catch(|| match api {
        Api::Vulkan => init_setup::<graphics::Vulkan>(device, options),
        Api::Metal => init_setup::<graphics::Metal>(device, options),
        Api::Dx12 => init_setup::<graphics::Dx12>(device, options),
        Api::Gl => init_setup::<graphics::OpenGl>(device, options),
    });
    setup.map_err(|panic| {
        let fault = Fault::of_report(&panic.report);
        Error::Device(format!(
            "{device:?} cannot be opened through {api}: {}\n`ibot devices` lists the adapters; another program may \
             hold the GPU's memory; `backend` flex computes on the CPU. If the driver refuses a device with all \
             features of the adapter, which burn requests, a program that uses the library can open one with fewer: \
             ibot::device::device_descriptor and ExistingDevice",
            fault.report
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AdapterLimits;

    #[test]
    fn an_integrated_gpu_gets_short_submissions() {
        let adapter = |kind| AdapterSummary {
            index: 0,
            name: "adapter".into(),
            kind,
            api: Api::Vulkan,
            driver: String::new(),
            driver_info: String::new(),
            id: String::new(),
            pci_bus: String::new(),
            memory_bytes: None,
            has_f16: false,
            limits: AdapterLimits::from(wgpu::Limits::defaults()),
        };
        let tasks = |kind| runtime_options(Some(&adapter(kind))).tasks_max;
        assert_eq!(tasks(AdapterKind::Integrated), INTEGRATED_TASKS_MAX);
        assert_eq!(tasks(AdapterKind::Discrete), TASKS_MAX);
        assert_eq!(tasks(AdapterKind::Software), TASKS_MAX);
        assert_eq!(runtime_options(None).tasks_max, TASKS_MAX);
    }
}
