//! What the heads and their losses keep and take. Shapes as in `method/head.rs`, `method/targets.rs` and `kernels/ops/tiled.rs`.

use crate::method::PrototypeNorm;
use crate::train::plan::ledger::{Kind, Ledger};
use crate::train::plan::network::{HeadSizes, NetworkSizes, linear, product, sum};
use crate::train::plan::sizes::{LossRows, tokens};

/// The student's rows of one loss on their way through a head.
pub(super) struct Rows<'a> {
    head: &'a HeadSizes,
    rows: LossRows,
    /// Whether what is between the layers is of 2 bytes an entry.
    has_halves: bool,
}

impl<'a> Rows<'a> {
    pub fn new(network: &'a NetworkSizes, rows: LossRows, has_halves: bool) -> Self {
        let head = &network.heads[rows.head];
        Self {
            head,
            rows,
            has_halves,
        }
    }

    fn logits(&self, rows: u64) -> u64 {
        product([rows, self.head.prototypes])
    }

    /// The widest layer of so many rows.
    fn widest(&self, rows: u64) -> u64 {
        let widest = self.head.widths.iter().max().copied().unwrap_or(0);
        tokens(self.has_halves, product([rows, widest]))
    }

    /// Two tiles of logits, where they come in tiles.
    fn tiles(&self) -> u64 {
        let columns = self.rows.tile.unwrap_or(0).min(self.head.prototypes);
        product([2, self.rows.student, columns])
    }

    /// The teacher's rows of the last of so many parts.
    fn last(&self, parts: u64) -> u64 {
        self.rows.teacher.div_ceil(parts.max(1))
    }

    /// What is left of the teacher's rows in the parts before the last.
    pub fn teacher_before(&self, ledger: &mut Ledger, parts: u64) {
        let before = self.rows.teacher - self.last(parts);
        ledger.hold(Kind::Targets, self.bottleneck(before));
    }

    /// The teacher's rows of the last of so many parts through its head.
    pub fn teacher(&self, ledger: &mut Ledger, parts: u64) {
        let rows = self.last(parts);
        ledger.hold_briefly([product([2, self.widest(rows)])]);
        ledger.hold(Kind::Targets, self.bottleneck(rows));
    }

    /// The bottleneck features of so many rows.
    fn bottleneck(&self, rows: u64) -> u64 {
        product([rows, self.head.bottleneck()])
    }

    /// The teacher's logits of all parts and what makes targets of them.
    pub fn targets(&self, ledger: &mut Ledger, parts: u64) {
        let teacher = self.rows.teacher;
        let potentials = product([2, sum([teacher, self.head.prototypes])]);
        ledger.hold(Kind::Targets, potentials);
        // those of the prototypes over the rows of each part
        ledger.hold_briefly([product([2, parts, self.head.prototypes])]);
        match self.rows.tile {
            Some(_) => ledger.hold_briefly([self.tiles() / 2]),
            None => {
                ledger.note_tensor("the teacher's logits", self.logits(self.last(parts)));
                ledger.hold(Kind::Targets, self.logits(teacher));
                ledger.free(Kind::Targets, self.bottleneck(teacher));
            }
        }
    }

    /// Prototypes that a norm makes of the parameter.
    fn made_prototypes(&self) -> u64 {
        match self.head.norm {
            PrototypeNorm::None => 0,
            _ => product([self.head.bottleneck(), self.head.prototypes]),
        }
    }

    /// The results of all layers, and the bottleneck features before and after their norm.
    fn kept(&self) -> u64 {
        let layers = self
            .head
            .layers()
            .map(|[_, outputs]| tokens(self.has_halves, product([self.rows.student, outputs])));
        sum(layers.chain([self.bottleneck(self.rows.student)]))
    }

    /// The student's head and its logits.
    pub fn forward(&self, ledger: &mut Ledger) {
        let student = self.rows.student;
        ledger.note_tensor("a layer of a head", self.widest(student));
        ledger.hold(Kind::Activations, self.kept());
        ledger.hold_briefly([self.widest(student)]); // GELU's result
        ledger.hold(Kind::Activations, self.made_prototypes());
        ledger.hold_briefly([self.made_prototypes()]);
        match self.rows.tile {
            Some(_) => ledger.hold_briefly([self.tiles()]),
            None => {
                ledger.note_tensor("the student's logits", self.logits(student));
                ledger.hold(Kind::Activations, self.logits(student));
            }
        }
    }

    /// From the loss to the gradients of bottleneck and prototypes. That of stored logits takes their place.
    pub fn loss_backward(&self, ledger: &mut Ledger, has_gradients: bool) {
        let student = self.rows.student;
        let prototypes = self.head.prototype_parameters();
        if has_gradients {
            ledger.hold(Kind::Workspace, prototypes);
        } else {
            ledger.hold(Kind::Gradients, prototypes);
        }
        ledger.note_tensor("the prototypes", prototypes);
        ledger.hold(Kind::Workspace, self.bottleneck(student));
        match self.rows.tile {
            Some(columns) => {
                let columns = columns.min(self.head.prototypes);
                let weight = product([self.head.bottleneck(), columns]);
                ledger.hold_briefly([self.tiles(), product([2, weight]), self.bottleneck(student)]);
            }
            None => ledger.free(Kind::Activations, self.logits(student)),
        }
        if has_gradients {
            ledger.free(Kind::Workspace, prototypes);
        }
        ledger.hold_briefly([product([2, self.made_prototypes()])]);
        ledger.free(Kind::Activations, self.made_prototypes());
    }

    /// From the bottleneck back to the tokens.
    pub fn head_backward(&self, ledger: &mut Ledger, has_gradients: bool) {
        let student = self.rows.student;
        let bottleneck = self.bottleneck(student);
        ledger.hold_briefly([product([3, bottleneck])]); // through the norm
        let mut on_its_way = bottleneck;
        for (layer, [inputs, outputs]) in self
            .head
            .layers()
            .enumerate()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let d_x = tokens(self.has_halves, product([student, inputs]));
            if !has_gradients {
                ledger.hold(Kind::Gradients, linear(inputs, outputs));
            }
            ledger.hold(Kind::Workspace, d_x);
            // GELU of the layer's input, but for the first layer's
            ledger.hold_briefly([if layer > 0 { d_x } else { 0 }]);
            ledger.free(Kind::Workspace, on_its_way);
            on_its_way = d_x;
        }
        ledger.free(Kind::Workspace, on_its_way);
        ledger.free(Kind::Activations, self.kept());
    }
}
