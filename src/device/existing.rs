//! A wgpu device that burn did not open: an application's own, or an adapter reopened after its device was lost.
//!
//! cubecl asks the *adapter* which features and workgroup sizes its kernels may use (cubecl-wgpu 0.10.0, `create_server`),
//! so a device that was requested with less takes kernels that it cannot run. [`device_descriptor`] requests enough.

use std::sync::{Arc, Mutex};

use burn_wgpu::{WgpuSetup, init_device};
use wgpu::Features;

use crate::device::adapters::AdapterSummary;
use crate::device::api::Api;
use crate::device::choice::Selected;
use crate::device::guard::GpuGuard;
use crate::device::matrices::Cooperative;
use crate::device::opening::{runtime_options, use_one_stream};
use crate::device::panics;
use crate::device::registry::{Guarded, OnError, OnLost, Owner};
use crate::error::{Error, Result};
use crate::lock::lock;

/// Features that burn uses wherever the adapter has them.
const USED: [(Features, &str); 6] = [
    (Features::SHADER_F16, "SHADER_F16"),
    (Features::SHADER_F64, "SHADER_F64"),
    (Features::SHADER_INT64, "SHADER_INT64"),
    (Features::SHADER_FLOAT32_ATOMIC, "SHADER_FLOAT32_ATOMIC"),
    (Features::SUBGROUP, "SUBGROUP"),
    (Features::TIMESTAMP_QUERY, "TIMESTAMP_QUERY"),
];

/// An application's wgpu device, shared with the application.
///
/// wgpu has one error handler and one device-lost callback per device, and cannot return them. [`ExistingDevice::adopt`]
/// replaces both: failed kernels must be noticed, or wrong numbers would get out. The application's own callbacks go to
/// [`ExistingDevice::on_uncaptured_error`] and [`ExistingDevice::on_device_lost`] instead, which are called as before.
/// If another error handler later replaces the guard's, all jobs on the device fail with an error that says so.
pub struct ExistingDevice {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    on_error: Option<OnError>,
    on_lost: Option<OnLost>,
}

impl ExistingDevice {
    /// The four handles, which are cheap to clone. An eframe 0.35 app opens them itself and gives them to eframe as
    /// `WgpuSetup::Existing`: its `RenderState` does not have the instance.
    pub fn new(
        instance: &wgpu::Instance,
        adapter: &wgpu::Adapter,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> Self {
        Self {
            instance: instance.clone(),
            adapter: adapter.clone(),
            device: device.clone(),
            queue: queue.clone(),
            on_error: None,
            on_lost: None,
        }
    }

    /// Called for errors of calls that are not burn's. Without it they end in a panic, as wgpu's own default has it.
    #[must_use]
    pub fn on_uncaptured_error(
        mut self,
        call: impl Fn(wgpu::Error) + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Some(Arc::new(call));
        self
    }

    /// Called when the device is lost, after burn's jobs know.
    #[must_use]
    pub fn on_device_lost(
        mut self,
        call: impl Fn(wgpu::DeviceLostReason, String) + Send + Sync + 'static,
    ) -> Self {
        self.on_lost = Some(Arc::new(call));
        self
    }

    /// Makes the device one that models and runs can be put on. Once for each device: the result can be cloned.
    ///
    /// # Errors
    /// [`Error::Device`] where the device was requested with less than burn would use, with what is missing; where it is
    /// no compute device; and in a build whose kernels are not WGSL (feature `vulkan`).
    pub fn adopt(self) -> Result<Selected> {
        self.adopt_for(Owner::App)
    }

    fn adopt_for(self, owner: Owner) -> Result<Selected> {
        let api = api_of(&self.adapter)?;
        let adapter = AdapterSummary::new(0, api, &self.adapter);
        check(&adapter, &self.adapter, &self.device, owner)?;
        // what this device may bind, which may be less than its adapter could
        let granted = AdapterSummary {
            limits: self.device.limits().into(),
            ..adapter.clone()
        };
        let Self {
            on_error, on_lost, ..
        } = self;
        let setup = WgpuSetup {
            instance: self.instance,
            adapter: self.adapter,
            device: self.device,
            queue: self.queue,
            backend: api.backend(),
        };
        let device = Guarded::lock(|guarded| {
            use_one_stream()?;
            let (options, theirs) = (runtime_options(Some(&granted)), setup.clone());
            let device = panics::catch(move || init_device(theirs, options)).map_err(|panic| {
                Error::Device(format!(
                    "burn cannot compute on {}: {}",
                    adapter.title(),
                    panic.report
                ))
            })?;
            guarded.watch(&device, api, setup, owner, on_error, on_lost)?;
            Ok::<_, Error>(device)
        })?;
        Ok(Selected::Wgpu { device, adapter })
    }
}

impl std::fmt::Debug for ExistingDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExistingDevice({:?})", self.adapter.get_info())
    }
}

