"""Splits of recordings that depend on their ids alone."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

from gim_bench.contract import Split
from gim_bench.datasets.speech.audio_files import AudioFile, Recording


def draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, alike on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def split_by_name(
    recordings: Sequence[Recording],
    *,
    test_fraction: float,
    test_every_speaker: bool,
    unit: Callable[[AudioFile], str] = lambda file: file.id,
) -> Mapping[Split, Sequence[Recording]]:
    """Recordings whose ids draw a number below `test_fraction` are for testing.

    So a recording stays in its split whichever recordings are added or removed, with two
    exceptions. A speaker without any train recording keeps the first recording for training. With
    `test_every_speaker`, a speaker with two or more recordings but no test recording gives the
    recording of the lowest draw to testing. Either of these two goes back where further recordings
    of the speaker make it needless.

    `unit` names the chapter of a recording, say, where whole chapters are drawn: all of the above
    then holds for chapters in place of recordings.
    """
    by_speaker = dict[str, dict[str, None]]()  # the units of each speaker, in order
    for recording in recordings:
        by_speaker.setdefault(recording.file.speaker, {})[unit(recording.file)] = None
    testing = set[str]()
    for theirs in by_speaker.values():
        ids = list(theirs)
        drawn = {name for name in ids if draw(name) < test_fraction}
        if len(drawn) == len(ids):
            drawn.remove(ids[0])
        if test_every_speaker and not drawn and len(ids) > 1:
            drawn.add(min(ids, key=draw))
        testing |= drawn
    return {
        Split.TRAIN: [r for r in recordings if unit(r.file) not in testing],
        Split.TEST: [r for r in recordings if unit(r.file) in testing],
    }
