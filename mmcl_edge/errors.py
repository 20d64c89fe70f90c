"""The error tree: one root, one class per thing a caller can do about it.

Every message is a sentence that says what was expected, what was found and what to do.
``mmcl_edge.commands`` turns each class into an exit code in one place (``exit_code``).
"""

from __future__ import annotations


class MmclEdgeError(Exception):
    """Root of every error this package raises on purpose. Exit code 1."""

    exit_code = 1


class InputError(MmclEdgeError):
    """The caller's input cannot be used: media, arrays, names, options. Exit code 2."""

    exit_code = 2


class MediaError(InputError):
    """A media file cannot be decoded (corrupt, truncated, unsupported)."""


class TaskDataError(InputError):
    """A task folder cannot be learned from (empty class, too few samples, clashing names)."""


class IntegrityError(InputError):
    """Bytes on disk are not what their manifest says (missing, truncated, changed, non-finite)."""


class BundleError(IntegrityError):
    """A bundle is missing, broken, or of an unsupported schema."""


class PackError(IntegrityError):
    """A pack is missing, broken, of an unsupported schema, or made for another bundle."""


class SignatureError(PackError):
    """A pack's signatures are missing, changed, of another pack, or fewer than required."""


class KeyFileError(InputError):
    """A key is missing, broken, ended, readable by others, or its passphrase is wrong."""


class ProviderError(InputError):
    """The execution provider asked for is not the one that would run."""


class ExportError(InputError):
    """A backbone cannot be exported, or its export does not agree with torch (parity)."""


class CalibrationError(InputError):
    """Ranges or confidence cannot be calibrated with this data, bundle or pack."""


class MissingExtraError(InputError):
    """An optional dependency is needed for this call; the message names the extra to install."""


class StorageError(InputError):
    """A file cannot be written: no space left, read-only folder, missing permission."""


class LockedError(InputError):
    """Another process is working in the same workspace."""


class WorkerError(MmclEdgeError):
    """A process that worked for a command was ended from outside."""


class RejectedError(MmclEdgeError):
    """An adapt run finished but its pack was refused by the acceptance rule. Exit code 3."""

    exit_code = 3
