//! Several processes that train together. Where the program is built without MPI, or there is no `mpiexec`, what needs them is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ibot::random::{Random, Stream};

use crate::resume::{assert_same, signal, wait_for_a_step};
use crate::{Scratch, command, has_adapter, ibot, stdout};

/// A batch of four in four parts, so that one, two and four ranks add in the same order.
const PARTS: [&str; 2] = ["--micro-batch-size", "1"];

/// The program on so many ranks of this machine; none if that cannot be.
pub fn on_ranks(ranks: usize, arguments: &[String]) -> Option<Command> {
    let mpiexec = std::env::var_os("IBOT_MPIEXEC").unwrap_or_else(|| "mpiexec".into());
    let mut asks = Command::new(&mpiexec);
    let is_there = asks.arg("--version").stdout(Stdio::null()).status().is_ok();
    if !cfg!(feature = "mpi") || !is_there {
        let line = b"SKIPPED: NO MPI\n";
        std::io::Write::write_all(&mut std::io::stderr(), line).unwrap();
        return None;
    }
    let mut command = Command::new(mpiexec);
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_ibot")]);
    command.args(arguments).env("RAYON_NUM_THREADS", "1");
    for name in [
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "OMPI_MCA_rmaps_base_oversubscribe",
        "OMPI_MCA_orte_execute_quiet",
    ] {
        command.env(name, "1");
    }
    Some(command)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run of one rank with the batch in parts, moved to `alone`, and what it printed.
fn alone(scratch: &Scratch, more: &[&str]) -> (PathBuf, String) {
    let output = ibot(&scratch.train(&[&PARTS[..], more].concat()));
    assert!(output.status.success(), "{}", stderr(&output));
    let alone = scratch.0.join("alone");
    fs::rename(scratch.0.join("run"), &alone).unwrap();
    (alone, stdout(&output))
}

#[test]
fn two_and_four_ranks_have_the_bits_of_one() {
    let scratch = Scratch::new("ranks");
    let flags = ["--steps", "7", "--held-out", "0.3"];
    let (alone, said) = alone(&scratch, &flags);
    for ranks in [2, 4] {
        let train = scratch.train(&[&PARTS[..], &flags].concat());
        let Some(mut command) = on_ranks(ranks, &train) else {
            return;
        };
        let output = command.output().unwrap();
        let text = stdout(&output);
        assert!(output.status.success(), "{text}{}", stderr(&output));
        for rank in 0..ranks {
            let line = format!("rank {rank} of {ranks} on ");
            assert_eq!(text.matches(&line).count(), 1, "{text}");
        }
        // the rest is said once
        let scores = |text: &str| text.matches("k-NN").count();
        assert_eq!(scores(&text), scores(&said), "{text}");
        assert_same(&scratch.0.join("run"), &alone, 7);
        // a process without others is to have as many threads as it likes
        let record = fs::read_to_string(scratch.0.join("run/run.json")).unwrap();
        assert!(record.contains("workers = 0"), "{record}");
        fs::remove_dir_all(scratch.0.join("run")).unwrap();
    }
}

/// Twice a rank is stopped by a signal and some times one is killed; each life has another number of ranks.
#[test]
fn stopped_and_killed_ranks_go_on_bit_for_bit() {
    const STEPS: usize = 61;
    let kills: usize = std::env::var("IBOT_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let scratch = Scratch::new("ranks-killed");
    let steps = STEPS.to_string();
    let flags = ["--steps", &steps, "--checkpoint-every", "7"];
    let (alone, _) = alone(&scratch, &flags);
    let run = scratch.0.join("run");
    let train = scratch.train(&[&PARTS[..], &flags].concat());
    let seed = std::process::id().into();
    println!("kills by seed {seed}");
    let mut random = Random::new(seed, 0, 0, Stream::Shuffle);
    for life in 0..kills + 2 {
        let ranks = [2, 4, 1][life % 3];
        let Some(mut command) = on_ranks(ranks, &train) else {
            return;
        };
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let before = length(&run);
        let mut child = command.spawn().unwrap();
        wait_for_a_step(&run, before);
        if life < 2 {
            signal(child.id(), "-USR1");
            assert_eq!(child.wait().unwrap().code(), Some(138));
            let made = crate::metrics(&run).len();
            let sums = run.join(format!("checkpoints/step-{made:09}/B3SUMS"));
            assert!(sums.exists(), "no checkpoint after step {made}");
        } else {
            let pause = random.below(200) as u64;
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let own = children(child.id());
            if let Some(rank) = own.get(random.below(own.len().max(1))) {
                // it may just have ended
                let _ = Command::new("kill").args(["-9", rank]).status();
            }
            let _ = child.wait().unwrap();
        }
        if fs::metadata(run.join("teacher.safetensors")).is_ok() {
            break;
        }
    }
    let output = on_ranks(2, &train).map(|mut command| command.output().unwrap());
    let output = output.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same(&run, &alone, STEPS);
}

fn length(run: &Path) -> u64 {
    fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len())
}

/// The processes that a process has started.
fn children(of: u32) -> Vec<String> {
    let found = Command::new("pgrep").args(["-P", &of.to_string()]).output();
    let found = stdout(&found.unwrap());
    found.lines().map(str::to_owned).collect()
}

#[test]
fn what_all_ranks_would_write_is_refused() {
    let scratch = Scratch::new("ranks-alone");
    let list = ["data", &scratch.images()].map(str::to_owned);
    let Some(mut command) = on_ranks(2, &list) else {
        return;
    };
    let text = stderr(&command.output().unwrap());
    assert!(text.contains("runs in one process only"), "{text}");
}

#[test]
fn an_error_of_all_ranks_is_said_once() {
    let scratch = Scratch::new("ranks-error");
    let train = scratch.train(&["--steps", "2", "--set", "batch_sizes=7"]);
    let Some(mut command) = on_ranks(3, &train) else {
        return;
    };
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");
}

#[test]
fn ranks_share_a_gpu_only_if_they_may() {
    if !has_adapter() {
        return;
    }
    let scratch = Scratch::new("ranks-gpu");
    let mut train = scratch.train(&["--steps", "2", "--device", "0"]);
    train[2] = "wgpu".into();
    let Some(mut command) = on_ranks(2, &train) else {
        return;
    };
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.matches("--share-devices").count(), 1, "{text}");
    train.push("--share-devices".into());
    let output = on_ranks(2, &train).unwrap().output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(scratch.0.join("run/teacher.safetensors").exists());
}

