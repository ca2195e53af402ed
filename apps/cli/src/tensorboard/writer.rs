//! Event files, as TensorBoard reads them.
//!
//! ```text
//! FOLDER/events.out.tfevents.1700000000.ibot.4242    seconds since 1970 at its start, process
//! ```
//!
//! Each process makes a file of its own; TensorBoard reads those of a folder as one run, in the order of their names.

use std::fs::{self, File, OpenOptions};
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use image::{ImageFormat, RgbImage};

use super::event::What;
use ibot::error::{Error, Result};

const PREFIX: &str = "events.out.tfevents.";

/// A file of events, open at its end.
///
/// Each event goes to the system in one write, so that a process that is killed leaves whole records, at most the last one
/// torn; TensorBoard passes over a torn one at the end.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    /// Length of the whole records, bytes.
    length: u64,
    /// Whether a write failed, so that half a record may lie behind them.
    torn: bool,
}

impl EventWriter {
    /// Makes a new file in `folder`, and the folder where it is missing.
    ///
    /// Its name is behind those of all event files there, also where the clock was set back or two processes start within
    /// a second: TensorBoard goes by the names, and honors [`Self::purge_from`] for files before this one only.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let newest = newest_start(folder)?;
        let start = (seconds() as u64).max(newest.map_or(0, |newest| newest.saturating_add(1)));
        let path = folder.join(format!("{PREFIX}{start}.ibot.{}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        let mut writer = Self {
            path,
            file,
            length: 0,
            torn: false,
        };
        writer.append(0, What::file_version())?;
        Ok(writer)
    }

    /// The file.
    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops what earlier files of the folder hold of `step` and later steps; for a run that goes on from a checkpoint.
    ///
    /// The files stay as they are: TensorBoard passes over those points. Its fast loader (`--load_fast`, the default) does
    /// not know such events, and drops old points of a curve where the new ones of the same curve come to their steps.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn purge_from(&mut self, step: u64) -> Result<()> {
        // twice: the server's accumulator takes the first of a run for its beginning, and drops nothing
        self.append(step, What::session_start())?;
        self.append(step, What::session_start())
    }

    /// Writes one point of the curve `tag`; curves `a/b` and `a/c` are shown together.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> Result<()> {
        self.append(step, What::scalar(tag, value))
    }

    /// Writes an image, as PNG.
    ///
    /// # Errors
    /// [`Error::Io`]; also where the image has no pixels.
    pub fn image(&mut self, tag: &str, step: u64, image: &RgbImage) -> Result<()> {
        let mut png = Cursor::new(Vec::new());
        image
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|error| Error::io(&self.path)(std::io::Error::other(error)))?;
        let size = [image.width(), image.height()];
        self.append(step, What::image(tag, size, png.into_inner()))
    }

    /// Waits until the disk has what was written: for a machine that fails, not for a process that does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    fn append(&mut self, step: u64, what: What) -> Result<()> {
        let record = super::record::record(&super::event::event(seconds(), step, what));
        self.append_record(&record).map_err(Error::io(&self.path))
    }

    fn append_record(&mut self, record: &[u8]) -> std::io::Result<()> {
        if self.torn {
            // readers stop at half a record: nothing may be written behind one
            self.file.set_len(self.length)?;
        }
        self.torn = true;
        self.file.write_all(record)?;
        self.torn = false;
        self.length += record.len() as u64;
        Ok(())
    }
}

/// Seconds since 1970; 0 where the clock is before that.
fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// When the newest event file of the folder was started, by its name.
fn newest_start(folder: &Path) -> Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let start = name.to_str().and_then(|name| {
            let (start, _) = name.strip_prefix(PREFIX)?.split_once('.')?;
            start.parse().ok()
        });
        newest = newest.max(start);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, empty.
    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("ibot-events-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_later_file_has_a_later_name_whatever_the_clock_says() {
        let folder = folder("names");
        let first = EventWriter::create(&folder).unwrap();
        let second = EventWriter::create(&folder).unwrap();
        assert!(first.path() < second.path());
        // TensorFlow's names go on behind the process; and this one was written by a clock that ran ahead
        fs::write(folder.join(format!("{PREFIX}4000000000.host.1.0.v2")), b"").unwrap();
        fs::write(folder.join(format!("{PREFIX}not-a-time.host")), b"").unwrap();
        let third = EventWriter::create(&folder).unwrap();
        let name = third.path().file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with(&format!("{PREFIX}4000000001.ibot.")),
            "{name}"
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_a_failed_write_left_is_cut_off() {
        let folder = folder("torn");
        let mut writer = EventWriter::create(&folder).unwrap();
        writer.scalar("loss", 1, 2.0).unwrap();
        let whole = fs::read(writer.path()).unwrap();
        writer.file.write_all(b"half a record").unwrap();
        writer.torn = true;
        writer.scalar("loss", 2, 1.0).unwrap();
        let after = fs::read(writer.path()).unwrap();
        assert_eq!(after[..whole.len()], whole);
        // both records say the same but for their values
        assert_eq!(after.len() - whole.len(), whole.len() - 40);
        assert_eq!(after.len() as u64, writer.length);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn errors_name_the_folder_or_file() {
        let folder = folder("file-in-the-way");
        fs::write(&folder, b"").unwrap();
        let error = EventWriter::create(&folder).unwrap_err().to_string();
        assert!(error.contains("ibot-events-file-in-the-way"), "{error}");
        fs::remove_file(&folder).unwrap();
        let mut writer = EventWriter::create(&folder).unwrap();
        let error = writer.image("masks", 0, &RgbImage::new(0, 0)).unwrap_err();
        assert!(error.to_string().contains(PREFIX), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
