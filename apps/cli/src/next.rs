//! What to do with a finished run: commands that work as they are printed.

use std::path::{Path, PathBuf};

use ibot::error::printable;
use ibot::train::best_teacher;

use super::screen::dim;

/// Three commands for a run, its model and these images.
pub fn next_commands(
    run: &Path,
    model: &Path,
    images: &Path,
    val: Option<&Path>,
    has_classes: bool,
) -> String {
    let in_run = |name: &str| quoted(&run.join(name));
    let knn = knn_command(images, val, model);
    let (model, images) = (quoted(model), quoted(images));
    let last = if has_classes {
        knn
    } else {
        format!(
            "ibot export --model {model} --format onnx --out {}",
            in_run("teacher.onnx")
        )
    };
    let commands = [
        format!("ibot report {}", quoted(run)),
        format!(
            "ibot embed {images} --model {model} --out {}",
            in_run("features.parquet")
        ),
        last,
    ];
    let mut text = dim("next");
    for command in commands {
        text += &format!("\n  {command}");
    }
    text
}

/// The command that measures the k-NN accuracy of a model, on the images that its run validated on where it has some.
pub fn knn_command(images: &Path, val: Option<&Path>, model: &Path) -> String {
    let val = val.map_or_else(String::new, |val| format!(" --val {}", quoted(val)));
    format!("ibot knn {}{val} --model {}", quoted(images), quoted(model))
}

/// The teacher of a run to use: the best one of a run with `keep_best`, else the last.
pub fn teacher_to_use(run: &Path) -> PathBuf {
    best_teacher(run).unwrap_or_else(|| run.join("teacher.safetensors"))
}

/// A path as a word of a shell.
pub fn quoted(path: &Path) -> String {
    let text = printable(path);
    let is_plain = |c: char| c.is_alphanumeric() || "/\\:._-+@".contains(c);
    match (text.chars().all(is_plain), cfg!(windows)) {
        (true, _) => text,
        (false, true) => format!("\"{text}\""),
        (false, false) => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(quoted(Path::new("runs/first-1.x")), "runs/first-1.x");
        #[cfg(unix)]
        for (path, word) in [("my photos", "'my photos'"), ("it's", "'it'\\''s'")] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }
}
