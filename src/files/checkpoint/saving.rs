//! Writes in the background: training waits for the copy to the host, not for the disk.

use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// A background writer with at most one running write.
#[derive(Debug, Default)]
pub struct Saving(Option<JoinHandle<Result<()>>>);

impl Saving {
    /// Starts a write; waits for the one before it.
    ///
    /// # Errors
    /// The error of the write before it, or of starting a thread.
    pub fn start(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let thread = thread.spawn(write);
        self.0 = Some(thread.map_err(|error| {
            Error::Training(format!(
                "cannot start a thread to write a checkpoint: {error}"
            ))
        })?);
        Ok(())
    }

    /// Returns the error of a finished write; does not wait.
    ///
    /// # Errors
    /// Those of the write.
    pub fn check(&mut self) -> Result<()> {
        if self.0.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.finish();
        }
        Ok(())
    }

    /// Waits for the running write.
    ///
    /// # Errors
    /// Those of the write.
    pub fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.0.take() else {
            return Ok(());
        };
        let died = |_| {
            Err(Error::Training(
                "the thread that writes checkpoints died".into(),
            ))
        };
        thread.join().unwrap_or_else(died)
    }
}

impl Drop for Saving {
    /// Waits, so that a running write can complete its checkpoint.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
