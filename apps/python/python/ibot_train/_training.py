"""Training runs."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import _native
from ._embedder import Embedder
from ._errors import IbotError, Interrupted, SettingError, check_counts
from ._process import check_process, is_forked

#: Settings that are known by the names of the command's flags.
_FLAGS = {
    "image_size": "method.image_size",
    "learning_rate": "schedule.base_learning_rate",
    "max_pixels": "folder.max_pixels",
    "range": "folder.range",
    "tile": "folder.tile",
    "tile_overlap": "folder.tile_overlap",
    "cache": "folder.cache",
    "grad_checkpointing": "method.grad_checkpointing",
}


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    """The run folder, with metrics.jsonl, config.toml and the weights of both networks."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """k-NN accuracy (with `val`) and feature rank, before and after training."""

    @property
    def teacher(self) -> Path:
        """The backbone to use: best.safetensors of a run that keeps its best teacher (`keep_best`, which the preset adapt for
        `pretrained` sets), else teacher.safetensors, the last one."""
        return Path(_native.teacher(self.folder))

    def embedder(self, **arguments: Any) -> Embedder:
        """An embedder of that teacher; arguments as of :class:`Embedder`."""
        return Embedder(self.teacher, **arguments)


def train(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    preset: str | None = None,
    config: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    pretrained_parts: Literal["backbone", "all"] = "backbone",
    val: str | os.PathLike[str] | None = None,
    knn_every: int = 0,
    checkpoint_every: str | int = "10m",
    keep: int = 2,
    on_anomaly: Literal["warn", "stop", "rollback"] = "warn",
    on_device_lost: Literal["stop", "cpu"] = "stop",
    backend: str = "auto",
    device: str | int | None = None,
    override: bool = False,
    progress: Callable[[dict[str, Any]], object] | bool = True,
    **settings: Any,
) -> Run:
    """Trains on images; the same call resumes a run that was stopped.

    Args:
        data: Image folder of any depth, image file, list (.txt, .csv) or shards (.tar, .parquet); or several of them. Folders
            of the first level are classes, which only evaluation uses. Of a data set with `train` and `val` or `test`, `train`
            is trained on.
        out: Run folder.
        preset: What the settings start from; `ibot train --help` lists all. Default: chosen by the number of images, the
            device and its memory; with `config`, the reference's settings.
        config: TOML file with settings; keywords override it.
        encoder: timm name of the backbone.
        pretrained: Weights of a backbone to start from, as `Embedder` takes them.
        pretrained_parts: What is loaded of `pretrained`: ``backbone``, for both networks; or ``all``, student and teacher with
            their heads, mask token and centers.
        val: Labeled image folder for k-NN before and after training.
        knn_every: Also k-NN every N epochs.
        checkpoint_every: Steps (200) or time ("30s", "10m", "2h").
        keep: Number of newest checkpoints that stay; the best by k-NN always stays.
        on_anomaly: What to do when the run collapses or diverges: ``warn``; ``stop``, with a checkpoint; or ``rollback``, to a
            checkpoint from before it with half the learning rate, at most three times.
        on_device_lost: What to do when the GPU fails: ``stop`` raises DeviceError; ``cpu`` goes on from the newest checkpoint
            on the CPU.
        backend, device: As of :class:`Embedder`.
        override: Resume even if settings or data changed.
        progress: True prints a line every few seconds; False prints nothing; a function is called with each event, a dict
            whose "event" is note, started, step, epoch, evaluated, anomaly, rolled_back, checkpoint or finished.
        **settings: Every key of docs/settings.md: `epochs=20`, `batch_size=32`, `optimizer={"weight_decay": 0.05}` or
            `**{"optimizer.weight_decay": 0.05}`; and `image_size`, `learning_rate`, `max_pixels`, `range`, `tile`,
            `tile_overlap`, `cache`, `grad_checkpointing` as the command's flags. None leaves a setting as it is.

    Raises:
        SettingError: A setting that does not exist, or whose value cannot work.
        FileError: Images, weights or the run folder cannot be used.
        DeviceError: There is no such device, or it failed.
        KeyboardInterrupt: After the current step, with a checkpoint; the same call resumes.
    """
    check_process()
    check_counts(knn_every=knn_every, keep=keep)
    several = [data] if isinstance(data, (str, os.PathLike)) else data
    request = {
        "data": [os.fspath(one) for one in several],
        "out": os.fspath(out),
        "settings": json.dumps(
            _nested((_FLAGS.get(key, key), value) for key, value in settings.items()), default=_plain
        ),
        "preset": preset,
        "config": None if config is None else os.fspath(config),
        "encoder": encoder,
        "pretrained": None if pretrained is None else os.fspath(pretrained),
        "pretrained_parts": pretrained_parts,
        "val": None if val is None else os.fspath(val),
        "knn_every": knn_every,
        "checkpoint_every": str(checkpoint_every),
        "keep": keep,
        "on_anomaly": on_anomaly,
        "on_device_lost": on_device_lost,
        "backend": backend,
        "device": None if device is None else str(device),
        "allow_changes": override,
    }
    tell = _Printer() if progress is True else progress or _nothing
    training = _native.Training(request)
    run = Run(Path(out))
    try:
        while (event := training.next_event()) is None or _goes_on(event, tell, run):
            pass
    except BaseException:
        _end(training)
        raise
    training.wait()
    return run


def _goes_on(text: str, tell: Callable[[dict[str, Any]], object], run: Run) -> bool:
    """Tells of an event; False after the last one of a run."""
    event: dict[str, Any] = json.loads(text)
    if event["event"] == "failed":  # `wait` raises it
        return False
    if event["event"] == "evaluated":
        run.evaluations.append({key: value for key, value in event.items() if key != "event"})
    tell(event)
    return event["event"] not in ("finished", "cancelled")


def _end(training: _native.Training) -> None:
    """Ends a run after its step; warns where it could not write its checkpoint."""
    if is_forked():  # by a callback that then raised: the run is the other process's
        return
    training.cancel()
    try:
        training.wait()
    except Interrupted:
        pass
    except IbotError as error:
        warnings.warn(f"the run could not be ended with a checkpoint: {error}", stacklevel=3)


def _nested(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings as tables in tables: "a.b" = 1 and "a" = {"b": 1} are the same."""
    nested: dict[str, Any] = {}
    for key, value in settings:
        _put(nested, key.split("."), key, value)
    return nested


