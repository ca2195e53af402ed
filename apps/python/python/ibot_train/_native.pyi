import os
from collections.abc import Callable, Sequence
from typing import Any, final

__all__ = ["VERSION", "Embedder", "Training", "command", "devices", "teacher"]

VERSION: str

def command(arguments: Sequence[str]) -> None: ...
def devices() -> str: ...
def teacher(run: str | os.PathLike[str]) -> str: ...
@final
class Embedder:
    def __new__(
        cls,
        model: str,
        *,
        backend: str,
        device: str | None,
        encoder: str | None,
        image_size: int | None,
        normalization: str | None,
        range: str,
        max_pixels: int,
        precision: str,
        batch_size: int,
    ) -> Embedder: ...
    def embed(
        self,
        images: Sequence[str | tuple[int, int, int, int, bytes]],
        output: str,
        on_progress: Callable[[int, int], object] | None,
    ) -> tuple[bytearray, list[int], list[tuple[int, str]]]: ...
    def unload(self) -> None: ...
    @property
    def width(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def heads(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def card(self) -> str: ...

@final
class Training:
    def __new__(cls, request: dict[str, Any]) -> Training: ...
    def next_event(self) -> str | None: ...
    def cancel(self) -> None: ...
    def wait(self) -> None: ...
