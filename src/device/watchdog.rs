//! No wait without bound: before burn blocks on a device, the program waits itself, with a deadline.
//!
//! cubecl 0.10 waits without a timeout in reads and syncs, every 512 kernels and every 64 uploads; and on Metal such a wait may
//! never end where a command buffer has failed meanwhile (wgpu issues 9531, 9545).
//! Such a wait returns at once where its work is done. So a thread of the device's own waits for it before;
//! the thread that computes waits for that one alone, and no lock of cubecl's or wgpu's can hold it.
//!
//! What is left: a driver whose *submission* blocks while the GPU works, as lavapipe's does, holds burn's thread of the
//! device, and soon the one that computes, amid a step. A second thread, which touches neither, sees that too: the fault
//! is known to all other threads, and a program that said so ([`on_no_answer`]) ends.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use burn_wgpu::{WgpuDevice, WgpuRuntime, WgpuSetup};
use cubecl::Runtime;

use crate::device::adapters::{AdapterKind, AdapterSummary};
use crate::device::faults::{Fault, FaultKind, FaultLog};
use crate::device::panics;
use crate::device::witness::Witness;
use crate::error::{Error, Result};
use crate::lock::lock;

/// Name of the variable with the seconds in which a GPU must finish some of its work.
pub const DEADLINE_VARIABLE: &str = "IBOT_GPU_DEADLINE";

/// Where the variable is not set. Drivers give up a command buffer after 2 to 10 seconds (Windows: TdrDelay, Linux:
/// amdgpu.lockup_timeout); kernels that the driver compiles first may take a minute.
const DEADLINE: Duration = Duration::from_secs(5 * 60);
/// The same for a software adapter, which is slow rather than stuck: 200 kernels of a large step take minutes there.
const SOFTWARE_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Time between two looks at the device. The thread sleeps and does not have wgpu wait, during which no other thread could submit.
const LOOK: Duration = Duration::from_micros(200);

/// Checks of the watching thread per deadline: one every 5 seconds.
const TICKS: u32 = 60;

/// Every this many launches of this crate, the host waits until all but the newest this many are done. Three of four launches of a
/// step are this crate's (587 of 774, ViT-Ti on lavapipe), so that far fewer than 512 are under way, and the GPU never
/// runs dry.
const LAUNCHES: u32 = 64;

/// Whether a device of this process did not answer: its threads may never end.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Nanoseconds that threads of this process have waited for devices.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// How long the threads of this process have waited for GPUs so far, because enough was under way or because they asked for
/// it; for benchmarks, which want to know what the host does in the rest of the time.
#[must_use]
pub fn time_waiting() -> Duration {
    Duration::from_nanos(WAITED.load(Ordering::Relaxed))
}

/// Time after the deadline in which the thread that computes must notice it.
const GRACE: Duration = Duration::from_secs(5);

/// What a program does if that thread does not notice.
static ON_NO_ANSWER: OnceLock<fn(Error)> = OnceLock::new();

/// Sets what is called, once, where a device does not answer and the thread that computes is held in its driver, so that
/// nothing else would end a run. The `ibot` command prints the error and ends.
pub fn on_no_answer(call: fn(Error)) {
    let _ = ON_NO_ANSWER.set(call);
}

/// What the waiting thread is asked for.
struct Request {
    /// Its number, from 1.
    number: u64,
    /// Whether what cubecl has queued is submitted before.
    flush: bool,
}

/// How many there were.
#[derive(Debug, Default)]
struct Requests {
    asked: u64,
    answered: u64,
}

/// The two threads that wait for one device, and their results.
#[derive(Debug)]
pub(super) struct Watchdog {
    deadline: Duration,
    to_wait: Sender<Request>,
    requests: Mutex<Requests>,
    changed: Condvar,
    launches: AtomicU32,
    is_retired: AtomicBool,
    witness: Option<Witness>,
    log: Arc<FaultLog>,
}

/// The panic's payload where a launch finds that the device does not answer; [`super::GpuGuard::catch`] makes it an error.
struct NoAnswer;

