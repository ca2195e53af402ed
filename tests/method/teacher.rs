//! The teacher is a copy at first, and a moving average afterwards.

use std::collections::BTreeMap;

use ibot::files::{NamedTensor, state_dict};
use ibot::kernels::TrainBackend;
use ibot::method::VitIbot;

use crate::{assert_close, random_views, tiny_method};

fn student<B: TrainBackend>(method: &VitIbot<B>) -> BTreeMap<String, NamedTensor> {
    state_dict(&method.student.network)
}

fn teacher<B: TrainBackend>(method: &VitIbot<B>) -> BTreeMap<String, NamedTensor> {
    state_dict(&method.teacher)
}

pub fn equals_student_at_the_start<B: TrainBackend>(device: &B::Device) {
    let method = tiny_method::<B>(device);
    assert_eq!(student(&method), teacher(&method));
    let weight = &student(&method)["backbone.blocks.0.attn.qkv.weight"];
    assert!(
        weight.values.iter().any(|x| *x != weight.values[0]),
        "weights are drawn"
    );
}

/// Training the student, even in place, must not move the teacher, and the other way round.
pub fn shares_no_buffer<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let before = teacher(&method);
    let output = method
        .forward(&random_views(2, device), &[true; 16], 0.04)
        .unwrap();
    let grads = ibot::train::Gradients::of(&output.loss);
    let mut optimizer = ibot::train::Optimizer::new(Default::default());
    let rates = ibot::train::UpdateRates {
        learning_rate: 0.1,
        ..Default::default()
    };
    method.student = optimizer.step(method.student, grads, &rates, None);
    assert_eq!(teacher(&method), before);
    let moved = student(&method);
    assert_ne!(moved, before);
    method.update_teacher(0.5, None);
    assert_eq!(student(&method), moved);
    method.update_teacher(0.0, None);
    assert_eq!(teacher(&method), moved);
}

pub fn follows_the_formula<B: TrainBackend>(device: &B::Device) {
    let method = tiny_method::<B>(device);
    let other: VitIbot<B> = crate::tiny().init(4, device).unwrap();
    let (student_before, teacher_before) = (student(&method), teacher(&other));
    let mut mixed = method;
    mixed.teacher = other.teacher;
    mixed.update_teacher(0.9, None);
    for (name, found) in teacher(&mixed) {
        let pairs = teacher_before[&name]
            .values
            .iter()
            .zip(&student_before[&name].values);
        let expected: Vec<f64> = pairs
            .map(|(t, s)| 0.9 * f64::from(*t) + 0.1 * f64::from(*s))
            .collect();
        assert_close(&found.values, &expected, 1e-6);
    }
    let unmoved = teacher(&mixed);
    mixed.update_teacher(1.0, None);
    assert_eq!(teacher(&mixed), unmoved);
}
