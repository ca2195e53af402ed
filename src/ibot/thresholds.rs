//! What logits may take of a device's memory. Where that is not known, and on a software device, the numbers are those
//! that served lavapipe best. The choice is a function of the device alone, so a run that goes on there makes it again.

/// Entries of a tile of streamed logits: 16 MiB.
const TILE_ENTRIES: usize = 1 << 22;
/// The same on a GPU with 4 GiB or more: 64 MiB, a quarter of the launches.
const GPU_TILE_ENTRIES: usize = 1 << 24;
/// From so many bytes of a loss's logits on, of student and teacher together, `streaming_prototypes = "auto"` streams them.
const MOST_STORED_BYTES: usize = 512 << 20;
/// The same as a part of a GPU's memory. Streaming makes a third more matrix products, so it is for want of memory alone.
const STORED_PART: u64 = 4;
/// A tile is at most this part of it.
const TILE_PART: u64 = 64;

/// Most entries of a tile of streamed logits, on a GPU with so many bytes of memory.
pub(super) fn tile_entries(memory_bytes: Option<u64>) -> usize {
    let Some(bytes) = memory_bytes else {
        return TILE_ENTRIES;
    };
    let part = bytes / TILE_PART / size_of::<f32>() as u64;
    usize::try_from(part).map_or(GPU_TILE_ENTRIES, |part| {
        part.clamp(TILE_ENTRIES, GPU_TILE_ENTRIES)
    })
}

/// Most bytes of logits that are stored rather than streamed, on a GPU with so many bytes of memory.
pub(super) fn most_stored_bytes(memory_bytes: Option<u64>) -> usize {
    let part = |bytes: u64| usize::try_from(bytes / STORED_PART).unwrap_or(usize::MAX);
    memory_bytes.map_or(MOST_STORED_BYTES, part)
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
        assert_eq!(most_stored_bytes(None), 512 << 20);
        assert_eq!(most_stored_bytes(gib(8)), 2 << 30);
        assert_eq!(most_stored_bytes(gib(80)), 20 << 30);
    }
}
