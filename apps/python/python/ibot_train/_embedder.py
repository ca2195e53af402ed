"""A model that turns images into numpy arrays."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from . import _native
from ._errors import FileError, SettingError, check_counts
from ._process import check_process

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Features: TypeAlias = npt.NDArray[np.float32]

#: A path, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8 or uint16, or a Pillow image.
Image: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | Any"

#: Width, height, channels, bytes of a value, and the values.
_Pixels: TypeAlias = "tuple[int, int, int, int, bytes]"

#: Bytes of pixels that are copied before they are computed: of many images in memory, not all are there twice.
_HELD = 128 << 20
#: Batches that are computed before their results are looked at: an image that cannot be read ends the call soon, and the results
#: of many are not there twice.
_BATCHES = 64


class Embedder:
    """A backbone on one device.

    Args:
        model: Model file of `ibot train`, timm or PyTorch; a folder with `config.json`, as of a run, timm or transformers; or
            ``hf:OWNER/NAME`` in a build with the feature `hub`.
        backend: ``auto`` takes a GPU if there is one; ``wgpu`` also a software driver; ``flex`` is the CPU.
        device: GPU to use: its number or part of its name in :func:`devices`.
        encoder: timm name of the model, for a file that does not say what it is.
        image_size: Input size in pixels; default: the model's.
        normalization: ``imagenet``, ``half``, ``clip`` or ``MEAN/STD``, for a file that does not say it.
        range: Values that become black and white in images of more than 8 bits: ``auto``, ``full``, or both as numbers, such as
            ``(0, 4095)``. ``auto`` is the model's range. Where it has none, each image is measured by itself, so that a dark one
            is as bright as the others; `ibot embed` measures one range for its folder, which `ibot data FOLDER` prints.
        max_pixels: Files with more pixels are not read.
        precision: ``f32``, ``f16`` (a GPU keeps tokens in half the memory) or ``bf16`` (matrix products on the CPU).
        batch_size: Images that are computed at once.

    The model file must stay as it is: after :meth:`unload`, or after the device failed, it is read again.

    Raises:
        FileError: The file is no model, or cannot be read.
        SettingError: An argument has a value that cannot work.
        DeviceError: There is no such device, or it failed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        backend: str = "auto",
        device: str | int | None = None,
        encoder: str | None = None,
        image_size: int | None = None,
        normalization: str | None = None,
        range: str | Sequence[float] = "auto",
        max_pixels: int = 100_000_000,
        precision: Literal["f32", "f16", "bf16"] = "f32",
        batch_size: int = 32,
    ) -> None:
        check_process()
        check_counts(image_size=image_size, max_pixels=max_pixels, batch_size=batch_size)
        self._batch_size = batch_size
        self._native = _native.Embedder(
            os.fspath(model),
            backend=backend,
            device=None if device is None else str(device),
            encoder=encoder,
            image_size=image_size,
            normalization=normalization,
            range=range if isinstance(range, str) else ",".join(map(str, range)),
            max_pixels=max_pixels,
            precision=precision,
            batch_size=batch_size,
        )

    def embed(
        self,
        images: Image | Iterable[Image],
        *,
        output: Literal["cls", "patches", "attention"] = "cls",
        unreadable: Literal["raise", "nan"] = "raise",
        progress: Callable[[int, int], object] | None = None,
    ) -> Features:
        """Features of images.

        Args:
            images: One image or several, also an array or a pandas Series of paths. An image is a path, an array of uint8 or
                uint16 with shape [H, W] (gray), [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA), or a Pillow image with 8 bits or
                of mode I;16. An array [N, H, W, C] is N images, whose pixels are copied in parts. Paths are turned as their EXIF
                says; arrays and Pillow images are taken as they are.
            output: ``cls``, the feature of each image; ``patches``, those of its patches; or ``attention``, that of the
                class token to the patches in the last block.
            unreadable: ``raise`` for the first image that cannot be read, within 64 batches; ``nan`` warns of each and returns
                NaN for it.
            progress: Called with the number of finished images and of all.

        Returns:
            float32 with one row an image, in the order of `images`, also for a single one: [N, width],
            [N, rows, columns, width] or [N, heads, rows, columns].

        Raises:
            FileError: An image cannot be read, and `unreadable` is ``raise``; or the model was freed, and its file is another one
                by now: make another `Embedder` to use that.
            SettingError: An array that is no image, or a Pillow image of 32 bits.
            DeviceError: The device failed: the calls under way fail, the next one opens the GPU again.
            KeyboardInterrupt: After the current batch.
        """
        import numpy as np

        check_process()
        if unreadable not in ("raise", "nan"):
            raise SettingError(f"unreadable = {unreadable}: must be one of raise, nan")
        # wrong ones are told before anything is computed
        checked = [_checked(image) for image in _several(images)]
        features: Features = np.empty(0, np.float32)
        done = 0
        for part in _parts(checked, self._batch_size):
            broken = [given for given in part if isinstance(given, FileError)]
            if broken and unreadable == "raise":
                raise broken[0]
            given = [given for given in part if not isinstance(given, FileError)]
            values, shape, errors = self._native.embed(given, output, _after(done, len(checked), progress))
            for error in [*broken, *(FileError(text) for _, text in errors)]:
                if unreadable == "raise":
                    raise error
                warnings.warn(str(error), stacklevel=2)
            if done == 0:
                features = np.full((len(checked), *shape), np.nan, np.float32)
            rows = [done + at for at, given in enumerate(part) if not isinstance(given, FileError)]
            features[rows] = np.frombuffer(values, np.float32).reshape(len(given), *shape)
            done += len(part)
            if broken and progress is not None:
                progress(done, len(checked))
        return features

    def unload(self) -> None:
        """Frees the memory of the model; the next call loads it again, and raises FileError where its file has changed."""
        self._native.unload()

    @property
    def width(self) -> int:
        """Numbers of a feature."""
        return self._native.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._native.grid

    @property
    def heads(self) -> int:
        """Heads of the attention."""
        return self._native.heads

    @property
    def device(self) -> str:
        """Backend and device."""
        return self._native.device

    @property
    def card(self) -> dict[str, Any] | None:
        """What the model file says of itself: architecture, preprocessing, license; None for one of another program."""
        return cast("dict[str, Any] | None", json.loads(self._native.card))

    def __repr__(self) -> str:
        return f"Embedder(width={self.width}, {self.device})"


