"""Errors that a user can cause. A command line prints each as one line.

CodecError
├── BitstreamError            a file that is not a clip, or is damaged
│   └── UnsupportedVersionError
├── SourceError               a video that cannot be read (encoder)
├── SettingsError             arguments that do not go together
├── FitError                  a fit that diverges, or whose workers crash (encoder)
├── RunError                  an interrupted run that cannot be resumed (encoder)
└── EngineError               a decoder that is not installed or refuses a graph (export, player)
"""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class CodecError(Exception):
    """An input of the user cannot be used."""


class BitstreamError(CodecError):
    """A bitstream breaks the rules of its format."""


class UnsupportedVersionError(BitstreamError):
    """A bitstream has a version that this decoder does not know."""


class SourceError(CodecError):
    """A video or folder of images cannot be read."""


class SettingsError(CodecError):
    """An argument is out of range, or two do not go together."""


class FitError(CodecError):
    """A fit diverges, or its workers crash."""


class RunError(CodecError):
    """Another run holds the output, or an interrupted run cannot be resumed."""


class EngineError(CodecError):
    """An engine is not installed, or cannot run a graph."""
