"""Speech from text, offline: espeak-ng through the wheel ``espeakng-loader``, driven by ctypes.

espeak-ng keeps its state in static variables, and some of it (the tremor of a voice) goes on from one utterance to
the next and is never reset. So each utterance gets the library freshly loaded, under one lock, which takes 7 ms: the
same words in the same voice always give the same samples, whatever was said before.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.data.resample import resample
from mmcl_edge.errors import InputError, MissingExtraError

INSTALL_HINT = 'pip install "mmcl-edge[quickstart]"'

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: no sound device, samples go to the callback
_DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report a failure instead of ending the process
_UTF8 = 1  # espeakCHARS_UTF8
_BY_CHARACTER = 1  # POS_CHARACTER
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_LONGEST_PATH = 140  # espeak-ng keeps its data path in a buffer of 160 bytes
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Voice:
    """How words are spoken.

    Attributes:
        name: accent and variant, as espeak-ng names them (``en-us+f3``).
        rate_wpm: words per minute, 80 to 450.
        pitch: 0 to 99.
        pitch_range: 0 (monotone) to 99.
    """

    name: str
    rate_wpm: int = 165
    pitch: int = 50
    pitch_range: int = 50


def speak(text: str, voice: Voice) -> NDArray[np.float32]:
    """``text`` spoken: ``(samples,)`` float32 in [-1, 1] at 16 kHz, silence at both ends cut off.

    Raises:
        MissingExtraError: the speech library is not installed.
        InputError: it does not start, does not know the voice, or says nothing.
    """
    with _LOCK, _engine() as engine:
        engine.use(voice)
        samples, rate_hz = engine.say(text), engine.sample_rate_hz
    if not np.any(samples):
        raise InputError(f"Expected {voice.name!r} to say {text!r}, but it said nothing; choose other words.")
    return np.clip(resample(_trimmed(samples, rate_hz), rate_hz), -1.0, 1.0)


@contextmanager
def _engine() -> Iterator[_Engine]:
    """A freshly loaded library, unloaded at the end."""
    library, data_path = _library()
    try:
        yield _Engine(library, data_path)
        library.espeak_Terminate()
    finally:
        close = ctypes.CDLL(None).dlclose
        close.argtypes = [ctypes.c_void_p]
        close(library._handle)


class _Engine:
    """espeak-ng, started. The callback is an attribute, so that it lives as long as the library may call it."""

    def __init__(self, library: ctypes.CDLL, data_path: Path) -> None:
        self._espeak = library
        self._variants = data_path / "voices" / "!v"
        self._parts: list[NDArray[np.int16]] = []
        self._callback = _CALLBACK(self._receive)
        self.sample_rate_hz = int(library.espeak_Initialize(_SYNCHRONOUS, 0, bytes(data_path), _DO_NOT_EXIT))
        if self.sample_rate_hz <= 0:
            raise InputError(
                f"espeak-ng should start with its data in {data_path}, but it did not (code {self.sample_rate_hz}); "
                f"install it again: {INSTALL_HINT}."
            )
        library.espeak_SetSynthCallback(self._callback)

    def use(self, voice: Voice) -> None:
        """Set voice, rate, pitch and random seed."""
        self._choose(voice.name)
        for parameter, value in ((_RATE, voice.rate_wpm), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            if self._espeak.espeak_SetParameter(parameter, value, 0) != 0:
                raise InputError(f"espeak-ng refused the voice setting {voice}; rates go from 80 to 450.")
        self._espeak.espeak_ng_SetRandSeed(1)

    def _choose(self, name: str) -> None:
        variant = name.partition("+")[2]
        known = not variant or (self._variants / variant).is_file()  # espeak-ng itself ignores unknown ones
        if not known or self._espeak.espeak_SetVoiceByName(name.encode()) != 0:
            raise InputError(f"espeak-ng has no voice {name!r}; choose one such as 'en-us' or 'en-gb-x-rp+f2'.")

    def say(self, text: str) -> NDArray[np.int16]:
        """Samples at the engine's own rate."""
        self._parts.clear()
        data = text.encode()
        status = self._espeak.espeak_Synth(data, len(data) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        if status != 0 or self._espeak.espeak_Synchronize() != 0:
            raise InputError(f"espeak-ng should speak {text!r}, but it failed (code {status}); choose other words.")
        return np.concatenate([np.zeros(0, np.int16), *self._parts])

    def _receive(self, samples: Any, count: int, _events: object) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0


def _library() -> tuple[ctypes.CDLL, Path]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError(
            f"Spoken samples need the speech library espeak-ng, but it is not installed; {INSTALL_HINT}."
        ) from error
    try:
        data_path = Path(espeakng_loader.get_data_path())
        _check_length(data_path)
        return _typed(ctypes.CDLL(espeakng_loader.get_library_path())), data_path
    except (OSError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"espeak-ng is installed, but it does not load ({error}); install it again: {INSTALL_HINT}."
        ) from error


def _check_length(data_path: Path) -> None:
    if len(bytes(data_path)) > _LONGEST_PATH:
        raise InputError(
            f"espeak-ng takes data paths of at most {_LONGEST_PATH} bytes, but {data_path} has "
            f"{len(bytes(data_path))}; install the project in a folder with a shorter path."
        )


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    text, number, pointer = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
    size, unsigned = ctypes.c_size_t, ctypes.c_uint
    library.espeak_Initialize.argtypes = [number, number, text, number]
    library.espeak_SetSynthCallback.argtypes = [_CALLBACK]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_SetVoiceByName.argtypes = [text]
    library.espeak_SetParameter.argtypes = [number, number, number]
    library.espeak_Synth.argtypes = [text, size, unsigned, number, unsigned, unsigned, pointer, pointer]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    return library


def _trimmed(samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.float32]:
    """Without what is 40 dB below the peak at either end, but for 20 ms."""
    waveform = samples.astype(np.float32) / np.float32(32768.0)
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.max(np.abs(waveform)))
    margin = rate_hz // 50
    return waveform[max(loud[0] - margin, 0) : loud[-1] + 1 + margin]
