//! Starts the processes of a run through MPI's own launcher.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus};

use ibot::device::end_process;
use ibot::{Error, Result};

/// The variable that names the launcher.
const LAUNCHER: &str = "IBOT_MPIEXEC";

/// What Open MPI 4 and 5, and Intel's MPI, need to hear so that ranks may use all cores; other MPIs ignore it.
const SETTINGS: [(&str, &str); 7] = [
    // not one core for each rank: a rank computes and decodes images on several
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ("PRTE_MCA_hwloc_default_binding_policy", "none"),
    ("I_MPI_PIN", "off"),
    // a machine may have more GPUs than cores are free
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    // no page of text where this program has said why it ends
    ("OMPI_MCA_orte_execute_quiet", "1"),
    ("PRTE_MCA_prte_execute_quiet", "1"),
];
/// Open MPI refuses root without them; who starts this program as root has decided that already, as in a container.
const ROOT: [&str; 2] = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];

/// Starts this command line so many times, and ends this process when they have ended.
///
/// # Errors
/// There is no launcher.
pub fn start(processes: usize) -> Result<Infallible> {
    let launcher = env::var_os(LAUNCHER).unwrap_or_else(|| "mpiexec".into());
    let program = env::current_exe().map_err(|error| {
        Error::Training(format!("the path of this program cannot be found: {error}"))
    })?;
    let mut command = Command::new(&launcher);
    command.arg("-n").arg(processes.to_string());
    command.arg(program).args(env::args_os().skip(1));
    let settings = SETTINGS.into_iter().chain(ROOT.map(|name| (name, "1")));
    for (name, value) in settings.filter(|(name, _)| env::var_os(name).is_none()) {
        command.env(name, value);
    }
    let failed = |error| without(&launcher, &error);
    let mut child = spawn(&mut command).map_err(failed)?;
    let status = wait(&mut child)?.map_err(failed)?;
    end_process(code(status))
}

fn without(launcher: &OsStr, error: &std::io::Error) -> Error {
    Error::Training(format!(
        "{} cannot be started: {error}; install an MPI, or name its launcher in {LAUNCHER}",
        launcher.display()
    ))
}

/// The launcher, out of reach of the terminal: on Ctrl-C it would kill the ranks before they have written a checkpoint.
#[cfg(unix)]
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    // who is not in front of the terminal must not read from it
    command.stdin(std::process::Stdio::null()).process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: one system call between fork and exec, which allocates nothing.
    unsafe {
        command.pre_exec(|| {
            // where this process is killed, the ranks end too
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn()
}

#[cfg(not(unix))]
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    command.spawn()
}

/// Waits, and passes on a wish to stop as SIGUSR1: launchers hand that one to the ranks and do nothing else, where Open MPI's
/// answers SIGTERM and SIGINT by killing them within two seconds.
#[cfg(unix)]
fn wait(child: &mut Child) -> Result<std::io::Result<ExitStatus>> {
    use crate::signals::{is_stopped, stop_on_signal, stop_with};
    let process = i32::try_from(child.id()).unwrap_or_default();
    stop_on_signal()?;
    stop_with(process);
    let mut is_told = false;
    loop {
        if let Some(ended) = child.try_wait().transpose() {
            return Ok(ended);
        }
        if is_stopped() && !is_told {
            is_told = true;
            // SAFETY: a signal to a process that this one started, and has not waited for.
            unsafe { libc::kill(process, libc::SIGUSR1) };
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[cfg(not(unix))]
fn wait(child: &mut Child) -> Result<std::io::Result<ExitStatus>> {
    Ok(child.wait())
}

/// That of the ranks; where they were stopped, that of the signal which this process got.
fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if crate::signals::is_stopped() && !status.success() {
        return crate::signals::exit_status();
    }
    status
        .code()
        .map_or(1, |code| u8::try_from(code).unwrap_or(1))
}
