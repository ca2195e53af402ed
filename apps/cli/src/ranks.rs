//! `--devices`: several processes, the ranks, that work together.

use std::sync::Arc;

#[cfg(feature = "mpi")]
use ibot::collective::all_ok;
use ibot::collective::{Collective, SingleProcess, from_rank_0};
use ibot::data::workers_of_rank;
use ibot::device::{BackendChoice, Selected, list_adapters};
#[cfg(feature = "mpi")]
use ibot::error::counted;
use ibot::{Error, Result};

use self::devices::Devices;
use super::device::DeviceArgs;
#[cfg(feature = "mpi")]
use super::flags::explain;
#[cfg(feature = "mpi")]
use super::opening::Opening;
use super::screen::silence;
#[cfg(feature = "mpi")]
use super::screen::without_terminal;
#[cfg(feature = "mpi")]
use super::signals;
use super::threads::start_threads;

mod devices;
#[cfg(feature = "mpi")]
mod launch;

/// What launchers of MPI tell a process: how many ranks there are. `srun` sets its own for programs without MPI too, and there
/// it is MPI's own variable that counts.
const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"];
#[cfg(not(feature = "mpi"))]
const BUILD: &str = "this program was built without MPI: install an MPI and libclang, then \
                     `cargo install --locked --path apps/cli --features mpi` (docs/scaling.md)";

/// Why several processes are refused.
const ALONE: &str = "runs in one process only: leave out mpirun and --devices";

/// Seconds until a silent process ends the others.
const TIMEOUT: u64 = 600;

/// Flags for several processes.
#[derive(Debug, Clone, clap::Args)]
pub struct RankArgs {
    /// GPUs of this machine to use together, one process each: all, or numbers of `ibot devices` such as 0,1,3.
    #[arg(
        long,
        value_name = "all|0,1,3",
        conflicts_with = "device",
        help_heading = "Device"
    )]
    devices: Option<Devices>,
    /// Let several processes of a machine use one GPU.
    #[arg(long, help_heading = "Device")]
    share_devices: bool,
    /// Let processes compute on GPUs of different kinds, which round differently; in training all copy the weights of the first
    /// each time that metrics are read (`metrics_every`).
    #[arg(long, help_heading = "Device")]
    pub mixed_devices: bool,
    /// Seconds without an answer from a process after which a run of several processes ends.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = TIMEOUT,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Device"
    )]
    collective_timeout: u64,
}

/// The processes of a run, of which this is one.
#[derive(Debug, Clone)]
pub struct Ranks {
    pub collective: Arc<dyn Collective>,
    #[cfg(feature = "mpi")]
    mpi: Option<Arc<ibot::collective::Mpi>>,
}

