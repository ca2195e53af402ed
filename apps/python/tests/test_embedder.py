"""Embedder: images of every kind become the features that the command writes."""

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import ibot_train
from ibot_train import DeviceError, Embedder, FileError, IbotError, SettingError


def test_features_are_those_of_the_command(
    embedder: Embedder, run: ibot_train.Run, images: list[Path], tmp_path: Path
) -> None:
    features = embedder.embed(sorted(images))
    assert features.shape == (10, 16) == (10, embedder.width)
    assert features.dtype == np.float32
    out = tmp_path / "features.npy"
    folder = images[0].parent.parent
    command = [sys.executable, "-m", "ibot_train", "embed", "--backend", "flex"]
    command += ["--model", str(run.teacher), "--data", str(folder), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_allclose(features, np.load(out), rtol=1e-4, atol=1e-5)


def test_images_of_every_kind_are_equal(embedder: Embedder, images: list[Path]) -> None:
    path = images[3]
    pillow = Image.open(path)
    array = np.asarray(pillow)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    expected = embedder.embed(path)
    assert expected.shape == (1, 16)
    for image in (str(path), pillow, array, array[None], [array], np.asfortranarray(array), opaque):
        np.testing.assert_array_equal(embedder.embed(image), expected)
    flipped = embedder.embed(array[:, ::-1])
    assert np.abs(flipped - expected).max() > 1e-3
    gray = np.asarray(pillow.convert("L"))
    np.testing.assert_array_equal(embedder.embed(gray), embedder.embed(np.dstack([gray] * 3)))
    np.testing.assert_array_equal(embedder.embed(gray), embedder.embed(gray[:, :, None]))
    mixed = embedder.embed([path, pillow, array])
    np.testing.assert_allclose(mixed, np.repeat(expected, 3, axis=0), rtol=1e-5, atol=1e-6)
    assert embedder.embed([]).shape == (0, 16)


class Series:
    """What of pandas' Series an iterable needs, and its shape."""

    def __init__(self, values: list[str]) -> None:
        self.values = values
        self.shape = (len(values),)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


def test_an_array_or_a_series_of_one_dimension_is_several_images(embedder: Embedder, images: list[Path]) -> None:
    expected = embedder.embed(images[:3])
    paths = [str(path) for path in images[:3]]
    pixels = np.empty(3, object)
    pixels[:] = [np.asarray(Image.open(path)) for path in paths]
    for several in (np.array(paths), np.array(images[:3]), Series(paths), pixels):
        np.testing.assert_array_equal(embedder.embed(several), expected)
    assert embedder.embed(np.array([], str)).shape == (0, 16)
    for wrong in (np.array([paths]), np.array(paths[0]), np.zeros(4, np.uint8), Series([7])):  # type: ignore[list-item]
        with pytest.raises(SettingError, match=r"must be uint8 or uint16 with shape \[H, W\]"):
            embedder.embed(wrong)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pillow_images_of_32_bits_are_refused(embedder: Embedder, mode: str) -> None:
    with pytest.raises(SettingError, match=f"mode {mode}.*path"):
        embedder.embed(Image.new(mode, (20, 20)))


def test_values_of_more_than_8_bits_are_scaled_by_the_range(run: ibot_train.Run, tmp_path: Path) -> None:
    # 12 bits in the files, of which the second uses a quarter
    folder = tmp_path / "deep"
    folder.mkdir()
    values = np.random.default_rng(3).integers(0, 4096, (20, 24), dtype=np.uint16)
    values[0] = 4095
    paths = [folder / "bright.png", folder / "dark.png"]
    for path, pixels in zip(paths, (values, values // 4)):
        Image.fromarray(pixels).save(path)
    alone = run.embedder(backend="flex").embed(paths)
    np.testing.assert_allclose(alone[0], alone[1], atol=0.05)
    out = tmp_path / "features.npy"
    command = [sys.executable, "-m", "ibot_train", "embed", "--backend", "flex"]
    command += ["--model", str(run.teacher), "--data", str(folder), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    of_command = np.load(out)
    ranges: list[Any] = [(0, 4095), "0,4095", [0.0, np.float64(4095)]]
    for given in ranges:
        features = run.embedder(backend="flex", range=given).embed(paths)
        np.testing.assert_allclose(features, of_command, rtol=1e-4, atol=1e-5)
    assert np.abs(features[1] - alone[1]).max() > 1e-3
    # in memory as in files, in any byte order
    in_range = run.embedder(backend="flex", range=(0, 4095))
    with Image.open(paths[0]) as bright, Image.open(paths[1]) as dark:
        assert bright.mode == "I;16"
        for given in ([bright, dark], [values, values // 4], [values.astype(">u2"), (values // 4)[:, :, None]]):
            np.testing.assert_array_equal(in_range.embed(given), features)
    rgb = np.dstack([values, values // 2, values // 3])
    opaque = np.dstack([rgb, np.full(values.shape, 65535, np.uint16)])
    of_8_bits = (rgb / 4095 * 255).round().astype(np.uint8)
    np.testing.assert_allclose(in_range.embed(rgb), in_range.embed(of_8_bits), atol=0.02)
    np.testing.assert_array_equal(in_range.embed(opaque), in_range.embed(rgb))
    ranges = ["none", (4095, 0), (1, 2, 3), ("a", "b"), (0, float("inf"))]
    for wrong in ranges:
        with pytest.raises(SettingError, match="^range = .*: give auto, full, or two numbers"):
            run.embedder(range=wrong)


def test_large_images_are_read_on_demand(run: ibot_train.Run, images: list[Path]) -> None:
    small = run.embedder(backend="flex", max_pixels=479)  # of 480
    with pytest.raises(FileError, match="`max_pixels`"):
        small.embed(images[0])
    assert run.embedder(backend="flex", max_pixels=480).embed(images[0]).shape == (1, 16)


def test_the_precision_is_that_of_the_command(embedder: Embedder, run: ibot_train.Run, images: list[Path]) -> None:
    expected = embedder.embed(images)
    np.testing.assert_array_equal(run.embedder(backend="flex", precision="f32").embed(images), expected)
    half = run.embedder(backend="flex", precision="bf16").embed(images)
    assert 0 < np.abs(half - expected).max() < 0.1
    with pytest.raises(SettingError, match="precision = fp8: must be one of f32, f16, bf16"):
        run.embedder(precision="fp8")


def test_features_can_be_written_to(embedder: Embedder, images: list[Path]) -> None:
    features = embedder.embed(images)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_patches_and_attention(embedder: Embedder, images: list[Path]) -> None:
    rows, columns = embedder.grid
    assert (rows, columns) == (2, 2)
    patches = embedder.embed(images[:3], output="patches")
    assert patches.shape == (3, rows, columns, embedder.width)
    attention = embedder.embed(images[:3], output="attention")
    assert attention.shape == (3, embedder.heads, rows, columns)
    assert (attention > 0).all() and (attention.sum(axis=(2, 3)) <= 1 + 1e-5).all()


def test_progress_counts_to_the_end(embedder: Embedder, images: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    embedder.embed(images * 10, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)
    assert seen == sorted(seen)


@pytest.fixture
def in_fours(run: ibot_train.Run, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """An embedder that is given the pixels of one batch at once."""
    monkeypatch.setattr("ibot_train._embedder._HELD", 1)
    return run.embedder(backend="flex", batch_size=4)


def test_many_pixels_are_copied_part_by_part(embedder: Embedder, in_fours: Embedder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 128, 128, 3), dtype=np.uint8)
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        features = in_fours.embed(pixels, progress=lambda done, total: seen.append((done, total)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < pixels.nbytes / 2
    assert seen == [(done, 30) for done in (4, 8, 12, 16, 20, 24, 28, 30)]
    expected = np.concatenate([embedder.embed(image) for image in pixels])
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    patches = in_fours.embed(list(pixels[:5]), output="patches")
    assert patches.shape == (5, 2, 2, 16) and np.abs(patches[4]).max() > 0


def test_parts_end_by_their_own_errors(in_fours: Embedder, images: list[Path], tmp_path: Path) -> None:
    pixels = [np.asarray(Image.open(path)) for path in images]
    absent = tmp_path / "absent.png"
    with pytest.warns(UserWarning, match="absent.png"):
        features = in_fours.embed([*pixels[:6], absent, *pixels[6:]], unreadable="nan")
    assert np.flatnonzero(np.isnan(features).any(axis=1)).tolist() == [6]
    np.testing.assert_allclose(np.delete(features, 6, axis=0), in_fours.embed(images), rtol=1e-5, atol=1e-6)

    seen: list[int] = []

    def stop(done: int, _total: int) -> None:
        seen.append(done)
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_fours.embed(pixels, progress=stop)
    with pytest.raises(FileError, match="absent.png"):
        in_fours.embed([absent, *pixels], progress=stop)
    assert seen == [4, 8, 4]
    # a wrong one is told before the first is computed
    with pytest.raises(SettingError):
        in_fours.embed([*pixels, np.zeros(3)], progress=stop)
    assert seen == [4, 8, 4]


def test_what_cannot_be_read_is_raised_or_nan(embedder: Embedder, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(FileError, match="broken.png"):
        embedder.embed([images[0], broken])
    with pytest.warns(UserWarning, match="broken.png"):
        features = embedder.embed([images[0], broken, images[1]], unreadable="nan")
    assert np.isnan(features[1]).all()
    np.testing.assert_allclose(features[[0, 2]], embedder.embed(images[:2]), rtol=1e-5, atol=1e-6)


def test_an_image_that_cannot_be_read_ends_the_call_soon(
    embedder: Embedder, run: ibot_train.Run, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibot_train._embedder._BATCHES", 2)
    small = run.embedder(backend="flex", batch_size=4)
    seen: list[int] = []
    absent = tmp_path / "absent.png"
    with pytest.raises(FileError, match="absent.png"):
        small.embed([images[0], absent, *(images * 10)], progress=lambda done, _total: seen.append(done))
    assert seen[-1] == 8, "of 102"
    np.testing.assert_allclose(small.embed(images), embedder.embed(images), rtol=1e-5, atol=1e-6)


def test_a_pillow_image_that_cannot_be_decoded_is_one_that_cannot_be_read(
    embedder: Embedder, images: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(images[0].read_bytes()[:-60])
    with Image.open(cut) as broken, pytest.raises(FileError, match="cut.png"):
        embedder.embed([images[0], broken])
    seen: list[int] = []
    with Image.open(cut) as broken, Image.open(images[0]) as whole, pytest.warns(UserWarning, match="cut.png"):
        features = embedder.embed(
            [whole, broken, images[1]], unreadable="nan", progress=lambda done, _total: seen.append(done)
        )
    assert np.isnan(features[1]).all() and seen[-1] == 3
    np.testing.assert_allclose(features[[0, 2]], embedder.embed(images[:2]), rtol=1e-5, atol=1e-6)


def test_errors_name_the_argument_and_the_remedy(embedder: Embedder, run: ibot_train.Run) -> None:
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), 7):
        with pytest.raises(SettingError, match=r"must be uint8 or uint16 with shape \[H, W\]"):
            embedder.embed([image])
    with pytest.raises(ValueError, match="output = tokens: must be one of cls, patches, attention"):
        embedder.embed([], output="tokens")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="unreadable = skip"):
        embedder.embed([], unreadable="skip")  # type: ignore[arg-type]
    for wrong in ({"batch_size": -1}, {"max_pixels": 1 << 70}, {"image_size": -32}):
        with pytest.raises(SettingError, match=next(iter(wrong)) + " = "):
            Embedder(run.teacher, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="backend = gpu: must be one of auto, wgpu, flex, ndarray"):
        Embedder(run.teacher, backend="gpu")
    with pytest.raises(SettingError, match="batch_size = 0"):
        Embedder(run.teacher, batch_size=0)
    with pytest.raises(FileError, match="no-such.safetensors"):
        Embedder("no-such.safetensors", backend="flex")
    assert issubclass(DeviceError, IbotError) and issubclass(SettingError, ValueError)


def test_errors_are_those_of_the_command(run: ibot_train.Run, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(run.teacher.read_bytes()[:-1])
    with pytest.raises(FileError) as error:
        Embedder(damaged, backend="flex")
    command = [sys.executable, "-m", "ibot_train", "inspect", str(damaged)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 1
    assert str(error.value).splitlines()[0] in told.stderr


def test_a_model_says_what_it_is(embedder: Embedder, run: ibot_train.Run) -> None:
    assert embedder.card is not None
    assert embedder.card["network"] == "teacher"
    assert repr(embedder).startswith("Embedder(width=16, ")
    assert os.fspath(run.teacher).endswith("teacher.safetensors")


def test_a_freed_model_loads_again(embedder: Embedder, images: list[Path]) -> None:
    before = embedder.embed(images[0])
    embedder.unload()
    np.testing.assert_array_equal(embedder.embed(images[0]), before)


def test_a_freed_model_whose_file_changed_is_refused(
    run: ibot_train.Run, images: list[Path], tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(run.teacher.read_bytes())
    kept = Embedder(model, backend="flex")
    before = kept.embed(images[0])
    model.write_bytes((run.folder / "student.safetensors").read_bytes())
    np.testing.assert_array_equal(kept.embed(images[0]), before)
    kept.unload()
    for _ in range(2):
        with pytest.raises(FileError, match="model.safetensors: the file changed since it was loaded; start another"):
            kept.embed(images[0])
    other = Embedder(model, backend="flex").embed(images[0])
    assert np.abs(other - before).max() > 0


def test_threads_share_a_model(embedder: Embedder, images: list[Path]) -> None:
    expected = embedder.embed(images)
    found: dict[int, npt.NDArray[np.float32]] = {}

    def work(number: int) -> None:
        found[number] = embedder.embed(images)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for features in found.values():
        np.testing.assert_array_equal(features, expected)


def test_devices_are_listed() -> None:
    for device in ibot_train.devices():
        assert {"index", "name", "kind", "api"} <= device.keys()