/// How to request a device of `adapter` that burn can share: the adapter's limits, and those of its features that burn
/// uses, with cooperative matrices where `IBOT_COOPERATIVE` asks for them. An application adds its own features to
/// `required_features`.
#[must_use]
pub fn device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    let used = USED
        .iter()
        .fold(Features::empty(), |all, used| all | used.0);
    // a name that is none is told where the device is watched
    let (asked, experimental_features) = match Cooperative::asked_for() {
        Ok(Some(_)) => (
            Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            // SAFETY: the user asked for kernels with it; this crate uses no other experimental feature.
            unsafe { wgpu::ExperimentalFeatures::enabled() },
        ),
        _ => (Features::empty(), wgpu::ExperimentalFeatures::disabled()),
    };
    wgpu::DeviceDescriptor {
        label: Some("ibot"),
        required_features: adapter.features() & (used | asked),
        required_limits: adapter.limits(),
        experimental_features,
        // burn takes large pieces of memory as it is
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..wgpu::DeviceDescriptor::default()
    }
}

/// A working device of the same adapter: the selected one or, if that failed, another one that is open, or the adapter opened
/// again. The failed device gives its memory back.
///
/// # Errors
/// [`Error::Device`] where the adapter cannot be opened, or the failed device is an application's own.
pub fn reopened_if_lost(selected: Selected) -> Result<Selected> {
    let Selected::Wgpu { device, adapter } = &selected else {
        return Ok(selected);
    };
    let known = Guarded::lock(|guarded| guarded.get(device));
    let Some((guard, owner)) = known else {
        return Ok(selected);
    };
    let Err(lost) = guard.check() else {
        return Ok(selected);
    };
    if owner == Owner::App {
        return Err(Error::Device(format!(
            "{lost}\nThe device belongs to the application: adopt another one, or compute on the CPU"
        )));
    }
    // two threads that find it broken open it once
    static OPENING: Mutex<()> = Mutex::new(());
    let _opening = lock(&OPENING);
    let (sound, broken) = Guarded::lock(|guarded| guarded.own(adapter));
    if let Some(open) = sound.into_iter().next() {
        return Ok(Selected::Wgpu {
            device: open.device,
            adapter: adapter.clone(),
        });
    }
    broken.iter().for_each(GpuGuard::destroy);
    log::info!("reopening {}: {lost}", adapter.title());
    open_again(adapter)
}

/// A second device of the same adapter.
fn open_again(adapter: &AdapterSummary) -> Result<Selected> {
    let failed =
        |reason: String| Error::Device(format!("{} cannot be opened: {reason}", adapter.title()));
    let backend = adapter.api.backend();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: backend.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = cubecl::future::block_on(instance.enumerate_adapters(backend.into()));
    let same =
        |found: &wgpu::Adapter| AdapterSummary::new(0, adapter.api, found).is_same_adapter(adapter);
    let found = found.into_iter().find(same);
    let found = found.ok_or_else(|| failed("it no longer exists".into()))?;
    let request = found.request_device(&device_descriptor(&found));
    let (device, queue) =
        cubecl::future::block_on(request).map_err(|error| failed(error.to_string()))?;
    ExistingDevice::new(&instance, &found, &device, &queue).adopt_for(Owner::Burn)
}

fn api_of(adapter: &wgpu::Adapter) -> Result<Api> {
    let backend = adapter.get_info().backend;
    let known = [Api::Vulkan, Api::Metal, Api::Dx12, Api::Gl];
    let api = known.into_iter().find(|api| api.backend() == backend);
    api.ok_or_else(|| Error::Device(format!("burn cannot compute through {backend}")))
}

/// Whether the device has all that burn would use on its adapter.
fn check(
    summary: &AdapterSummary,
    adapter: &wgpu::Adapter,
    device: &wgpu::Device,
    owner: Owner,
) -> Result<()> {
    let title = summary.title();
    if cfg!(feature = "vulkan") && summary.api == Api::Vulkan {
        let reason = match owner {
            Owner::App => "cannot share an application's device: build without it",
            Owner::Burn => "cannot open a device again: start the program again",
        };
        return Err(Error::Device(format!(
            "{title}: a build with the feature vulkan {reason}"
        )));
    }
    let mut lacks = lacking_features(adapter.features(), device.features());
    lacks.extend(lacking_limits(&adapter.limits(), &device.limits()));
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Error::Device(format!(
        "the application's device on {title} lacks features or limits that burn uses there: {}. Request it with \
         ibot::device::device_descriptor(&adapter), or let ibot open a device of its own",
        lacks.join(", ")
    )))
}

