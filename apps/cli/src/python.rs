//! How a model is opened in Python, as lines to paste.

use std::path::Path;

use ibot::files::model::{ModelCard, timm_model};
use ibot::path_text::path_text;
use serde_json::{Map, Value};

/// Opens a run folder, or another one with `model.safetensors` and timm's `config.json` in it.
pub fn folder_in_python(folder: &Path) -> String {
    let [local, plain] = [
        format!("local-dir:{}", path_text(folder)),
        path_text(folder),
    ]
    .map(quoted);
    format!(
        "In Python: timm.create_model({local}, pretrained=True), or transformers.AutoModel.from_pretrained({plain})"
    )
}

/// Opens a file with weights under timm's names; none for a classifier outside of its folder, and a file of another program.
pub fn file_in_python(file: &Path, card: &ModelCard) -> Option<String> {
    if card.classes.is_some() {
        return None;
    }
    let (name, arguments) = timm_model(card);
    let (name, file) = (quoted(name), quoted(path_text(file)));
    Some(format!(
        "In Python: timm.create_model({name}, pretrained=True, num_classes=0, pretrained_cfg_overlay=dict(file={file}, \
         num_classes=0){})",
        keywords(&arguments)
    ))
}

/// Opens a folder that was written for transformers.
pub fn transformers_in_python(folder: &Path) -> String {
    let folder = quoted(path_text(folder));
    format!("In Python: transformers.AutoModel.from_pretrained({folder})")
}

/// A text as Python writes it; JSON's escapes are Python's.
fn quoted(text: String) -> String {
    Value::String(text).to_string()
}

/// `, depth=3, qkv_bias=True`.
fn keywords(arguments: &Map<String, Value>) -> String {
    let value = |value: &Value| match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    };
    let keywords = arguments.iter();
    keywords
        .map(|(key, given)| format!(", {key}={}", value(given)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_python() {
        let arguments = serde_json::json!({"depth": 3, "qkv_bias": true, "mlp_ratio": 4.0, "class_token": false, "x": null});
        let keywords = keywords(arguments.as_object().unwrap());
        for part in [
            ", depth=3",
            ", qkv_bias=True",
            ", mlp_ratio=4.0",
            ", class_token=False",
            ", x=None",
        ] {
            assert!(keywords.contains(part), "{part} is not in {keywords}");
        }
        let line = folder_in_python(Path::new("C:\\runs\\\"a\""));
        assert!(line.contains(r#""local-dir:C:\\runs\\\"a\"""#), "{line}");
    }
}
