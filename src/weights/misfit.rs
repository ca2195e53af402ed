//! Why weights do not fit a model, as far as it can be told, and what to take instead.

use std::path::Path;

use super::LoadReport;
use super::header::is_no_float;

/// What did not fit, and why, on one line; `width` is the model's.
pub(crate) fn misfit(path: &Path, report: &LoadReport, width: usize) -> String {
    let mut text = report.to_string();
    let quantized = report
        .missing
        .first()
        .and_then(|key| is_no_float(path, key));
    for reason in [quantized, average_pooled(report, width)]
        .into_iter()
        .flatten()
    {
        text += "; ";
        text += &reason;
    }
    text
}

/// timm calls the last norm `fc_norm` where it follows the mean of the patches.
fn average_pooled(report: &LoadReport, width: usize) -> Option<String> {
    let is_pooled = |key: &String| key.starts_with("fc_norm.");
    report.unused.iter().find(|key| is_pooled(key))?;
    let other = match width {
        768 => "vit_base_patch16_224.mae",
        1024 => "vit_large_patch16_224.mae",
        192 => "vit_tiny_patch16_224.augreg_in21k",
        _ => "vit_small_patch16_224.augreg_in21k",
    };
    Some(format!(
        "fc_norm is the norm of a model that takes the mean of the patches, as after fine-tuning, and this one takes the class \
         token: take the weights before fine-tuning, such as timm's {other}; in training, global_pool = \"avg\" under \
         [method.vit] fits too"
    ))
}
