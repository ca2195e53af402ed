//! One kind of the teacher's rows (class tokens, masked or visible patches) over all parts of a batch, and their targets.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::rows::{images_of, most_logit_rows, spans};
use super::thresholds::most_stored_bytes;
use crate::config::{StreamingPrototypes, Targets};
use crate::device::memory_bytes;
use crate::error::Result;
use crate::head::Head;
use crate::kernels::{
    IbotBackend, StreamedLogits, StreamedTargets, TargetPotentials, tile_columns,
};
use crate::losses::Center;

/// How logits become targets.
pub(super) struct TargetRule<B: Backend> {
    pub targets: Targets,
    pub center: Option<Tensor<B, 1>>,
    pub temperature: f64,
    pub iterations: usize,
}

impl<B: IbotBackend> TargetRule<B> {
    fn stored(&self, logits: &[Tensor<B, 2>]) -> TargetPotentials<B> {
        match self.targets {
            Targets::Centering => {
                B::centered_potentials(logits, self.center.clone(), self.temperature)
            }
            Targets::Sinkhorn => B::sinkhorn_potentials(logits, self.temperature, self.iterations),
        }
    }

    fn streamed(&self, logits: StreamedLogits<B>, columns: usize) -> StreamedTargets<B> {
        let temperature = self.temperature;
        match self.targets {
            Targets::Centering => {
                StreamedTargets::centered(logits, columns, self.center.clone(), temperature)
            }
            Targets::Sinkhorn => {
                StreamedTargets::sinkhorn(logits, columns, temperature, self.iterations)
            }
        }
    }
}

/// Rows of one kind before their head.
pub(super) struct TeacherRows<'a, B: Backend> {
    pub head: &'a Head<B>,
    /// Tokens of each part, `[T c, D]` with its count `c`; none where a part has no such rows.
    pub tokens: Vec<Option<Tensor<B, 2>>>,
    /// Images of each part, or its patches.
    pub counts: Vec<usize>,
    /// Rows that teacher and student have of each image or patch: numbers of views, or 1.
    pub views: [usize; 2],
    pub rule: TargetRule<B>,
}

impl<B: IbotBackend> TeacherRows<'_, B> {
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// The targets, of logits that are stored or streamed; none where there are no rows.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] where logits that shall be stored do not fit the device.
    pub fn targets(
        &self,
        streaming: StreamingPrototypes,
        tile_entries: usize,
        device: &B::Device,
    ) -> Result<Option<RowTargets<B>>> {
        if self.is_empty() {
            return Ok(None);
        }
        let [of_teacher, of_student] = self.views;
        let prototypes = self.head.prototypes();
        let streams = match streaming {
            StreamingPrototypes::Always => true,
            StreamingPrototypes::Never => false,
            StreamingPrototypes::Auto => {
                let [all, largest] = self.most_counts();
                let row_bytes = prototypes * size_of::<f32>();
                let most_stored = most_stored_bytes(memory_bytes(device));
                (all * of_teacher + largest * of_student) * row_bytes > most_stored
                    || largest * of_teacher.max(of_student) > B::max_logit_rows(prototypes, device)
            }
        };
        let logits = match streams {
            true => TargetLogits::Streamed(self.streamed(tile_entries)),
            false => {
                let needed = of_teacher.max(of_student);
                let most = most_logit_rows::<B>(prototypes, needed, device)?;
                self.stored(most / needed)
            }
        };
        Ok(Some(RowTargets {
            rows: self.counts.iter().map(|count| count * of_teacher).collect(),
            logits,
        }))
    }

    /// The targets of logits that are never stored; at least one row.
    pub fn streamed(&self, tile_entries: usize) -> StreamedTargets<B> {
        let [of_teacher, of_student] = self.views;
        let [all, largest] = self.most_counts();
        let rows = (all * of_teacher).max(largest * of_student);
        let tokens = self.tokens.iter().flatten().cloned();
        let unit = tokens.map(|tokens| self.head.unit(tokens)).collect();
        let logits = StreamedLogits {
            unit: Tensor::cat(unit, 0),
            prototypes: self.head.normalized_prototypes(),
        };
        self.rule.streamed(logits, tile_columns(rows, tile_entries))
    }

    /// The targets of logits with rows of at most so many images or patches in a tensor.
    fn stored(&self, most: usize) -> TargetLogits<B> {
        let parts = self.tokens.iter().zip(&self.counts);
        let parts = parts.map(|(tokens, count)| match tokens {
            Some(tokens) => HeadRows::new(self.head, tokens, *count, most),
            None => HeadRows {
                spans: Vec::new(),
                logits: Vec::new(),
            },
        });
        let parts: Vec<HeadRows<B>> = parts.collect();
        let logits: Vec<Tensor<B, 2>> = parts
            .iter()
            .flat_map(|part| part.logits.iter().cloned())
            .collect();
        let potentials = self.rule.stored(&logits);
        TargetLogits::Stored { parts, potentials }
    }

    /// Images or patches of all parts, and of the largest one.
    fn most_counts(&self) -> [usize; 2] {
        let largest = self.counts.iter().max().copied();
        [self.counts.iter().sum(), largest.unwrap_or(0)]
    }
}

/// The teacher's logits of a part: which images or patches go through the head at once, and the logits of each such span.
pub(super) struct HeadRows<B: Backend> {
    pub spans: Vec<Range<usize>>,
    pub logits: Vec<Tensor<B, 2>>,
}

impl<B: IbotBackend> HeadRows<B> {
    fn new(head: &Head<B>, tokens: &Tensor<B, 2>, count: usize, most: usize) -> Self {
        let spans = spans(count, most);
        let logits = |span| head.forward(images_of(tokens, count, span));
        Self {
            logits: spans.iter().map(logits).collect(),
            spans,
        }
    }
}

/// Targets of one kind of rows.
pub(super) struct RowTargets<B: Backend> {
    /// The teacher's rows in each part.
    rows: Vec<usize>,
    logits: TargetLogits<B>,
}

enum TargetLogits<B: Backend> {
    Stored {
        parts: Vec<HeadRows<B>>,
        potentials: TargetPotentials<B>,
    },
    Streamed(StreamedTargets<B>),
}

/// Those of one part.
pub(super) enum PartTargets<'a, B: Backend> {
    Stored(&'a HeadRows<B>, TargetPotentials<B>),
    Streamed(StreamedTargets<B>),
}

impl<B: IbotBackend> RowTargets<B> {
    pub fn of_part(&self, index: usize) -> PartTargets<'_, B> {
        let start = self.rows[..index].iter().sum();
        let end = start + self.rows[index];
        match &self.logits {
            TargetLogits::Stored { parts, potentials } => {
                PartTargets::Stored(&parts[index], potentials.rows(start, end))
            }
            TargetLogits::Streamed(targets) => PartTargets::Streamed(targets.rows(start, end)),
        }
    }

    /// Moves a center towards the mean of the logits, see [`Center::update_unless`].
    pub fn move_center(&self, center: &mut Center<B>, gate: Option<&Tensor<B, 1>>) {
        match &self.logits {
            TargetLogits::Stored { parts, .. } => {
                let logits = parts.iter().flat_map(|part| part.logits.iter().cloned());
                center.update_unless(&logits.collect::<Vec<_>>(), gate.cloned());
            }
            TargetLogits::Streamed(targets) => {
                center.move_to(targets.teacher.mean(), gate.cloned());
            }
        }
    }
}
