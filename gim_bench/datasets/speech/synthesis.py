"""eSpeak NG, from the library in `espeakng-loader`: speech, and the beginning of each phone.

The library is one global state. It is not safe with threads, it changes the locale, and its speech
depends on all earlier speech (flutter and breath go on from sentence to sentence). So each
`Synthesiser` runs the library in a new process: the same utterances in the same order give the same
bytes. This file holds both ends of the pipe between the two processes.
"""

import ctypes
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gim_bench.errors import DataError

REMEDY = "pip install espeakng-loader"
BROKE_OFF = "it broke off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A text, and the voice that speaks it."""

    text: str
    voice: str  # "en-us", or a variant of it such as "en-us+f2"
    pitch: int  # 0 to 99, 50 is the voice's own
    rate: int  # words per minute, 80 to 450


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """Samples of an utterance, and its phones with their beginnings."""

    samples: np.ndarray  # int16 [sample]
    sample_rate_hz: int
    phones: Sequence[str]  # eSpeak's mnemonics, with stress marks: "'aU", "_:"
    starts: np.ndarray  # int64 [phone]: first sample of each phone; never falling


# -- the library's files -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Paths of the library and of its voices."""

    library: Path
    voices: Path

    def sha256(self) -> str:
        """sha256 of the library and of all files of its voices."""
        digest = hashlib.sha256()
        files = sorted(path for path in self.voices.rglob("*") if path.is_file())
        for path in [self.library, *files]:
            name, content = os.fsencode(path.relative_to(self.library.parent)), path.read_bytes()
            digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
        return digest.hexdigest()


def installation() -> Installation:
    """The files of `espeakng-loader`. Raises: DataError if they are missing."""
    try:
        # By name, because it has no types.
        loader = importlib.import_module("espeakng_loader")
        found = Installation(
            library=Path(loader.get_library_path()), voices=Path(loader.get_data_path())
        )
    except (ImportError, RuntimeError) as error:
        raise DataError(f"espeak: the speech synthesiser is missing ({error}): {REMEDY}") from None
    if not found.library.is_file():
        raise DataError(
            f"espeak: {found.library} is missing: {REMEDY} --force-reinstall, which ships it"
        )
    return found


# -- this end of the pipe ------------------------------------------------------------------------


class Synthesiser:
    """eSpeak NG in a new process of its own; `synthesiser()` starts the process."""

    def __init__(self, *, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self.sample_rate_hz: int = self._answer(to="its start")["sample_rate_hz"]

    def speak(self, utterance: Utterance) -> Speech:
        """The utterance as speech. Raises: DataError if the library refuses or breaks off."""
        with suppress(BrokenPipeError):  # the missing answer says more
            self._requests.write(json.dumps(asdict(utterance)).encode() + b"\n")
            self._requests.flush()
        answer = self._answer(to=repr(utterance.text))
        samples = self._answers.read(answer["bytes"])
        if len(samples) < answer["bytes"]:
            raise _failed(at=repr(utterance.text), why=BROKE_OFF)
        return Speech(
            samples=np.frombuffer(samples, dtype=np.int16),
            sample_rate_hz=self.sample_rate_hz,
            phones=answer["phones"],
            starts=np.array(answer["starts"], dtype=np.int64),
        )

    def _answer(self, *, to: str) -> dict[str, Any]:
        line = self._answers.readline()
        answer = json.loads(line) if line else {"error": BROKE_OFF}
        if "error" in answer:
            raise _failed(at=to, why=answer["error"])
        return answer


def _failed(*, at: str, why: str) -> DataError:
    return DataError(
        f"espeak: the speech synthesiser failed at {at} ({why}): {REMEDY} --force-reinstall"
    )


@contextmanager
def synthesiser(installed: Installation) -> Iterator[Synthesiser]:
    """A new synthesiser. Raises: DataError if the library cannot be loaded."""
    with subprocess.Popen(  # noqa: S603 - this very file, and paths of installed packages
        # -P: no module of the working folder may come first.
        [sys.executable, "-P", "-m", __name__, str(installed.library), str(installed.voices)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Synthesiser(requests=process.stdin, answers=process.stdout)
        finally:
            process.kill()  # the process has nothing to lose
            with suppress(BrokenPipeError):
                process.stdin.close()


# -- the other end -------------------------------------------------------------------------------

# From speak_lib.h of eSpeak NG 1.52.
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 0x0001
INITIALIZE_DONT_EXIT = 0x8000
EVENT_LIST_TERMINATED = 0
EVENT_PHONEME = 7
PARAMETER_RATE = 1
PARAMETER_PITCH = 3
CHARS_UTF8 = 1


class _Id(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # whole milliseconds, rounded down
        ("sample", ctypes.c_int),  # exact, and counted from the beginning of the utterance
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Library:
    """The loaded library, which fills `samples`, `phones` and `starts` while it speaks."""

    def __init__(self, library: Path, *, voices: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        # The library cuts paths at 160 characters, so "." is the path of the voices.
        os.chdir(voices)
        options = INITIALIZE_PHONEME_EVENTS | INITIALIZE_DONT_EXIT
        rate = self._c.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, b".", options)
        if rate <= 0:
            raise OSError(f"it cannot read its voices in {voices}")
        self.sample_rate_hz: int = rate
        # Since 1.52 the library seeds breath with the time of day.
        if hasattr(self._c, "espeak_ng_SetRandSeed"):
            self._c.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._callback = _CALLBACK(self._hear)  # without this reference it would be freed
        self._c.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, *, voice: str, pitch: int, rate: int) -> None:
        self.samples, self.phones, self.starts = bytearray(), list[str](), list[int]()
        if self._c.espeak_SetVoiceByName(voice.encode()):
            raise OSError(f"it has no voice {voice!r}")
        self._c.espeak_SetParameter(PARAMETER_PITCH, pitch, 0)
        self._c.espeak_SetParameter(PARAMETER_RATE, rate, 0)
        content = text.encode() + b"\0"
        if self._c.espeak_Synth(
            content, ctypes.c_size_t(len(content)), 0, 0, 0, CHARS_UTF8, None, None
        ):
            raise OSError("it does not speak")

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        """Callback of the library, for each 60 ms of speech and the events in them."""
        if samples:
            self.samples += ctypes.string_at(samples, count * ctypes.sizeof(ctypes.c_short))
        for event in itertools.takewhile(lambda event: event.type != EVENT_LIST_TERMINATED, events):
            if event.type == EVENT_PHONEME:
                self.phones.append(event.id.string.decode())
                self.starts.append(event.sample)
        return 0  # go on


def _serve(library: Path, *, voices: Path) -> None:
    """Answer each line of the standard input until its end."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        # Output of the library itself must not come between the answers.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        try:
            loaded = _Library(library, voices=voices)
            _send(answers, {"sample_rate_hz": loaded.sample_rate_hz})
            for line in sys.stdin.buffer:
                loaded.speak(**json.loads(line))
                answer = {"phones": loaded.phones, "starts": loaded.starts}
                _send(answers, answer | {"bytes": len(loaded.samples)}, loaded.samples)
        except OSError as error:
            _send(answers, {"error": str(error)})


def _send(answers: IO[bytes], answer: Mapping[str, Any], content: bytes | bytearray = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n" + content)
    answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), voices=Path(sys.argv[2]))
