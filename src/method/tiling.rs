//! Whether logits are stored or come in tiles, and in which. Where a device's memory is not known, and on a software
//! device, the numbers are those that were best on lavapipe. The choice is a function of shapes and device alone, so that a
//! resumed run makes it again.

use crate::device::memory_bytes;
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, tile_columns};
use crate::method::config::StreamingPrototypes;

/// Entries of a tile: 16 MiB.
const TILE_ENTRIES: usize = 1 << 22;
/// The same on a GPU with 4 GiB or more: 64 MiB, a quarter of the launches.
const GPU_TILE_ENTRIES: usize = 1 << 24;
/// `streaming_prototypes = "auto"` tiles the logits of a loss above this many bytes, student and teacher together.
const MAX_STORED_BYTES: usize = 512 << 20;
/// The same as a fraction of a GPU's memory. Tiles take a third more matrix products, so they serve only to save memory.
const STORED_PART: u64 = 4;
/// Largest fraction of a GPU's memory for a tile.
const TILE_PART: u64 = 64;

/// Maximum entries of a tile of logits, on a GPU with this many bytes of memory.
pub(super) fn tile_entries(memory_bytes: Option<u64>) -> usize {
    let Some(bytes) = memory_bytes else {
        return TILE_ENTRIES;
    };
    let part = bytes / TILE_PART / size_of::<f32>() as u64;
    usize::try_from(part).map_or(GPU_TILE_ENTRIES, |part| {
        part.clamp(TILE_ENTRIES, GPU_TILE_ENTRIES)
    })
}

/// Maximum bytes of logits that are stored rather than tiled, on a GPU with this many bytes of memory.
fn max_stored_bytes(memory_bytes: Option<u64>) -> usize {
    let part = |bytes: u64| usize::try_from(bytes / STORED_PART).unwrap_or(usize::MAX);
    memory_bytes.map_or(MAX_STORED_BYTES, part)
}

/// What decides whether logits are stored, of a device and of a number of prototypes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogitLimits {
    /// Bytes of a GPU's memory; none where it is not known, and on a software device.
    pub memory_bytes: Option<u64>,
    /// Rows of so many logits that one tensor holds.
    pub max_rows: usize,
    /// Maximum entries of a tile.
    pub tile_entries: usize,
}

impl LogitLimits {
    /// On a device with so much memory and tensors of so many rows of logits.
    pub fn new(memory_bytes: Option<u64>, max_rows: usize) -> Self {
        Self {
            memory_bytes,
            max_rows,
            tile_entries: tile_entries(memory_bytes),
        }
    }

    /// Columns of a tile; `None` to store the logits. `teacher_rows` are those of all parts of a rank, as all are kept; `student_rows`
    /// those of its largest part, as one is at work at a time. No part has more rows of the teacher than of the student.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where logits that shall be stored do not fit one tensor of the device.
    pub fn tile_columns(
        self,
        [teacher_rows, student_rows]: [usize; 2],
        prototypes: usize,
        streaming: StreamingPrototypes,
    ) -> Result<Option<usize>> {
        let (rows, max_rows) = (student_rows, self.max_rows);
        let entries = (teacher_rows + student_rows).saturating_mul(prototypes);
        let bytes = entries.saturating_mul(size_of::<f32>());
        let is_tiled = match streaming {
            StreamingPrototypes::Always => true,
            StreamingPrototypes::Auto => {
                bytes > max_stored_bytes(self.memory_bytes) || rows > max_rows
            }
            StreamingPrototypes::Never if rows > max_rows => {
                return Err(Error::Unsupported(format!(
                    "method.streaming_prototypes = \"never\": {rows} rows of {prototypes} prototypes do not fit one \
                     tensor of this device, which holds {max_rows} of them: set it to \"auto\" or \"always\", or use a \
                     smaller batch or fewer prototypes"
                )));
            }
            StreamingPrototypes::Never => false,
        };
        Ok(is_tiled.then(|| tile_columns(rows, self.tile_entries)))
    }
}

/// [`LogitLimits::tile_columns`] on a device.
///
/// # Errors
/// As [`LogitLimits::tile_columns`].
pub(super) fn tiling<B: IbotBackend>(
    rows: [usize; 2],
    prototypes: usize,
    streaming: StreamingPrototypes,
    tile_entries: usize,
    device: &B::Device,
) -> Result<Option<usize>> {
    let limits = LogitLimits {
        memory_bytes: memory_bytes(device),
        max_rows: B::max_logit_rows(prototypes, device),
        tile_entries,
    };
    limits.tile_columns(rows, prototypes, streaming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_grow_with_the_memory() {
        let gib = |count: u64| Some(count << 30);
        assert_eq!(tile_entries(None), 4 << 20);
        assert_eq!(tile_entries(gib(1)), 4 << 20);
        assert_eq!(tile_entries(gib(2)), 8 << 20);
        assert_eq!(tile_entries(gib(80)), 16 << 20);
        assert_eq!(max_stored_bytes(None), 512 << 20);
        assert_eq!(max_stored_bytes(gib(8)), 2 << 30);
        assert_eq!(max_stored_bytes(gib(80)), 20 << 30);
    }
}
