//! All settings of a run: a preset, then a TOML file, then flags.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::collective::Wire;
use crate::data::{AugmentConfig, FolderConfig, check_workers};
use crate::error::{Error, Result, require, require_counts};
use crate::files::model::Described;
use crate::method::IbotConfig;
use crate::path_text::in_words;
use crate::precision::Precision;
use crate::train::merging::{RENAMED, merge, with_new_names};
use crate::train::optim::{OptimizerConfig, ScheduleConfig};
use crate::train::toml_words::explained;

/// Everything that decides what a run computes, and how fast.
///
/// A setting here or below that names no source is this crate's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of weights, order, views and masks. Default 0. Source: `seed` of the official code.
    pub seed: u64,
    /// Passes over the data; ignored if `steps` is set. Default 100. Source: `epochs` of the official code.
    pub epochs: usize,
    /// Optimizer steps. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Images per step, of all GPUs together. Default 64. DINO's `batch_size_per_gpu` is that of one.
    pub batch_size: usize,
    /// Images per forward and backward pass, for less memory; the whole batch if not set. Gradients are accumulated over the batch, and
    /// targets, centers and KoLeo are those of the whole batch too. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "most_at_once")]
    pub micro_batch_size: Option<usize>,
    /// Number format of matrix multiplications and activations: "f32"; "f16" on a GPU, which keeps tokens in half the memory and scales
    /// the loss (weights stay f32); or "bf16" for matrix multiplications on the CPU. Default "f32". Source: `use_fp16` of the official code.
    pub precision: Precision,
    /// Number format of gradients that ranks send each other: "f32"; or "f16" for half the bytes, which rounds them to 11 bits.
    /// Sums are in f32. No effect with one process. Default "f32".
    pub wire: Wire,
    /// Fraction of each class that is held out from training and used for evaluation. Images without a class are all trained on.
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Whether the best teacher is kept as `best.safetensors`. It is evaluated before the first step and after each epoch, of
    /// short epochs after one in `health_every` steps (in 50 where that is 0): by k-NN on labeled validation images, else by
    /// RankMe, which is only a hint. Default false.
    pub keep_best: bool,
    /// Threads that decode and augment; 0 for one per core, growing to at most four per core while they mostly wait
    /// for files. Default 0.
    pub workers: usize,
    /// License of the weights, written into the model files. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "licence")]
    pub license: Option<String>,
    /// Steps between health checks, each one forward pass of both networks; 0 for none. Default 50.
    pub health_every: usize,
    /// Steps whose metrics are read from the device together, because each read waits for it; at least once a second.
    /// Default 10.
    pub metrics_every: usize,
    /// The method.
    pub method: IbotConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// The views.
    pub augment: AugmentConfig,
    /// The image folder.
    pub folder: FolderConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 100,
            steps: None,
            batch_size: 64,
            micro_batch_size: None,
            precision: Precision::F32,
            wire: Wire::F32,
            held_out: None,
            keep_best: false,
            workers: 0,
            license: None,
            health_every: 50,
            metrics_every: 10,
            method: IbotConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            augment: AugmentConfig::default(),
            folder: FolderConfig::default(),
        }
    }
}

impl RunConfig {
    /// Sets the backbone: the model of this timm name, or else what the weights to start from are said to be.
    pub fn set_encoder(&mut self, name: Option<&String>, weights: Option<&Described>) {
        let named = weights.and_then(|weights| weights.encoder.as_ref());
        if let Some(encoder) = name.or(named) {
            self.method.encoder_name.clone_from(encoder);
            self.method.vit = None;
        } else if let Some(vit) = weights.and_then(|weights| weights.architecture.clone()) {
            self.method.vit = Some(vit);
        }
    }

    /// Steps of the whole run: `steps`, or those of `epochs`.
    pub fn run_steps(&self, steps_per_epoch: usize) -> usize {
        let of_epochs = self.epochs.saturating_mul(steps_per_epoch);
        self.steps.unwrap_or(of_epochs)
    }

