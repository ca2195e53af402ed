//! The parts of a step: multiply-adds of its products and what it reads and writes, by the lengths of its tensors.
//!
//! Entries are those that any implementation with the same kernels moves: each kernel reads its inputs once and writes its
//! outputs once, whatever its tiles read again from a cache. Products and attention are exact, and compared with what the
//! kernels are launched with by a test; operations of the passes between them are counted roughly, as memory bounds them.
//! Logits are stored, and blocks keep what their backward pass needs.

use super::sizes::Sizes;
use super::work::{Part, Phase, Work};

/// Student and teacher.
const NETWORKS: u64 = 2;

/// What the rows of a linear layer go through before it, as one operation with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Norm,
    /// GELU, whose gradient is part of the product for `d_x`.
    Gelu,
}

/// The linear layers of one kind in a network.
struct Layer {
    name: &'static str,
    /// Rows of each of them.
    rows: Vec<u64>,
    inputs: u64,
    outputs: u64,
    before: Before,
    has_residual: bool,
    /// Whether the gradient of its input is asked for.
    wants_x: bool,
}

impl Layer {
    fn new(name: &'static str, rows: Vec<u64>, [inputs, outputs]: [u64; 2]) -> Self {
        Self {
            name,
            rows,
            inputs,
            outputs,
            before: Before::Nothing,
            has_residual: false,
            wants_x: true,
        }
    }

    fn sum(&self, of_rows: impl Fn(u64) -> Work) -> Work {
        self.rows.iter().map(|rows| of_rows(*rows)).sum()
    }

    fn parts(&self) -> Vec<Part> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let residual = u64::from(self.has_residual) * outputs;
        let gelu = u64::from(self.before == Before::Gelu) * inputs;
        let part = |phase, what, work| Part {
            phase,
            name: format!("{}{what}", self.name),
            work,
        };
        let forward =
            self.sum(|rows| Work::product(rows, inputs, outputs).and_entries(rows * residual));
        let d_x = self.sum(|rows| Work::product(rows, outputs, inputs).and_entries(rows * gelu));
        let d_weight = self.sum(|rows| Work::product(inputs, rows, outputs));
        let mut all = vec![part(Phase::Forward, "", forward.times(NETWORKS))];
        if self.wants_x {
            all.push(part(Phase::Backward, ", gradient of rows", d_x));
        }
        all.push(part(Phase::Backward, ", gradient of weights", d_weight));
        all
    }
}

impl Sizes {
    /// All parts of a step, forward first.
    pub fn parts(&self) -> Vec<Part> {
        let mut all: Vec<Part> = self.layers().iter().flat_map(Layer::parts).collect();
        all.extend(self.between_layers());
        all.extend(self.losses());
        all.extend(self.updates());
        all.sort_by_key(|part| part.phase as u8); // stable
        all
    }

    /// Rows of the blocks' second halves, block by block: the last one is computed for chosen tokens.
    fn after_attention(&self) -> Vec<u64> {
        let mut rows = vec![self.rows(); self.depth.saturating_sub(1) as usize];
        rows.push(self.chosen());
        rows
    }

    fn layers(&self) -> Vec<Layer> {
        let (width, hidden) = (self.width, self.hidden);
        let each_block = vec![self.rows(); self.depth as usize];
        let after = self.after_attention();
        let patches = vec![self.images * self.patches];
        let norm = |layer| Layer {
            before: Before::Norm,
            ..layer
        };
        let residual = |layer| Layer {
            has_residual: true,
            ..layer
        };
        let mut all = vec![
            Layer {
                wants_x: false,
                ..Layer::new("patches to tokens", patches, [self.patch_entries, width])
            },
            norm(Layer::new("qkv", each_block, [width, 3 * width])),
            residual(Layer::new("projection", after.clone(), [width, width])),
            norm(Layer::new("fc1", after.clone(), [width, hidden])),
            Layer {
                before: Before::Gelu,
                ..residual(Layer::new("fc2", after, [hidden, width]))
            },
        ];
        for (at, pair) in self.head.windows(2).enumerate() {
            let before = match at {
                0 => Before::Nothing,
                _ => Before::Gelu,
            };
            let rows = vec![self.images, self.masked];
            all.push(Layer {
                before,
                ..Layer::new(
                    HEAD_LAYERS[at.min(HEAD_LAYERS.len() - 1)],
                    rows,
                    [pair[0], pair[1]],
                )
            });
        }
        let [cls, patch] = self.prototypes;
        let of_head =
            |name, rows, prototypes| Layer::new(name, vec![rows], [self.bottleneck(), prototypes]);
        all.push(of_head("prototypes of class tokens", self.images, cls));
        all.push(of_head("prototypes of patches", self.masked, patch));
        all
    }

