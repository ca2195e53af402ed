//! Sizes of a step: images, tokens and rows of its largest part.

use crate::error::Result;
use crate::method::{LogitLimits, TargetKind};
use crate::train::config::RunConfig;
use crate::train::optim::OptimizerKind;
use crate::train::plan::network::{NetworkSizes, product, sum};

/// Views of one size that go through a backbone together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// Views of all images.
    pub images: u64,
    /// Values of a view, `3 S S`.
    pub image_entries: u64,
    /// Patches N of a view.
    pub patches: u64,
    /// Tokens T of a view.
    pub tokens: u64,
    /// Rows that are computed after the last attention.
    pub chosen: u64,
}

impl Pass {
    /// Tokens of all views.
    pub fn rows(&self) -> u64 {
        product([self.images, self.tokens])
    }

    /// Entries of all patches.
    pub fn patch_entries(&self, network: &NetworkSizes) -> u64 {
        product([self.images, self.patches, network.patch_entries])
    }
}

/// The rows of one loss.
#[derive(Debug, Clone, Copy)]
pub(super) struct LossRows {
    /// Of the teacher, in the whole batch.
    pub teacher: u64,
    /// Of the student, in a part of it.
    pub student: u64,
    /// 0 for the head of class tokens, 1 for that of patches.
    pub head: usize,
    /// Columns of a tile of their logits; none if these are stored.
    pub tile: Option<u64>,
}

/// Everything that decides what a step takes.
#[derive(Debug, Clone)]
pub(super) struct StepSizes {
    pub network: NetworkSizes,
    /// Number of parts.
    pub parts: u64,
    /// The largest part's global views, then its local ones if there are any.
    pub passes: Vec<Pass>,
    /// Class tokens, masked patches, and visible ones where they have a loss.
    pub losses: Vec<LossRows>,
    /// Entries of all views of the batch.
    pub view_entries: u64,
    pub is_checkpointed: bool,
    /// Whether tokens, and their gradients, are of 2 bytes an entry.
    pub has_halves: bool,
    pub has_koleo: bool,
    pub centers: u64,
    pub moments: u64,
    pub clips_each_gradient: bool,
}

/// The two settings that trade time for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemorySavers {
    /// Images of a part, at most; the whole batch for none.
    pub micro_batch_size: Option<usize>,
    pub grad_checkpointing: bool,
}

impl StepSizes {
    /// Those on a device that keeps tokens in f32.
    ///
    /// # Errors
    /// As [`NetworkSizes::of`], or logits that must be stored do not fit one tensor.
    pub fn of(
        config: &RunConfig,
        savers: MemorySavers,
        limits: &dyn Fn(usize) -> LogitLimits,
    ) -> Result<Self> {
        let (method, augment) = (&config.method, &config.augment);
        let batch = config.batch_size;
        let most = savers.micro_batch_size.unwrap_or(batch).max(1);
        let parts = batch.div_ceil(most).max(1);
        let part = batch.div_ceil(parts);
        let view = |views: usize, side: usize| product([views as u64, batch as u64, of_view(side)]);
        let mut sizes = Self {
            network: NetworkSizes::of(method)?,
            parts: parts as u64,
            passes: Vec::new(),
            losses: Vec::new(),
            view_entries: sum([
                view(augment.global_views, augment.image_size),
                view(augment.local_views, augment.local_size),
            ]),
            is_checkpointed: savers.grad_checkpointing,
            has_halves: false,
            has_koleo: method.koleo_weight > 0.0,
            centers: centers(config),
            moments: match config.optimizer.name {
                OptimizerKind::AdamW => 2,
                OptimizerKind::Sgd | OptimizerKind::Lars => 1,
            },
            clips_each_gradient: config.optimizer.clip_each_gradient.is_some(),
        };
        let masks = Masks::of(config)?;
        sizes.passes = passes(config, &sizes.network, &masks, part)?;
        for [teacher, student, head] in masks.rows(config, part) {
            let prototypes = sizes.network.heads[head].prototypes as usize;
            let streaming = method.streaming_prototypes;
            let tile =
                limits(prototypes).tile_columns([teacher, student], prototypes, streaming)?;
            sizes.losses.push(LossRows {
                teacher: teacher as u64,
                student: student as u64,
                // one head for both where they share it
                head: if method.shared_head { 0 } else { head },
                tile: tile.map(|columns| columns as u64),
            });
        }
        Ok(sizes)
    }
}

