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


class VectorIndexError(IntegrityError):
    """An index of embeddings is missing, broken, or older than or foreign to the pack in use."""


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


class MergeError(InputError):
    """Packs cannot be merged as asked: other bundles or shapes, no common parent, weights that do not fit."""


class StoreError(InputError):
    """An object store cannot be used: unreachable, no such bucket, no permission, read-only, a mistyped URL."""


class MissingObjectError(StoreError):
    """The store answers, but the object asked for is not there."""


class OversizedObjectError(StoreError):
    """An object is larger than the caller accepts; it was not read to its end."""


class FleetError(InputError):
    """A fleet refuses what an admin asks for: an unknown channel, a missing key, a pack that does not fit."""


class ConflictError(FleetError):
    """Another admin changed the fleet at the same moment and was first; running the command again is enough."""


class TrustError(IntegrityError):
    """What a store gives is not what the fleet's keys signed: an attack, or a store that was meddled with."""


class ExpiredError(InputError):
    """Signed metadata is genuine but too old to act on: not refreshed, held back on its way, or the clock is wrong."""


class RejectedError(MmclEdgeError):
    """An adapt run finished but its pack was refused by the acceptance rule. Exit code 3."""

    exit_code = 3
