//! Writing beside the training: the device waits for the copy to the host, not for the disk.

use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// At most one write under way.
#[derive(Debug, Default)]
pub struct Saving(Option<JoinHandle<Result<()>>>);

impl Saving {
    /// Starts a write; waits for the one before it.
    ///
    /// # Errors
    /// What the one before it ran into, or no thread to be had.
    pub fn start(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let thread = thread.spawn(write);
        self.0 = Some(thread.map_err(|error| {
            Error::Training(format!("no thread to write a checkpoint with: {error}"))
        })?);
        Ok(())
    }

    /// What a write that has ended ran into; does not wait.
    ///
    /// # Errors
    /// Those of the write.
    pub fn check(&mut self) -> Result<()> {
        if self.0.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.finish();
        }
        Ok(())
    }

    /// Waits for the write under way.
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
    /// A checkpoint that is nearly written is worth the wait.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
