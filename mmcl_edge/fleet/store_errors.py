"""What went wrong with a store, as an error and a sentence. A backend's own text may hold a password: left out.

``passing`` says whether trying again can help: a server that is busy or gone, yes; one that refuses, no.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmcl_edge.errors import MissingObjectError, StoreError

_STATUS = re.compile(r"status code: (\d{3})")
_SYSTEM = re.compile(r"\(os error (\d+)\)")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist", "container does not exist")
_METADATA_SERVICES = ("169.254.169.254", "metadata.google.internal", "/latest/api/token")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 529})
_REFUSING = frozenset({405, 501})
_DISK = {
    13: "permission is denied",
    1: "the operation is not permitted",
    28: "no space is left on the device",
    30: "the file system is read-only",
    122: "the disk quota is used up",
    5: "the device reports an input/output error",
}

_CORRECT = "correct that and run the same command again"


@dataclass(frozen=True)
class Failure:
    """One failed call: the error to raise, and whether trying again can help."""

    error: StoreError
    passing: bool = False


def classify(error: BaseException, shown: str, action: str) -> Failure:
    """What ``error`` of the backend means.

    Args:
        error: what obstore or the system raised.
        shown: the store's URL without secrets.
        action: what was tried, such as ``read metadata/timestamp.json``.
    """
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        return Failure(_store(shown, action, _DISK[error.errno], _CORRECT))
    if any(mark in text for mark in _NO_BUCKET):
        return Failure(_store(shown, action, "that bucket or container does not exist", "make it, or correct the URL"))
    if isinstance(error, FileNotFoundError):
        return Failure(MissingObjectError(f"The store {shown} has nothing to {action}; it is not there (any more)."))
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return Failure(_store(shown, action, "it denies permission", "check the credentials in the environment"))
    if isinstance(error, NotImplementedError):
        return Failure(_read_only(shown, action))
    if isinstance(error, ValueError):
        return Failure(_store(shown, action, "it does not take that name", "use another"))
    if "BadScheme" in text:
        return Failure(_store(shown, action, "its endpoint is http", "use https, or set AWS_ALLOW_HTTP=true"))
    if any(mark in text for mark in _METADATA_SERVICES):
        return Failure(_store(shown, action, "no credentials were found", "set them in the environment"))
    return _by_number(text, shown, action)


def _by_number(text: str, shown: str, action: str) -> Failure:
    status, system = _STATUS.search(text), _SYSTEM.search(text)
    if status is not None:
        code = int(status.group(1))
        if code in _REFUSING:
            return Failure(_read_only(shown, action))
        if code not in _BUSY:
            return Failure(_store(shown, action, f"it answers {code}", "check the URL and the credentials"))
        return Failure(_store(shown, action, f"it keeps answering {code}", "try again later"), passing=True)
    if system is not None and int(system.group(1)) in _DISK:
        reason = _DISK[int(system.group(1))]
        return Failure(_store(shown, action, reason, _CORRECT))
    return Failure(_store(shown, action, "it gives no usable answer", "check the network and the URL"), passing=True)


def _store(shown: str, action: str, reason: str, advice: str) -> StoreError:
    return StoreError(f"Could not {action} in the store {shown}: {reason}; {advice}.")


def _read_only(shown: str, action: str) -> StoreError:
    return StoreError(
        f"Could not {action} in the store {shown}: it can only be read; give the address of the folder or bucket "
        "behind it, or of a server that takes WebDAV."
    )


def unreachable(failure: Failure, attempts: int) -> StoreError:
    """The clear end after ``attempts`` tries."""
    tries = "1 try" if attempts == 1 else f"{attempts} tries"
    return StoreError(f"The store is unreachable ({tries}). {failure.error}")
