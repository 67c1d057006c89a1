"""A job's sign of life, and the ear for somebody who asks for its end.

A thread of its own writes the time every few seconds, in a short unit of its own, and looks whether the job is to end.
If so, the work is interrupted just as by Ctrl-C, once, so that nothing disturbs it while it clears away. That the
registry cannot be reached never ends a job.
"""

import ctypes
import logging
import signal
import threading
from typing import TYPE_CHECKING

from fpvec_audit.errors import FpvecError

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

LOGGER = logging.getLogger(__name__)
BEAT_SECONDS = 3.0
"""Between two signs of life; also how long a job may take to hear that it is to end."""


class Heartbeat:
    """Beats for one job, on behalf of the thread that makes it, until it is stopped.

    Args:
        registry: where the job is recorded.
        job: its id.
        every: seconds between two beats; the first one comes after that, so that short work has none.
    """

    def __init__(self, registry: "Registry", job: str, *, every: float = BEAT_SECONDS) -> None:
        self._registry = registry
        self._job = job
        self._every = every
        self._worker = threading.current_thread()
        self._over = threading.Event()
        self._interrupting = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {job}", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End it; the work is not interrupted by it any more. Doing so again changes nothing."""
        with self._interrupting:
            self._over.set()

    def _beat(self) -> None:
        heard = failing = False
        while not self._over.wait(self._every):
            try:
                with self._registry.unit_of_work() as uow:
                    asked = uow.jobs.beat(self._job)
            except FpvecError as error:
                if not failing:
                    LOGGER.warning("job %s cannot say that it is alive: %s", self._job, error)
                failing = True
                continue
            failing = False
            if asked and not heard:
                heard = True
                self._interrupt()

    def _interrupt(self) -> None:
        with self._interrupting:
            if self._over.is_set():
                return
            number = self._worker.ident
            assert number is not None, "the thread that makes a job has begun"
            by_signal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if by_signal and self._worker is threading.main_thread():
                signal.pthread_kill(number, signal.SIGINT)  # also ends its waiting for the system
            else:  # a shell without job control lets what it starts in the background ignore Ctrl-C
                kind = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), kind)
