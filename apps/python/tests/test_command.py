"""The command `ibot` of the package."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ibot_train


def ibot(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "ibot_train", *arguments], capture_output=True, text=True)


def test_it_is_the_program_that_cargo_builds() -> None:
    program = os.environ.get("IBOT")
    if program is None:
        pytest.skip("IBOT names no program to compare with")
    for arguments in (["--help"], ["train", "--help"], ["inspect", "--encoders"], ["no-such-command"]):
        ours = ibot(*arguments)
        theirs = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_it_reports_its_version_and_its_errors() -> None:
    version = ibot("--version")
    assert version.returncode == 0
    assert version.stdout.startswith(f"ibot {ibot_train.__version__}")
    wrong = ibot("inspect", "no-such.safetensors")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: no-such.safetensors: ")


def test_the_doctor_comes(tmp_path: Path) -> None:
    doctor = ibot("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "processor" in doctor.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_it_with_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--data", str(folder), "--out", str(run), "--preset", "demo", "--steps", "100000"]
    arguments += ["--batch-size", "4", "--backend", "flex", "--on-anomaly", "warn"]
    command = [sys.executable, "-m", "ibot_train", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        metrics = run / "metrics.jsonl"
        while child.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            pass
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == 130, errors
    assert "Resume: ibot train --resume" in errors
    assert any((run / "checkpoints").iterdir())
