//! How many bytes a loader may hold: batches that are being made or wait, and images that are being decoded.

/// Bytes for each thread, and at least, of a loader whose settings give none.
const PER_THREAD: usize = 128 << 20;
const LEAST: usize = 1 << 30;

/// Bytes that a loader of so many threads may hold: `mib`, or as many as fit the threads for 0.
pub(super) fn memory_bytes(mib: usize, threads: usize) -> usize {
    match mib {
        0 => LEAST.max(threads.saturating_mul(PER_THREAD)),
        mib => mib.saturating_mul(1 << 20),
    }
}

/// What is held. Batches and images have a half each: batches that wait for a slow step would else leave no room to decode the images
/// of the batch that it asks for next.
#[derive(Debug)]
pub(super) struct Budget {
    pub batches: Share,
    pub images: Share,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let half = || Share {
            most: bytes / 2,
            held: 0,
        };
        Self {
            batches: half(),
            images: half(),
        }
    }
}

/// Bytes that are held, of those that may be.
#[derive(Debug)]
pub(super) struct Share {
    most: usize,
    held: usize,
}

impl Share {
    /// Holds so many bytes more, if there is room. There always is where nothing is held, or nobody could go on with what is larger.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let held = self.held.saturating_add(bytes);
        let has_room = self.held == 0 || held <= self.most;
        if has_room {
            self.held = held;
        }
        has_room
    }

    /// Lets go of so many bytes that were held.
    pub fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// The most bytes that pieces of one size come to.
    pub fn full(&self, piece: u64) -> u64 {
        (self.most as u64 / piece.max(1))
            .max(1)
            .saturating_mul(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_has_always_room_and_more_only_below_the_bound() {
        let mut share = Budget::new(20).batches;
        assert!(share.hold(11), "the first one");
        assert!(!share.hold(1));
        share.release(11);
        assert!(share.hold(4) && share.hold(6));
        assert!(!share.hold(1));
        assert!(share.hold(0), "no bytes");
        share.release(6);
        assert!(
            !share.hold(7) && share.hold(6),
            "what was refused is not held"
        );
        assert_eq!(
            [1, 3, 10, 11].map(|piece| share.full(piece)),
            [10, 9, 10, 11]
        );
    }

    #[test]
    fn memory_grows_with_threads_unless_it_is_given() {
        assert_eq!(memory_bytes(0, 2), 1 << 30);
        assert_eq!(memory_bytes(0, 16), 2 << 30);
        assert_eq!(memory_bytes(3, 16), 3 << 20);
    }
}
