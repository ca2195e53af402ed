//! One loss on a backend and on the host, and how far they are apart.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::kernels::{CrossEntropyInput, IbotBackend, Pairing, TargetPotentials, TrainBackend};
use ibot::random::{Random, Stream};

use crate::{host, values};

pub type Inner<B> = <B as AutodiffBackend>::InnerBackend;

pub const TEACHER_TEMPERATURE: f64 = 0.07;
pub const STUDENT_TEMPERATURE: f64 = 0.1;

/// One loss: shapes, logits, and how rows belong together.
pub struct Case {
    pub student: Vec<f32>,
    pub teacher: Vec<f32>,
    pub weights: Vec<f32>,
    pub prototypes: usize,
    pub pairing: Pairing,
    /// Sinkhorn-Knopp, or centered by these.
    pub center: Option<Vec<f32>>,
    pub teacher_temperature: f64,
}

/// What a backend or the host made of it.
pub struct Outcome {
    pub targets: Vec<f64>,
    pub loss: f64,
    pub gradient: Vec<f64>,
    pub largest_weight: f64,
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

pub fn tensor<B: IbotBackend>(
    values: &[f32],
    prototypes: usize,
    device: &B::Device,
) -> Tensor<B, 2> {
    let rows = values.len() / prototypes;
    Tensor::from_data(TensorData::new(values.to_vec(), [rows, prototypes]), device)
}

pub fn vector<B: IbotBackend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

impl Case {
    pub fn random(seed: u64, rows: usize, prototypes: usize) -> Self {
        let mut random = Random::new(seed, rows as u64, prototypes as u64, Stream::Init);
        Self {
            student: random.fill(rows * prototypes, Random::normal),
            teacher: random.fill(rows * prototypes, Random::normal),
            weights: random.fill(rows, |r| r.uniform(0.5, 1.5) / rows as f64),
            prototypes,
            pairing: Pairing::SameRow,
            center: None,
            teacher_temperature: TEACHER_TEMPERATURE,
        }
    }

    pub fn largest_weight(&self) -> f64 {
        let weights = self.weights.iter().map(|w| f64::from(*w));
        weights.fold(f64::MIN_POSITIVE, f64::max)
    }

    pub fn on_host(&self) -> Outcome {
        let targets = match &self.center {
            None => host::sinkhorn(&self.teacher, self.prototypes, self.teacher_temperature, 3),
            Some(center) => host::centered(&self.teacher, center, self.teacher_temperature),
        };
        let (loss, gradient) = host::CrossEntropy {
            student: &wide(&self.student),
            targets: &targets,
            weights: &wide(&self.weights),
            prototypes: self.prototypes,
            pairing: self.pairing,
            temperature: STUDENT_TEMPERATURE,
        }
        .run();
        Outcome {
            targets,
            loss,
            gradient,
            largest_weight: self.largest_weight(),
        }
    }

    pub fn potentials<B: IbotBackend>(&self, teacher: Tensor<B, 2>) -> TargetPotentials<B> {
        match &self.center {
            None => B::sinkhorn_potentials(teacher, self.teacher_temperature, 3),
            Some(center) => {
                let center = vector(center, &teacher.device());
                B::centered_potentials(teacher, Some(center), self.teacher_temperature)
            }
        }
    }

    pub fn input<B: TrainBackend>(
        &self,
        student: Tensor<B, 2>,
        teacher: Tensor<Inner<B>, 2>,
        potentials: TargetPotentials<Inner<B>>,
    ) -> CrossEntropyInput<B> {
        CrossEntropyInput {
            row_weights: vector(&self.weights, &student.device()),
            student_logits: student,
            teacher_logits: Tensor::from_inner(teacher),
            potentials: TargetPotentials::from_inner(potentials),
            pairing: self.pairing,
            student_temperature: STUDENT_TEMPERATURE,
        }
    }

    pub fn on_device<B: TrainBackend>(&self, device: &B::Device) -> Outcome {
        let teacher = tensor::<Inner<B>>(&self.teacher, self.prototypes, device);
        let student = tensor::<B>(&self.student, self.prototypes, device).require_grad();
        self.through::<B>(student, teacher)
    }

    pub fn through<B: TrainBackend>(
        &self,
        student: Tensor<B, 2>,
        teacher: Tensor<Inner<B>, 2>,
    ) -> Outcome {
        let potentials = self.potentials::<Inner<B>>(teacher.clone());
        let targets = if self.teacher.is_empty() {
            Vec::new()
        } else {
            values(potentials.targets(teacher.clone()))
        };
        let input = self.input::<B>(student.clone(), teacher, potentials);
        let loss = B::cross_entropy(&input).loss;
        let gradient = student.grad(&loss.backward()).unwrap();
        Outcome {
            targets: wide(&targets),
            loss: f64::from(values(loss)[0]),
            gradient: wide(&values(gradient)),
            largest_weight: self.largest_weight(),
        }
    }
}

/// Largest distance, in units of the largest expected magnitude, or of what the terms of the sums amount to where they
/// cancel.
pub fn error(found: &[f64], expected: &[f64], terms: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let magnitude = expected.iter().fold(terms, |max, x| max.max(x.abs()));
    let distances = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    // not `max`, which would pass over NaN
    distances.fold(0.0, |max, d| if d <= max { max } else { d }) / magnitude
}

#[track_caller]
pub fn compare(name: &str, found: &Outcome, expected: &Outcome, bar: f64) {
    let terms = expected.largest_weight;
    let errors = [
        error(&found.targets, &expected.targets, f64::MIN_POSITIVE),
        error(&[found.loss], &[expected.loss], terms),
        error(
            &found.gradient,
            &expected.gradient,
            terms / STUDENT_TEMPERATURE,
        ),
    ];
    assert!(
        errors.iter().all(|error| *error <= bar),
        "{name}: errors of targets, loss and gradient {errors:?}, bar {bar}"
    );
}
