"""The exceptions of decentral: one family, each a sentence a user can act on."""

from __future__ import annotations

from collections.abc import Iterable


class DecentralError(Exception):
    """Base of every error that is meant for a person; the command line prints it without a traceback."""


class ConfigError(DecentralError):
    """A configuration, hyperparameter or command line that cannot be run."""


class GraphError(DecentralError):
    """A graph or mixing matrix that is not what the methods need."""


class ProblemError(DecentralError):
    """A local loss, or a method asking of it something that it cannot give."""


class DataError(DecentralError):
    """A data set that cannot be had, read or split."""


class TransportError(DecentralError):
    """Messages that did not arrive, or ranks that disagree."""


class DivergedError(DecentralError):
    """An iterate or a message is no longer finite."""


class NonFiniteError(DivergedError):
    """A row to be encoded holds NaN or infinity.

    Attributes
        rows : indices of the offending rows in the block that was encoded
    """

    def __init__(self, rows: Iterable[int], sentence: str = "") -> None:
        self.rows = [int(r) for r in rows]
        super().__init__(sentence or f"NaN or infinite entries in rows {self.rows}")


def nearest(asked: str, known: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` for the known name closest to the one asked, or the empty string."""
    import difflib

    found = difflib.get_close_matches(asked, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{found[0]}"?)' if found else ""


def import_failure(error: Exception, module: str) -> str:
    """Why a module could not be imported, with the line where somebody's own file failed."""
    if isinstance(error, ImportError | SyntaxError):
        return str(error)
    import traceback
    from pathlib import Path

    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(module).name]
    return f"{type(error).__name__}: {error}" + (f", line {lines[-1]}" if lines else "")


def unknown(what: str, asked: object, known: Iterable[str], see: str = "") -> str:
    """The sentence for an unknown name: what was asked, what is known, the nearest guess, where to see more."""
    names = sorted(known)
    return f'unknown {what} "{asked}"; known: {", ".join(names)}{nearest(str(asked), names)}' + (
        f". See: {see}" if see else ""
    )
