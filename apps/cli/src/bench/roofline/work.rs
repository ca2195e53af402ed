//! What a part of a step does: operations, and bytes read or written.

use serde::Serialize;

/// A phase of a step, as `ibot bench` times them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    Forward,
    Backward,
    Optimizer,
    Ema,
}

impl Phase {
    /// In the order of a step.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Backward, Self::Optimizer, Self::Ema];

    /// As in the table of `ibot bench`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Ema => "EMA",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Multiply-adds of products and of attention.
    pub multiply_adds: u64,
    /// Other operations on floating-point numbers, about.
    pub operations: u64,
    /// Entries of 4 bytes read or written.
    pub entries: u64,
}

impl Work {
    /// A product `[rows, depth] x [depth, columns]`.
    pub fn product(rows: u64, depth: u64, columns: u64) -> Self {
        Self {
            multiply_adds: rows * depth * columns,
            operations: 0,
            entries: rows * depth + depth * columns + rows * columns,
        }
    }

    /// A pass that moves so many entries, with so many operations for each.
    pub fn pass(entries: u64, operations: u64) -> Self {
        Self {
            multiply_adds: 0,
            operations: entries * operations,
            entries,
        }
    }

    pub fn and_entries(self, entries: u64) -> Self {
        let entries = self.entries + entries;
        Self { entries, ..self }
    }

    pub fn times(self, count: u64) -> Self {
        Self {
            multiply_adds: count * self.multiply_adds,
            operations: count * self.operations,
            entries: count * self.entries,
        }
    }

    /// Operations on floating-point numbers, two a multiply-add.
    pub fn flops(self) -> f64 {
        (2 * self.multiply_adds + self.operations) as f64
    }

    /// Bytes read or written.
    pub fn bytes(self) -> f64 {
        (self.entries * size_of::<f32>() as u64) as f64
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, more| Self {
            multiply_adds: sum.multiply_adds + more.multiply_adds,
            operations: sum.operations + more.operations,
            entries: sum.entries + more.entries,
        })
    }
}

/// A part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub phase: Phase,
    pub name: String,
    pub work: Work,
}

impl Part {
    /// A part by its name.
    pub fn new(phase: Phase, name: &str, work: Work) -> Self {
        Self {
            phase,
            name: name.into(),
            work,
        }
    }

    /// A pass that moves so many entries, with so many operations for each.
    pub fn pass((phase, name, entries, operations): (Phase, &str, u64, u64)) -> Self {
        Self::new(phase, name, Work::pass(entries, operations))
    }
}