impl Watchdog {
    /// Starts the two threads of a device; they live until it retires, or as long as the process, as burn's own thread does.
    ///
    /// # Errors
    /// [`Error::Config`] for a deadline that is none.
    pub fn start(
        device: &WgpuDevice,
        setup: &WgpuSetup,
        adapter: &AdapterSummary,
        log: &Arc<FaultLog>,
    ) -> Result<Arc<Self>> {
        let (to_wait, asked) = channel();
        let seconds = std::env::var(DEADLINE_VARIABLE).ok();
        let watchdog = Arc::new(Self {
            deadline: deadline(seconds.as_deref(), adapter.kind)?,
            to_wait,
            requests: Mutex::default(),
            changed: Condvar::new(),
            launches: AtomicU32::new(0),
            is_retired: AtomicBool::new(false),
            witness: Witness::of(adapter.api, device),
            log: Arc::clone(log),
        });
        let waiting = Waiting {
            device: device.clone(),
            setup: setup.clone(),
            watchdog: Arc::clone(&watchdog),
        };
        let watching = Arc::clone(&watchdog);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("ibot-wait")
            .spawn(move || waiting.serve(&asked))
            .and_then(|_| thread("ibot-watch").spawn(move || watching.watch()))
            .map_err(|error| {
                Error::Device(format!(
                    "cannot start a thread to wait for the GPU: {error}"
                ))
            })?;
        Ok(watchdog)
    }

    /// Ends the two threads: the device is broken, and nobody will wait for it.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        let mut requests = lock(&self.requests);
        self.ask(&mut requests, false);
        // who asked a moment ago gets no answer
        self.changed.notify_all();
    }

    fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Submits what is queued and waits until the device has done it, or has failed.
    pub fn synchronize(&self) {
        if self.log.is_broken() {
            return;
        }
        if let Some(witness) = &self.witness {
            // for what was launched since the last one; burn's thread of the device may be gone
            if let Err(panic) = panics::catch(|| witness.count()) {
                self.log.record_symptom(&panic.report);
            }
        }
        self.wait(true, 0);
    }

    /// Records a fault where the device calls work done that it did not do, as far as that is counted; all of it must be over.
    pub fn check_done(&self) {
        if let Some(witness) = self.witness.as_ref().filter(|_| !self.log.is_broken()) {
            witness.check(&self.log);
        }
    }

    /// Counts one launch; panics where the device does not answer.
    pub fn launched(&self) {
        if let Some(witness) = &self.witness {
            witness.launched();
        }
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        if number % LAUNCHES == LAUNCHES - 1 && !self.log.is_broken() {
            self.wait(false, 1);
        }
        self.panic_if_silent();
    }

    /// As [`Watchdog::synchronize`]; panics where the device does not answer.
    pub fn synchronize_or_panic(&self) {
        self.synchronize();
        self.panic_if_silent();
    }

    /// What comes next would block in burn, for good.
    fn panic_if_silent(&self) {
        if self.is_silent() {
            std::panic::resume_unwind(Box::new(NoAnswer));
        }
    }

    /// Whether the deadline passed once: nothing may block on the device any more.
    pub fn is_silent(&self) -> bool {
        self.log.is_silent()
    }

    /// Asks the waiting thread, and waits for all answers but the last `open` ones, or a fault.
    fn wait(&self, flush: bool, open: u64) {
        let start = Instant::now();
        let mut requests = lock(&self.requests);
        self.ask(&mut requests, flush);
        let number = requests.asked;
        while requests.answered + open < number && !self.log.is_broken() {
            let woken = self.changed.wait(requests);
            requests = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let waited = start.elapsed().as_nanos() as u64;
        WAITED.fetch_add(waited, Ordering::Relaxed);
    }

    fn ask(&self, requests: &mut Requests, flush: bool) {
        requests.asked += 1;
        let number = requests.asked;
        // Fails where that thread is gone, and no answer comes either.
        let _ = self.to_wait.send(Request { number, flush });
    }

    fn answer(&self, number: u64) {
        lock(&self.requests).answered = number;
        self.changed.notify_all();
    }

    /// The watching thread: sends requests if nobody else does, until none was answered for the deadline. It counts what it
    /// slept, so that a computer that was suspended meanwhile counts for one tick.
    fn watch(&self) {
        let tick = (self.deadline / TICKS).max(LOOK);
        let (mut answered, mut waited) = (0, Duration::ZERO);
        while waited < self.deadline {
            std::thread::sleep(tick);
            if self.is_retired() {
                return;
            }
            let mut requests = lock(&self.requests);
            if requests.answered == requests.asked {
                // submitting goes through burn's thread of the device, which may be what is held
                self.ask(&mut requests, true);
                waited = Duration::ZERO;
            } else if requests.answered != answered {
                waited = Duration::ZERO;
            } else {
                waited += tick;
            }
            answered = requests.answered;
        }
        self.give_up();
    }

    fn give_up(&self) {
        let seconds = self.deadline.as_secs_f64();
        let report = format!(
            "no work was finished for {seconds} s ({DEADLINE_VARIABLE}=SECONDS sets the limit)"
        );
        SILENT.store(true, Ordering::Release);
        self.log.record(Fault::new(FaultKind::NoAnswer, &report));
        // under the lock, or a thread that is about to wait would miss it
        let requests = lock(&self.requests);
        self.changed.notify_all();
        drop(requests);
        std::thread::sleep(GRACE);
        if let Some(call) = ON_NO_ANSWER.get()
            && !self.log.is_told()
        {
            call(self.log.error());
        }
    }
}

