"""Speech made by eSpeak NG, whose library and data come with espeakng-loader, of the extra `speech`."""

import ctypes
import threading
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.sound import speech_extra

SYNCHRONOUS, CHARACTERS, UTF8, RATE, PITCH = 2, 1, 1, 1, 3  # numbers of speak_lib.h
NOW = 2  # RTLD_NOW
RATES, PITCHES = (80, 450), (0, 99)
"""Words a minute, and eSpeak's pitches."""
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


def spoken(text: str, voice: str = "en-us", words_a_minute: int = 175, pitch: int = 50) -> tuple[np.ndarray, int]:
    """The waveform f32[N] of a text, and its samples a second. A pure function of its arguments.

    Raises UserError where the package is missing, for an unknown voice, and for a text without sound.
    """
    loader = speech_extra("espeakng_loader", "speech of eSpeak NG")
    parts: list[np.ndarray] = []

    @_Callback
    def keep(samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _lock:
        # Phases and pitch of the library's oscillators go on from one text to the next, whatever is initialized or
        # seeded: only a library that is loaded anew says a text as it did before.
        path, system = loader.get_library_path(), _system()
        handle = system.dlopen(path.encode(), ctypes.DEFAULT_MODE | NOW)
        if not handle:
            raise UserError(f"{path} cannot be loaded: install espeakng-loader again")
        library = ctypes.CDLL(path, handle=handle)
        try:
            library.espeak_Synth.argtypes = [
                ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
                ctypes.c_void_p, ctypes.c_void_p,
            ]  # fmt: skip
            rate = library.espeak_Initialize(SYNCHRONOUS, 0, loader.get_data_path().encode(), 0)
            if rate <= 0:
                raise UserError("eSpeak NG cannot be started: install espeakng-loader again")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of the breath of some voices
            library.espeak_SetSynthCallback(keep)
            if library.espeak_SetVoiceByName(voice.encode()):
                raise UserError(f"voice is {voice!r}, which eSpeak NG does not know: choose en-us, en or another of it")
            library.espeak_SetParameter(RATE, words_a_minute, 0)
            library.espeak_SetParameter(PITCH, pitch, 0)
            data = text.encode()
            library.espeak_Synth(data, len(data) + 1, 0, CHARACTERS, 0, UTF8, None, None)
            library.espeak_Synchronize()
            library.espeak_Terminate()
        finally:
            system.dlclose(handle)
    if not any(part.any() for part in parts):
        raise UserError(f"eSpeak NG makes no sound of the text {text!r:.80}: write a word at least")
    return np.concatenate(parts).astype(np.float32) / 32768, int(rate)


def _system() -> ctypes.CDLL:
    system = ctypes.CDLL(None)
    system.dlopen.argtypes, system.dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    system.dlclose.argtypes = [ctypes.c_void_p]
    return system
