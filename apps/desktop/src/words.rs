//! Messages of the library in the words of the window: some name options that a program has, and a window has not.

use ibot::Error;

/// What the library says, and what the window says instead. All are replaced, in this order: later ones are parts of earlier ones.
const HERE: &[(&str, &str)] = &[
    (
        "choose another folder with `out`, or resume by `allow_changes`",
        "Name another run folder, or resume anyway.",
    ),
    (
        "choose another folder with `out`, or replace the run by `allow_changes`",
        "name another run folder",
    ),
    ("choose another one with `out`", "name another run folder"),
    (
        "start a new run in another folder with `out`",
        "name another run folder",
    ),
    (
        "give the file by `pretrained`, or begin a new run in another folder with `out`",
        "put the file back, or name another run folder",
    ),
    (
        "start a new run in another folder (`out`) from the weights of this one (`pretrained`: its teacher.safetensors)",
        "name another run folder",
    ),
    (
        "raise `epochs` or `steps` with `allow_changes` to train longer",
        "raise its epochs or steps to train longer",
    ),
    ("`allow_changes`: ", ""),
    ("`on_device_lost` cpu: ", ""),
    (
        "start another embedder to use it as it is now",
        "try again to use it as it is now",
    ),
    ("of its model by `encoder`", "of its model below"),
    ("; `encoder_names` lists the known names", ""),
    ("; `encoder_names` lists all", ""),
    ("as `encoder`", "below"),
    ("`encoder`", "the encoder"),
    (
        "give some as `val` or `held_out`",
        "begin a new run on images in a folder for each class",
    ),
    ("or `precision` f32 may help", "may help"),
    ("compute with `backend` flex", "use the CPU"),
    (
        "Lower `batch_size`, the number or size of the crops, or the number of prototypes; `ibot devices` shows the largest tensor \
         on this adapter",
        "Lower the batch size",
    ),
    (
        "use fewer images per step (`batch_size`, or `micro_batch_size`)",
        "lower the batch size",
    ),
    ("`batch_size`", "the batch size"),
];

/// How the library refuses a run that could go on with changes.
const RESUMES: &str = "resume by `allow_changes`";
/// How it says what could be done about a diverged run, which is to be set before the run; up to the end of [`ROLLS_BACK_TO`].
const ROLLS_BACK: &str = "; `on_anomaly` rollback";
const ROLLS_BACK_TO: &str = "half the learning rate";

/// A message as the window says it.
pub fn in_window(text: &str) -> String {
    let text = HERE.iter().fold(text.to_owned(), |text, (said, here)| {
        text.replace(said, here)
    });
    let Some((before, rest)) = text.split_once(ROLLS_BACK) else {
        return text;
    };
    match rest.split_once(ROLLS_BACK_TO) {
        Some((_, after)) => format!("{before}{after}"),
        None => text,
    }
}

/// Whether a run was refused that may go on with other settings or images, once the user agrees.
pub fn is_of_changes(error: &Error) -> bool {
    matches!(error, Error::Checkpoint { reason, .. } if reason.contains(RESUMES))
}

/// For a model that could not be loaded because of its encoder, the name to try: what its shapes suggest, or none known.
pub fn encoder_to_try(error: &Error) -> Option<String> {
    let reason = match error {
        Error::Config { key, .. } if key == "encoder" => return Some(String::new()),
        Error::Weights { reason, .. } if reason.contains("`encoder`") => reason,
        _ => return None,
    };
    let suggested = reason
        .split_once("such as ")
        .or_else(|| reason.split_once("its shapes suggest "));
    let name = suggested.and_then(|(_, names)| names.split_whitespace().next());
    Some(name.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The library's sources below a folder, with texts that are broken over lines in one piece.
    fn sources(folder: &Path) -> String {
        let mut all = String::new();
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.push_str(&sources(&path));
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                let mut is_broken = false;
                for line in source.lines() {
                    let line = if is_broken { line.trim_start() } else { line };
                    is_broken = line.ends_with('\\');
                    all.push_str(line.strip_suffix('\\').unwrap_or(line));
                    if !is_broken {
                        all.push('\n');
                    }
                }
            }
        }
        all
    }

    /// A text that the library words anew would be shown as it is.
    #[test]
    fn what_is_replaced_is_what_the_library_says() {
        let library = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src"));
        let replaced = HERE.iter().map(|(said, _)| *said);
        for said in replaced.chain([RESUMES, ROLLS_BACK, ROLLS_BACK_TO]) {
            assert!(library.contains(said), "{said}");
        }
    }

    #[test]
    fn what_the_window_lacks_is_not_named() {
        let refused = "holds a run with other settings:\n  epochs: 20 -> 100\nchoose another folder with `out`, or resume by \
                       `allow_changes`";
        let error = Error::checkpoint("run", refused);
        assert!(is_of_changes(&error));
        let said = in_window(&error.to_string());
        assert!(said.ends_with("epochs: 20 -> 100\nName another run folder, or resume anyway."));
        let replaced = "choose another folder with `out`, or replace the run by `allow_changes`";
        assert!(!is_of_changes(&Error::checkpoint("run", replaced)));
        let diverged = "the loss is NaN: the newest checkpoint is of step 9; `on_anomaly` rollback goes on from step 9 with half \
                        the learning rate";
        assert_eq!(
            in_window(diverged),
            "the loss is NaN: the newest checkpoint is of step 9"
        );
    }

    #[test]
    fn an_encoder_is_suggested_where_the_shapes_fit_one() {
        let weights = |reason: &str| Error::Weights {
            path: "a.pth".into(),
            reason: reason.into(),
        };
        let of = |reason: &str| encoder_to_try(&weights(reason));
        let nameless = "has no architecture metadata. Give the timm name of its model by `encoder`";
        let alike = format!("{nameless}, such as vit_a or vit_b (suggested by its shapes)");
        assert_eq!(of(&alike).as_deref(), Some("vit_a"));
        assert!(in_window(&alike).contains("its model below, such as vit_a"));
        let unknown = format!("{nameless}; `encoder_names` lists the known names");
        assert_eq!(of(&unknown).as_deref(), Some(""));
        assert!(in_window(&unknown).ends_with("its model below"));
        let other = "does not fit `encoder` vit_a: its shapes suggest vit_b";
        assert_eq!(of(other).as_deref(), Some("vit_b"));
        let misspelt = Error::config("encoder", "vit_c", "is not a known encoder");
        assert_eq!(encoder_to_try(&misspelt).as_deref(), Some(""));
        assert_eq!(of("is no safetensors file"), None);
    }
}
