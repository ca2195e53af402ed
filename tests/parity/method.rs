//! The whole method: forward, backward, optimizer and teacher, step by step.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use ibot::backbone::VisionTransformer;
use ibot::files::{NamedTensor, load_state_dict, state_dict};
use ibot::kernels::TrainBackend;
use ibot::method::{Ibot, VitIbot};
use ibot::method::{IbotConfig, StreamingPrototypes};
use ibot::train::{Gradients, Optimizer, OptimizerConfig, UpdateRates};

use crate::backbone::vit_config;
use crate::case::{Case, Comparison, GRADIENT_BAR, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// The reference's names of a head's layers, and ours.
const HEAD_LAYERS: [(&str, &str); 4] = [
    ("0.", "layers.0."),
    ("2.", "layers.1."),
    ("4.", "layers.2."),
    ("6.", "prototypes."),
];

/// Entries of a tile of tiled logits: few, so that a recording has several tiles.
const TILE_ENTRIES: usize = 100;

/// With stored logits, and with tiled ones.
pub fn check<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let stored = replay::<B>(case, StreamingPrototypes::Never, device)?;
    let tiled = replay::<B>(case, StreamingPrototypes::Always, device)?;
    Ok(stored.and("tiled ", tiled))
}

fn replay<B: TrainBackend>(
    case: &Case,
    streaming: StreamingPrototypes,
    device: &B::Device,
) -> Result<Comparison, String> {
    let mut method = recorded_method::<B>(case, streaming, device)?;
    if initial_weights_are_the_final_ones(case) {
        eprintln!(
            "DAMAGED RECORDING: init.* is final.*, so its training cannot be repeated; only eval.embedding is"
        );
        return evaluation(case, Comparison::default(), &method, device);
    }
    let total_epochs = case.count("total_epochs")?;
    let betas = &case.config["betas"];
    let mut optimizer = Optimizer::new(OptimizerConfig {
        betas: [0, 1].map(|beta| betas[beta].as_f64().unwrap_or(f64::NAN)),
        eps: case.number("adam_eps")?,
        weight_decay: case.number("weight_decay")?,
        decay_all: true,
        ..OptimizerConfig::default()
    });
    let rates = UpdateRates {
        learning_rate: case.number("lr")?,
        ..UpdateRates::default()
    };
    let mut comparison = Comparison::default();
    for step in 0..case.count("steps")? {
        let grads = forward(case, &mut comparison, &mut method, step, device)?;
        if step == 0 {
            gradients(case, &mut comparison, &method, &grads)?;
        }
        method.student = optimizer.step(method.student, grads, &rates, None);
        let decay = method.config().ema_decay(step as f64 / total_epochs as f64);
        method.update_teacher(decay, None);
    }
    final_weights(case, &mut comparison, &method)?;
    evaluation(case, comparison, &method, device)
}

/// A generator that keeps references to weights instead of copies records the trained ones twice
/// (shared/parity/generate.py does, in `method_case`).
fn initial_weights_are_the_final_ones(case: &Case) -> bool {
    let initial = case.under("init.");
    !initial.is_empty() && initial == case.under("final.")
}

fn evaluation<B: TrainBackend>(
    case: &Case,
    mut comparison: Comparison,
    method: &VitIbot<B>,
    device: &B::Device,
) -> Result<Comparison, String> {
    let images = case.tensor::<Inner<B>, 4>("eval.images", device)?;
    comparison.forward(case, "eval.embedding", values(method.embed(images)))?;
    Ok(comparison)
}

fn recorded_method<B: TrainBackend>(
    case: &Case,
    streaming_prototypes: StreamingPrototypes,
    device: &B::Device,
) -> Result<VitIbot<B>, String> {
    let vit = vit_config(case)?;
    let config = IbotConfig {
        image_size: vit.img_size,
        vit: Some(vit),
        streaming_prototypes,
        ..serde_json::from_value(case.config["method"].clone())
            .map_err(|error| error.to_string())?
    };
    let mut method: VitIbot<B> = config.init(0, device).map_err(|error| error.to_string())?;
    method.tile_entries = TILE_ENTRIES;
    let mut student = network_tensors(case, "init.", "student", "network.");
    student.insert("mask_token".into(), case.named("init.mask_token")?.clone());
    method.student = loaded(method.student, student)?;
    method.teacher = loaded(
        method.teacher,
        network_tensors(case, "init.", "teacher", ""),
    )?;
    Ok(method)
}

fn loaded<B: Backend, M: Module<B>>(
    module: M,
    tensors: BTreeMap<String, NamedTensor>,
) -> Result<M, String> {
    let (module, report) = load_state_dict(module, tensors);
    if report.is_clean() {
        Ok(module)
    } else {
        Err(report.to_string())
    }
}

