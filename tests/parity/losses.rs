//! The losses alone.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use ibot::kernels::{IbotBackend, Logits, TrainBackend};
use ibot::method::losses::{
    Center, ClsLossInput, PatchLossInput, PatchWeighting, TargetRule, TeacherTargets, cls_loss,
    koleo_loss, patch_loss,
};

use crate::case::{Case, Comparison, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

pub fn patch<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let student = case
        .tensor::<B, 2>("student_logits", device)?
        .require_grad();
    let teacher = case.tensor::<Inner<B>, 2>("teacher_logits", device)?;
    let rule = TargetRule::Sinkhorn(case.count("sinkhorn_iterations")?);
    let targets = targets::<B>(case, teacher, rule)?;
    let mut comparison = Comparison::default();
    comparison.forward(case, "targets", probabilities(&targets)?)?;
    let patches = targets.rows();
    let loss = patch_loss(PatchLossInput::<B> {
        student: logits(student.clone()),
        targets: TeacherTargets::from_inner(targets),
        weighting: PatchWeighting::PerPatch { patches },
        student_temperature: case.number("student_temperature")?,
    });
    loss_and_gradient(case, &mut comparison, "", loss, &student)?;
    Ok(comparison)
}

pub fn cls<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let mut center = Center::unset(case.number("center_momentum")?);
    let mut comparison = Comparison::default();
    for call in 0..case.count("calls")? {
        let targets = centered_cls_call::<B>(case, &mut comparison, call, &mut center, device)?;
        let name = format!("{call}.targets");
        comparison.forward(case, &name, probabilities(&targets)?)?;
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
        let counts: Vec<usize> = counts.collect();
        let student = case
            .tensor::<B, 2>(&format!("{call}.student_logits"), device)?
            .require_grad();
        let teacher = case.tensor::<Inner<B>, 2>(&format!("{call}.teacher_logits"), device)?;
        let targets = targets::<B>(case, teacher, TargetRule::Centering(center.value()))?;
        let loss = patch_loss(PatchLossInput::<B> {
            student: logits(student.clone()),
            targets: TeacherTargets::from_inner(targets.clone()),
            weighting: PatchWeighting::PerImage {
                images: counts.len(),
                counts,
            },
            student_temperature: case.number("student_temperature")?,
        });
        loss_and_gradient(case, &mut comparison, &format!("{call}."), loss, &student)?;
        center.update(targets.mean_logits(), None);
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
) -> Result<TeacherTargets<Inner<B>>, String> {
    let student = case
        .tensor::<B, 3>(&format!("{call}.student_logits"), device)?
        .require_grad();
    let teacher = case.tensor::<Inner<B>, 3>(&format!("{call}.teacher_logits"), device)?;
    let [_, images, _] = student.dims();
    let rule = TargetRule::Centering(center.value());
    let targets = targets::<B>(case, flat(teacher), rule)?;
    let loss = cls_loss(ClsLossInput::<B> {
        student: logits(flat(student.clone())),
        targets: TeacherTargets::from_inner(targets.clone()),
        images,
        batch: images,
        student_temperature: case.number("student_temperature")?,
    });
    loss_and_gradient(case, comparison, &format!("{call}."), loss, &student)?;
    center.update(targets.mean_logits(), None);
    Ok(targets)
}

/// Recorded logits as a product: with the identity, which changes none of them.
fn logits<B: IbotBackend>(rows: Tensor<B, 2>) -> Logits<B> {
    let [_, prototypes] = rows.dims();
    Logits {
        prototypes: Tensor::eye(prototypes, &rows.device()),
        bottleneck: rows,
    }
}

fn targets<B: TrainBackend>(
    case: &Case,
    teacher: Tensor<Inner<B>, 2>,
    rule: TargetRule<Inner<B>>,
) -> Result<TeacherTargets<Inner<B>>, String> {
    let temperature = case.number("teacher_temperature")?;
    Ok(TeacherTargets::new(
        logits(teacher),
        rule,
        temperature,
        None,
    ))
}

fn probabilities<B: IbotBackend>(targets: &TeacherTargets<B>) -> Result<Vec<f32>, String> {
    match targets {
        TeacherTargets::Stored { logits, potentials } => {
            Ok(values(potentials.targets(logits.clone())))
        }
        TeacherTargets::Tiled(_) => Err("logits in tiles".into()),
    }
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