/// The CPU beside a GPU: the second rank takes the weights of the first, or no checkpoint would be written, as their hashes are
/// compared before.
#[test]
fn ranks_on_different_devices_train_only_if_they_may() {
    if !has_adapter() {
        return;
    }
    let scratch = Scratch::new("ranks-mixed");
    let run = |more: &[&str]| -> Option<Output> {
        let flags = ["--steps", "3", "--checkpoint-every", "2"];
        let on_cpu = scratch.train(&[&flags[..], more].concat());
        let mut on_gpu = on_cpu.clone();
        on_gpu[2] = "wgpu".into();
        let mut command = on_ranks(1, &on_cpu)?;
        let other = [":", "-n", "1", env!("CARGO_BIN_EXE_ibot")];
        Some(command.args(other).args(on_gpu).output().unwrap())
    };
    let Some(refused) = run(&[]) else {
        return;
    };
    let text = stderr(&refused);
    assert!(!refused.status.success(), "{text}");
    assert_eq!(text.matches("--mixed-devices").count(), 1, "{text}");
    let trained = run(&["--mixed-devices"]).unwrap();
    let text = stdout(&trained);
    assert!(trained.status.success(), "{text}{}", stderr(&trained));
    assert!(text.contains("rank 0 of 2 on "), "{text}");
    assert!(text.contains("rank 1 of 2 on "), "{text}");
    assert_eq!(crate::metrics(&scratch.0.join("run")).len(), 3);
    assert!(
        scratch
            .0
            .join("run/checkpoints/step-000000002/B3SUMS")
            .exists()
    );
}

#[test]
fn several_processes_need_a_program_with_mpi() {
    let scratch = Scratch::new("ranks-none");
    let train = scratch.train(&["--steps", "1"]);
    // a job of Slurm, a task of it that was not started for MPI, and one that is alone
    for alone in [
        &[("SLURM_NTASKS", "4")][..],
        &[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "4")],
        &[("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "1")],
        &[("OMPI_COMM_WORLD_SIZE", "1")],
    ] {
        let mut command = command(&train);
        let output = command.envs(alone.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{alone:?}: {}", stderr(&output));
    }
    if !cfg!(feature = "mpi") {
        for several in [
            &[("OMPI_COMM_WORLD_SIZE", "2")][..],
            &[("PMI_SIZE", "2")],
            &[("PMIX_RANK", "1"), ("SLURM_STEP_NUM_TASKS", "4")],
        ] {
            let mut command = command(&train);
            let output = command.envs(several.iter().copied()).output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("--features mpi"), "{text}");
        }
    }
    let twice = ibot(&["train", "--devices", "0,0"]);
    assert_eq!(twice.status.code(), Some(2));
    assert!(stderr(&twice).contains("a GPU is named twice"));
}