    fn between_layers(&self) -> Vec<Part> {
        let mut all = Vec::from(self.attention());
        all.extend(self.norms_and_gelu());
        let tokens = self.rows() * self.width;
        let chosen = self.chosen() * self.width;
        let views = self.images * self.pixels;
        let bottleneck = (self.images + self.masked) * self.bottleneck();
        // joined, then cut into patches; then masks, class token and positions in one pass
        let embedding = NETWORKS * (4 * views + 2 * tokens);
        let more = [
            (Phase::Forward, "views, masks, positions", embedding, 0),
            (
                Phase::Forward,
                "tokens of the last block",
                NETWORKS * 4 * chosen,
                0,
            ),
            (
                Phase::Forward,
                "L2 norms of heads",
                NETWORKS * 2 * bottleneck,
                1,
            ),
            (
                Phase::Backward,
                "L2 norms of heads, gradient",
                3 * bottleneck,
                1,
            ),
            (
                Phase::Backward,
                "tokens of the last block, gradient",
                2 * (chosen + tokens),
                0,
            ),
            // the norms add up the gradients of all other residuals
            (Phase::Backward, "sum at the last residual", 3 * tokens, 1),
            (Phase::Backward, "masks, positions, gradient", 3 * tokens, 1),
        ];
        all.extend(more.map(Part::pass));
        all
    }

    /// A map is `[T, T]` for each head of each view. Forward it is two products; backward the map and its gradient are made
    /// again and give three more, see [`super::sizes::Kind`].
    fn attention(&self) -> [Part; 2] {
        let (rows, width, heads) = (self.rows(), self.width, self.attention_heads);
        let queries = self.depth.saturating_sub(1) * rows + self.last_queries;
        // in all blocks
        let of_products = |count: u64, entries_a_row: u64| Work {
            multiply_adds: count * queries * self.tokens() * width,
            operations: 8 * queries * self.tokens() * heads, // a softmax
            entries: self.depth * rows * entries_a_row,
        };
        let forward = of_products(2, 4 * width + heads).times(NETWORKS);
        // by queries: packed rows, context and its gradient in, a third of the packed gradient out; by keys without the context
        let backward = of_products(self.attention_backward, 12 * width + 4 * heads);
        [
            Part::new(Phase::Forward, "attention", forward),
            Part::new(Phase::Backward, "attention, gradient", backward),
        ]
    }

    fn norms_and_gelu(&self) -> [Part; 4] {
        let layers = self.layers();
        let before = |kind: Before| -> u64 {
            let of_kind = layers.iter().filter(|layer| layer.before == kind);
            of_kind
                .map(|layer| layer.rows.iter().sum::<u64>() * layer.inputs)
                .sum()
        };
        let (normed, activated) = (before(Before::Norm), before(Before::Gelu));
        let last = self.chosen() * self.width;
        [
            (
                Phase::Forward,
                "layer norm",
                NETWORKS * 2 * (normed + last),
                4,
            ),
            // products write it beside their result, which the student keeps
            (Phase::Forward, "GELU", activated, 12),
            // the gradient reads both inputs twice, writes the normalized rows too, and adds what comes past the norm
            (
                Phase::Backward,
                "layer norm, gradient",
                7 * normed + 5 * last,
                4,
            ),
            (Phase::Backward, "GELU, again", activated, 12),
        ]
        .map(Part::pass)
    }

    /// Matrices of logits that each pass reads or writes.
    fn losses(&self) -> Vec<Part> {
        let cls = self.images * self.prototypes[0];
        let patch = self.masked * self.prototypes[1];
        [
            (Phase::Forward, "centered targets of class tokens", cls, 5),
            (
                Phase::Forward,
                "Sinkhorn targets of patches",
                2 * self.iterations * patch,
                5,
            ),
            (Phase::Forward, "loss of class tokens", 2 * cls, 6),
            (Phase::Forward, "loss of patches", 2 * patch, 6),
            (
                Phase::Backward,
                "loss of class tokens, gradient",
                3 * cls,
                5,
            ),
            (Phase::Backward, "loss of patches, gradient", 3 * patch, 5),
            (Phase::Ema, "center of class tokens", cls, 1),
        ]
        .map(Part::pass)
        .into()
    }

    fn updates(&self) -> [Part; 3] {
        let (student, teacher) = (self.student_parameters(), self.teacher_parameters());
        [
            (Phase::Optimizer, "norm of gradients", student, 2),
            // weight, gradient and two moments in, all but the gradient out
            (Phase::Optimizer, "AdamW", 7 * student, 2),
            (Phase::Ema, "moving average", 3 * teacher, 1),
        ]
        .map(Part::pass)
    }
}

/// Names of a head's layers; all after the second share the last one.
const HEAD_LAYERS: [&str; 3] = ["heads, layer 1", "heads, layer 2", "heads, layer 3 and on"];
