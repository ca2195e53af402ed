//! The memory of a step, and whether a device has it.

use serde::Serialize;

use crate::data::{LoaderConfig, Pixels};
use crate::error::Result;
use crate::memory::{in_gib, in_mib};
use crate::precision::Precision;
use crate::train::config::RunConfig;
use crate::train::plan::device::PlannedDevice;
use crate::train::plan::ledger::{MemoryByKind, Moment};
use crate::train::plan::network::{Parameters, product, sum};
use crate::train::plan::sizes::{MemorySavers, Pass, StepSizes};
use crate::train::plan::step::walk;

/// What wgpu's pools take from the driver beyond what lies in them, and the command's allocator from the system: 12 to 24 % in
/// `ibot bench` of both presets, on lavapipe and on Flex.
const KEPT: f64 = 0.2;
/// The part of a memory that a run may take: the rest is the desktop's, the driver's and other programs'.
const ROOM: f64 = 0.9;
/// What the program itself takes, its libraries, threads and initial draws included: 90 to 150 MiB in small runs on Linux.
const PROGRAM: u64 = 128 << 20;

/// The tensor that is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LargestTensor {
    /// Its name, in words.
    pub what: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// What a step takes, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMemory {
    /// Tensors at the moment with the most of them.
    pub peak: MemoryByKind,
    /// All of them.
    pub peak_bytes: u64,
    /// The part of the step that has it.
    pub moment: Moment,
    /// Tensors between two steps: parameters, teacher, optimizer.
    pub at_rest_bytes: u64,
    /// The largest tensor.
    pub largest: LargestTensor,
    /// Of the processor's memory: batches that wait or are being made.
    pub batches_bytes: u64,
    /// Of the processor's memory: decoded images, at most; a larger set is decoded anew in each epoch.
    pub images_bytes: u64,
    /// Of the processor's memory: the copy of the state from which a checkpoint is written.
    pub checkpoint_copy_bytes: u64,
    /// Of the device's memory, all in all: tensors, what pools or allocator keep beyond them and, where the device shares the
    /// processor's memory, what the processor keeps.
    pub needed_bytes: u64,
    #[serde(skip)]
    pub(super) parameters: Parameters,
    /// Token rows of a step.
    #[serde(skip)]
    pub(super) rows: u64,
}

/// Whether a step fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Fits,
    /// The memory is not known; each tensor fits.
    Unknown,
    /// A tensor is larger than the largest that the device binds.
    TensorTooLarge {
        /// Which one.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// What a tensor may have.
        limit: u64,
    },
    /// All tensors together are too much.
    TooMuch {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that a run may take.
        room: u64,
    },
}

impl Verdict {
    /// Whether there is no reason not to run.
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Fits | Self::Unknown)
    }

    /// As the end of a sentence about a step.
    pub fn in_words(&self) -> String {
        match self {
            Self::Fits => "it fits".to_owned(),
            Self::Unknown => "each tensor fits; how much memory there is, is not known".to_owned(),
            Self::TensorTooLarge { what, bytes, limit } => format!(
                "{what} would take {}, and one tensor of the device has at most {}",
                in_mib(*bytes),
                in_mib(*limit)
            ),
            Self::TooMuch { needed, room } => {
                format!(
                    "it would take {}, of {} that may be taken",
                    in_gib(*needed),
                    in_gib(*room)
                )
            }
        }
    }
}

impl StepMemory {
    /// That of the steps of a run, with these savers of memory.
    ///
    /// # Errors
    /// As [`StepSizes::of`].
    pub(super) fn of(
        config: &RunConfig,
        device: &PlannedDevice,
        savers: MemorySavers,
    ) -> Result<Self> {
        let limits = |prototypes| device.logit_limits(prototypes);
        let sizes = StepSizes {
            has_halves: device.keeps_halves(config.precision),
            ..StepSizes::of(config, savers, &limits)?
        };
        let ledger = walk(&sizes);
        let batches_bytes = batches(config, &sizes);
        let images_bytes = (LoaderConfig::default().cache_mib as u64) << 20;
        let scale = match config.precision {
            Precision::F16 => 2, // the loss scale, and for how long it has been that
            Precision::F32 | Precision::Bf16 => 0,
        };
        let beside = sum([sizes.centers, scale]);
        let checkpoint_copy_bytes = state_bytes(&sizes.network.parameters, sizes.moments, beside);
        let peak_bytes = ledger.peak.total();
        let tensors = (peak_bytes as f64 * (1.0 + KEPT)) as u64;
        let host = sum([batches_bytes, images_bytes, checkpoint_copy_bytes, PROGRAM]);
        Ok(Self {
            peak: ledger.peak,
            peak_bytes,
            moment: ledger.peak_at,
            at_rest_bytes: ledger.peak.at_rest(),
            largest: LargestTensor {
                what: ledger.largest.0,
                bytes: ledger.largest.1,
            },
            batches_bytes,
            images_bytes,
            checkpoint_copy_bytes,
            parameters: sizes.network.parameters,
            needed_bytes: sum([tensors, if device.is_shared { host } else { 0 }]),
            rows: product([sum(sizes.passes.iter().map(Pass::rows)), sizes.parts]),
        })
    }

    pub(super) fn verdict(&self, device: &PlannedDevice) -> Verdict {
        if let Some(limit) = device
            .tensor_bytes
            .filter(|limit| self.largest.bytes > *limit)
        {
            let LargestTensor { what, bytes } = self.largest;
            return Verdict::TensorTooLarge { what, bytes, limit };
        }
        let Some(memory) = device.memory_bytes else {
            return Verdict::Unknown;
        };
        let (needed, room) = (self.needed_bytes, (memory as f64 * ROOM) as u64);
        if needed <= room {
            Verdict::Fits
        } else {
            Verdict::TooMuch { needed, room }
        }
    }
}

/// Batches in the loader's queue.
fn batches(config: &RunConfig, sizes: &StepSizes) -> u64 {
    let loader = LoaderConfig {
        batch_size: config.batch_size,
        workers: config.workers,
        ..LoaderConfig::default()
    };
    let entries = usize::try_from(sizes.view_entries).unwrap_or(usize::MAX);
    loader.open_bytes(Pixels::bytes_of_views(&config.augment, entries) as u64)
}

/// Bytes of student, teacher, optimizer and so many entries beside them: what a checkpoint holds.
fn state_bytes(parameters: &Parameters, moments: u64, beside: u64) -> u64 {
    let entries = sum([
        product([1 + moments, parameters.student()]),
        parameters.teacher(),
        beside,
    ]);
    product([entries, size_of::<f32>() as u64])
}
