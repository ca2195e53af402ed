"""train: a run with events, settings, resume and Ctrl-C."""

import _thread
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ibot_train
from conftest import TINY
from ibot_train import Embedder, FileError, SettingError, train
from ibot_train._training import _nested

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def settings_of(run: ibot_train.Run) -> dict[str, Any]:
    return tomllib.loads((run.folder / "config.toml").read_text())


def test_a_run_leaves_a_model_and_tells_of_each_step(folder: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run = train(folder, tmp_path / "run", steps=3, val=folder, progress=events.append, **TINY)
    steps = [event for event in events if event["event"] == "step"]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["loss"] > 0 and step["images_per_s"] > 0 for step in steps)
    assert events[-1]["event"] == "finished"
    started = next(event for event in events if event["event"] == "started")
    assert (started["steps"], started["images"]) == (3, 10)
    assert run.teacher.is_file()
    assert [evaluation["when"] for evaluation in run.evaluations] == ["before training", "after training"]
    assert all(0 <= evaluation["knn"] <= 1 for evaluation in run.evaluations)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["loss"] == pytest.approx(steps[-1]["loss"], rel=1e-6)


def test_settings_of_every_kind(folder: Path, tmp_path: Path) -> None:
    dotted: dict[str, Any] = {"optimizer.clip_gradient_norm": 2.0}
    run = train(
        folder,
        tmp_path / "run",
        steps=1,
        progress=False,
        seed=7,
        learning_rate=0.001,
        max_pixels=10_000,
        license=None,
        optimizer={"weight_decay": 0.5},
        **dotted,
        **TINY,
    )
    settings = settings_of(run)
    assert settings["seed"] == 7
    assert settings["schedule"]["base_learning_rate"] == 0.001
    assert settings["folder"]["max_pixels"] == 10_000
    assert settings["optimizer"]["weight_decay"] == 0.5
    assert settings["optimizer"]["clip_gradient_norm"] == 2.0
    assert settings["method"]["vit"]["embed_dim"] == 16


def test_nested_settings() -> None:
    assert _nested([("a.b", 1), ("a", {"c.d": 2}), ("e", None)]) == {"a": {"b": 1, "c": {"d": 2}}}
    assert _nested([("a", {"b": 1}), ("a.c", Path("x"))]) == {"a": {"b": 1, "c": "x"}}
    assert _nested([("a.b.c", 1), ("a", {"b": {"d": 2}})]) == {"a": {"b": {"c": 1, "d": 2}}}
    with pytest.raises(SettingError, match="a.b = 2: a is given as a value too"):
        _nested([("a", 1), ("a.b", 2)])
    with pytest.raises(SettingError, match="a.b = .*: b is given as a value too"):
        _nested([("a.b", 1), ("a", {"b": {"c": 2}})])
    with pytest.raises(SettingError, match="a.b = 2: is given twice"):
        _nested([("a.b", 1), ("a", {"b": 2})])


def test_wrong_settings_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="epochz"):
        train(folder, tmp_path / "a", epochz=3, progress=False, **TINY)
    with pytest.raises(SettingError, match="batch_size = 0"):
        train(folder, tmp_path / "b", progress=False, **{**TINY, "batch_size": 0})
    with pytest.raises(SettingError, match="preset = big"):
        train(folder, tmp_path / "c", preset="big", progress=False)
    with pytest.raises(SettingError, match="checkpoint_every = soon|soon"):
        train(folder, tmp_path / "d", checkpoint_every="soon", progress=False, **TINY)
    with pytest.raises(FileError, match="no-such-folder"):
        train("no-such-folder", tmp_path / "e", progress=False, **TINY)


def test_settings_are_chosen_by_images_and_device(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path / "run", backend="flex", steps=1, image_size=32, progress=False)
    settings = settings_of(run)
    assert settings["batch_size"] == 10
    assert settings["method"]["image_size"] == 32
    # the same call resumes, also if another choice would be made by now
    train(folder, tmp_path / "run", backend="flex", steps=1, image_size=32, progress=False)


def test_the_choice_is_that_of_the_command(images: list[Path], folder: Path, tmp_path: Path) -> None:
    # 16 of 20 images are left after a fifth is held out, for batches of 16
    more = tmp_path / "images"
    for number, path in enumerate(2 * images):
        copied = more / path.parent.name / f"{number}.png"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    run = train(more, tmp_path / "run", backend="flex", steps=1, held_out=0.2, image_size=32, progress=False)
    assert settings_of(run)["batch_size"] == 16


