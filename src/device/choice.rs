//! A backend and, if given, a device's number or name -> one device, with the reason as a sentence. Nothing falls back silently.

mod no_adapter;

use std::fmt;
use std::str::FromStr;

use burn_wgpu::WgpuDevice;
use serde::{Deserialize, Serialize};

use crate::device::adapters::{AdapterKind, AdapterSummary, list_adapters, wgpu_device};
use crate::device::api::Api;
use crate::device::choice::no_adapter::{WSL, no_adapter};
use crate::error::{Error, Result};

pub use no_adapter::is_wsl;

/// The backend that the user requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// A GPU if there is one, else Flex.
    #[default]
    Auto,
    /// A GPU, or a software Vulkan driver.
    Wgpu,
    /// The CPU, through burn-flex: the faster of the two.
    Flex,
    /// The CPU, through burn-ndarray.
    NdArray,
}

impl BackendChoice {
    const ALL: [Self; 4] = [Self::Auto, Self::Wgpu, Self::Flex, Self::NdArray];

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Wgpu => "wgpu",
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = |choice: &Self| choice.name().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            Error::config("backend", text, "must be one of auto, wgpu, flex, ndarray")
        })
    }
}

/// The device that a run computes on. Displayed, it is the first line of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// One adapter, through wgpu.
    Wgpu {
        /// The adapter's name in cubecl.
        device: WgpuDevice,
        /// What the adapter is.
        adapter: AdapterSummary,
    },
    /// The CPU, through burn-flex.
    Flex,
    /// The CPU, through burn-ndarray.
    NdArray,
}

impl Selected {
    /// The backend that it is.
    pub fn backend(&self) -> BackendChoice {
        match self {
            Self::Wgpu { .. } => BackendChoice::Wgpu,
            Self::Flex => BackendChoice::Flex,
            Self::NdArray => BackendChoice::NdArray,
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = rayon::current_num_threads();
        match self {
            Self::Wgpu { adapter, .. } => write!(f, "backend wgpu: {}", adapter.title()),
            Self::Flex => write!(f, "backend flex: CPU, crate burn-flex, {threads} threads"),
            Self::NdArray => write!(
                f,
                "backend ndarray: CPU, crate burn-ndarray, {threads} threads"
            ),
        }
    }
}

/// A selected device, and why it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device.
    pub selected: Selected,
    /// Why, as a sentence.
    pub reason: String,
}

impl DeviceChoice {
    fn new(selected: Selected, reason: impl Into<String>) -> Self {
        Self {
            selected,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.selected, self.reason)
    }
}

/// [`choose`], with the reason in the log.
///
/// # Errors
/// See [`choose`].
pub fn select(choice: BackendChoice, device: Option<&str>) -> Result<Selected> {
    let chosen = choose(choice, device)?;
    log::info!("{chosen}");
    if choice == BackendChoice::Auto && device.is_none() {
        warn_of_small_gpu(&chosen.selected);
    }
    Ok(chosen.selected)
}

/// An old processor's GPU may be slower than its cores; Apple's GPUs, which only Metal reaches, are not.
fn warn_of_small_gpu(selected: &Selected) {
    if let Selected::Wgpu { adapter, .. } = selected
        && adapter.kind == AdapterKind::Integrated
        && adapter.api != Api::Metal
    {
        log::warn!(
            "{} is integrated: `backend` flex may be faster; compare with `ibot bench`",
            adapter.name
        );
    }
}

/// The device for a backend and, if given, a device's number or name, with the reason.
///
/// `device` is a number of `ibot devices` or a part of an adapter's name, whatever the case. `auto` takes hardware
/// only: discrete, then integrated, then virtual; else Flex. `wgpu` also takes software if there is nothing else. What
/// is reached by OpenGL, which is untested, is taken only by `device`.
///
/// # Errors
/// - [`Error::Device`] if `wgpu` is requested and there is no adapter
/// - [`Error::Config`] where `device` fits none, or more than one, or goes with a CPU backend
pub fn choose(choice: BackendChoice, device: Option<&str>) -> Result<DeviceChoice> {
    match choice {
        BackendChoice::Auto | BackendChoice::Wgpu => {
            choose_among(&list_adapters()?, choice, device)
        }
        BackendChoice::Flex | BackendChoice::NdArray => choose_among(&[], choice, device),
    }
}

