//! Logits that are never stored, against the same logits stored, on the same backend.

use burn::tensor::Tensor;
use ibot::kernels::{
    CrossEntropyInput, IbotBackend, LinearLayerInput, Logits, Pairing, Prologue, TargetPotentials,
    TiledInput, TiledTargets, TrainBackend,
};
use ibot::random::{Random, Stream};

use crate::loss_case::{Inner, STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, error, vector, wide};
use crate::{loss_case, values};

/// Width of the rows before the prototypes.
const WIDTH: usize = 8;

/// Rows and prototypes of both networks.
struct Case {
    /// Views of student and teacher, and images; one view each for patches.
    views: [usize; 3],
    prototypes: usize,
    /// Columns of a tile.
    columns: usize,
    is_centered: bool,
    /// Logits have about this size.
    scale: f64,
}

/// Targets, loss, and gradients with respect to rows and prototypes.
type Outcome = [Vec<f64>; 4];

impl Case {
    fn pairing(&self) -> Pairing {
        match self.views {
            [1, 1, _] => Pairing::SameRow,
            [_, _, images] => Pairing::OtherViews { images },
        }
    }

    fn draw(&self, seed: u64, count: usize, scale: f64) -> Vec<f32> {
        let mut random = Random::new(seed, self.prototypes as u64, 0, Stream::Init);
        random.fill(count, |random| random.normal() * scale)
    }

    fn logits<B: IbotBackend>(&self, seed: u64, rows: usize, device: &B::Device) -> Logits<B> {
        let scale = 1.0 / (WIDTH as f64).sqrt();
        let bottleneck = self.draw(seed, rows * WIDTH, scale);
        let prototypes = self.draw(seed + 1, WIDTH * self.prototypes, self.scale);
        Logits {
            bottleneck: loss_case::tensor(&bottleneck, WIDTH, device),
            prototypes: loss_case::tensor(&prototypes, self.prototypes, device),
        }
    }

    fn center<B: IbotBackend>(&self, device: &B::Device) -> Option<Tensor<B, 1>> {
        let center = self.draw(5, self.prototypes, self.scale);
        self.is_centered.then(|| vector(&center, device))
    }

    fn weights<B: IbotBackend>(&self, device: &B::Device) -> Tensor<B, 1> {
        let rows = self.views[0] * self.views[2];
        let mut random = Random::new(6, 0, 0, Stream::Init);
        vector(
            &random.fill(rows, |r| r.uniform(0.5, 1.5) / rows as f64),
            device,
        )
    }

    /// Both ways through: tiled, and stored.
    fn run<B: TrainBackend>(&self, device: &B::Device) -> [Outcome; 2] {
        let [student_views, teacher_views, images] = self.views;
        let teacher = self.logits::<Inner<B>>(1, teacher_views * images, device);
        let student = || {
            let drawn = self.logits::<B>(3, student_views * images, device);
            Logits {
                bottleneck: drawn.bottleneck.require_grad(),
                prototypes: drawn.prototypes.require_grad(),
            }
        };
        let outcome = |student: &Logits<B>, loss: Tensor<B, 1>, targets| {
            let grads = loss.backward();
            let gradient = |leaf: &Tensor<B, 2>| wide(&values(leaf.grad(&grads).unwrap()));
            let d_bottleneck = gradient(&student.bottleneck);
            let d_prototypes = gradient(&student.prototypes);
            [targets, wide(&values(loss)), d_bottleneck, d_prototypes]
        };
        let whole = teacher.tile(&(0..self.prototypes));
        let of_targets = |potentials: &TargetPotentials<Inner<B>>| {
            wide(&values(potentials.targets(whole.clone())))
        };

        let targets = self.targets(teacher.clone(), device);
        let tracked = student();
        let output = B::tiled_cross_entropy(&TiledInput {
            student: tracked.clone(),
            targets: TiledTargets::from_inner(targets.clone()),
            pairing: self.pairing(),
            row_weights: self.weights(device),
            student_temperature: STUDENT_TEMPERATURE,
        });
        let tiled = outcome(&tracked, output.loss, of_targets(&targets.potentials));

        let potentials = if self.is_centered {
            Inner::<B>::centered_potentials(whole.clone(), self.center(device), TEACHER_TEMPERATURE)
        } else {
            Inner::<B>::sinkhorn_potentials(whole.clone(), TEACHER_TEMPERATURE, 3)
        };
        let tracked = student();
        let output = B::cross_entropy(&CrossEntropyInput {
            student_logits: // not `matmul`: burn's product does not fit a device of 16 KiB a workgroup, and gives other numbers there
                B::linear_layer(LinearLayerInput {
                    x: tracked.bottleneck.clone(),
                    prologue: Prologue::Nothing,
                    weight: tracked.prototypes.clone(),
                    bias: None,
                    residual: None,
                }),
            teacher_logits: Tensor::from_inner(whole.clone()),
            potentials: TargetPotentials::from_inner(potentials.clone()),
            pairing: self.pairing(),
            row_weights: self.weights(device),
            student_temperature: STUDENT_TEMPERATURE,
        });
        let stored = outcome(&tracked, output.loss, of_targets(&potentials));
        [tiled, stored]
    }

