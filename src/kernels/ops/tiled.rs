//! Logits in tiles: the product of rows and prototypes is made a tile at a time, of some prototypes and all rows, whenever
//! something looks at it, and never stored as a whole.
//!
//! A tile holds whole columns, so that a prototype's Sinkhorn normalizer and its gradient come from one tile, and an
//! iteration is one pass over the tiles. What belongs to a row, such as its log-sum-exp, is joined over the tiles.
//! Targets cost one product of the teacher's rows and prototypes each Sinkhorn iteration, or one for centering; the loss
//! costs one of teacher and student each, and its gradient one of each again beside the two that any gradient takes.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput, Pairing};
use crate::kernels::ops::linear::{LinearBackwardInput, LinearInput, LinearLayerInput, Prologue};
use crate::kernels::ops::target_potentials::{
    Drift, Known, TargetPotentials, pairs_of, taken_back,
};
use crate::precision::Precision;

/// Columns of a wide tile are a multiple of this many: whole cache lines, and the widest vectors of the kernels.
const COLUMN_STEP: usize = 64;

/// Logits of M rows, as the two matrices whose product they are: a loss makes all of them, or a tile at a time.
#[derive(Debug, Clone)]
pub struct Logits<B: Backend> {
    /// What a head makes of the rows before its prototypes, `[M, d]`.
    pub bottleneck: Tensor<B, 2>,
    /// `[d, K]`.
    pub prototypes: Tensor<B, 2>,
}

/// Targets of a teacher whose logits come in tiles.
#[derive(Debug, Clone)]
pub struct TiledTargets<B: Backend> {
    /// The teacher's logits.
    pub teacher: Logits<B>,
    /// Potentials that make their targets.
    pub potentials: TargetPotentials<B>,
    /// What each row's targets sum to in each tile, `[M, tiles]`.
    tile_mass: Tensor<B, 2>,
    /// Columns of a tile; the last one may have fewer.
    columns: usize,
}

/// What [`IbotBackend::tiled_cross_entropy`] takes; as [`CrossEntropyInput`] but for the logits.
#[derive(Debug, Clone)]
pub struct TiledInput<B: Backend> {
    /// The student's logits, M rows.
    pub student: Logits<B>,
    /// The teacher's targets, of M rows, or of G B with [`Pairing::OtherViews`]; no gradient flows into them.
    pub targets: TiledTargets<B>,
    /// Which rows belong together.
    pub pairing: Pairing,
    /// Weight of each student row in the sum, `[M]`.
    pub row_weights: Tensor<B, 1>,
    /// Student temperature.
    pub student_temperature: f64,
}

/// Gradients of a [`TiledInput`]'s student.
pub(in crate::kernels) struct TiledGradients<B: Backend> {
    /// `[M, d]`.
    pub d_bottleneck: Tensor<B, 2>,
    /// `[d, K]`, where it is wanted.
    pub d_prototypes: Option<Tensor<B, 2>>,
}

/// Columns of a tile of at most `entries` logits with so many rows; at least 1.
pub fn tile_columns(rows: usize, entries: usize) -> usize {
    let columns = (entries / rows.max(1)).max(1);
    if columns < COLUMN_STEP {
        columns
    } else {
        columns - columns % COLUMN_STEP
    }
}

impl<B: Backend> Logits<B> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.bottleneck.dims()[0]
    }

    fn prototypes_of(&self, columns: &Range<usize>) -> Tensor<B, 2> {
        let prototypes = self.prototypes.clone();
        prototypes.narrow(1, columns.start, columns.len())
    }
}

impl<B: IbotBackend> Logits<B> {
    /// All logits in one tensor, `[M, K]`; differentiable.
    pub fn stored(self) -> Tensor<B, 2> {
        let product = || {
            B::linear_layer(LinearLayerInput {
                x: self.bottleneck,
                prologue: Prologue::Nothing,
                weight: self.prototypes,
                bias: None,
                residual: None,
            })
        };
        Precision::current().of_logits().autocast(product)
    }