def devices() -> list[dict[str, Any]]:
    """The GPUs that can be used, as ``ibot devices`` lists them."""
    return cast("list[dict[str, Any]]", json.loads(_native.devices()))


def _several(images: Image | Iterable[Image]) -> Iterable[Image]:
    if isinstance(images, (str, os.PathLike)):
        return [images]
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) != 1:  # one dimension: an array or a Series of paths
        return images if len(shape) == 4 else [images]
    if hasattr(images, "convert"):  # Pillow
        return [images]
    return cast("Iterable[Image]", images)


def _checked(image: Image) -> Any:
    """A path as text, a Pillow image, or an array [H, W, C], without a copy of the pixels."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return _pillow(image) if hasattr(image, "convert") else _array(image)


def _pillow(image: Any) -> Any:
    if image.mode in ("I", "F"):
        # `convert` would clip to 255 what is brighter
        raise SettingError(
            f"images = image of mode {image.mode}: must have 8 or 16 bits; give its path, from which more bits are read, or scale it"
        )
    return image


def _array(image: Any) -> npt.NDArray[Any]:
    import numpy as np

    array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    is_image = array.ndim == 3 and array.shape[2] in (1, 3, 4) and array.size > 0
    if array.dtype.kind != "u" or array.dtype.itemsize > 2 or not is_image:
        raise SettingError(
            f"images = array of {array.dtype}, shape {list(np.shape(image))}: must be uint8 or uint16 with shape "
            "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    return array


def _parts(checked: Iterable[Any], batch_size: int) -> Iterator[list[str | _Pixels | FileError]]:
    """All images in parts, each of whole batches: a part ends at `_BATCHES` or `_HELD` bytes. Without images, one empty part."""
    part: list[str | _Pixels | FileError] = []
    held = 0
    for image in checked:
        is_full = held >= _HELD or len(part) >= _BATCHES * batch_size
        if is_full and len(part) % batch_size == 0:
            yield part
            part, held = [], 0
        given = _given(image)
        part.append(given)
        held += len(given[-1]) if isinstance(given, tuple) else 0
    yield part


def _after(
    earlier: int, total: int, progress: Callable[[int, int], object] | None
) -> Callable[[int, int], object] | None:
    """The progress of a part as that of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(earlier + done, total)


def _given(image: Any) -> str | _Pixels | FileError:
    if isinstance(image, str):
        return image
    if hasattr(image, "convert"):
        return _of_pillow(image)
    return _of_array(image)


def _of_array(array: npt.NDArray[Any]) -> _Pixels:
    height, width, channels = array.shape
    values = array.astype(array.dtype.newbyteorder("="), copy=False)
    return width, height, channels, array.dtype.itemsize, values.tobytes()


def _of_pillow(image: Any) -> _Pixels | FileError:
    # a Pillow image is as it was decoded: a photo on its side must be turned by its owner, as for torchvision
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    name = getattr(image, "filename", "") or "an image in memory"
    try:
        if image.mode.startswith("I;"):
            return _of_array(_array(image))
        image = image.convert("RGBA" if has_alpha else "RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # one of a file is decoded only now
        return FileError(f"{name}: {error}")
    width, height = image.size
    return width, height, len(image.getbands()), 1, image.tobytes()
