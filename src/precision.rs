//! In which numbers a network multiplies and keeps its tokens: `torch.autocast`, for the operations of [`crate::kernels`].

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::scope::restoring;

/// Numbers of a network's products and tokens. Weights, sums, statistics, logits, losses and gradients of weights are f32 with
/// each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 everywhere.
    #[default]
    F32,
    /// IEEE half precision. A GPU keeps tokens in it: half the memory and half the traffic. The CPU rounds where a GPU stores, as
    /// a reference, and is not faster for it.
    F16,
    /// bfloat16 operands of products, on the CPU: what `torch.autocast("cpu")` does. Tokens stay f32. No GPU has it through WGSL.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The nearest number that it has, ties to even; too large for f16 is infinite.
    pub fn nearest(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Does `work` with operations of this precision, on this thread. A backward pass has the precision that each operation ran
    /// with, wherever it is called.
    pub fn autocast<T>(self, work: impl FnOnce() -> T) -> T {
        let outside = CURRENT.replace(self);
        restoring(|| CURRENT.set(outside), work)
    }

    /// That of a head's logits where its layers have this one: f16 would cut off what a softmax tells apart, and the product is a
    /// small part of a step on a GPU.
    pub(crate) fn of_logits(self) -> Self {
        match self {
            Self::F32 | Self::F16 => Self::F32,
            Self::Bf16 => Self::Bf16,
        }
    }

    /// That of the innermost [`Precision::autocast`] on this thread; f32 outside of all.
    pub fn current() -> Self {
        CURRENT.get()
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = |precision: &Self| precision.name().eq_ignore_ascii_case(text);
        let remedy = "must be one of f32, f16, bf16";
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| Error::config("precision", text, remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end_with_a_panic_too() {
        assert_eq!(Precision::current(), Precision::F32);
        Precision::F16.autocast(|| {
            assert_eq!(Precision::current(), Precision::F16);
            let failed = std::panic::catch_unwind(|| Precision::Bf16.autocast(|| panic!("work")));
            assert!(failed.is_err());
            assert_eq!(Precision::current(), Precision::F16);
            let inner = Precision::F32.autocast(Precision::current);
            assert_eq!(inner, Precision::F32);
        });
        assert_eq!(Precision::current(), Precision::F32);
    }

    #[test]
    fn other_names_are_refused_with_those_that_there_are() {
        assert_eq!("BF16".parse::<Precision>().unwrap(), Precision::Bf16);
        let refused = "fp8".parse::<Precision>().unwrap_err().to_string();
        assert!(refused.contains("f32, f16, bf16"), "{refused}");
    }
}
