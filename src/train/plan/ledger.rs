//! What lives in memory in the course of a step, and the moment with the most of it.

use std::fmt;

use serde::Serialize;

use crate::train::plan::network::sum;

/// What a tensor is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The student's parameters.
    Student,
    /// The teacher's parameters.
    Teacher,
    /// What the optimizer keeps of each parameter, and the centers.
    Optimizer,
    /// The batch.
    Views,
    /// The teacher's logits, or what they are made of.
    Targets,
    /// What the student keeps for its backward pass, its logits among it.
    Activations,
    /// Gradients of parameters.
    Gradients,
    /// What one operation takes, and gradients on their way.
    Workspace,
}

/// Bytes by what they are kept for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryByKind {
    /// The student's parameters.
    pub student: u64,
    /// The teacher's parameters.
    pub teacher: u64,
    /// The optimizer's state, and the centers.
    pub optimizer: u64,
    /// The batch.
    pub views: u64,
    /// The teacher's logits, or the features that they are made of.
    pub targets: u64,
    /// What the student keeps for its backward pass, its logits among it.
    pub activations: u64,
    /// Gradients of parameters.
    pub gradients: u64,
    /// What one operation takes, and gradients on their way.
    pub workspace: u64,
}

impl MemoryByKind {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Student => &mut self.student,
            Kind::Teacher => &mut self.teacher,
            Kind::Optimizer => &mut self.optimizer,
            Kind::Views => &mut self.views,
            Kind::Targets => &mut self.targets,
            Kind::Activations => &mut self.activations,
            Kind::Gradients => &mut self.gradients,
            Kind::Workspace => &mut self.workspace,
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        sum([self.at_rest(), self.in_a_step()])
    }

    /// Bytes that are there between steps too, the batch aside.
    pub fn at_rest(&self) -> u64 {
        sum([self.student, self.teacher, self.optimizer])
    }

    fn in_a_step(&self) -> u64 {
        sum([
            self.views,
            self.targets,
            self.activations,
            self.gradients,
            self.workspace,
        ])
    }
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The teacher's forward pass.
    Teacher,
    /// The targets that its logits become.
    Targets,
    /// The student's forward pass.
    Forward,
    /// The losses and their gradients.
    Losses,
    /// The backward pass of the heads.
    HeadsBackward,
    /// The backward pass of a block, counted from 1.
    BlockBackward(u64),
    /// The backward pass of the patch embedding.
    PatchesBackward,
    /// The optimizer's step, and the teacher's.
    Optimizer,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Teacher => f.write_str("the teacher's forward pass"),
            Self::Targets => f.write_str("the targets"),
            Self::Forward => f.write_str("the student's forward pass"),
            Self::Losses => f.write_str("the losses"),
            Self::HeadsBackward => f.write_str("the backward pass of the heads"),
            Self::BlockBackward(block) => write!(f, "the backward pass of block {block}"),
            Self::PatchesBackward => f.write_str("the backward pass of the patch embedding"),
            Self::Optimizer => f.write_str("the optimizer's step"),
        }
    }
}

/// Bytes that an entry counts; tensors of f16 count half their entries.
const ENTRY: u64 = size_of::<f32>() as u64;

/// Counts tensors in and out.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    /// What lives now.
    pub live: MemoryByKind,
    pub now: Moment,
    /// The most that lived at a time, and when.
    pub peak: MemoryByKind,
    pub peak_at: Moment,
    /// The largest tensor, and its bytes.
    pub largest: (&'static str, u64),
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            live: MemoryByKind::default(),
            now: Moment::Teacher,
            peak: MemoryByKind::default(),
            peak_at: Moment::Teacher,
            largest: ("", 0),
        }
    }

    /// A tensor, or several, of so many entries together, from now on.
    pub fn hold(&mut self, kind: Kind, entries: u64) {
        let bytes = self.live.of(kind);
        *bytes = bytes.saturating_add(entries.saturating_mul(ENTRY));
        if self.live.total() > self.peak.total() {
            (self.peak, self.peak_at) = (self.live, self.now);
        }
    }

    /// The end of tensors.
    pub fn free(&mut self, kind: Kind, entries: u64) {
        let bytes = self.live.of(kind);
        *bytes = bytes.saturating_sub(entries.saturating_mul(ENTRY));
    }

    /// Tensors that live together for a moment.
    pub fn hold_briefly(&mut self, entries: impl IntoIterator<Item = u64>) {
        let entries = sum(entries);
        self.hold(Kind::Workspace, entries);
        self.free(Kind::Workspace, entries);
    }

    /// Notes the size of one tensor: a device may not hold it, whatever memory it has.
    pub fn note_tensor(&mut self, what: &'static str, entries: u64) {
        let bytes = entries.saturating_mul(ENTRY);
        if bytes > self.largest.1 {
            self.largest = (what, bytes);
        }
    }
}
