//! A linear classifier of patches.

use rayon::prelude::*;

use crate::eval::confidence::stratified_split;
use crate::eval::confusion::Confusion;
use crate::eval::lbfgs::{Stop, minimize};
use crate::eval::logistic::{add_penalty, cross_entropy, moments, standardized_row};
use crate::eval::patches::rows::{Cover, PatchRows};
use crate::eval::products::{add_column_products, row_products};

/// Rows that are held in double precision at a time: 6 MB of 384 features.
const CHUNK: usize = 2048;

/// How the probe is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchProbeConfig {
    /// Inverse strengths of the L2 penalty to choose from, each above 0. Default 1e-4 to 1.
    pub strengths: Vec<f64>,
    /// A fit ends where no entry of its gradient is larger. Default 1e-5.
    pub tolerance: f64,
    /// A fit ends after this many steps of L-BFGS. Default 200.
    pub iterations: usize,
    /// Seed of the images that choose. Default 0.
    pub seed: u64,
}

impl Default for PatchProbeConfig {
    fn default() -> Self {
        Self {
            strengths: vec![1e-4, 1e-3, 1e-2, 0.1, 1.0],
            tolerance: 1e-5,
            iterations: 200,
            seed: 0,
        }
    }
}

/// A linear classifier of patch features.
#[derive(Debug, Clone)]
pub struct PatchProbe {
    /// The classes that it knows, ascending, `[K]`.
    pub classes: Vec<u8>,
    /// The inverse strength that was chosen.
    pub chosen: f64,
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// `[K, D + 1]`: weights of the standardized features, then the intercept.
    parameters: Vec<f64>,
}

impl PatchProbe {
    /// Fits `mean cross-entropy + |weights|^2 / (2 C M)` on standardized features, M = number of patches, for each strength C;
    /// takes the one with the largest mean IoU on a held-out fifth of the images (of equally good ones the first), each patch
    /// being of one class; and fits all patches with it.
    ///
    /// A patch's target is the share of each class among the pixels under it, and its weight their number. That makes the loss
    /// the mean over *pixels*, each with the logits of its patch.
    ///
    /// Differs from DINOv2's linear segmentation (arXiv 2304.07193, section 7.4), which interpolates the logits in training
    /// too, and has batch norm and AdamW in place of standardized features and a minimum; the prediction
    /// ([`super::upsampled_classes`]) is the same.
    ///
    /// `None` without a patch, where a feature is not finite, or where `strengths` is empty or has a value that is not above 0.
    pub fn fit(train: &PatchRows, config: &PatchProbeConfig) -> Option<Self> {
        let is_finite = train.features.iter().all(|value| value.is_finite());
        let is_usable = config.strengths.iter().all(|strength| *strength > 0.0);
        if train.is_empty() || train.width == 0 || !is_finite || !is_usable {
            return None;
        }
        let classes = train.classes();
        let (mean, scale) = moments(&train.features, train.width);
        let of = |rows: Vec<usize>| Problem {
            train,
            rows,
            classes: &classes,
            mean: &mean,
            scale: &scale,
        };
        let (kept, held_out) = parts(train, config.seed);
        let (problem, held_out) = (of(kept), of(held_out));
        let mut parameters = problem.zeros();
        let mut best: Option<(f64, f64)> = None;
        for &strength in &config.strengths {
            // the minimum under one penalty is near that under the next
            parameters = problem.solve(parameters, strength, config);
            // one image leaves none to choose by
            let score = held_out.mean_iou(&parameters).unwrap_or(0.0);
            if best.is_none_or(|(best, _)| score > best) {
                best = Some((score, strength));
            }
        }
        let (_, chosen) = best?;
        let problem = of((0..train.len()).collect());
        let parameters = problem.solve(parameters, chosen, config);
        Some(Self {
            classes,
            chosen,
            mean,
            scale,
            parameters,
        })
    }

    /// Logits of patches, `[N, D]` -> `[N, K]`.
    pub fn scores(&self, patches: &[f32]) -> Vec<f64> {
        let rows = patches.chunks_exact(self.mean.len());
        let rows: Vec<f64> = rows
            .flat_map(|row| standardized_row(row, &self.mean, &self.scale))
            .collect();
        row_products(&rows, &self.parameters, self.mean.len() + 1)
    }
}