def _plain(value: Any) -> Any:
    """A number or an array of numpy as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise SettingError(f"settings: {value!r} is neither a number, a text, a list nor a table")


def _put(table: dict[str, Any], path: Sequence[str], key: str, value: Any) -> None:
    """Puts the value of the setting `key` at a path in a table; None changes nothing."""
    if value is None:
        return
    name, *rest = path
    if not rest and not isinstance(value, Mapping):
        if name in table:
            raise SettingError(f"{key} = {value}: is given twice")
        table[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
        return
    inner = table.setdefault(name, {})
    if not isinstance(inner, dict):
        raise SettingError(f"{key} = {value}: {name} is given as a value too")
    if rest:
        _put(inner, rest, key, value)
        return
    for of_inner, inner_value in value.items():
        _put(inner, of_inner.split("."), f"{key}.{of_inner}", inner_value)


def _nothing(_event: dict[str, Any]) -> None:
    pass


class _Printer:
    """Prints events to stderr, steps at most every few seconds."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self.steps = 0
        self.last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        line = self.line(event)
        if line:
            print(line, file=sys.stderr, flush=True)

    def line(self, event: dict[str, Any]) -> str | None:
        kind = event["event"]
        if kind == "note":
            return str(event["text"])
        if kind == "started":
            self.steps = event["steps"]
            return f"{event['images']} images, {event['epochs']} epochs, {self.steps} steps"
        if kind == "step":
            is_due = event["step"] == self.steps or time.monotonic() - self.last >= self.SECONDS
            if not is_due:
                return None
            self.last = time.monotonic()
            return f"step {event['step']}/{self.steps}  loss {event['loss']:.3f}  {event['images_per_s']:.1f} images/s"
        if kind == "evaluated":
            parts = [f"k-NN {event['knn']:.1%}"] if "knn" in event else []
            parts += [f"feature rank {event['rank_me']:.1f}"] if event["rank_me"] is not None else []
            return f"{event['when']}: {', '.join(parts)}"
        if kind == "anomaly":
            return f"WARNING: step {event['step']}: {'; '.join(event['anomalies'])}"
        if kind == "finished":
            return f"done: {event['run']}"
        return None