    fn targets<B: IbotBackend>(&self, teacher: Logits<B>, device: &B::Device) -> TiledTargets<B> {
        let (columns, center) = (self.columns, self.center(device));
        if self.is_centered {
            TiledTargets::centered(teacher, columns, center, TEACHER_TEMPERATURE)
        } else {
            TiledTargets::sinkhorn(teacher, columns, TEACHER_TEMPERATURE, 3)
        }
    }

    #[track_caller]
    fn check<B: TrainBackend>(&self, bar: f64, device: &B::Device) {
        let [tiled, stored] = self.run::<B>(device);
        assert!(stored[1][0] != 0.0 && stored[3].iter().any(|x| *x != 0.0));
        let of_each = tiled.iter().zip(&stored);
        let errors: Vec<f64> = of_each
            .map(|(tiled, stored)| error(tiled, stored, f64::MIN_POSITIVE))
            .collect();
        assert!(
            errors.iter().all(|error| *error <= bar),
            "{:?} x {} in tiles of {}, centered {}: errors of targets, loss and gradients {errors:?}, bar {bar}",
            self.views,
            self.prototypes,
            self.columns,
            self.is_centered,
        );
    }
}

/// Patches and class tokens, tiles of one column, of all columns, of a rest, and both kinds of targets.
pub fn equals_stored<B: TrainBackend>(device: &B::Device) {
    for is_centered in [false, true] {
        for (views, prototypes, columns) in [
            ([1, 1, 2], 3, 1),
            ([1, 1, 5], 64, 64),
            ([1, 1, 5], 20, 1),
            ([1, 1, 65], 257, 64),
            ([1, 1, 131], 1031, 100),
            ([1, 1, 300], 1024, 512),
            ([2, 2, 3], 64, 20),
            ([5, 2, 1], 257, 64),
            ([10, 2, 4], 12, 5),
            ([2, 1, 3], 70, 69),
        ] {
            let case = Case {
                views,
                prototypes,
                columns,
                is_centered,
                scale: 1.0,
            };
            case.check::<B>(1e-5, device);
        }
    }
}

/// Logits of some hundreds: most tiles hold nothing of a row's targets.
pub fn large_logits<B: TrainBackend>(device: &B::Device) {
    for is_centered in [false, true] {
        let case = Case {
            views: [1, 1, 33],
            prototypes: 150,
            columns: 7,
            is_centered,
            scale: 300.0,
        };
        case.check::<B>(1e-3, device);
    }
}

/// The mean of logits that nobody made.
pub fn mean<B: TrainBackend>(device: &B::Device) {
    let case = Case {
        views: [1, 1, 33],
        prototypes: 150,
        columns: 7,
        is_centered: true,
        scale: 1.0,
    };
    let logits = case.logits::<Inner<B>>(1, 33, device);
    let expected = values(logits.tile(&(0..150)).mean_dim(0));
    let error = error(&wide(&values(logits.mean())), &wide(&expected), 1e-3);
    assert!(error < 1e-5, "{error}");
}
