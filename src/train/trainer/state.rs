//! All tensors of a trainer by name, and back: the contents of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::AutodiffModule;
use burn::tensor::Tensor;

use crate::backbone::TrainBackbone;
use crate::error::{Error, Result};
use crate::files::{NamedTensor, load_state_dict, state_dict};
use crate::kernels::{IbotBackend, LossScale, TrainBackend, wrap};
use crate::method::Ibot;
use crate::ownership::take;
use crate::train::optim::{to_device, to_host};
use crate::train::trainer::Trainer;

/// Tensors on the host, by name.
pub type Tensors = BTreeMap<String, NamedTensor>;

const STUDENT: &str = "student.";
const TEACHER: &str = "teacher.";
const OPTIMIZER: &str = "optimizer.";
/// Name of the loss scale and the sound steps since it changed, `[2]`.
const LOSS_SCALE: &str = "loss_scale";
const CENTER: &str = "center.cls";
const PATCH_CENTER: &str = "center.patch";
/// Names of the class-token and patch centers.
pub(in crate::train) const CENTERS: [&str; 2] = [CENTER, PATCH_CENTER];
/// Prefixes of the names in student and teacher.
pub(in crate::train) const NETWORKS: [&str; 2] = ["student.network.", "teacher."];
/// Name of the student's mask token.
pub(in crate::train) const MASK_TOKEN: &str = "student.mask_token";
/// Prefix of a backbone's names within its network.
pub(in crate::train) const BACKBONE: &str = "backbone.";

/// The backbones of student and teacher among the tensors of a trainer, under timm's names.
pub fn backbones(tensors: &Tensors) -> [Tensors; 2] {
    NETWORKS.map(|network| subset(tensors, &format!("{network}{BACKBONE}")))
}

/// The backbones of student and teacher, under timm's names; reads them from the device.
pub fn backbones_of<B: TrainBackend, M: TrainBackbone<B>>(method: &Ibot<B, M>) -> [Tensors; 2] {
    [
        state_dict(&method.student.network.backbone.valid()),
        state_dict(&method.teacher.backbone),
    ]
}

impl<B: TrainBackend, M: TrainBackbone<B>> Trainer<B, M> {
    /// Student, teacher, centers and optimizer state; reads them from the device.
    pub fn tensors(&self) -> Tensors {
        let mut all = Tensors::new();
        all.extend(prefixed(STUDENT, state_dict(&self.method.student.valid())));
        all.extend(prefixed(TEACHER, state_dict(&self.method.teacher)));
        all.extend(prefixed(OPTIMIZER, self.optimizer.tensors()));
        let centers = [
            (CENTER, &self.method.center),
            (PATCH_CENTER, &self.method.patch_center),
        ];
        for (name, center) in centers {
            // a center without a value is not written, and `load_tensors` leaves it unset
            if let Some(value) = center.value() {
                all.insert(
                    name.into(),
                    to_host::<B::InnerBackend>(value.into_primitive().tensor()),
                );
            }
        }
        all.extend(self.loss_scale.as_ref().map(named_loss_scale));
        all
    }

    /// Restores the state after `step` steps from the tensors of [`Trainer::tensors`].
    ///
    /// # Errors
    /// [`Error::Weights`] that names what does not fit, and the settings that decide it; `source` is where the tensors come
    /// from. The trainer must not be used after that.
    pub fn restore(&mut self, step: usize, tensors: Tensors, source: &Path) -> Result<()> {
        let device = self.device().clone();
        // a checkpoint from before the first masked batch has no center for patches
        for center in [&mut self.method.center, &mut self.method.patch_center] {
            center.set(None);
        }
        load_tensors(&mut self.method, &tensors, source, &device)
            .map_err(|error| keep_setting(error, "[method]", step))?;
        self.optimizer
            .restore(step, subset(&tensors, OPTIMIZER), &device)
            .map_err(|report| misfit(source, "the optimizer", report))
            .map_err(|error| keep_setting(error, "optimizer.name", step))?;
        self.set_loss_scale(stored_loss_scale(&tensors, source)?);
        Ok(())
    }
}