    /// The logits of some prototypes, `[M, K_p]`.
    pub fn tile(&self, columns: &Range<usize>) -> Tensor<B, 2> {
        product(self.bottleneck.clone(), self.prototypes_of(columns))
    }

    /// The mean of all rows' logits, `[K]`: a product with the mean row. M >= 1.
    pub fn mean(&self) -> Tensor<B, 1> {
        let mean = B::column_sums(self.bottleneck.clone()) / self.rows() as f64;
        let mean = product(mean.unsqueeze_dim(0), self.prototypes.clone());
        mean.reshape([self.prototypes.dims()[1]])
    }

    /// Potentials of the prototypes under those of the rows, `[M, 2]` -> `[K, 2]`, in tiles of so many columns.
    pub fn prototype_potentials(
        &self,
        columns: usize,
        of_rows: &Tensor<B, 2>,
        temperature: f64,
    ) -> Tensor<B, 2> {
        let tiles = tiles_of(self, columns);
        let tiles = tiles.map(|tile| {
            let known = Known::Rows(of_rows.clone());
            B::potentials_under(self.tile(&tile), known, temperature)
        });
        Tensor::cat(tiles.collect(), 0)
    }
}

fn product<B: IbotBackend>(left: Tensor<B, 2>, right: Tensor<B, 2>) -> Tensor<B, 2> {
    let product = || {
        B::linear_rows(LinearInput {
            x: left,
            weight: right,
            bias: None,
            residual: None,
        })
    };
    Precision::current().of_logits().autocast(product)
}

impl<B: IbotBackend> TiledTargets<B> {
    /// As [`IbotBackend::sinkhorn_potentials`], in tiles of so many columns; M, `columns` and `iterations` >= 1.
    pub fn sinkhorn(
        teacher: Logits<B>,
        columns: usize,
        temperature: f64,
        iterations: usize,
    ) -> Self {
        assert!(iterations > 0, "Sinkhorn-Knopp without an iteration");
        let mut rows = Tensor::zeros([teacher.rows(), 2], &teacher.bottleneck.device());
        let mut found = Vec::new();
        let mut drift = Drift::new(teacher.rows(), teacher.prototypes.dims()[1]);
        for iteration in 0..iterations {
            if iteration > 0 {
                rows = taken_back(rows, drift.after_iteration());
            }
            let tiles = tiles_of(&teacher, columns).map(|tile| {
                let (logits, known) = (teacher.tile(&tile), Known::Rows(rows.clone()));
                let of_prototypes = B::potentials_under(logits.clone(), known, temperature);
                tile_under(logits, of_prototypes, temperature)
            });
            found = tiles.collect();
            rows = join(of_rows(&found), temperature).0;
        }
        Self::of_tiles(teacher, columns, &found)
    }

    /// Under potentials of the prototypes, `[K, 2]`, in tiles of so many columns; M, `columns` >= 1.
    pub fn under(
        teacher: Logits<B>,
        columns: usize,
        of_prototypes: &Tensor<B, 2>,
        temperature: f64,
    ) -> Self {
        let tiles = tiles_of(&teacher, columns).map(|tile| {
            let of_prototypes = of_prototypes.clone().narrow(0, tile.start, tile.len());
            tile_under(teacher.tile(&tile), of_prototypes, temperature)
        });
        let found: Vec<TargetPotentials<B>> = tiles.collect();
        Self::of_tiles(teacher, columns, &found)
    }

    /// As [`IbotBackend::centered_potentials`], in tiles of so many columns; M, `columns` >= 1.
    pub fn centered(
        teacher: Logits<B>,
        columns: usize,
        center: Option<Tensor<B, 1>>,
        temperature: f64,
    ) -> Self {
        let tiles = tiles_of(&teacher, columns).map(|tile| {
            let center = center.clone();
            let center = center.map(|center| center.narrow(0, tile.start, tile.len()));
            B::centered_potentials(teacher.tile(&tile), center, temperature)
        });
        let found: Vec<TargetPotentials<B>> = tiles.collect();
        Self::of_tiles(teacher, columns, &found)
    }

