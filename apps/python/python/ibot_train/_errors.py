"""Exceptions. Their texts are those of the command `ibot`; `backquotes` name settings."""


class IbotError(RuntimeError):
    """Any error of ibot."""


class SettingError(IbotError, ValueError):
    """A setting or an argument has a value that cannot work."""


class FileError(IbotError):
    """An image, a model, a folder or a checkpoint cannot be used."""


class DeviceError(IbotError):
    """The device is missing or failed."""


class Interrupted(IbotError):
    """A run was stopped, and has a checkpoint where a step was made. Callers get KeyboardInterrupt, or what they raised."""


def check_counts(**counts: int | None) -> None:
    """Refuses numbers that no count of the program holds.

    Raises:
        SettingError: Naming the argument.
    """
    for name, value in counts.items():
        if value is not None and not 0 <= value < 2**63:
            raise SettingError(f"{name} = {value}: must be a whole number, 0 or more")
