"""The other processes of a run: when one is lost or fails, all that are left say which, and end; nobody waits for ever.

Each process beats in the key-value store of JAX's coordination service, which lives in process 0; process 0 judges who
fell silent. Where process 0 itself is gone, JAX aborts the others at once, from a thread of its own: that is caught.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import jax

from clip_jax import coordination

LOST = 75  # exit code of a process that ends because of another one; EX_TEMPFAIL: the same command may succeed now
_BEAT = 2.0  # seconds
_SILENCE = 30.0  # seconds without a beat: the process is lost
_SILENCE_IN_TROUBLE = 8.0  # once one of them has reported an error
_ALIVE, _TROUBLE, _VERDICT = "clip_jax/alive/", "clip_jax/trouble/", "clip_jax/verdict/"
_DONE = "done"


@contextlib.contextmanager
def watched(advice: Callable[[], str] = lambda: "start the same command again") -> Iterator[None]:
    """A context in which no process outlives another that was lost or failed by more than a minute.

    advice: ends the line that names it, as in "process 2 of 4 was lost; ADVICE"; whoever ends because of another process
    exits with the code LOST. An error of this process itself is raised as ever. Does nothing for a run of one process.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch(advice)
    try:
        yield
    except BaseException as error:
        watch.in_trouble(error)
        raise
    watch.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """words: what happened to whom. own: processes that end by their own error; all others end because of them."""

    words: str
    own: tuple[int, ...] = ()


class Judge:
    """Who of `number` processes is at fault, from their last beats and what errors they report."""

    def __init__(self, number: int, now: float):
        self._number = number
        self._beats: dict[int, tuple[str, float]] = dict.fromkeys(range(number), ("", now))
        self._troubled = 0.0

    def verdict(self, beats: Mapping[int, str], troubles: Mapping[int, str], now: float) -> Verdict | None:
        """Whoever is silent was lost, whatever others report: their errors come of it. now: seconds of any clock."""
        for process, beat in beats.items():
            if beat != self._beats[process][0]:
                self._beats[process] = (beat, now)
        if troubles and not self._troubled:
            self._troubled = now
        limit = _SILENCE_IN_TROUBLE if troubles else _SILENCE
        silent = [process for process, (beat, since) in self._beats.items() if beat != _DONE and now - since > limit]
        if silent:
            return Verdict(words=f"{named(silent, self._number)} lost")
        if len(troubles) == self._number:
            return Verdict(words="all processes failed", own=tuple(troubles))
        if troubles and now - self._troubled > _SILENCE_IN_TROUBLE + _BEAT:
            reason = next(iter(troubles.values()))
            return Verdict(words=f"{named(sorted(troubles), self._number, 'failed')} ({reason})", own=tuple(troubles))
        return None


def named(processes: list[int], number: int, did: str = "") -> str:
    """[2], 4 -> "process 2 of 4 was"; [1, 2], 4 -> "processes 1, 2 of 4 were"; `did` in place of "was" and "were"."""
    several = len(processes) > 1
    which = ", ".join(map(str, processes))
    return f"process{'es' if several else ''} {which} of {number} {did or ('were' if several else 'was')}"


class _Watch:
    def __init__(self, advice: Callable[[], str]):
        self._client, self._coordinator = coordination.client(), coordination.address()
        self._advice = advice
        self._own, self._number = jax.process_index(), jax.process_count()
        self._judge = Judge(self._number, time.monotonic())
        self._closed, self._judged = threading.Event(), threading.Event()
        self._aborting = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)  # kept, for C holds no reference
        ctypes.CDLL(None).signal(signal.SIGABRT, self._aborting)
        self._unanswered = 0  # beats since process 0 last answered
        self._thread = threading.Thread(target=self._watch, name="watch-the-peers", daemon=True)
        self._thread.start()
        if self._own:
            threading.Thread(target=self._watch_the_first, name="watch-process-0", daemon=True).start()

    def close(self) -> None:
        """This process has done its work."""
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # process 0 may have gone, its work done too
            self._set(f"{_ALIVE}{self._own}", _DONE)

    def in_trouble(self, error: BaseException) -> None:
        """Returns where the error is this process's own; where it is another's doing, the process ends here."""
        with contextlib.suppress(Exception):  # without process 0, the watch ends this process
            self._set(f"{_TROUBLE}{self._own}", f"{type(error).__name__}: {error}"[:500])
        self._judged.wait(2 * _SILENCE)
        code = 2 if isinstance(error, (ValueError, FileNotFoundError, ModuleNotFoundError)) else 1
        atexit.register(self._leave, code)  # JAX's own way out waits for the others, minutes long

    def _watch(self) -> None:
        beat = failures = 0
        while not self._closed.wait(_BEAT):
            beat += 1
            try:
                self._set(f"{_ALIVE}{self._own}", str(beat))
                if self._own == 0:
                    self._sit_in_judgement()
                verdicts = self._client.key_value_dir_get(_VERDICT)
                failures = self._unanswered = 0
            except Exception:  # whatever a remote call raises
                failures += 1
                if failures > 3 or not self._coordinator_answers():
                    self._end(f"{named([0], self._number)} lost")
                continue
            if verdicts:
                verdict = Verdict(**json.loads(verdicts[0][1]))
                if self._own not in verdict.own:
                    self._end(verdict.words)
                self._judged.set()

    def _watch_the_first(self) -> None:
        """Calls to a process 0 that neither answers nor closes its connections, as when its host is gone, return never."""
        while not self._closed.wait(_BEAT):
            self._unanswered += 1  # of beats, not of seconds: this process itself may have stood still
            if self._unanswered * _BEAT > _SILENCE:
                self._end(f"{named([0], self._number)} lost")

    def _sit_in_judgement(self) -> None:
        found = self._judge.verdict(self._by_process(_ALIVE), self._by_process(_TROUBLE), time.monotonic())
        if found and not self._judged.is_set():
            self._set(f"{_VERDICT}0", json.dumps(dataclasses.asdict(found)))

    def _on_abort(self, number: int) -> None:
        """A handler in C: JAX aborts, from its own thread, where process 0 is gone."""
        if self._coordinator_answers():
            ctypes.CDLL(None).signal(signal.SIGABRT, None)  # something else went wrong; abort goes on
        else:
            self._end(f"{named([0], self._number)} lost")

    def _coordinator_answers(self) -> bool:
        try:
            with socket.create_connection(self._coordinator, timeout=5):
                return True
        except OSError:
            return False

    def _by_process(self, folder: str) -> dict[int, str]:
        return {int(key.rpartition("/")[2]): value for key, value in self._client.key_value_dir_get(folder)}

    def _set(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def _end(self, words: str) -> None:
        print(f"\n{words}; {self._advice()}", file=sys.stderr, flush=True)
        self._leave(LOST)

    def _leave(self, code: int) -> None:
        """Ends the process now, whatever its threads wait for; process 0 last, so that the others hear of it."""
        if self._own == 0:
            time.sleep(2 * _BEAT)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