/// The patches that fit, and those of a fifth of the images, which choose.
fn parts(train: &PatchRows, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let count = train.images.last().map_or(0, |last| last + 1);
    let split = stratified_split(&vec![None; count], 0.2, seed);
    let is_held_out = |row: &usize| split.held_out.binary_search(&train.images[*row]).is_ok();
    let (held_out, kept) = (0..train.len()).partition(is_held_out);
    (kept, held_out)
}

/// Some of the patches, to be fitted or judged.
struct Problem<'a> {
    train: &'a PatchRows,
    rows: Vec<usize>,
    classes: &'a [u8],
    mean: &'a [f64],
    scale: &'a [f64],
}

impl Problem<'_> {
    fn width(&self) -> usize {
        self.mean.len() + 1
    }

    fn zeros(&self) -> Vec<f64> {
        vec![0.0; self.classes.len() * self.width()]
    }

    fn solve(&self, start: Vec<f64>, strength: f64, config: &PatchProbeConfig) -> Vec<f64> {
        let stop = Stop {
            tolerance: config.tolerance,
            iterations: config.iterations,
        };
        let penalty = 1.0 / (strength * self.rows.len() as f64);
        minimize(start, stop, |parameters| {
            self.objective(parameters, penalty)
        })
    }

    /// Standardized features of some rows with a last column of ones, `[M, D + 1]`.
    fn features(&self, rows: &[usize]) -> Vec<f64> {
        let width = self.train.width;
        let row = |row: &usize| &self.train.features[row * width..][..width];
        let mut features = vec![0.0; rows.len() * self.width()];
        features
            .par_chunks_exact_mut(self.width())
            .zip(rows)
            .with_min_len(64)
            .for_each(|(to, at)| {
                let values = standardized_row(row(at), self.mean, self.scale);
                to.iter_mut()
                    .zip(values)
                    .for_each(|(to, value)| *to = value);
            });
        features
    }

    /// Mean cross-entropy of the pixels plus `penalty / 2 * |weights|^2`, and its gradient `[K, D + 1]`.
    fn objective(&self, parameters: &[f64], penalty: f64) -> (f64, Vec<f64>) {
        let (width, classes) = (self.width(), self.classes.len());
        let covers = || self.rows.iter().map(|row| &self.train.covers[*row]);
        let share = 1.0 / covers().map(|cover| f64::from(pixels(cover))).sum::<f64>();
        let mut value = 0.0;
        let mut gradient = vec![0.0; parameters.len()];
        for rows in self.rows.chunks(CHUNK) {
            let features = self.features(rows);
            let mut logits = row_products(&features, parameters, width);
            for (logits, row) in logits.chunks_exact_mut(classes).zip(rows) {
                let targets = targets(self.classes, &self.train.covers[*row]);
                value += share * cross_entropy(logits, &targets);
            }
            add_column_products((&logits, classes), (&features, width), &mut gradient);
        }
        gradient.iter_mut().for_each(|gradient| *gradient *= share);
        add_penalty((&mut value, &mut gradient), parameters, width, penalty);
        (value, gradient)
    }

    /// Mean IoU where each patch is of the class with the largest logit; `None` without a patch.
    fn mean_iou(&self, parameters: &[f64]) -> Option<f64> {
        let mut confusion = Confusion::default();
        for rows in self.rows.chunks(CHUNK) {
            let logits = row_products(&self.features(rows), parameters, self.width());
            for (logits, row) in logits.chunks_exact(self.classes.len()).zip(rows) {
                let best = (0..logits.len())
                    .rev()
                    .max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                let predicted = self.classes[best.unwrap_or(0)];
                for (class, count) in &self.train.covers[*row] {
                    confusion.add_pixels(*class, predicted, u64::from(*count));
                }
            }
        }
        confusion.mean_iou()
    }
}

fn pixels(cover: &Cover) -> u32 {
    cover.iter().map(|(_, count)| count).sum()
}

