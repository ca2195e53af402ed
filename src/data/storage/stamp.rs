//! Size and time of a file, by which a change is seen.

use std::fs::Metadata;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// File systems give times in steps of up to 2 s (FAT): a file that was written just now may change again under the same time.
const STEP: i64 = 2_000_000_000;

/// Size and time of a file, by which a change is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::data) struct Stamp {
    /// Bytes.
    pub length: u64,
    /// Nanoseconds since 1970; 0 where the time tells nothing.
    pub modified: i64,
}

impl Stamp {
    pub fn of_metadata(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().map_or(0, settled),
        }
    }

    /// Whether a file with this stamp is as it was when it had the other one.
    pub fn is_that_of(self, other: Self) -> bool {
        self == other && self.modified != 0
    }
}

/// A time in nanoseconds since 1970; 0 for one that is too new to tell of the next change, or out of range.
pub(super) fn settled(time: SystemTime) -> i64 {
    let nanoseconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_nanos()).ok()
    };
    match (nanoseconds(time), nanoseconds(SystemTime::now())) {
        (Some(time), Some(now)) if time < now.saturating_sub(STEP) => time,
        _ => 0,
    }
}
