//! `ibot index`: what is in an image folder as one file, so that a run on millions of images starts at once.

use std::path::PathBuf;
use std::time::Instant;

use ibot::Result;
use ibot::data::{FolderConfig, ImageFolder};
use ibot::error::{counted, printable};
use ibot::memory::in_gib;

use super::duration::in_words;
use super::output::answer;
use super::signals::stop_on_signal;

/// Flags of `ibot index`.
#[derive(Debug, clap::Args)]
pub struct IndexArgs {
    /// Image folder.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// File for the index, such as set.ibidx, which other commands take as images; default: in the user's cache folder, where
    /// they find it.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Skip images with more pixels than this.
    #[arg(long, value_name = "COUNT", default_value_t = FolderConfig::default().max_pixels)]
    max_pixels: u64,
}

impl IndexArgs {
    pub fn run(&self) -> Result<()> {
        let stop = stop_on_signal()?;
        let config = FolderConfig {
            max_pixels: self.max_pixels,
            ..FolderConfig::default()
        };
        let start = Instant::now();
        let out = self.out.as_deref();
        let (folder, work) = ImageFolder::scan_with_index(&self.data, out, &config, &stop)?;
        let seconds = in_words(start.elapsed().as_secs_f64());
        answer(format!("{}: {}", printable(&self.data), folder.summary()))?;
        let file = work.file.unwrap_or_default();
        let length = std::fs::metadata(&file).map_or(0, |file| file.len());
        let [opened, folders] = [(work.opened, "file"), (work.folders, "folder")]
            .map(|(count, noun)| counted(count, noun));
        answer(format!(
            "index {}: {}, {folders}, {opened} opened, {seconds}",
            printable(file),
            in_gib(length)
        ))
    }
}