def test_later_settings_count(folder: Path, tmp_path: Path) -> None:
    # epochs count where the file has steps, and keywords where the file has others
    file = tmp_path / "settings.toml"
    file.write_text('steps = 500\nbatch_size = 5\n[method]\nencoder_name = "vit_base_patch16_224"\n')
    small: dict[str, Any] = {"n_cls_prototypes": 8, "n_patch_prototypes": 8, "image_size": 32}
    arguments: dict[str, Any] = {"backend": "flex", "progress": False, "method": small}
    name = "vit_tiny_patch16_224"
    run = train(folder, tmp_path / "run", config=file, encoder=name, epochs=1, **arguments)
    settings = settings_of(run)
    assert "steps" not in settings and settings["epochs"] == 1
    assert settings["method"]["encoder_name"] == name
    assert settings["batch_size"] == 5


def test_numbers_of_numpy_are_numbers(folder: Path, tmp_path: Path) -> None:
    run = train(folder, tmp_path / "run", steps=np.int64(1), seed=np.uint8(3), progress=False, **TINY)
    assert settings_of(run)["seed"] == 3
    with pytest.raises(SettingError, match="settings: .*object"):
        train(folder, tmp_path / "other", steps=object(), progress=False, **TINY)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_is_refused(run: ibot_train.Run) -> None:
    code = (
        "import os, sys, warnings; from ibot_train import Embedder\n"
        "warnings.simplefilter('ignore')\n"
        "embedder = Embedder(sys.argv[1], backend='flex')\n"
        "if os.fork() == 0:\n"
        "    try: Embedder(sys.argv[1], backend='flex')\n"
        "    except RuntimeError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.teacher)], capture_output=True, text=True, timeout=60)
    assert "forked" in done.stdout and "spawn" in done.stdout, done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    "code",
    [
        "embedder = Run(Path(sys.argv[3])).embedder(backend='flex')\n"
        "pid = fork()\n"
        "del embedder\n"
        "end(pid)\n",
        "pid = 0\n"
        "def progress(event):\n"
        "    global pid\n"
        "    if event['event'] == 'step' and event['step'] == 1:\n"
        "        pid = fork()\n"
        "        if pid == 0: sys.exit()\n"
        "train(sys.argv[1], sys.argv[2], steps=3, progress=progress, **TINY)\n"
        "end(pid)\n",
    ],
    ids=["embedder", "training"],
)
def test_a_forked_process_drops_what_it_inherits(code: str, run: ibot_train.Run, folder: Path, tmp_path: Path) -> None:
    # where it hangs, its alarm ends it; the status of the parent is that of the child
    before = (
        "import os, signal, sys; from pathlib import Path\n"
        "from conftest import TINY; from ibot_train import Run, train\n"
        "def fork():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: signal.alarm(60)\n"
        "    return pid\n"
        "def end(pid):\n"
        "    if pid == 0: sys.exit()\n"
        "    print('child', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", before + code, str(folder), str(tmp_path / "run"), str(run.folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "child 0\n", "")


def test_messages_name_keywords(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", steps=1, progress=False, **TINY)
    with pytest.raises(FileError, match="`override=True`"):
        train(folder, tmp_path / "run", steps=2, seed=9, progress=False, **TINY)


def test_notes_name_keywords(folder: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"steps": 1, **TINY}
    train(folder, tmp_path / "run", progress=False, **arguments)
    events: list[dict[str, Any]] = []
    train(folder, tmp_path / "run", progress=events.append, **arguments)
    notes = [event["text"] for event in events if event["event"] == "note"]
    done = next(note for note in notes if "the run is complete" in note)
    assert "`override=True`" in done and not any("allow_changes" in note for note in notes)
    started = next(event for event in events if event["event"] == "started")
    assert started["start_step"] == 1


def test_the_best_teacher_is_the_one_to_use(run: ibot_train.Run, images: list[Path], folder: Path, tmp_path: Path) -> None:
    assert run.teacher == run.folder / "teacher.safetensors"
    arguments: dict[str, Any] = {"keep_best": True, "pretrained": run.teacher, "backend": "flex", "progress": False}
    kept = train(folder, tmp_path / "run", steps=2, **{**TINY, **arguments})
    assert kept.teacher == kept.folder / "best.safetensors"
    # as where the features became worse: the best ones are those of the start
    kept.teacher.write_bytes(run.teacher.read_bytes())
    features = kept.embedder(backend="flex").embed(images)
    np.testing.assert_array_equal(features, run.embedder(backend="flex").embed(images))
    last = Embedder(kept.folder / "teacher.safetensors", backend="flex").embed(images)
    assert np.abs(features - last).max() > 1e-6


def test_options_are_those_of_the_command(run: ibot_train.Run, folder: Path, tmp_path: Path) -> None:
    def record(of: ibot_train.Run) -> dict[str, Any]:
        options: dict[str, Any] = json.loads((of.folder / "run.json").read_text())["options"]
        return {key: options[key] for key in ("keep", "on_anomaly", "on_device_lost")}

    assert record(run) == {"keep": 2, "on_anomaly": "warn", "on_device_lost": "stop"}
    arguments: dict[str, Any] = {"steps": 4, "checkpoint_every": 1, "progress": False, **TINY}
    options: dict[str, Any] = {"keep": 3, "on_anomaly": "rollback", "on_device_lost": "cpu"}
    kept = train(folder, tmp_path / "run", **options, **arguments)
    assert record(kept) == options
    # that of the start is where a rollback would go
    steps = sorted(int(of.name.removeprefix("step-")) for of in (kept.folder / "checkpoints").iterdir())
    assert steps == [0, 2, 3, 4]
    for name, wrong, words in (
        ("keep", 0, "give 1 or more"),
        ("on_anomaly", "resume", "must be one of warn, stop, rollback"),
        ("on_device_lost", "gpu", "must be one of stop, cpu"),
        ("pretrained_parts", "heads", "must be one of backbone, all"),
        ("pretrained_parts", "all", "`pretrained`"),
    ):
        given: dict[str, Any] = {name: wrong}
        with pytest.raises(SettingError, match=f"^{name} = {wrong}: .*{words}"):
            train(folder, tmp_path / "wrong", **given, **arguments)


def test_heads_are_loaded_on_demand(run: ibot_train.Run, folder: Path, tmp_path: Path) -> None:
    # a model file has a backbone alone
    with pytest.raises(FileError, match="has no known heads.*omit `pretrained_parts`"):
        train(folder, tmp_path / "a", steps=1, pretrained=run.teacher, pretrained_parts="all", progress=False, **TINY)
    whole = tmp_path / "whole.safetensors"
    command = [sys.executable, "-m", "ibot_train", "export", "--run", str(run.folder), "--out", str(whole)]
    subprocess.run([*command, "--format", "stable-pretraining"], check=True, capture_output=True)
    events: list[dict[str, Any]] = []
    out = tmp_path / "b"
    train(folder, out, steps=1, pretrained=whole, pretrained_parts="all", progress=events.append, **TINY)
    assert json.loads((out / "run.json").read_text())["pretrained"]["parts"] == "all"


def test_images_of_several_folders_and_files(images: list[Path], folder: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    data: list[str | Path] = [folder / "even", images[1], str(images[3])]
    train(data, tmp_path / "run", steps=1, progress=events.append, **TINY)
    started = next(event for event in events if event["event"] == "started")
    assert started["images"] == 7
    with pytest.raises(SettingError, match="data = "):
        train([], tmp_path / "none", progress=False, **TINY)


def test_weights_to_start_from(run: ibot_train.Run, folder: Path, tmp_path: Path) -> None:
    again = train(folder, tmp_path / "run", steps=1, pretrained=run.teacher, progress=False, **TINY)
    assert settings_of(again)["method"]["pretrained"] is True
    with pytest.raises(FileError, match="nothing.safetensors"):
        train(folder, tmp_path / "b", steps=1, pretrained="nothing.safetensors", progress=False, **TINY)


def test_a_callback_that_fails_ends_the_run_with_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    def fail(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(folder, tmp_path / "run", steps=100_000, progress=fail, **TINY)
    assert any((tmp_path / "run" / "checkpoints").iterdir())


def test_ctrl_c_leaves_a_checkpoint_and_the_same_call_resumes(folder: Path, tmp_path: Path) -> None:
    made = 0

    def interrupt(event: dict[str, Any]) -> None:
        nonlocal made
        if event["event"] == "step":
            made = event["step"]
            if made == 5:
                _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "run", steps=100_000, progress=interrupt, **TINY)
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    events: list[dict[str, Any]] = []
    train(folder, tmp_path / "run", steps=made + 200, override=True, progress=events.append, **TINY)
    started = next(event for event in events if event["event"] == "started")
    assert started["start_step"] >= 5


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_from_outside_reaches_a_waiting_call(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from conftest import TINY; from ibot_train import train\n"
        "print('ready', flush=True)\n"
        "try: train(sys.argv[1], sys.argv[2], steps=100_000, progress=lambda e: print(e['event'], flush=True), **TINY)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "step":
                break
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest = child.stdout.read()
        child.wait(timeout=60)
    assert rest.split()[-1] == "interrupted"
    assert time.monotonic() - began < 60
    assert any((tmp_path / "run" / "checkpoints").iterdir())


def test_lines_are_printed(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(folder, tmp_path / "run", steps=2, val=folder, **TINY)
    lines = capfd.readouterr().err
    for part in ("10 images", "step 2/2  loss ", "before training: k-NN ", "done: "):
        assert part in lines, lines
