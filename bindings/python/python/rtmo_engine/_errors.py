"""What can go wrong. Every message says what, where, what was expected and what was found."""


class Error(Exception):
    """Everything that this package raises, but for arguments of a wrong type (TypeError)."""


class UsageError(Error, ValueError):
    """An argument that makes no sense, alone or together with others."""


class FileError(Error, OSError):
    """The operating system refused a file operation."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class WeightsError(Error, ValueError):
    """A weights file that is damaged, hostile, or not an RTMO checkpoint."""


class ImageError(Error, ValueError):
    """A picture that cannot be decoded or is out of limits."""


class JsonError(Error, ValueError):
    """Annotations or results that are damaged, incomplete, or contradict each other."""


class DownloadError(Error, OSError):
    """A file that could not be had from a server."""


class DeviceError(Error, RuntimeError):
    """A device, instruction set or driver that is missing or failed; an engine that was made before a fork."""