/// What `auto` takes on this machine, and why.
///
/// # Errors
/// `IBOT_API` names no API of this system.
pub fn auto_choice() -> Result<DeviceChoice> {
    Ok(auto_among(&list_adapters()?))
}

fn choose_among(
    adapters: &[AdapterSummary],
    choice: BackendChoice,
    device: Option<&str>,
) -> Result<DeviceChoice> {
    let cpu = match (choice, device) {
        (BackendChoice::Auto, None) => return Ok(auto_among(adapters)),
        (BackendChoice::Auto | BackendChoice::Wgpu, Some(wanted)) => {
            return named_among(adapters, choice, wanted);
        }
        (BackendChoice::Wgpu, None) => return wgpu_among(adapters),
        (BackendChoice::Flex, _) => Selected::Flex,
        (BackendChoice::NdArray, _) => Selected::NdArray,
    };
    match device {
        None => Ok(DeviceChoice::new(cpu, "as requested")),
        Some(wanted) => Err(Error::config(
            "device",
            wanted,
            format!(
                "backend {choice} computes on the CPU; leave `device` out, or use `backend` wgpu"
            ),
        )),
    }
}

/// The best adapter that is hardware, reached through an API made for computing, and has a name in cubecl.
fn best_hardware(adapters: &[AdapterSummary]) -> Option<Selected> {
    let hardware = |a: &&AdapterSummary| !a.is_software() && a.api != Api::Gl;
    let mut hardware: Vec<_> = adapters.iter().filter(hardware).collect();
    // Stable: within one kind, the order of the list, which is the order of APIs.
    hardware.sort_by_key(|a| a.kind);
    let hardware = hardware.into_iter();
    let mut hardware = hardware.map(|adapter| with_more_memory(adapters, adapter));
    hardware.find_map(|adapter| {
        let device = wgpu_device(adapters, adapter.index).ok()?;
        let adapter = adapter.clone();
        Some(Selected::Wgpu { device, adapter })
    })
}

/// The same integrated GPU through an API that gives it more than twice the memory, where there is one: AMD's Vulkan driver for Windows
/// has only the part that the firmware keeps for the GPU (256 MiB to 4 GiB), Direct3D 12 half of the machine's. Not where f16 would be lost:
/// by Direct3D 12 it needs a compiler that Windows has not. Not tried on such a GPU.
fn with_more_memory<'a>(
    adapters: &'a [AdapterSummary],
    adapter: &'a AdapterSummary,
) -> &'a AdapterSummary {
    let Some(bytes) = adapter.memory_bytes else {
        return adapter;
    };
    let is_same = |other: &&AdapterSummary| {
        adapter.kind == AdapterKind::Integrated
            && (other.kind, &other.id) == (adapter.kind, &adapter.id)
            && (other.has_f16 || !adapter.has_f16)
            && other.api != Api::Gl
    };
    let others = adapters.iter().filter(is_same);
    let others = others.filter(|other| other.memory_bytes.is_some_and(|more| more / 2 > bytes));
    others
        .max_by_key(|other| other.memory_bytes)
        .unwrap_or(adapter)
}

fn auto_among(adapters: &[AdapterSummary]) -> DeviceChoice {
    if let Some(selected) = best_hardware(adapters) {
        let kind = match &selected {
            Selected::Wgpu { adapter, .. } => adapter.kind,
            Selected::Flex | Selected::NdArray => AdapterKind::Other,
        };
        return DeviceChoice::new(selected, format!("auto takes the first {kind}"));
    }
    let software = adapters
        .iter()
        .find(|a| a.is_software() && a.api != Api::Gl);
    let reason = match (software, adapters.first()) {
        (Some(adapter), _) => format!(
            "auto takes the CPU: wgpu finds no GPU, only the software adapter {}, which is slower than burn-flex; `backend` wgpu takes it{}",
            adapter.name,
            if is_wsl() {
                format!(". {WSL}")
            } else {
                String::new()
            }
        ),
        (None, Some(adapter)) => format!(
            "auto takes the CPU: {} is reached by OpenGL, which is untested; `backend` wgpu `device` {} \
             takes it",
            adapter.name, adapter.index
        ),
        (None, None) => "auto takes the CPU: wgpu finds no adapter".to_owned(),
    };
    DeviceChoice::new(Selected::Flex, reason)
}