/// Recorded tensors of the student or teacher under our names.
fn network_tensors(
    case: &Case,
    prefix: &str,
    role: &str,
    ours: &str,
) -> BTreeMap<String, NamedTensor> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in case.under(&format!("{prefix}backbone.{role}.")) {
        tensors.insert(format!("{ours}backbone.{name}"), tensor);
    }
    for head in ["cls_head", "patch_head"] {
        for (name, tensor) in case.under(&format!("{prefix}{head}.{role}.")) {
            let layer = HEAD_LAYERS
                .iter()
                .find(|(theirs, _)| name.starts_with(theirs));
            let name = layer.map_or(name.clone(), |(theirs, own)| name.replacen(theirs, own, 1));
            tensors.insert(format!("{ours}{head}.{name}"), tensor);
        }
    }
    tensors
}

fn forward<B: TrainBackend>(
    case: &Case,
    comparison: &mut Comparison,
    method: &mut Ibot<B, VisionTransformer<B>>,
    step: usize,
    device: &B::Device,
) -> Result<Gradients<B>, String> {
    let views: Vec<Tensor<Inner<B>, 4>> = (0..)
        .map(|view| format!("{step}.view{view}"))
        .take_while(|name| case.tensors.contains_key(name))
        .map(|name| case.tensor(&name, device))
        .collect::<Result<_, _>>()?;
    let mask = case.named(&format!("{step}.mask"))?;
    let mask: Vec<bool> = mask.values.iter().map(|masked| *masked > 0.5).collect();
    let temperature = method.config().teacher_temperature(step as f64);
    let output = method
        .forward(&views, &mask, temperature)
        .map_err(|error| error.to_string())?;
    let recorded = [
        ("loss", values(output.loss.clone())),
        ("loss_cls", values(output.terms.cls)),
        ("loss_patch", values(output.terms.patch)),
        ("embedding", values(output.embedding)),
    ];
    for (name, found) in recorded {
        comparison.forward(case, &format!("{step}.{name}"), found)?;
    }
    Ok(Gradients::of(&output.loss))
}

fn gradients<B: TrainBackend>(
    case: &Case,
    comparison: &mut Comparison,
    method: &VitIbot<B>,
    grads: &Gradients<B>,
) -> Result<(), String> {
    let found = grads.by_name(&method.student);
    let mut expected = network_tensors(case, "0.grad.", "student", "network.");
    if let Ok(token) = case.named("0.grad.mask_token") {
        expected.insert("mask_token".into(), token.clone());
    }
    compare(comparison, "0.grad.", &expected, &found)
}

fn final_weights<B: TrainBackend>(
    case: &Case,
    comparison: &mut Comparison,
    method: &VitIbot<B>,
) -> Result<(), String> {
    let mut student = network_tensors(case, "final.", "student", "network.");
    student.insert("mask_token".into(), case.named("final.mask_token")?.clone());
    compare(
        comparison,
        "final.student.",
        &student,
        &state_dict(&method.student),
    )?;
    let teacher = network_tensors(case, "final.", "teacher", "");
    compare(
        comparison,
        "final.teacher.",
        &teacher,
        &state_dict(&method.teacher),
    )
}

/// Both must hold the same names. The key third of a `qkv.bias` is left out of trained weights: its true gradient is
/// zero, and Adam turns rounding noise into steps of the learning rate.
fn compare(
    comparison: &mut Comparison,
    prefix: &str,
    expected: &BTreeMap<String, NamedTensor>,
    found: &BTreeMap<String, NamedTensor>,
) -> Result<(), String> {
    let names =
        |tensors: &BTreeMap<String, NamedTensor>| tensors.keys().cloned().collect::<Vec<_>>();
    if names(expected) != names(found) {
        return Err(format!(
            "{prefix}: {:?} expected, {:?} found",
            names(expected),
            names(found)
        ));
    }
    for (name, expected) in expected {
        let without_keys = |tensor: &NamedTensor| -> Vec<f32> {
            let width = tensor.values.len() / 3;
            let is_key = |at: usize| (width..2 * width).contains(&at);
            let skips = prefix.starts_with("final") && name.ends_with("qkv.bias");
            let entries = tensor.values.iter().enumerate();
            entries
                .filter(|(at, _)| !(skips && is_key(*at)))
                .map(|(_, x)| *x)
                .collect()
        };
        let (expected, found) = (without_keys(expected), without_keys(&found[name]));
        comparison.values(&format!("{prefix}{name}"), &expected, &found, GRADIENT_BAR)?;
    }
    Ok(())
}
