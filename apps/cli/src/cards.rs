//! A card for tests of what depends on adapters.

use ibot::device::{AdapterKind, AdapterLimits, AdapterSummary, Api};

/// The first adapter of a machine, of this kind; limits of 0.
pub fn card(kind: AdapterKind) -> AdapterSummary {
    AdapterSummary {
        index: 0,
        name: "Card".into(),
        kind,
        api: Api::Vulkan,
        driver: "radv".into(),
        driver_info: "Mesa 25.0".into(),
        id: "1002:744c".into(),
        pci_bus: String::new(),
        memory_bytes: Some(16 << 30),
        has_f16: false,
        limits: AdapterLimits {
            buffer_bytes: 0,
            binding_bytes: 0,
            storage_buffers: 0,
            workgroup_bytes: 0,
            workgroup_invocations: 0,
        },
    }
}
