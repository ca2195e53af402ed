//! Work on a background thread, polled in each frame.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use eframe::egui::Context;

/// A result that comes later.
pub struct Background<T>(Receiver<T>);

impl<T: Send + 'static> Background<T> {
    /// Does `work` on a thread, and then has the window drawn again.
    pub fn start(ctx: &Context, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        let ctx = ctx.clone();
        std::thread::spawn(move || {
            // the receiver may be gone
            let _ = sender.send(work());
            ctx.request_repaint();
        });
        Self(receiver)
    }

    /// The result, once; `Err` if it never comes because the work panicked.
    pub fn take(&self) -> Option<Result<T, &'static str>> {
        match self.0.try_recv() {
            Ok(value) => Some(Ok(value)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("an error in the program")),
        }
    }
}