    /// From the potentials of each tile, whose rows are normalized by that tile alone.
    fn of_tiles(teacher: Logits<B>, columns: usize, tiles: &[TargetPotentials<B>]) -> Self {
        let temperature = tiles[0].temperature;
        let (of_rows, rest) = join(of_rows(tiles), temperature);
        let of_prototypes = tiles.iter().map(|tile| tile.of_prototypes.clone());
        Self {
            teacher,
            potentials: TargetPotentials {
                of_prototypes: Tensor::cat(of_prototypes.collect(), 0),
                of_rows,
                temperature,
            },
            tile_mass: rest.neg().exp(),
            columns,
        }
    }
}

impl<B: Backend> TiledTargets<B> {
    /// The columns of each tile.
    pub fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<B> {
        tiles_of(&self.teacher, self.columns)
    }
}

impl<B: AutodiffBackend> TiledTargets<B> {
    /// The targets on the autodiff backend, as constants.
    pub fn from_inner(inner: TiledTargets<B::InnerBackend>) -> Self {
        Self {
            teacher: Logits {
                bottleneck: Tensor::from_inner(inner.teacher.bottleneck),
                prototypes: Tensor::from_inner(inner.teacher.prototypes),
            },
            potentials: TargetPotentials::from_inner(inner.potentials),
            tile_mass: Tensor::from_inner(inner.tile_mass),
            columns: inner.columns,
        }
    }

    /// The targets on the inner backend.
    pub fn inner(self) -> TiledTargets<B::InnerBackend> {
        TiledTargets {
            teacher: Logits {
                bottleneck: self.teacher.bottleneck.inner(),
                prototypes: self.teacher.prototypes.inner(),
            },
            potentials: self.potentials.inner(),
            tile_mass: self.tile_mass.inner(),
            columns: self.columns,
        }
    }
}

impl<B: IbotBackend> TiledInput<B> {
    /// The cross-entropy of one tile, as if there were no other prototypes.
    fn tile(&self, columns: &Range<usize>) -> CrossEntropyInput<B> {
        CrossEntropyInput {
            student_logits: self.student.tile(columns),
            teacher_logits: self.targets.teacher.tile(columns),
            potentials: self.targets.potentials.columns(columns),
            pairing: self.pairing,
            row_weights: self.row_weights.clone(),
            student_temperature: self.student_temperature,
        }
    }
}

fn tiles_of<B: Backend>(
    logits: &Logits<B>,
    columns: usize,
) -> impl Iterator<Item = Range<usize>> + use<B> {
    let [_, prototypes] = logits.prototypes.dims();
    let starts = (0..prototypes).step_by(columns);
    starts.map(move |start| start..prototypes.min(start + columns))
}

/// Potentials of a tile under those of its prototypes; its rows are normalized by it alone.
fn tile_under<B: IbotBackend>(
    logits: Tensor<B, 2>,
    of_prototypes: Tensor<B, 2>,
    temperature: f64,
) -> TargetPotentials<B> {
    let known = Known::Prototypes(of_prototypes.clone());
    TargetPotentials {
        of_rows: B::potentials_under(logits, known, temperature),
        of_prototypes,
        temperature,
    }
}

fn of_rows<B: Backend>(tiles: &[TargetPotentials<B>]) -> Vec<Tensor<B, 2>> {
    tiles.iter().map(|tile| tile.of_rows.clone()).collect()
}