/// Loads the networks and centers of [`Trainer::tensors`]; a missing center is left unchanged.
///
/// # Errors
/// [`Error::Weights`] that names what does not fit; `source` is where the tensors come from.
pub(in crate::train) fn load_tensors<B: TrainBackend, M: TrainBackbone<B>>(
    method: &mut Ibot<B, M>,
    tensors: &Tensors,
    source: &Path,
    device: &B::Device,
) -> Result<()> {
    // taken out, so that loading replaces the weights instead of holding both at once
    let student = take(&mut method.student);
    let (student, report) = load_state_dict(student, subset(tensors, STUDENT));
    if !report.is_clean() {
        return Err(misfit(source, "the student", report));
    }
    let (teacher, report) = load_state_dict(take(&mut method.teacher), subset(tensors, TEACHER));
    if !report.is_clean() {
        return Err(misfit(source, "the teacher", report));
    }
    (method.student, method.teacher) = (student, teacher);
    let prototypes = method.config().prototypes();
    let centers = [
        (CENTER, &mut method.center, prototypes[0]),
        (PATCH_CENTER, &mut method.patch_center, prototypes[1]),
    ];
    for (name, center, expected) in centers {
        let Some(found) = tensors.get(name) else {
            continue;
        };
        if found.shape != [expected] {
            let report = format!("{:?}, model [{expected}]", found.shape);
            return Err(misfit(source, name, report));
        }
        let value = to_device::<B::InnerBackend>(found, device);
        center.set(Some(wrap::<B::InnerBackend, 1>(value)));
    }
    Ok(())
}

/// The loss scale among the tensors of a trainer, with its name; reads it from the device.
pub(crate) fn named_loss_scale<B: IbotBackend>(state: &LossScale<B>) -> (String, NamedTensor) {
    let state = Tensor::cat(vec![state.scale.clone(), state.sound_steps.clone()], 0);
    let state = to_host::<B>(state.into_primitive().tensor());
    (LOSS_SCALE.to_owned(), state)
}

/// What [`LossScale::of`] takes, from the tensors of a trainer; none where the loss was not scaled.
///
/// # Errors
/// [`Error::Weights`] where it is no pair; `source` is where the tensors come from.
pub(crate) fn stored_loss_scale(tensors: &Tensors, source: &Path) -> Result<Option<[f32; 2]>> {
    let Some(tensor) = tensors.get(LOSS_SCALE) else {
        return Ok(None);
    };
    let state = <[f32; 2]>::try_from(&tensor.values[..]);
    let report = || format!("[{}], expected [2]", tensor.values.len());
    let state = state.map_err(|_| misfit(source, LOSS_SCALE, report()));
    state.map(Some)
}

/// The error of `what` among tensors from `source` that is not as the settings say.
pub(crate) fn misfit(source: &Path, what: &str, report: impl std::fmt::Display) -> Error {
    Error::Weights {
        path: source.to_path_buf(),
        reason: format!("{what} does not fit these settings: {report}"),
    }
}

/// The error of a checkpoint with what can be done: `keys` are the settings that it was made with.
fn keep_setting(error: Error, keys: &str, step: usize) -> Error {
    match error {
        Error::Weights { path, reason } => Error::Weights {
            path,
            reason: format!(
                "{reason}; the checkpoint of step {step} has other settings: leave `{keys}` as it was, or start a new run in another folder (`out`) from the weights of this one (`pretrained`: its teacher.safetensors)"
            ),
        },
        error => error,
    }
}

/// These tensors with `prefix` before their names.
pub(crate) fn prefixed(
    prefix: &str,
    tensors: Tensors,
) -> impl Iterator<Item = (String, NamedTensor)> {
    let named = tensors.into_iter();
    named.map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

/// The tensors whose names start with `prefix`, which is removed.
pub(crate) fn subset(tensors: &Tensors, prefix: &str) -> Tensors {
    let named = tensors.iter();
    named
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())))
        .collect()
}
