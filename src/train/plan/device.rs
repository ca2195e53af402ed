//! What is known of a device's memory.

use serde::Serialize;

use crate::device::{AdapterKind, Selected};
use crate::kernels::KernelChoice;
use crate::memory::machine_bytes;
use crate::method::LogitLimits;
use crate::precision::Precision;

/// Whose memory a plan reckons with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryOf {
    /// The GPU's, as its driver reports it.
    Gpu,
    /// The machine's, which the device shares.
    Machine,
}

/// The device of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedDevice {
    /// Backend and name, in words.
    pub name: String,
    /// Bytes of its memory; `None` if neither driver nor system tell.
    pub memory_bytes: Option<u64>,
    /// Whose memory that is.
    pub memory_of: Option<MemoryOf>,
    /// Bytes of the largest tensor; `None` on a CPU, which has no such limit.
    pub tensor_bytes: Option<u64>,
    /// Whether tensors lie in wgpu's pools.
    #[serde(skip)]
    pub(super) has_pools: bool,
    /// Whether tensors and what the program holds beside them share one memory.
    #[serde(skip)]
    pub(super) is_shared: bool,
    /// What decides over logits: only a GPU's own memory does.
    #[serde(skip)]
    logit_memory: Option<u64>,
}

impl PlannedDevice {
    /// What is known of a device that was selected; nothing is opened.
    pub fn of(selected: &Selected) -> Self {
        let machine = machine_bytes();
        let name = selected.to_string();
        let Selected::Wgpu { adapter, .. } = selected else {
            return Self::of_machine(name, machine);
        };
        let limits = &adapter.limits;
        let reported = adapter.memory_bytes.filter(|_| !adapter.is_software());
        let is_of_machine = match adapter.kind {
            AdapterKind::Software | AdapterKind::Integrated => true,
            AdapterKind::Discrete | AdapterKind::Virtual | AdapterKind::Other => false,
        };
        // an integrated GPU whose driver names a part of the memory has that for its tensors
        let is_shared = is_of_machine && reported.is_none();
        Self {
            has_pools: true,
            is_shared,
            tensor_bytes: Some(limits.binding_bytes.min(limits.buffer_bytes)),
            logit_memory: reported,
            ..match reported {
                Some(bytes) => Self {
                    memory_bytes: Some(bytes),
                    memory_of: Some(MemoryOf::Gpu),
                    ..Self::of_machine(name, None)
                },
                None => Self::of_machine(name, machine.filter(|_| is_shared)),
            }
        }
    }

    fn of_machine(name: String, memory_bytes: Option<u64>) -> Self {
        Self {
            name,
            memory_bytes,
            memory_of: memory_bytes.map(|_| MemoryOf::Machine),
            tensor_bytes: None,
            has_pools: false,
            is_shared: true,
            logit_memory: None,
        }
    }

    /// Whether tokens take 2 bytes an entry: the CPU, and burn's own operations on a GPU, keep f32 and round.
    pub(super) fn keeps_halves(&self, precision: Precision) -> bool {
        let has_kernels = self.has_pools && KernelChoice::active() == KernelChoice::Wgsl;
        has_kernels && precision == Precision::F16
    }

    /// Where logits of so many prototypes go.
    pub(super) fn logit_limits(&self, prototypes: usize) -> LogitLimits {
        let row = prototypes.max(1).saturating_mul(size_of::<f32>());
        let max_rows = self
            .tensor_bytes
            .map_or(usize::MAX, |bytes| bytes as usize / row);
        LogitLimits::new(self.logit_memory, max_rows)
    }
}
