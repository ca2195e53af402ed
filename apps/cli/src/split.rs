//! Which images a classifier of frozen features is trained on, and which test it.

use std::path::{Path, PathBuf};

use ibot::data::parts_of;
use ibot::eval::{Split, stratified_split};
use ibot::{Error, Result};

use super::features::{Features, features};
use super::images::OptionalLabeledImages;
use super::model::HELD_OUT;

/// Which images to train on and which to test on.
#[derive(Debug, clap::Args)]
pub struct SplitArgs {
    #[command(flatten)]
    pub data: OptionalLabeledImages,
    /// Image folder of the same kind to test on [default: --data's val or test folder, else a held-out fraction of --data].
    #[arg(long)]
    pub val: Option<PathBuf>,
    /// Fraction of --data to hold out if there is no --val [default: 0.2].
    #[arg(long, value_name = "SHARE", conflicts_with = "val")]
    pub held_out: Option<f64>,
    /// Number of random held-out splits, where there is no --val and no folder to test on in --data; the result is their mean
    /// [default: 5; 1 with --patches].
    #[arg(long, conflicts_with = "val")]
    splits: Option<u64>,
    /// Feature per image: cls (the class token, or the model's pooled feature), patch (the mean of the patch tokens) or both.
    /// Or a file of features from `ibot embed`. With --model and --data, a .safetensors file is created, or updated with the
    /// features of new and changed images.
    #[arg(long, value_parser = features(), value_name = "KIND|FILE", default_value = "cls", conflicts_with = "patches")]
    pub features: Features,
}

impl SplitArgs {
    /// The folder.
    pub fn data(&self) -> Result<&Path> {
        self.data.path().ok_or_else(|| {
            let remedy = "give an image folder, or a file from `ibot embed`: --features FILE";
            Error::config("--data", "absent", remedy)
        })
    }

    /// Refuses settings that cannot work with any images, before the work starts.
    pub fn check(&self) -> Result<()> {
        if let Some(share) = self
            .held_out
            .filter(|share| !(*share > 0.0 && *share < 1.0))
        {
            let remedy = "must be above 0 and below 1, such as 0.2";
            return Err(Error::config("--held-out", share, remedy));
        }
        match (&self.features, self.data.path(), &self.val) {
            (Features::Kind(_), ..) => drop(self.data()?),
            (Features::File(_), None, Some(val)) => {
                let remedy = "needs --data, the folder to train on";
                return Err(Error::config("--val", val.display(), remedy));
            }
            _ => {}
        }
        if self.splits == Some(0) {
            return Err(Error::config("--splits", 0, "must be at least 1"));
        }
        // parts are used as they are, unless a fraction is to be held out
        if let (Some(splits), None, Some(data)) = (self.splits, self.held_out, self.data.path())
            && parts_of(data)?.is_some_and(|parts| parts.val.is_some())
        {
            let remedy = "--data has folders to train on and to test on, which are used as they are; leave it out, or hold out a \
                          fraction of all images with --held-out";
            return Err(Error::config("--splits", splits, remedy));
        }
        Ok(())
    }

    /// The indices of each split's parts; `default` is the number of splits without the flag.
    pub fn splits(
        &self,
        data: &Path,
        labels: &[Option<usize>],
        default: u64,
    ) -> Result<Vec<Split>> {
        let share = self.held_out.unwrap_or(HELD_OUT);
        let splits =
            (0..self.splits.unwrap_or(default)).map(|seed| stratified_split(labels, share, seed));
        let splits: Vec<Split> = splits.collect();
        let is_empty = |split: &Split| split.kept.is_empty() || split.held_out.is_empty();
        if splits.iter().any(is_empty) {
            let reason = "has too few images to hold some out; give --val";
            return Err(Error::data(data, reason));
        }
        Ok(splits)
    }
}
