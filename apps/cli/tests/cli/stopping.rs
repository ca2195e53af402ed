//! What ends a process by default ends a run with a checkpoint, whatever it is at.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::resume::{assert_same, copy, signal, wait_for_a_step};
use crate::{Scratch, command, ibot, metrics, stdout};

/// Starts a run for which `set` is called between fork and exec.
fn spawn(train: &[String], set: fn()) -> Child {
    let mut command = command(train);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    before_exec(&mut command, set);
    command.spawn().unwrap()
}

fn before_exec(command: &mut Command, set: fn()) {
    // SAFETY: `set` makes system calls alone.
    unsafe {
        command.pre_exec(move || {
            set();
            Ok(())
        });
    }
}

/// A shell that runs tests in its background has made them ignore SIGINT and SIGQUIT.
fn with_defaults() {
    for number in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: sets no handler.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// As `nohup` does.
fn without_hang_up() {
    with_defaults();
    // SAFETY: sets no handler.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

fn length(run: &Path) -> u64 {
    fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len())
}

/// The steps made, once their checkpoint was found.
#[track_caller]
fn checkpointed(run: &Path) -> usize {
    let made = metrics(run).len();
    let sums = run.join(format!("checkpoints/step-{made:09}/B3SUMS"));
    assert!(sums.exists(), "no checkpoint after step {made}");
    made
}

/// Signals finish the step, write a checkpoint and give the shell's status.
#[test]
fn signals_write_a_checkpoint() {
    let scratch = Scratch::new("signals");
    let train = scratch.train(&["--steps", "1000000"]);
    let run = scratch.0.join("run");
    let mut last = 0;
    for number in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGXCPU,
    ] {
        let before = length(&run);
        let mut child = spawn(&train, with_defaults);
        wait_for_a_step(&run, before);
        signal(child.id(), &format!("-{number}"));
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + number), "signal {number}");
        let made = checkpointed(&run);
        assert!(made > last);
        last = made;
    }
    // the process that began it ignores a signal, and so does the run
    let mut child = spawn(&train, without_hang_up);
    wait_for_a_step(&run, length(&run));
    signal(child.id(), "-HUP");
    std::thread::sleep(Duration::from_millis(300));
    wait_for_a_step(&run, length(&run));
    signal(child.id(), "-TERM");
    // at once as many a batch system sends them: one wish
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(checkpointed(&run) > last);
}

/// Both ends of a new terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: gives two open files that nobody else owns.
    unsafe {
        let made = libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast());
        assert_eq!(made, 0);
        let flags = libc::fcntl(ours, libc::F_GETFL);
        libc::fcntl(ours, libc::F_SETFL, flags | libc::O_NONBLOCK);
        // a run that had our end too would keep the terminal open
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}

/// The terminal of standard input becomes that of a session of its own.
fn own_session() {
    with_defaults();
    // SAFETY: system calls on this process's own standard input.
    unsafe {
        libc::setsid();
        libc::ioctl(0, libc::TIOCSCTTY as _, 0);
    }
}

/// A window that is closed, a connection that is lost: SIGHUP, and nowhere to print to.
#[test]
fn a_terminal_that_goes_away_leaves_a_checkpoint() {
    let scratch = Scratch::new("terminal");
    let train = scratch.train(&["--steps", "1000000"]);
    let run = scratch.0.join("run");
    let (mut ours, theirs) = terminal();
    let mut command = command(&train);
    command.stdin(theirs.try_clone().unwrap());
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    before_exec(&mut command, own_session);
    let mut child = command.spawn().unwrap();
    drop(command); // and with it the ends that the run has
    let mut said = vec![0; 1 << 16];
    let started = Instant::now();
    while length(&run) == 0 {
        let _ = ours.read(&mut said); // what nobody reads would hold it up
        assert!(started.elapsed() < Duration::from_secs(60), "no step");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(ours);
    assert_eq!(child.wait().unwrap().code(), Some(129));
    assert!(checkpointed(&run) > 0);
}

/// Ends within a few seconds, by its own account of the signal.
#[track_caller]
fn assert_ends_soon(mut child: Child) {
    let asked = Instant::now();
    signal(child.id(), "-TERM");
    let status = child.wait().unwrap();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(143));
    assert!(took < Duration::from_secs(8), "it took {took:?} to stop");
}

/// An evaluation that takes long is not waited for: the step before it has its checkpoint, and it is made up for later.
#[test]
fn an_evaluation_is_stopped_and_made_up_for() {
    let scratch = Scratch::new("stopped-evaluation");
    let val = scratch.0.join("val");
    let small = |class: &str| {
        fs::create_dir_all(val.join(class)).unwrap();
        let image = RgbImage::from_fn(24, 20, |x, y| image::Rgb([x as u8, y as u8, 9]));
        image.save(val.join(class).join("0.png")).unwrap();
    };
    ["even", "odd"].into_iter().for_each(small);
    let val_flag = val.to_string_lossy().into_owned();
    let flags = ["--steps", "7", "--val", &val_flag, "--knn-every", "1"];
    let train = scratch.train(&[&flags[..], &["--checkpoint-every", "1", "--keep", "9"]].concat());
    assert!(ibot(&train).status.success());
    let (run, undisturbed) = (scratch.0.join("run"), scratch.0.join("undisturbed"));
    copy(&run, &undisturbed);

    // as if it had been killed after step 3; and now there are many images to validate on
    for step in 4..=7 {
        fs::remove_dir_all(run.join(format!("checkpoints/step-{step:09}"))).unwrap();
    }
    let large = val.join("odd/large");
    fs::create_dir(&large).unwrap();
    let first = large.join("first.png");
    let image = RgbImage::from_fn(2000, 1500, |x, y| image::Rgb([(x ^ y) as u8, x as u8, 7]));
    image.save(&first).unwrap();
    for number in 0..3000 {
        fs::hard_link(&first, large.join(format!("{number}.png"))).unwrap();
    }
    let train = [&train[..], &["--override".to_owned()]].concat();
    let mut child = spawn(&train, with_defaults);
    let started = Instant::now();
    let checkpoint = run.join("checkpoints/step-000000004");
    while !checkpoint.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it evaluates");
    assert_ends_soon(child);
    assert_eq!(metrics(&run).len(), 4);
    let evaluations = |run: &Path| fs::read_to_string(run.join("evaluations.jsonl")).unwrap();
    assert!(!evaluations(&run).contains("\"step\":4"));

    fs::remove_dir_all(&large).unwrap();
    let output = ibot(&train);
    let text = stdout(&output);
    assert!(text.contains("resuming from step 4"), "{text}");
    assert_same(&run, &undisturbed, 7);
    assert_eq!(evaluations(&run), evaluations(&undisturbed));
    let manifest = |run: &Path| {
        let path = run.join("checkpoints/step-000000004/checkpoint.json");
        let text = fs::read_to_string(path).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert!(manifest(&run)["knn"].is_number());
    assert_eq!(manifest(&run), manifest(&undisturbed));
}
