//! What to do with a finished run: commands that work as they are printed.

use std::path::Path;

use ibot::error::printable;

use super::screen::dim;

/// Three commands for a run, its model and these images.
pub fn next_commands(run: &Path, model: &Path, images: &Path, has_classes: bool) -> String {
    let in_run = |name: &str| quoted(&run.join(name));
    let (model, images) = (quoted(model), quoted(images));
    let last = if has_classes {
        format!("ibot knn {images} --model {model}")
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
