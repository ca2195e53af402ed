//! What the student's backbone keeps, and what its operations take. Shapes as in `backbone/vit.rs` and
//! `kernels/autodiff`: of each node of the graph, what its backward pass needs.

use crate::train::plan::ledger::{Kind, Ledger, Moment};
use crate::train::plan::network::{NetworkSizes, linear, product, sum};
use crate::train::plan::sizes::{Pass, tokens};

/// A backbone with its passes.
pub(super) struct Backbone<'a> {
    pub network: &'a NetworkSizes,
    pub is_checkpointed: bool,
    /// Whether tokens are of 2 bytes an entry.
    pub has_halves: bool,
}

/// A block on its way through one pass.
#[derive(Clone, Copy)]
struct BlockPass<'a> {
    pass: &'a Pass,
    is_last: bool,
    /// Whether an earlier pass has made the gradients of the block's parameters.
    has_gradients: bool,
}

impl Backbone<'_> {
    /// So many rows of tokens.
    fn tokens(&self, rows: u64, width: u64) -> u64 {
        tokens(self.has_halves, product([rows, width]))
    }

    /// A pass without a graph, as the teacher's: at most some tokens, and the layer that is made.
    pub fn forward_no_grad(&self, ledger: &mut Ledger, pass: &Pass) {
        let tokens = self.tokens(pass.rows(), self.network.width);
        self.embed(ledger, pass);
        let patches = pass.patch_entries(self.network);
        ledger.hold_briefly([patches, product([4, tokens])]);
        // the residual stream with, in turn, norm and packed queries, packed queries and attention, or two of MLP
        let hidden = self.tokens(pass.rows(), self.network.hidden);
        ledger.hold_briefly([product([6, tokens])]);
        ledger.hold_briefly([product([2, tokens]), hidden]);
    }

    fn embed(&self, ledger: &mut Ledger, pass: &Pass) {
        let images = product([pass.images, pass.image_entries]);
        let patches = pass.patch_entries(self.network);
        ledger.note_tensor("the views of all images", images);
        ledger.note_tensor("the patches", patches);
        ledger.hold_briefly([images, patches]);
    }

    /// Forward through all blocks: what each node of the graph keeps is held, up to the last norm's result.
    pub fn forward(&self, ledger: &mut Ledger, pass: &Pass) {
        let rows = pass.rows();
        let tokens = self.tokens(rows, self.network.width);
        self.embed(ledger, pass);
        ledger.hold(Kind::Activations, pass.patch_entries(self.network));
        ledger.hold_briefly([product([4, tokens])]); // masks, class token and positions, one after the other
        ledger.hold(Kind::Activations, tokens);
        for block in 1..=self.network.depth {
            let is_last = block == self.network.depth;
            let at = BlockPass {
                pass,
                is_last,
                has_gradients: false,
            };
            self.block_forward(ledger, at);
        }
        // the last norm keeps its input, and its result is what heads look at
        let chosen = product([pass.chosen, self.network.width]);
        ledger.hold(Kind::Activations, chosen);
    }

    /// Rows that go through the MLP.
    fn rows_after(at: BlockPass<'_>) -> u64 {
        if at.is_last {
            at.pass.chosen
        } else {
            at.pass.rows()
        }
    }

    /// Packed queries, keys and values, their attention with its normalizers, and, of some rows only, these.
    fn kept_by_attention(&self, at: BlockPass<'_>) -> u64 {
        let (rows, width) = (at.pass.rows(), self.network.width);
        let chosen = Self::rows_after(at);
        sum([
            product([4, self.tokens(rows, width)]),
            product([rows, self.network.attention_heads]),
            if chosen < rows {
                self.tokens(chosen, width)
            } else {
                0
            },
            self.scaled(product([width, width])),
        ])
    }

    fn kept_by_mlp(&self, at: BlockPass<'_>) -> u64 {
        let hidden = self.tokens(Self::rows_after(at), self.network.hidden);
        sum([
            hidden,
            self.scaled(product([self.network.width, self.network.hidden])),
        ])
    }

    /// Weights that LayerScale is multiplied into.
    fn scaled(&self, weight: u64) -> u64 {
        if self.network.has_layer_scale {
            weight
        } else {
            0
        }
    }

    fn block_forward(&self, ledger: &mut Ledger, at: BlockPass<'_>) {
        let width = self.network.width;
        let (rows, after) = (at.pass.rows(), Self::rows_after(at));
        let (tokens, tokens_after) = (self.tokens(rows, width), self.tokens(after, width));
        let hidden = self.tokens(after, self.network.hidden);
        ledger.note_tensor("queries, keys and values", product([3, tokens]));
        ledger.note_tensor("the hidden layer of an MLP", hidden);
        let branches = [
            // the norm while queries, keys and values are made
            (self.kept_by_attention(at), tokens),
            // GELU's result while the next layer is made
            (self.kept_by_mlp(at), hidden),
        ];
        for (kept, workspace) in branches {
            if self.is_checkpointed {
                ledger.hold_briefly([kept, workspace]);
            } else {
                ledger.hold(Kind::Activations, kept);
                ledger.hold_briefly([workspace]);
            }
            // what goes into the next branch
            ledger.hold(Kind::Activations, tokens_after);
        }
    }

    /// Backward from the gradient of the last norm's result. burn goes level by level: block by block, and through all passes
    /// in each.
    pub fn backward(&self, ledger: &mut Ledger, passes: &[Pass]) {
        let network = self.network;
        let chosen = |pass: &Pass| product([pass.chosen, network.width]);
        ledger.hold(Kind::Gradients, network.small_parameters());
        for pass in passes {
            let of_input = self.tokens(pass.chosen, network.width);
            ledger.hold_briefly([chosen(pass), of_input]);
            ledger.hold(Kind::Workspace, of_input); // the gradient on its way
            ledger.free(Kind::Activations, sum([chosen(pass), of_input]));
        }
        for block in (1..=network.depth).rev() {
            ledger.now = Moment::BlockBackward(block);
            let at = |number: usize| BlockPass {
                pass: &passes[number],
                is_last: block == network.depth,
                has_gradients: number > 0,
            };
            (0..passes.len()).for_each(|number| self.mlp_backward(ledger, at(number)));
            (0..passes.len()).for_each(|number| self.attention_backward(ledger, at(number)));
        }
        ledger.now = Moment::PatchesBackward;
        for (number, pass) in passes.iter().enumerate() {
            let tokens = self.tokens(pass.rows(), network.width);
            ledger.hold_briefly([product([3, tokens])]);
            Self::gradient(
                ledger,
                number > 0,
                linear(network.patch_entries, network.width),
            );
            ledger.free(Kind::Workspace, tokens);
            ledger.free(Kind::Activations, pass.patch_entries(network));
        }
    }

    /// The gradient of a parameter; a second one is added to the first.
    fn gradient(ledger: &mut Ledger, has_one: bool, entries: u64) {
        if has_one {
            ledger.hold_briefly([entries]);
        } else {
            ledger.hold(Kind::Gradients, entries);
        }
    }

    fn mlp_backward(&self, ledger: &mut Ledger, at: BlockPass<'_>) {
        let (width, hidden_width) = (self.network.width, self.network.hidden);
        let rows = Self::rows_after(at);
        let (tokens, hidden) = (self.tokens(rows, width), self.tokens(rows, hidden_width));
        let weight = product([width, hidden_width]);
        // GELU's result and the gradient of the hidden layer; with checkpointing the layer itself too
        let again = if self.is_checkpointed { 3 } else { 2 };
        Self::gradient(ledger, at.has_gradients, linear(hidden_width, width));
        ledger.hold_briefly([product([again, hidden]), self.scaled(product([2, weight]))]);
        ledger.hold(Kind::Workspace, hidden);
        if !self.is_checkpointed {
            ledger.free(Kind::Activations, self.kept_by_mlp(at));
        }
        Self::gradient(ledger, at.has_gradients, linear(width, hidden_width));
        // the norm again, its gradient, and that of its input
        ledger.hold_briefly([product([3, tokens])]);
        ledger.free(Kind::Workspace, hidden);
        ledger.free(Kind::Activations, tokens);
    }

    fn attention_backward(&self, ledger: &mut Ledger, at: BlockPass<'_>) {
        let width = self.network.width;
        let (rows, after) = (at.pass.rows(), Self::rows_after(at));
        let (tokens, tokens_after) = (self.tokens(rows, width), self.tokens(after, width));
        let weight = product([width, width]);
        Self::gradient(ledger, at.has_gradients, linear(width, width));
        if self.is_checkpointed {
            ledger.hold_briefly([self.kept_by_attention(at), product([4, tokens])]);
        }
        // through the second layer: the gradient of attention; where some rows were chosen, of all rows again
        ledger.hold(Kind::Workspace, tokens);
        ledger.hold_briefly([self.scaled(product([2, weight]))]);
        if after < rows {
            ledger.hold_briefly([tokens_after]);
            ledger.hold(Kind::Workspace, tokens);
            ledger.free(Kind::Workspace, tokens_after);
        }
        ledger.hold(Kind::Workspace, product([3, tokens]));
        ledger.free(Kind::Workspace, tokens);
        if !self.is_checkpointed {
            ledger.free(Kind::Activations, self.kept_by_attention(at));
        }
        Self::gradient(ledger, at.has_gradients, self.network.qkv());
        ledger.hold_briefly([product([3, tokens])]);
        ledger.free(Kind::Workspace, product([3, tokens]));
        ledger.free(Kind::Activations, tokens);
    }
}
