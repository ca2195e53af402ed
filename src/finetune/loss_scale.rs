//! The loss scale of f16 on the host, which reads each step of fine-tuning anyway.

use crate::kernels::{GROWTH_INTERVAL, INITIAL_LOSS_SCALE, MAX_LOSS_SCALE, MIN_LOSS_SCALE};
use crate::precision::Precision;

/// As [`crate::kernels::LossScale`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HostLossScale {
    /// What the loss is multiplied by, a power of two.
    pub scale: f32,
    sound_steps: f32,
}

impl HostLossScale {
    /// That of a run before its first step; none with the range of f32.
    pub fn first(precision: Precision) -> Option<Self> {
        (precision == Precision::F16).then_some(Self {
            scale: INITIAL_LOSS_SCALE,
            sound_steps: 0.0,
        })
    }

    /// Whether gradients that overflow with it may do so because of it.
    pub fn can_fall(self) -> bool {
        self.scale > MIN_LOSS_SCALE
    }

    /// That of the next step.
    pub fn next(self, is_skipped: bool) -> Self {
        let Self { scale, sound_steps } = self;
        if is_skipped {
            return Self {
                scale: scale / 2.0,
                sound_steps: 0.0,
            };
        }
        match sound_steps + 1.0 {
            steps if steps >= GROWTH_INTERVAL => Self {
                scale: (scale * 2.0).min(MAX_LOSS_SCALE),
                sound_steps: 0.0,
            },
            sound_steps => Self { scale, sound_steps },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_and_doubles() {
        let first = HostLossScale::first(Precision::F16).unwrap();
        assert_eq!(HostLossScale::first(Precision::Bf16), None);
        let fallen = first.next(false).next(true);
        assert_eq!((fallen.scale, fallen.sound_steps), (32_768.0, 0.0));
        let grown = (0..2000).fold(fallen, |scale, _| scale.next(false));
        assert_eq!((grown.scale, grown.sound_steps), (65_536.0, 0.0));
        assert!(grown.can_fall());
        let least = (0..30).fold(first, |scale, _| scale.next(true));
        assert!(!least.can_fall());
    }
}