/// Entries of a tensor of tokens, counted in those of f32.
pub(super) fn tokens(has_halves: bool, entries: u64) -> u64 {
    if has_halves { entries / 2 } else { entries }
}

/// Values of a view.
fn of_view(side: usize) -> u64 {
    product([3, side as u64, side as u64])
}

/// How many patches of global views are masked: the mean, where masks are random.
struct Masks {
    /// Patches N of a view.
    patches: usize,
    /// Masked ones of a view.
    masked: f64,
    /// Whether visible patches have a loss too.
    has_visible: bool,
}

impl Masks {
    fn of(config: &RunConfig) -> Result<Self> {
        let patches = config.method.backbone()?.patches();
        Ok(Self {
            patches,
            masked: config.method.mask_policy().mean_count(patches),
            has_visible: config.method.visible_loss_weight > 0.0,
        })
    }

    fn masked_in(&self, views: usize) -> usize {
        (views as f64 * self.masked).round() as usize
    }

    /// Patches that a loss looks at.
    fn chosen_in(&self, views: usize) -> usize {
        if self.has_visible {
            views * self.patches
        } else {
            self.masked_in(views)
        }
    }

    /// Rows of each loss that has some: of the teacher in the batch, of the student in a part, and the number of the head.
    fn rows(&self, config: &RunConfig, part: usize) -> Vec<[usize; 3]> {
        let augment = &config.augment;
        let [whole, views] = [config.batch_size, part].map(|images| augment.global_views * images);
        let visible_in = |views| self.chosen_in(views).saturating_sub(self.masked_in(views));
        let rows = [
            [whole, views + augment.local_views * part, 0],
            [self.masked_in(whole), self.masked_in(views), 1],
            [visible_in(whole), visible_in(views), 1],
        ];
        let has_rows = |rows: &[usize; 3]| rows[0] > 0;
        rows.into_iter().filter(has_rows).collect()
    }
}

/// What goes through the student's backbone in a part.
fn passes(
    config: &RunConfig,
    network: &NetworkSizes,
    masks: &Masks,
    part: usize,
) -> Result<Vec<Pass>> {
    let augment = &config.augment;
    let patch_size = config.method.backbone()?.patch_size.max(1);
    let pass = |views: usize, side: usize, chosen: usize| {
        let patches = (side / patch_size).pow(2) as u64;
        let tokens = sum([patches, network.prefix]);
        let images = (views * part) as u64;
        let rows = product([images, tokens]);
        let after_last = if network.has_class_token {
            sum([images, chosen as u64])
        } else {
            rows
        };
        Pass {
            images,
            image_entries: of_view(side),
            patches,
            tokens,
            chosen: after_last.min(rows),
        }
    };
    let global = augment.global_views;
    let mut passes = vec![pass(
        global,
        augment.image_size,
        masks.chosen_in(global * part),
    )];
    if augment.local_views > 0 {
        // nothing is masked in them
        passes.push(pass(augment.local_views, augment.local_size, 0));
    }
    Ok(passes)
}

/// Entries of the centers.
fn centers(config: &RunConfig) -> u64 {
    let method = &config.method;
    let rules = [method.cls_targets, method.patch_targets];
    let centers = method.prototypes().into_iter().zip(rules);
    let centers = centers.filter(|(_, rule)| *rule == TargetKind::Centering);
    sum(centers.map(|(prototypes, _)| prototypes as u64))
}