fn wgpu_among(adapters: &[AdapterSummary]) -> Result<DeviceChoice> {
    if let Some(selected) = best_hardware(adapters) {
        return Ok(DeviceChoice::new(selected, "the best adapter"));
    }
    let software = |a: &&AdapterSummary| a.is_software() && a.api != Api::Gl;
    let Some(adapter) = adapters.iter().find(software) else {
        return Err(match adapters.first() {
            Some(adapter) => Error::Device(format!(
                "{} is reached by OpenGL, which is untested: `device` {} takes it, `backend` flex computes on the CPU",
                adapter.title(),
                adapter.index
            )),
            None => no_adapter(),
        });
    };
    let selected = Selected::Wgpu {
        device: wgpu_device(adapters, adapter.index)?,
        adapter: adapter.clone(),
    };
    Ok(DeviceChoice::new(
        selected,
        "there is no GPU: a software driver on the CPU is correct but slow",
    ))
}

fn named_among(
    adapters: &[AdapterSummary],
    choice: BackendChoice,
    wanted: &str,
) -> Result<DeviceChoice> {
    if adapters.is_empty() {
        return Err(no_adapter());
    }
    let adapter = find(adapters, wanted)?;
    if choice == BackendChoice::Auto && adapter.is_software() {
        return Err(Error::config(
            "device",
            wanted,
            format!(
                "{} is software, which auto never takes; add `backend` wgpu",
                adapter.title()
            ),
        ));
    }
    let selected = Selected::Wgpu {
        device: wgpu_device(adapters, adapter.index)?,
        adapter: adapter.clone(),
    };
    Ok(DeviceChoice::new(
        selected,
        format!("requested as device {wanted}"),
    ))
}

/// The adapter that a number or a part of a name means.
///
/// A number beyond the list is looked for in the names where it has three digits, as a whole word: `4090`.
fn find<'a>(adapters: &'a [AdapterSummary], wanted: &str) -> Result<&'a AdapterSummary> {
    let wanted = wanted.trim();
    let number = wanted.parse::<usize>().ok();
    if let Some(adapter) = number.and_then(|index| adapters.get(index)) {
        return Ok(adapter);
    }
    let part = wanted.to_lowercase();
    let in_name = |a: &&AdapterSummary| match number {
        Some(_) => {
            let mut words = a.name.split(|c: char| !c.is_alphanumeric());
            part.len() >= 3 && words.any(|word| word == part)
        }
        None => !part.is_empty() && a.name.to_lowercase().contains(&part),
    };
    let matching: Vec<_> = adapters.iter().filter(in_name).collect();
    match matching.as_slice() {
        [] => Err(Error::config(
            "device",
            wanted,
            format!(
                "no adapter has this number or name; available are {}",
                known(adapters)
            ),
        )),
        [first, rest @ ..] => {
            // One GPU reached through several APIs is one match: the first API is the preferred one.
            let other_api = |a: &&AdapterSummary| a.name == first.name && a.api != first.api;
            if rest.iter().all(other_api) {
                return Ok(first);
            }
            let matching = known(matching.iter().copied());
            let remedy = format!("matches several adapters; give the number: {matching}");
            Err(Error::config("device", wanted, remedy))
        }
    }
}

/// Numbers and titles; with the driver where titles are equal, as where a GPU has two.
fn known<'a>(adapters: impl IntoIterator<Item = &'a AdapterSummary>) -> String {
    let adapters: Vec<_> = adapters.into_iter().collect();
    let twins = |a: &AdapterSummary| adapters.iter().filter(|b| b.title() == a.title()).count() > 1;
    let line = |a: &&AdapterSummary| {
        if twins(a) {
            format!(
                "{}: {}, driver {} {}",
                a.index,
                a.title(),
                a.driver,
                a.driver_info
            )
        } else {
            format!("{}: {}", a.index, a.title())
        }
    };
    adapters.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