impl Ranks {
    /// This process alone.
    pub fn alone() -> Self {
        Self {
            collective: Arc::new(SingleProcess),
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }

    /// Those that a launcher started, which may be this process alone.
    ///
    /// # Errors
    /// A program without MPI that is to work with others, and MPI that cannot be started.
    pub fn launched() -> Result<Self> {
        if is_launched() {
            Self::of_launcher(TIMEOUT)
        } else {
            Ok(Self::alone())
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn of_launcher(_: u64) -> Result<Self> {
        let ranks = RANKS.iter().find_map(|name| std::env::var(name).ok());
        let ranks = ranks.unwrap_or_else(|| "several".into());
        Err(Error::Training(format!(
            "{ranks} processes were started to train together, but {BUILD}"
        )))
    }

    #[cfg(feature = "mpi")]
    fn of_launcher(timeout: u64) -> Result<Self> {
        let timeout = std::time::Duration::from_secs(timeout.max(1));
        let mpi = Arc::new(ibot::collective::Mpi::join(timeout)?);
        if let (1, Some(told)) = (mpi.size(), told_ranks()) {
            return Err(Error::Ranks(format!(
                "the launcher started {told} processes, but MPI counts this one alone: launcher and program use different MPI libraries; \
                 start with the `mpiexec` of the MPI that this program was built with (IBOT_MPIEXEC names another one)"
            )));
        }
        without_terminal();
        signals::leave_words_to_launcher();
        Ok(Self {
            collective: mpi.clone(),
            mpi: Some(mpi),
        })
    }

    /// Whether this process speaks for all: it prints, and writes the run folder.
    pub fn is_first(&self) -> bool {
        self.collective.rank() == 0
    }

    /// Worker threads of a process that has its share of a machine, where `asked` leaves that open.
    pub fn workers(&self, asked: usize) -> usize {
        workers_of_rank(asked, self.collective.size())
    }

    /// Refuses what runs in one process only.
    ///
    /// # Errors
    /// There are several.
    pub fn alone_for(&self, flag: &str, value: &str) -> Result<()> {
        if self.is_alone() {
            Ok(())
        } else {
            Err(Error::config(flag, value, ALONE))
        }
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.collective.size() == 1
    }

    /// What the first process makes, on all of them.
    ///
    /// # Errors
    /// Its own, on all; a process that is gone.
    pub fn by_first<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        from_rank_0(&*self.collective, make)
    }

    /// To be called before the process ends, whether the run failed or not: other processes may still have something to write.
    /// If all processes ended, rank 0 alone prints the error, and its exit status is that of all: a launcher ends the others as soon as
    /// one fails, perhaps before rank 0 has said why. If another one did not (this one failed alone), this process names
    /// itself in the error and exits, upon which the launcher ends the others.
    ///
    /// # Errors
    /// That of `ended`.
    #[cfg_attr(
        not(feature = "mpi"),
        allow(clippy::unused_self, reason = "there is nobody else")
    )]
    pub fn end(&self, ended: Result<()>) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            let is_done = matches!(
                ended,
                Ok(()) | Err(Error::Stopped | Error::Interrupted { .. })
            );
            let is_common = mpi.finish(is_done && !self.is_first());
            return match ended {
                Err(_) if is_common && !self.is_first() => ibot::device::end_process(0),
                Err(error) if !is_common => {
                    let (rank, host) = (self.collective.rank(), &mpi.host().name);
                    let error = explain(&error);
                    Err(Error::Training(format!("rank {rank} on {host}: {error}")))
                }
                ended => ended,
            };
        }
        ended
    }
}

impl RankArgs {
    /// Joins the other processes if a launcher started this one; otherwise starts them if `--devices` names several GPUs, and then
    /// does not return but on Windows, where it ends with the launcher.
    ///
    /// # Errors
    /// A program without MPI that is to train with others, MPI that cannot be started, and no such GPU.
    pub fn join(&self, device: &mut DeviceArgs) -> Result<Ranks> {
        if is_launched() {
            let ranks = Ranks::of_launcher(self.collective_timeout)?;
            #[cfg(feature = "mpi")]
            let ranks = self.prepared(ranks, device)?;
            return Ok(ranks);
        }
        start_threads(0)?;
        let Some(devices) = &self.devices else {
            return Ok(Ranks::alone());
        };
        device.only_gpus("--devices")?;
        match devices.of(&list_adapters()?)?.as_slice() {
            [only] => {
                device.set_device(only.index);
                Ok(Ranks::alone())
            }
            several => start(several.len()),
        }
    }

    /// With a GPU for each, which all have or none.
    #[cfg(feature = "mpi")]
    fn prepared(&self, ranks: Ranks, device: &mut DeviceArgs) -> Result<Ranks> {
        let Some(mpi) = &ranks.mpi else {
            return Ok(ranks);
        };
        let prepared = self.prepare(mpi.host(), device);
        match all_ok(&*ranks.collective, prepared) {
            Ok(()) => Ok(ranks),
            Err(error) => ranks.end(Err(error)).map(|()| ranks),
        }
    }

    /// The GPU of this process among those of its machine, or its share of the cores.
    #[cfg(feature = "mpi")]
    fn prepare(&self, host: &ibot::collective::Host, device: &mut DeviceArgs) -> Result<()> {
        let adapters = if device.may_be_gpu() {
            list_adapters().unwrap_or_default()
        } else {
            Vec::new()
        };
        let devices = self.devices.as_ref().unwrap_or(&Devices::All);
        let found = match (device.has_device(), &self.devices) {
            // named by the user: one for all of a machine
            (true, _) => Vec::new(),
            (false, None) => devices.of(&adapters).unwrap_or_default(),
            (false, Some(devices)) => devices.of(&adapters)?,
        };
        let (local, of) = (host.local_rank, host.local_ranks);
        start_threads(threads_of(of))?;
        let gpus = if device.has_device() { 1 } else { found.len() };
        if gpus == 0 {
            return Ok(());
        }
        if of > gpus && !self.share_devices {
            let (host, gpus) = (&host.name, counted(gpus, "GPU"));
            return Err(Error::config(
                "ranks",
                of,
                format!(
                    "{host} has {gpus} for them: start one process for each, or let them share by --share-devices"
                ),
            ));
        }
        if let Some(adapter) = found.get(local % gpus) {
            device.set_device(adapter.index);
        }
        Ok(())
    }
}

