//! Which images a command reads: the first argument, or `--data`.

use std::path::{Path, PathBuf};

/// Images to train on.
#[derive(Debug, Clone, clap::Args)]
pub struct ManyImages {
    /// Image folders, searched at any depth, image files, lists of files (.txt, .csv), or shards (.tar, .parquet, also as
    /// '{0000..0999}.tar'); with the feature `cloud` also s3:// and other addresses. Without any, train on a small generated set with labels.
    #[arg(value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// The same as IMAGES; may be given several times.
    #[arg(long, value_name = "IMAGES", help_heading = "Images")]
    data: Vec<PathBuf>,
}

impl ManyImages {
    /// All of them, in the order of the command line.
    pub fn paths(&self) -> Vec<PathBuf> {
        [&self.images[..], &self.data].concat()
    }

    /// Whether none are named.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.data.is_empty()
    }
}

/// The images of a command.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Images {
    /// Image folder, image file, list of files (.txt, .csv), or shards (.tar, .parquet, also as '{0000..0999}.tar').
    images: Option<PathBuf>,
    /// The same as IMAGES.
    #[arg(long, value_name = "IMAGES")]
    data: Option<PathBuf>,
}

impl Images {
    /// The folder, file or list.
    pub fn path(&self) -> &Path {
        // clap lets no command run without one
        let path = self.images.as_deref().or(self.data.as_deref());
        path.unwrap_or(Path::new("."))
    }
}

/// Labeled images of a command.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct LabeledImages {
    /// Labeled images: folder with a subfolder per class, .csv list, or shards.
    images: Option<PathBuf>,
    /// The same as IMAGES.
    #[arg(long, value_name = "IMAGES")]
    data: Option<PathBuf>,
}

impl LabeledImages {
    /// The folder.
    pub fn path(&self) -> &Path {
        let path = self.images.as_deref().or(self.data.as_deref());
        path.unwrap_or(Path::new("."))
    }
}

/// The images of a command that can also take features from a file.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
pub struct OptionalImages {
    /// Image folder, image file, list of files (.txt, .csv), or shards (.tar, .parquet, also as '{0000..0999}.tar'). Not needed if --features names a file.
    images: Option<PathBuf>,
    /// The same as IMAGES.
    #[arg(long, value_name = "IMAGES")]
    data: Option<PathBuf>,
}

impl OptionalImages {
    /// The folder, file or list.
    pub fn path(&self) -> Option<&Path> {
        self.images.as_deref().or(self.data.as_deref())
    }
}

/// Labeled images of a command that can also take features from a file.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
pub struct OptionalLabeledImages {
    /// Labeled images: folder with a subfolder per class, .csv list, or shards; with --patches, any image folder. Not needed if --features names a file.
    images: Option<PathBuf>,
    /// The same as IMAGES.
    #[arg(long, value_name = "IMAGES")]
    data: Option<PathBuf>,
}

impl OptionalLabeledImages {
    /// The folder.
    pub fn path(&self) -> Option<&Path> {
        self.images.as_deref().or(self.data.as_deref())
    }
}
