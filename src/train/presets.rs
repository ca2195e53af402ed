//! Named sets of settings: the files of `examples/recipes/`.

use crate::error::{Error, Result};
use crate::train::config::RunConfig;

/// The reference's defaults.
pub const STABLE_PRETRAINING: &str = "stable-pretraining";
/// A few thousand images.
pub const SMALL_DATA: &str = "small-data";
/// Published weights, and a few thousand images.
pub const ADAPT: &str = "adapt";
/// A small transformer for a CPU.
pub const DEMO: &str = "demo";

macro_rules! recipe {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../examples/recipes/", $name, ".toml")),
        )
    };
}

/// Each preset's name and its file.
const RECIPES: [(&str, &str); 8] = [
    recipe!("stable-pretraining"),
    recipe!("ibot-paper-vit-small"),
    recipe!("ibot-paper-vit-base"),
    recipe!("dinov2-style"),
    recipe!("imagenette"),
    recipe!("small-data"),
    recipe!("adapt"),
    recipe!("demo"),
];

/// Names of all presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

/// The settings of a preset.
///
/// # Errors
/// [`Error::Config`] for an unknown name, with the known ones.
pub fn preset(name: &str) -> Result<RunConfig> {
    let known = || preset_names().collect::<Vec<_>>().join(", ");
    let recipe = RECIPES.iter().find(|(known, _)| *known == name);
    let (_, text) = recipe.ok_or_else(|| {
        Error::config(
            "preset",
            name,
            format!("is not a preset; choose one of {}", known()),
        )
    })?;
    RunConfig::default()
        .merged_with_toml(text)
        .map_err(|message| Error::config("preset", name, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_can_work_and_is_a_preset() {
        for name in preset_names() {
            let config = preset(name).unwrap().resolved();
            assert!(config.is_ok(), "{name}: {config:?}");
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/recipes");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, RECIPES.len());
        assert_eq!(preset(STABLE_PRETRAINING).unwrap(), RunConfig::default());
        assert_eq!(preset(DEMO).unwrap().steps, Some(2_000));
        assert!(
            preset("demos")
                .unwrap_err()
                .to_string()
                .contains("dinov2-style")
        );
    }
}
