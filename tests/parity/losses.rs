//! The losses alone.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use ibot::kernels::{IbotBackend, TargetPotentials, TrainBackend};
use ibot::losses::{
    Center, ClsLogits, ClsLossInput, PatchLossInput, PatchWeighting, cls_loss, koleo_loss,
    patch_loss,
};

use crate::case::{Case, Comparison, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

pub fn patch<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let student = case
        .tensor::<B, 2>("student_logits", device)?
        .require_grad();
    let teacher = case.tensor::<Inner<B>, 2>("teacher_logits", device)?;
    let iterations = case.count("sinkhorn_iterations")?;
    let temperature = case.number("teacher_temperature")?;
    let potentials =
        Inner::<B>::sinkhorn_potentials(std::slice::from_ref(&teacher), temperature, iterations);
    let mut comparison = Comparison::default();
    comparison.forward(case, "targets", values(potentials.targets(teacher.clone())))?;
    let loss = patch_loss(PatchLossInput::<B> {
        student_logits: vec![student.clone()],
        teacher_logits: vec![Tensor::from_inner(teacher)],
        potentials: TargetPotentials::from_inner(potentials),
        weighting: PatchWeighting::PerPatch,
        student_temperature: case.number("student_temperature")?,
    });
    loss_and_gradient(case, &mut comparison, "", loss, &student)?;
    Ok(comparison)
}

pub fn cls<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let mut center = Center::unset(case.number("center_momentum")?);
    let mut comparison = Comparison::default();
    for call in 0..case.count("calls")? {
        let teacher = case.tensor::<Inner<B>, 3>(&format!("{call}.teacher_logits"), device)?;
        let targets = centered_cls_call::<B>(case, &mut comparison, call, &mut center, device)?;
        let rows = flat(teacher);
        comparison.forward(
            case,
            &format!("{call}.targets"),
            values(targets.targets(rows)),
        )?;
    }
    let value = center.value().ok_or("no center")?;
    comparison.forward(case, "center", values(value))?;
    Ok(comparison)
}

pub fn multi_crop_cls<B: TrainBackend>(
    case: &Case,
    device: &B::Device,
) -> Result<Comparison, String> {
    let prototypes = *case
        .named("0.teacher_logits")?
        .shape
        .last()
        .ok_or("rank 0")?;
    let mut center = Center::zeros(prototypes, case.number("center_momentum")?, device);
    let mut comparison = Comparison::default();
    for call in 0..case.count("calls")? {
        centered_cls_call::<B>(case, &mut comparison, call, &mut center, device)?;
        center_after(case, &mut comparison, call, &center)?;
    }
    Ok(comparison)
}

pub fn centered_patch<B: TrainBackend>(
    case: &Case,
    device: &B::Device,
) -> Result<Comparison, String> {
    let prototypes = *case
        .named("0.teacher_logits")?
        .shape
        .last()
        .ok_or("rank 0")?;
    let mut center = Center::zeros(prototypes, case.number("center_momentum")?, device);
    let mut comparison = Comparison::default();
    for call in 0..case.count("calls")? {
        let mask = case.named(&format!("{call}.mask"))?;
        let patches = mask.values.len() / mask.shape[0];
        let counts = mask.values.chunks(patches);
        let counts = counts.map(|image| image.iter().filter(|m| **m > 0.5).count());
        let student = case
            .tensor::<B, 2>(&format!("{call}.student_logits"), device)?
            .require_grad();
        let teacher = case.tensor::<Inner<B>, 2>(&format!("{call}.teacher_logits"), device)?;
        let potentials = Inner::<B>::centered_potentials(
            std::slice::from_ref(&teacher),
            center.value(),
            case.number("teacher_temperature")?,
        );
        let loss = patch_loss(PatchLossInput::<B> {
            student_logits: vec![student.clone()],
            teacher_logits: vec![Tensor::from_inner(teacher.clone())],
            potentials: TargetPotentials::from_inner(potentials),
            weighting: PatchWeighting::PerImage(counts.collect()),
            student_temperature: case.number("student_temperature")?,
        });
        loss_and_gradient(case, &mut comparison, &format!("{call}."), loss, &student)?;
        center.update(&[teacher]);
        center_after(case, &mut comparison, call, &center)?;
    }
    Ok(comparison)
}

pub fn koleo<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let features = case.tensor::<B, 2>("features", device)?.require_grad();
    let loss = koleo_loss(features.clone(), case.number("eps")?);
    let mut comparison = Comparison::default();
    comparison.forward(case, "loss", values(loss.clone()))?;
    let grads = loss.backward();
    let grad = features.grad(&grads).ok_or("no gradient")?;
    comparison.gradient(case, "features.grad", values(grad))?;
    Ok(comparison)
}

/// One call of a class-token loss with centered targets; the center moves at its end.
fn centered_cls_call<B: TrainBackend>(
    case: &Case,
    comparison: &mut Comparison,
    call: usize,
    center: &mut Center<Inner<B>>,
    device: &B::Device,
) -> Result<TargetPotentials<Inner<B>>, String> {
    let student = case
        .tensor::<B, 3>(&format!("{call}.student_logits"), device)?
        .require_grad();
    let teacher = case.tensor::<Inner<B>, 3>(&format!("{call}.teacher_logits"), device)?;
    let potentials = Inner::<B>::centered_potentials(
        &[flat(teacher.clone())],
        center.value(),
        case.number("teacher_temperature")?,
    );
    let loss = cls_loss(ClsLossInput::<B> {
        logits: vec![ClsLogits {
            student: student.clone(),
            teacher: Tensor::from_inner(teacher.clone()),
        }],
        potentials: TargetPotentials::from_inner(potentials.clone()),
        student_temperature: case.number("student_temperature")?,
    });
    loss_and_gradient(case, comparison, &format!("{call}."), loss, &student)?;
    center.update(&[flat(teacher)]);
    Ok(potentials)
}

fn flat<B: burn::tensor::backend::Backend>(logits: Tensor<B, 3>) -> Tensor<B, 2> {
    let [views, batch, prototypes] = logits.dims();
    logits.reshape([views * batch, prototypes])
}

fn center_after<B: burn::tensor::backend::Backend>(
    case: &Case,
    comparison: &mut Comparison,
    call: usize,
    center: &Center<B>,
) -> Result<(), String> {
    let value = center.value().ok_or("no center")?;
    comparison.forward(case, &format!("{call}.center_after"), values(value))
}

fn loss_and_gradient<B: TrainBackend, const D: usize>(
    case: &Case,
    comparison: &mut Comparison,
    prefix: &str,
    loss: Tensor<B, 1>,
    student: &Tensor<B, D>,
) -> Result<(), String> {
    comparison.forward(case, &format!("{prefix}loss"), values(loss.clone()))?;
    let grads = loss.backward();
    let grad = student.grad(&grads).ok_or("no gradient")?;
    comparison.gradient(case, &format!("{prefix}student_logits.grad"), values(grad))
}