/// The shift and log of whole rows, `[M, 2]`, from those of their tiles, `[M, 2]` each, and the logarithm of a whole row's
/// sum over each tile's, `[M, tiles]`.
fn join<B: Backend>(tiles: Vec<Tensor<B, 2>>, temperature: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let shape = [tiles[0].dims()[0], tiles.len()];
    let pairs: Tensor<B, 3> = Tensor::stack(tiles, 1); // [M, tiles, 2]
    let [shifts, logs] = [0, 1].map(|of| pairs.clone().narrow(2, of, 1).reshape(shape));
    let shift = shifts.clone().max_dim(1);
    let logs = logs + (shifts - shift.clone()) / temperature;
    let log = logs.clone().exp().sum_dim(1).log();
    (pairs_of(shift, log.clone()), log - logs)
}

/// See [`IbotBackend::tiled_cross_entropy`].
///
/// A tile's loss is `sum_i w_i (m_it L_it - dot_it)` with the mass `m_it` of the targets in it and its own log-sum-exp
/// `L_it`; that of the whole has the row's `L_i` in its place.
pub(in crate::kernels) fn forward<B: IbotBackend>(input: &TiledInput<B>) -> CrossEntropyOutput<B> {
    let tiles = input.targets.tiles();
    let (losses, normalizers): (Vec<_>, Vec<_>) = tiles
        .map(|columns| {
            let found = B::cross_entropy(&input.tile(&columns));
            (found.loss, found.of_rows)
        })
        .unzip();
    let (of_rows, rest) = join(normalizers, 1.0);
    let masses = input.targets.tile_mass.clone();
    let masses = input.pairing.paired(masses, input.student.rows());
    let missing = (masses * rest).sum_dim(1) * input.row_weights.clone().unsqueeze_dim(1);
    let losses: Tensor<B, 2> = Tensor::stack(losses, 0); // [tiles, 1]
    let loss = B::column_sums(losses) + B::column_sums(missing);
    CrossEntropyOutput { loss, of_rows }
}

/// Gradients of [`forward`] by the student's rows and, where `wants_prototypes`, its prototypes.
pub(in crate::kernels) fn backward<B: IbotBackend>(
    input: &TiledInput<B>,
    output: &CrossEntropyOutput<B>,
    d_loss: &Tensor<B, 1>,
    wants_prototypes: bool,
) -> TiledGradients<B> {
    let bottleneck = &input.student.bottleneck;
    let mut d_bottleneck = bottleneck.zeros_like();
    let shape = input.student.prototypes.dims();
    // not by `cat` at the end, which would hold all of it twice
    let mut d_prototypes = wants_prototypes.then(|| Tensor::empty(shape, &bottleneck.device()));
    for columns in input.targets.tiles() {
        let d_logits =
            B::cross_entropy_backward(input.tile(&columns), output.clone(), d_loss.clone());
        let of_tile = LinearBackwardInput {
            x: bottleneck.clone(),
            weight: input.student.prototypes_of(&columns),
            d_y: d_logits,
            wants_x: true,
            wants_weight: wants_prototypes,
            wants_bias: false,
        };
        let precision = Precision::current().of_logits();
        let of_tile = precision.autocast(|| B::linear_rows_backward(of_tile));
        if let Some(d_x) = of_tile.d_x {
            d_bottleneck = d_bottleneck + d_x;
        }
        let pair = d_prototypes.zip(of_tile.d_weight);
        d_prototypes = pair.map(|(whole, of_tile): (Tensor<B, 2>, _)| {
            whole.slice_assign([0..shape[0], columns], of_tile)
        });
    }
    TiledGradients {
        d_bottleneck,
        d_prototypes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_and_have_a_column() {
        assert_eq!(tile_columns(944, 1 << 22), 4416);
        assert_eq!(tile_columns(8, 1 << 22), 524_288);
        assert_eq!(tile_columns(100_000, 1 << 22), 41);
        assert_eq!(tile_columns(1 << 23, 1 << 22), 1);
        assert_eq!(tile_columns(0, 7), 7);
    }
}