/// The waiting thread's side.
struct Waiting {
    device: WgpuDevice,
    setup: WgpuSetup,
    watchdog: Arc<Watchdog>,
}

impl Waiting {
    fn serve(&self, asked: &Receiver<Request>) {
        for request in asked {
            if let Err(panic) = panics::catch(|| self.wait(request.flush)) {
                // wgpu panics if it cannot report that the device is lost
                self.watchdog.log.record_symptom(&panic.report);
            }
            self.watchdog.answer(request.number);
            if self.watchdog.is_retired() {
                return;
            }
        }
    }

    /// Until what is submitted is done, or the device fails.
    fn wait(&self, flush: bool) {
        if flush && let Err(error) = WgpuRuntime::client(&self.device).flush() {
            let log = &self.watchdog.log;
            log.record(Fault::of_report(&error.to_string()));
        }
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let tell = move || told.store(true, Ordering::Release);
        self.setup.queue.on_submitted_work_done(tell);
        while !done.load(Ordering::Acquire) && !self.watchdog.log.is_broken() {
            match self.setup.device.poll(wgpu::PollType::Poll) {
                Ok(wgpu::PollStatus::QueueEmpty) => return,
                Ok(_) | Err(wgpu::PollError::Timeout) => std::thread::sleep(LOOK),
                Err(error) => {
                    log::debug!("poll: {error}");
                    return;
                }
            }
        }
    }
}

/// The deadline that the variable's `value` sets, or that of the kind of adapter.
fn deadline(value: Option<&str>, kind: AdapterKind) -> Result<Duration> {
    let Some(value) = value else {
        return Ok(match kind {
            AdapterKind::Software => SOFTWARE_DEADLINE,
            _ => DEADLINE,
        });
    };
    let seconds = value.trim().parse::<f64>().ok();
    seconds
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|deadline| !deadline.is_zero())
        .ok_or_else(|| {
            Error::config(
                DEADLINE_VARIABLE,
                value,
                "must be seconds above 0, such as 300",
            )
        })
}

/// Ends the process with `code`. Where a device did not answer, at once: drivers wait for its work as the process exits.
pub fn end_process(code: u8) -> ! {
    if SILENT.load(Ordering::Acquire) {
        #[cfg(not(unix))]
        std::process::abort();
        #[cfg(unix)]
        end_process_at_once(code);
    }
    std::process::exit(code.into())
}

/// Ends the process with `code` and, on Unix, does not wait for a driver whose device still works.
pub fn end_process_at_once(code: u8) -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process without running anything that a driver has registered.
    unsafe {
        libc::_exit(code.into());
    }
    #[cfg(not(unix))]
    std::process::exit(code.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_positive_number_of_seconds() {
        let hardware = |value| deadline(value, AdapterKind::Discrete);
        assert_eq!(hardware(None).unwrap(), DEADLINE);
        let software = deadline(None, AdapterKind::Software).unwrap();
        assert!(software > DEADLINE);
        assert_eq!(hardware(Some("0.2")).unwrap(), Duration::from_millis(200));
        assert_eq!(hardware(Some(" 60 ")).unwrap(), Duration::from_secs(60));
        for bad in ["", "0", "-1", "nan", "inf", "1e300", "1e-300", "five"] {
            let error = hardware(Some(bad)).unwrap_err().to_string();
            let start = format!("{DEADLINE_VARIABLE} = {bad}: must be seconds");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