/// Targets of the pixels under a patch: the class of each, by its place, as often as it is there.
fn targets(classes: &[u8], cover: &Cover) -> Vec<(usize, f64)> {
    let target = |(class, count): &(u8, u32)| {
        let at = classes.binary_search(class).ok()?;
        Some((at, f64::from(*count)))
    };
    cover.iter().filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::logistic::assert_is_slope;
    use crate::random::{Random, Stream};

    /// Patches whose first feature is the share of class 6 under them, the others noise.
    fn rows(images: usize, noise: f64, seed: u64) -> PatchRows {
        let mut random = Random::new(seed, 0, 0, Stream::Init);
        let mut rows = PatchRows {
            width: 3,
            ..PatchRows::default()
        };
        for _ in 0..images {
            let counts: Vec<u32> = (0..9).map(|_| random.below(5) as u32).collect();
            let cover = |count: &u32| -> Cover {
                let all = [(2, 4 - count), (6, *count)];
                all.into_iter().filter(|(_, count)| *count > 0).collect()
            };
            let covers: Vec<Cover> = counts.iter().map(cover).collect();
            let feature = |count: &u32| {
                let share = f64::from(*count) / 4.0;
                [share + noise * random.normal(), random.normal(), 7.0].map(|value| value as f32)
            };
            let features: Vec<f32> = counts.iter().flat_map(feature).collect();
            rows.push_image(&features, &covers, &(0..9).collect::<Vec<_>>());
        }
        rows
    }

    #[test]
    fn gradient_is_the_slope() {
        let train = rows(20, 0.5, 1);
        let (mean, scale) = moments(&train.features, 3);
        let problem = Problem {
            train: &train,
            rows: (0..train.len()).collect(),
            classes: &[2, 6],
            mean: &mean,
            scale: &scale,
        };
        let mut random = Random::new(2, 0, 0, Stream::Init);
        let at: Vec<f64> = (0..8).map(|_| random.normal()).collect();
        assert_is_slope(&at, |at| problem.objective(at, 0.1));
    }

    /// A soft target is the mean of hard ones: the same patch once for each of its pixels.
    #[test]
    fn the_loss_is_the_mean_over_pixels() {
        let logits = [0.3, -1.2];
        let mut soft = logits;
        let value = cross_entropy(&mut soft, &targets(&[2, 6], &vec![(2, 3), (6, 1)]));
        let mut expected = (0.0, [0.0; 2]);
        for class in [2, 2, 2, 6] {
            let mut hard = logits;
            expected.0 += cross_entropy(&mut hard, &targets(&[2, 6], &vec![(class, 1)]));
            expected
                .1
                .iter_mut()
                .zip(hard)
                .for_each(|(sum, entry)| *sum += entry);
        }
        assert!((value - expected.0).abs() < 1e-12);
        assert!(
            soft.iter()
                .zip(expected.1)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
    }

    #[test]
    fn patches_that_say_their_class_are_told_apart() {
        let (train, test) = (rows(60, 0.1, 1), rows(20, 0.1, 2));
        let config = PatchProbeConfig::default();
        let probe = PatchProbe::fit(&train, &config).unwrap();
        assert_eq!(probe.classes, [2, 6]);
        let scores = probe.scores(&test.features);
        let mut confusion = Confusion::default();
        for (scores, cover) in scores.chunks(2).zip(&test.covers) {
            let predicted = if scores[1] > scores[0] { 6 } else { 2 };
            for (class, count) in cover {
                confusion.add_pixels(*class, predicted, u64::from(*count));
            }
        }
        // a patch with two classes has pixels that no class of a whole patch gets right: a fifth of all, in the mean
        let most = |cover: &Cover| cover.iter().map(|(_, count)| *count).max();
        let best: u32 = test.covers.iter().filter_map(most).sum();
        let best = f64::from(best) / confusion.total() as f64;
        let accuracy = confusion.accuracy().unwrap();
        assert!(
            (0.75..0.85).contains(&best) && accuracy > best - 0.02,
            "{accuracy} {best}"
        );
        let constant = confusion.constant().mean_iou().unwrap();
        assert!(
            confusion.mean_iou().unwrap() > constant + 0.35,
            "{constant}"
        );
    }

    #[test]
    fn what_cannot_be_fitted_is_no_probe() {
        let (train, config) = (rows(3, 0.1, 1), PatchProbeConfig::default());
        assert!(PatchProbe::fit(&PatchRows::default(), &config).is_none());
        for strengths in [vec![], vec![1.0, 0.0], vec![f64::NAN]] {
            let config = PatchProbeConfig {
                strengths,
                ..config.clone()
            };
            assert!(PatchProbe::fit(&train, &config).is_none());
        }
        let mut broken = train.clone();
        broken.features[1] = f32::INFINITY;
        assert!(PatchProbe::fit(&broken, &config).is_none());
        // one image has none to choose by, and is fitted all the same
        assert!(PatchProbe::fit(&rows(1, 0.1, 1), &config).is_some());
    }
}
