//! Size and time of a file, by which its features are known to be those of its content.

use std::fs::Metadata;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::data::{ValueRange, length_and_time};

/// Size and time of a file. A file whose content changed has another one, unless its time was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileStamp(
    /// Bytes.
    pub u64,
    /// When it was last written, nanoseconds since 1970.
    pub u64,
);

impl FileStamp {
    /// That of a file; none where it cannot be asked, or is older than 1970.
    pub fn of(path: &Path) -> Option<Self> {
        let (length, modified) = length_and_time(path)?;
        Self::new(length, modified)
    }

    /// That of an open file.
    pub(super) fn of_metadata(file: &Metadata) -> Option<Self> {
        Self::new(file.len(), file.modified().ok()?)
    }

    fn new(length: u64, modified: SystemTime) -> Option<Self> {
        let since = modified.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(length, u64::try_from(since.as_nanos()).ok()?))
    }

    /// Whether both may be of one file: a copy may have whole seconds, where the file system or the archive keeps no more.
    pub(super) fn is_like(self, other: Self) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let is_whole = [self, other]
            .map(|stamp| stamp.1 % SECOND == 0)
            .contains(&true);
        self == other || self.0 == other.0 && is_whole && self.1 / SECOND == other.1 / SECOND
    }

    /// The same for an image that is read with this range of values: with another one, it has other features.
    #[must_use]
    pub fn with_range(self, range: ValueRange) -> Self {
        let ValueRange::Between(range) = range else {
            return self;
        };
        let hash = blake3::hash(&range.map(f64::to_le_bytes).concat());
        let mix = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        Self(self.0, self.1 ^ u64::from_le_bytes(mix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_may_have_whole_seconds() {
        let stamp = FileStamp(10, 5_250_000_000);
        assert!(stamp.is_like(FileStamp(10, 5_000_000_000)));
        for other in [
            FileStamp(11, 5_000_000_000),
            FileStamp(10, 6_000_000_000),
            FileStamp(10, 5_250_000_001),
        ] {
            assert!(!stamp.is_like(other), "{other:?}");
        }
    }

    #[test]
    fn another_range_is_another_stamp() {
        let stamp = FileStamp(10, 20);
        let with = |high| stamp.with_range(ValueRange::Between([0.0, high]));
        assert_eq!(with(4095.0), with(4095.0));
        assert_ne!(with(4095.0), with(1023.0));
        assert_ne!(with(4095.0), stamp);
        // as of files of 8 bits, which have none
        assert_eq!(stamp.with_range(ValueRange::Full), stamp);
    }
}
