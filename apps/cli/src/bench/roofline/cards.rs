//! How fast a device can be: what is measured, what a flag says, or what vendors publish.

use serde::Serialize;

/// Share of the published rate at which products are expected to run: what hand-tiled f32 products reach on GPUs.
pub(super) const PRODUCT_SHARE: f64 = 0.6;
/// Share of the published bandwidth at which passes are.
pub(super) const BANDWIDTH_SHARE: f64 = 0.8;

/// What bounds a step on a device.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ceiling {
    /// The device.
    pub name: String,
    /// f32 operations a second, in 10^12.
    pub tflops: f64,
    /// Bytes a second to and from memory, in 10^9.
    pub gb_s: f64,
    /// Share of `tflops` that a prediction takes.
    pub product_share: f64,
    /// Share of `gb_s` that it takes.
    pub bandwidth_share: f64,
}

impl Ceiling {
    /// Of published numbers, which no kernel reaches.
    pub fn published(name: &str, tflops: f64, gb_s: f64) -> Self {
        Self {
            name: name.into(),
            tflops,
            gb_s,
            product_share: PRODUCT_SHARE,
            bandwidth_share: BANDWIDTH_SHARE,
        }
    }

    /// Of measured numbers, which some kernel has reached.
    pub fn measured(name: &str, tflops: f64, gb_s: f64) -> Self {
        Self {
            product_share: 1.0,
            bandwidth_share: 1.0,
            ..Self::published(name, tflops, gb_s)
        }
    }

    /// Milliseconds that so much work takes at least, by its operations and by its bytes.
    pub fn milliseconds(&self, flops: f64, bytes: f64) -> [f64; 2] {
        let by_operations = flops / (self.tflops * self.product_share * 1e9);
        let by_bytes = bytes / (self.gb_s * self.bandwidth_share * 1e6);
        [by_operations, by_bytes]
    }
}

/// Vendors' published peaks of f32 on the common lanes, without matrix units, and of memory: none was measured here.
///
/// NVIDIA's data sheet of the H100 SXM; its GeForce RTX 4070: 5 888 lanes at 2.475 GHz; AMD's page of the Radeon RX 7800 XT,
/// whose 37.3 need two operations an instruction (half of it without); Apple of the M2 with 10 cores; Intel's Arc A770 16 GB:
/// 4 096 lanes at its graphics clock of 2.1 GHz.
pub(super) fn known() -> Vec<Ceiling> {
    [
        ("H100 SXM", 67.0, 3_350.0),
        ("RTX 4070", 29.1, 504.0),
        ("RX 7800 XT", 37.3, 624.0),
        ("Apple M2", 3.6, 100.0),
        ("Arc A770", 17.2, 560.0),
    ]
    .map(|(name, tflops, gb_s)| Ceiling::published(name, tflops, gb_s))
    .into()
}