    /// This configuration with the keys of a TOML file in place of its own.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Config`] for an unknown key or an invalid value.
    pub fn merged_with_file(&self, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Error::io(path)(in_words(error)))?;
        self.merged_with_toml(&text).map_err(|message| {
            let remedy = format!("{message}\ndocs/settings.md lists all keys");
            Error::config("config", path.display(), remedy)
        })
    }

    /// This configuration with the keys of a TOML text in place of its own. Of `epochs` and `steps` the text's own counts, also
    /// where this configuration has the other; so of `encoder_name` and the table `vit`, and of the two limits of gradients.
    ///
    /// # Errors
    /// The message of TOML or of a key, with its line.
    pub fn merged_with_toml(&self, text: &str) -> std::result::Result<Self, String> {
        // parsed once on its own, so that messages point into this text
        toml::from_str::<Self>(text).map_err(|error| {
            let known = Table::try_from(Self::default()).unwrap_or_default();
            explained(&error.to_string(), &known, &RENAMED)
        })?;
        let over: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let over = with_new_names(over);
        let mut merged = Table::try_from(self).map_err(|error| error.to_string())?;
        merge(&mut merged, over);
        merged
            .try_into()
            .map_err(|error: toml::de::Error| error.to_string())
    }

    /// As TOML, which reads back to the same configuration.
    ///
    /// # Errors
    /// [`Error::Config`] for a number that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| Error::config("config", "unwritable", error.to_string()))
    }

    /// Checks all numbers, sets the views to the method's image size, and the size of cached images to
    /// twice that.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn resolved(mut self) -> Result<Self> {
        self.augment.image_size = self.method.image_size;
        if self.folder.cache.is_some() {
            // at twice the view's side, even a crop of 0.4 of the area has more pixels per side than the view
            let side = 2 * self.method.image_size.min(1 << 15) as u32;
            self.folder.shorter_side.get_or_insert(side);
        }
        self.folder.validate()?;
        let steps = self.steps.unwrap_or(1);
        require_counts([
            ("batch_size", self.batch_size, 1 << 20),
            ("epochs", self.epochs, 1 << 30),
            ("steps", steps, 1 << 30),
        ])?;
        check_workers(self.workers)?;
        if let Some(share) = self
            .held_out
            .filter(|share| !(*share > 0.0 && *share < 1.0))
        {
            let remedy = "must be above 0 and below 1, such as 0.1";
            return Err(Error::config("held_out", share, remedy));
        }
        let metrics_every = self.metrics_every;
        require(metrics_every > 0, "metrics_every", 0, "must be at least 1")?;
        let micro = self.micro_batch_size;
        require(
            micro != Some(0),
            "micro_batch_size",
            0,
            "must be at least 1",
        )?;
        let of_method = |error: Error| error.in_table("method");
        self.method.validate().map_err(of_method)?;
        let patch = self.method.backbone().map_err(of_method)?.patch_size;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.augment.validate()?;
        let local = self.augment.local_size;
        if self.augment.local_views > 0 && !local.is_multiple_of(patch) {
            let remedy = format!("must be a multiple of the patch size {patch}");
            return Err(Error::config("augment.local_size", local, remedy));
        }
        let has_koleo = self.method.koleo_weight > 0.0;
        let remedy =
            "must be at least 2 with method.koleo_weight: KoLeo needs the nearest other image";
        require(
            !has_koleo || self.batch_size >= 2,
            "batch_size",
            self.batch_size,
            remedy,
        )?;
        let views = self.augment.global_views;
        let remedy = "must be at least 2: the class-token loss compares different views";
        require(views >= 2, "augment.global_views", views, remedy)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beats_the_preset_key_by_key() {
        let base = RunConfig {
            batch_size: 7,
            ..RunConfig::default()
        };
        let merged = base
            .merged_with_toml("seed = 3\n[method]\nn_cls_prototypes = 5\n")
            .unwrap();
        assert_eq!(
            (
                merged.seed,
                merged.batch_size,
                merged.method.n_cls_prototypes
            ),
            (3, 7, 5)
        );
        assert_eq!(merged.method.n_patch_prototypes, 8_192);
        let again = RunConfig::default()
            .merged_with_toml(&merged.to_toml().unwrap())
            .unwrap();
        assert_eq!(again, merged);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        for (unknown, known) in [
            ("[method]\nmask_ration = 0.3\n", "method.mask_ratio"),
            ("learning_rate = 0.1\n", "schedule.base_learning_rate"),
            ("koleo_weight = 0.1\n", "method.koleo_weight"),
            ("micro_batch = 2\n", "micro_batch_size"),
        ] {
            let config = RunConfig::default();
            let message = config.merged_with_toml(unknown).unwrap_err();
            let hint = format!("; did you mean {known}?");
            assert!(message.contains(&hint), "{message}");
        }
        let config = RunConfig::default();
        let message = config.merged_with_toml("epochs = \"a\"\n").unwrap_err();
        let words = "expected a whole number from 0";
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn parts_of_one_image_are_allowed_with_koleo() {
        let text = "batch_size = 2\nmicro_batch_size = 1\n[method]\nkoleo_weight = 0.1\n";
        let config = RunConfig::default().merged_with_toml(text).unwrap();
        assert!(config.resolved().is_ok());
    }

    #[test]
    fn what_cannot_work_names_the_key() {
        let refused = |toml: &str| {
            let config = RunConfig::default().merged_with_toml(toml).unwrap();
            config.resolved().unwrap_err().to_string()
        };
        assert!(refused("batch_size = 0\n").contains("batch_size = 0"));
        assert!(refused("micro_batch_size = 0\n").contains("micro_batch_size = 0"));
        assert!(refused("held_out = 1.0\n").contains("held_out = 1"));
        assert!(refused("[method]\ntemperature_student = 0.0\n").contains("temperature_student"));
        for (toml, said) in [
            (
                "[augment]\nlocal_views = 2\nlocal_size = 100\n",
                "local_size = 100",
            ),
            (
                "[augment]\nlocal_views = 2\nlocal_size = 240\n",
                "local_size = 240",
            ),
            (
                "batch_size = 1\n[method]\nkoleo_weight = 0.1\n",
                "batch_size = 1",
            ),
            ("[method]\ndrop_path_rate = 1.0\n", "drop_path_rate = 1"),
            (
                "[optimizer]\nclip_each_gradient = 2.0\nclip_gradient_norm = 3.0\n",
                "optimizer.clip_each_gradient = 2",
            ),
            (
                "[method]\nvit = { embed_dim = 64, num_heads = 3 }\n",
                "num_heads = 3",
            ),
            ("[method]\nprojector_layers = 0\n", "projector_layers = 0"),
            (
                "[method]\nn_cls_prototypes = 20_000_000\n",
                "n_cls_prototypes = 20000000",
            ),
            (
                "[method]\nmask_block_aspect = [2.0, 1.0]\n",
                "mask_block_aspect",
            ),
            (
                "[method]\nmask_ratio = [{ mean = 0.9, spread = 0.2 }]\n",
                "mask_ratio",
            ),
            (
                "[optimizer]\nlayer_decay = 1.5\n",
                "optimizer.layer_decay = 1.5",
            ),
            (
                "[schedule]\nfinal_weight_decay = -1.0\n",
                "final_weight_decay = -1",
            ),
            (
                "[augment]\nblur = { probability = { first = 2.0, others = 0.0, local = 0.0 } }\n",
                "blur.probability.first = 2",
            ),
        ] {
            assert!(refused(toml).contains(said), "{toml}: {}", refused(toml));
        }
    }

    #[test]
    fn keys_of_tables_are_named_with_them() {
        for (line, said) in [
            ("image_size = 100", "method.image_size = 100"),
            ("image_size = 1", "method.image_size = 1"),
            ("mask_ratio = 1.5", "method.mask_ratio = 1.5"),
            ("encoder_name = \"vit\"", "method.encoder_name = vit"),
            ("vit = { num_heads = 5 }", "method.vit.num_heads = 5"),
        ] {
            let toml = format!("[method]\n{line}\n");
            let config = RunConfig::default().merged_with_toml(&toml).unwrap();
            let text = config.resolved().unwrap_err().to_string();
            assert!(text.starts_with(said), "{text}");
        }
    }
}
