//! Work on background threads, polled in each frame.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use eframe::egui::Context;

/// Why a result never comes.
const ENDED: &str = "an error in the program, or the system has no thread left";

/// A result that comes later.
pub struct Background<T>(Receiver<T>);

impl<T: Send + 'static> Background<T> {
    /// Does `work` on a thread, and then has the window drawn again.
    pub fn start(ctx: &Context, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        let ctx = ctx.clone();
        spawn(move || {
            // the receiver may be gone
            let _ = sender.send(work());
            ctx.request_repaint();
        });
        Self(receiver)
    }

    /// The result, once; `Err` if it never comes.
    pub fn take(&self) -> Option<Result<T, &'static str>> {
        received(&self.0)
    }
}

/// Starts a thread. Where the system has none left, `work` is dropped, and its sender with it, which the receiver notices.
pub fn spawn(work: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().spawn(work);
}

fn received<T>(receiver: &Receiver<T>) -> Option<Result<T, &'static str>> {
    match receiver.try_recv() {
        Ok(value) => Some(Ok(value)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(Err(ENDED)),
    }
}

/// Threads that take the newest request first, as the user has moved on from older ones.
pub struct Newest<Q, A> {
    queue: Arc<Queue<Q>>,
    made: Receiver<A>,
    room: usize,
}

struct Queue<Q> {
    state: Mutex<Waiting<Q>>,
    changed: Condvar,
}

struct Waiting<Q> {
    stack: Vec<Q>,
    closed: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Newest<Q, A> {
    /// `threads` threads that do `work`, and have the window drawn again after each; `room` requests may wait.
    pub fn start(
        ctx: &Context,
        threads: usize,
        room: usize,
        work: impl Fn(Q) -> A + Clone + Send + 'static,
    ) -> Self {
        let queue = Arc::new(Queue {
            state: Mutex::new(Waiting {
                stack: Vec::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let (sender, made) = channel();
        for _ in 0..threads {
            let (queue, sender, ctx, work) =
                (queue.clone(), sender.clone(), ctx.clone(), work.clone());
            spawn(move || {
                while let Some(request) = queue.next() {
                    if sender.send(work(request)).is_err() {
                        return;
                    }
                    ctx.request_repaint();
                }
            });
        }
        Self { queue, made, room }
    }

    /// Asks the one thread in `slot`, which is started where there is none. Only the newest request waits.
    pub fn ask_one(
        slot: &mut Option<Self>,
        ctx: &Context,
        request: Q,
        work: impl Fn(Q) -> A + Clone + Send + 'static,
    ) {
        slot.get_or_insert_with(|| Self::start(ctx, 1, 1, work))
            .ask(request);
    }

    /// Adds a request; returns the oldest one if there was no room for it any more.
    pub fn ask(&self, request: Q) -> Option<Q> {
        let mut waiting = self.queue.lock();
        waiting.stack.push(request);
        let dropped = (waiting.stack.len() > self.room).then(|| waiting.stack.remove(0));
        drop(waiting);
        self.queue.changed.notify_one();
        dropped
    }

    /// A result, if there is one; `Err` if no more come.
    pub fn take(&self) -> Option<Result<A, &'static str>> {
        received(&self.made)
    }
}

impl<Q, A> Drop for Newest<Q, A> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl<Q> Queue<Q> {
    fn lock(&self) -> MutexGuard<'_, Waiting<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest request; none once nobody asks any more.
    fn next(&self) -> Option<Q> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(request) = waiting.stack.pop() {
                return Some(request);
            }
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