fn lacking_features(adapter: Features, device: Features) -> Vec<String> {
    let lacks = |feature: Features| adapter.contains(feature) && !device.contains(feature);
    let used = USED.iter().filter(|(feature, _)| lacks(*feature));
    used.map(|(_, name)| format!("feature {name}")).collect()
}

/// Of what cubecl takes from the adapter, the device must have all; of the rest, what wgpu grants everywhere, so that a
/// model that fits elsewhere fits here.
fn lacking_limits(adapter: &wgpu::Limits, device: &wgpu::Limits) -> Vec<String> {
    let portable = wgpu::Limits::defaults();
    let of = |limits: &wgpu::Limits| {
        [
            limits.max_compute_invocations_per_workgroup.into(),
            limits.max_compute_workgroup_size_x.into(),
            limits.max_compute_workgroup_size_y.into(),
            limits.max_compute_workgroup_size_z.into(),
            limits.max_compute_workgroups_per_dimension.into(),
            limits.max_storage_buffers_per_shader_stage.into(),
            limits.max_compute_workgroup_storage_size.into(),
            limits.max_storage_buffer_binding_size,
            limits.max_buffer_size,
        ]
    };
    const NAMES: [&str; 9] = [
        "max_compute_invocations_per_workgroup",
        "max_compute_workgroup_size_x",
        "max_compute_workgroup_size_y",
        "max_compute_workgroup_size_z",
        "max_compute_workgroups_per_dimension",
        "max_storage_buffers_per_shader_stage",
        "max_compute_workgroup_storage_size",
        "max_storage_buffer_binding_size",
        "max_buffer_size",
    ];
    /// So many of them are the adapter's.
    const OF_ADAPTER: usize = 5;
    let has: [u64; 9] = of(device);
    let mut needs: [u64; 9] = of(&portable);
    needs[..OF_ADAPTER].copy_from_slice(&of(adapter)[..OF_ADAPTER]);
    // cubecl takes pieces of memory as large as a binding may be
    needs[8] = needs[8].max(has[7].min(adapter.max_buffer_size));
    let lacks = NAMES.iter().zip(has.iter().zip(needs));
    let lacks = lacks.filter(|(_, (has, needs))| *has < needs);
    lacks
        .map(|(name, (has, needs))| format!("limit {name} {has} of {needs}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_must_have_what_burn_uses_of_its_adapter() {
        let adapter = Features::SHADER_F16 | Features::SUBGROUP | Features::DEPTH_CLIP_CONTROL;
        let device = Features::SUBGROUP;
        assert_eq!(lacking_features(adapter, device), ["feature SHADER_F16"]);
        assert!(lacking_features(Features::empty(), Features::empty()).is_empty());
        assert!(lacking_features(adapter, adapter).is_empty());
    }

    #[test]
    fn limits_that_cubecl_reads_from_the_adapter_must_be_granted() {
        let plain = wgpu::Limits::defaults();
        assert!(lacking_limits(&plain, &plain).is_empty());
        let large = wgpu::Limits {
            max_compute_invocations_per_workgroup: 1024,
            max_storage_buffers_per_shader_stage: 32,
            ..plain.clone()
        };
        assert_eq!(
            lacking_limits(&large, &plain),
            ["limit max_compute_invocations_per_workgroup 256 of 1024"]
        );
        assert!(lacking_limits(&plain, &large).is_empty());
    }

    #[test]
    fn a_device_without_compute_is_refused() {
        let plain = wgpu::Limits::defaults();
        let lacks = lacking_limits(&plain, &wgpu::Limits::downlevel_webgl2_defaults());
        let all = lacks.join(" ");
        assert!(
            all.contains("max_storage_buffer_binding_size 0 of"),
            "{all}"
        );
        let small = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 30,
            ..plain
        };
        let adapter = wgpu::Limits {
            max_buffer_size: 1 << 31,
            ..small.clone()
        };
        assert_eq!(
            lacking_limits(&adapter, &small),
            ["limit max_buffer_size 268435456 of 1073741824"]
        );
    }
}