impl Ranks {
    /// Says where this process computes, on the first line of each, by `note`; all but the first are silent from then on.
    ///
    /// # Errors
    /// Processes that compute on devices of different kinds.
    pub fn say_device(
        &self,
        selected: &Selected,
        may_differ: bool,
        note: &dyn Fn(&str),
    ) -> Result<()> {
        let (rank, size) = (self.collective.rank(), self.collective.size());
        if size == 1 {
            return Ok(());
        }
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            let (host, device) = (&mpi.host().name, Opening::device(selected));
            note(&format!("rank {rank} of {size} on {host}: {device}"));
        }
        #[cfg(not(feature = "mpi"))]
        let _ = note;
        let kind = match selected {
            Selected::Wgpu { adapter, .. } => adapter.title(),
            other => other.backend().to_string(),
        };
        let mut kinds = self.collective.all_gather(kind.into_bytes())?;
        if may_differ {
            kinds.truncate(1);
        }
        if rank > 0 {
            silence();
        }
        match kinds.iter().position(|kind| *kind != kinds[0]) {
            None => Ok(()),
            Some(other) => {
                let [first, other_kind] = [0, other].map(|at| String::from_utf8_lossy(&kinds[at]));
                // their last bits differ, and so would the weights after some steps
                Err(Error::Ranks(format!(
                    "rank 0 computes on {first}, rank {other} on {other_kind}; all must be of one kind: choose them with \
                     --devices, --device or --backend, or let them differ by --mixed-devices"
                )))
            }
        }
    }
}

/// Whether a launcher of MPI started this process among several.
pub fn is_launched() -> bool {
    told_ranks().is_some()
        // srun with PMIx says no size; it says a rank only to programs that it starts for MPI
        || (std::env::var_os("PMIX_RANK").is_some() && several("SLURM_STEP_NUM_TASKS").is_some())
}

/// How many processes a launcher says that it has started, where these are several.
fn told_ranks() -> Option<usize> {
    RANKS.iter().find_map(|name| several(name))
}

fn several(name: &str) -> Option<usize> {
    let ranks = std::env::var(name).ok()?.parse().ok()?;
    (ranks > 1).then_some(ranks)
}

/// Refuses what every process of a launcher would do and write again.
///
/// # Errors
/// There are several.
pub fn alone_for(flag: &str) -> Result<()> {
    if is_launched() {
        Err(Error::config(flag, "given", ALONE))
    } else {
        Ok(())
    }
}

#[cfg(not(feature = "mpi"))]
fn start(processes: usize) -> Result<Ranks> {
    Err(Error::config(
        "--devices",
        format!("{processes} GPUs"),
        BUILD,
    ))
}

#[cfg(feature = "mpi")]
fn start(processes: usize) -> Result<Ranks> {
    launch::start(processes).map(|never| match never {})
}

/// The share of the cores of one of so many processes on a machine.
#[cfg(feature = "mpi")]
fn threads_of(processes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / processes).max(1)
}

impl DeviceArgs {
    /// Refuses a flag that is for GPUs alone.
    ///
    /// # Errors
    /// A backend that computes on the CPU.
    fn only_gpus(&self, flag: &str) -> Result<()> {
        if self.may_be_gpu() {
            Ok(())
        } else {
            Err(Error::config(
                flag,
                self.backend(),
                "names GPUs, and --backend is the CPU: leave one of them out, or start processes on the CPU by mpirun",
            ))
        }
    }

    fn may_be_gpu(&self) -> bool {
        matches!(self.backend(), BackendChoice::Auto | BackendChoice::Wgpu)
    }
}
