"""The streaming engine: tensors of any size go from files to files through a few small blocks.

Every use – digest, vector, stamp, attack – describes for each tensor where its elements come from, what is computed
from a block of them, and where the results go. The engine does the rest: a few threads, each with several tensors under
way so that their bytes can be hashed side by side; ``preadv`` and ``pwrite`` in blocks whose memory is used again; the
disk asked in advance for what comes next and told early what to write.

Laws: memory depends on the number of threads and of streams per tensor, not on the size of tensor or model; every byte
is read, hashed and written once; the result does not depend on the number of threads.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors import blocks
from fpvec_audit.tensors.blocks import Block, BlockMemory
from fpvec_audit.tensors.kernels import BlockKernels
from fpvec_audit.tensors.sha256 import digest_lanes
from fpvec_audit.tensors.sink import TensorSink
from fpvec_audit.tensors.source import FetchedSource, TensorSource

MOST_THREADS = 8
_LANES = 16
_MOST_STREAMS = 64
_MOST_WASTE = 1.07
_MOST_ROOM = 176 << 20
"""Bytes of all blocks of all threads."""
_SHORTEST_BLOCK = 1 << 16
"""Elements of a block that the disk still takes well."""
_FETCHERS = 3
"""Threads that wait for the disk beside each thread that computes."""
_POLL_SECONDS = 0.1

Compute = Callable[[BlockKernels, int, Sequence[Block], Sequence[Block]], Sequence[Block]]
"""(kernels, flat position, input blocks, output blocks) → the blocks to write, one for each output."""


@dataclass(frozen=True, slots=True)
class TensorWork:
    """What happens to one tensor, or to several that are computed together.

    Attributes:
        elements: the longest input's; shorter ones give shorter blocks, in the end empty ones.
        inputs: what is read.
        outputs: what is written; as long as the longest input, unless ``compute`` gives shorter blocks.
        compute: makes the output blocks.
        hashed: streams to hash: inputs by number, then outputs by number behind them.
        done: takes the hexadecimal digests of ``hashed`` when everything is written; called by one thread at a time.
    """

    elements: int
    inputs: tuple[TensorSource, ...]
    outputs: tuple[TensorSink, ...]
    compute: Compute
    hashed: tuple[int, ...]
    done: Callable[[Sequence[str]], None]


def nothing_to_compute(
    kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
) -> Sequence[Block]:
    """Write nothing: for tensors that are only hashed."""
    return ()


def passed_through(
    kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
) -> Sequence[Block]:
    """Write the inputs as they are."""
    return inputs


def run(
    works: Sequence[TensorWork],
    *,
    label: str,
    threads: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Carry out works, started in the order given but for those that would take longest.

    Args:
        works: what to do, in the order of the bytes on the disk.
        label: what to call it in progress.
        threads: how many at once; as many as there are processors, at most ``MOST_THREADS``, when None.
        progress: where to report.

    Raises:
        FpvecError: whatever a source or a computation raised, when all threads have stopped.
        OSError: an output could not be written.
    """
    wanted = threads or available_threads()
    passage = _Passage(works, wanted)
    count = max(1, min(wanted, len(works)))
    total = sum(_bytes(work) for work in works)
    with progress.step(label, total, "bytes") as step, ThreadPoolExecutor(count) as pool:
        reported = 0
        workers = [pool.submit(passage.work) for _ in range(count)]
        try:
            waiting = True
            while waiting:
                waiting = bool(wait(workers, _POLL_SECONDS, FIRST_EXCEPTION).not_done)
                passed = passage.passed
                step.advance(passed - reported)
                reported = passed
        finally:  # an interrupt arrives here too: nobody may write on when the staging directory is removed
            passage.stop()
            wait(workers)
        for worker in workers:
            worker.result()
        step.advance(total - reported)


def available_threads() -> int:
    """Return how many threads work at once: one per processor that this process may use, within reason."""
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


class _Passage:
    """Works under way, shared by the threads."""

    def __init__(self, works: Sequence[TensorWork], threads: int) -> None:
        self._streams = max((len(work.hashed) for work in works), default=0)
        self._block = _block_elements(works, threads)
        room = max((_room(work, self._block) for work in works), default=0)
        self._slots = _slots(self._streams, room * threads)
        self._waiting = deque(_longest_first(works, self._slots * threads))
        self._lock = threading.Lock()
        self._stopped = False
        self.passed = 0

    def work(self) -> None:
        """Carry out works until none is left; the body of a thread.

        What is written and what is fetched goes through threads beside it, so that this one computes while the disk is
        at work.
        """
        with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(_FETCHERS) as fetchers:
            try:
                self._work(writer, fetchers)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Let all threads end after their present block."""
        self._stopped = True

    def _work(self, writer: ThreadPoolExecutor, fetchers: ThreadPoolExecutor) -> None:
        kernels = BlockKernels()
        lanes = digest_lanes(max(1, self._streams) * self._slots)
        slots = [_Slot(number * self._streams, self._block) for number in range(self._slots)]
        while not self._stopped:
            for slot in slots:
                while slot.work is None and (work := self._next()) is not None:
                    slot.begin(work, fetchers)
                    for lane in slot.lanes:
                        lanes.begin(lane)
                    if not work.elements:
                        self._finish(slot, lanes.digest(slot.lanes))
            busy = sorted((slot for slot in slots if slot.work is not None), key=lambda slot: slot.fresh)
            if not busy:
                return
            pieces: list[tuple[int, Block]] = []
            for slot in busy:
                pieces.extend(slot.step(kernels, writer, fetchers))
            lanes.update(pieces)
            with self._lock:
                self.passed += sum(slot.passed for slot in busy)
            for slot in busy:
                if slot.complete:
                    self._finish(slot, lanes.digest(slot.lanes))

    def _next(self) -> TensorWork | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _finish(self, slot: "_Slot", digests: Sequence[str]) -> None:
        work = slot.work
        assert work is not None
        slot.wait_for_writes()
        for output in work.outputs:
            output.close()
        with self._lock:
            work.done(digests)
        slot.work = None


class _Slot:
    """One work under way in a thread, and the memory of its blocks: two sets, one of which may still be written."""

    def __init__(self, first_lane: int, block_elements: int) -> None:
        self.work: TensorWork | None = None
        self.lanes: list[int] = []
        self.passed = 0
        self._first_lane = first_lane
        self._block = block_elements
        self._place = 0
        self._sets = (_BlockSet(), _BlockSet())
        self._lengths: list[int] = []
        self._fetched: list[FetchedSource | None] = []

    @property
    def complete(self) -> bool:
        assert self.work is not None
        return self._place >= self.work.elements

    @property
    def fresh(self) -> bool:
        """Whether nothing of the work was computed yet: its first blocks are still being fetched."""
        return not self._place

    def begin(self, work: TensorWork, fetchers: ThreadPoolExecutor) -> None:
        self.work, self._place = work, 0
        self.lanes = [self._first_lane + number for number in range(len(work.hashed))]
        self._lengths = [_elements(source.shape) for source in work.inputs]
        self._fetched = [source if isinstance(source, FetchedSource) else None for source in work.inputs]
        for memory in self._sets:
            memory.extend(len(work.inputs), len(work.outputs))
        if work.elements:
            self._begin_to_read(self._sets[0], 0, fetchers)

    def step(
        self, kernels: BlockKernels, writer: ThreadPoolExecutor, fetchers: ThreadPoolExecutor
    ) -> list[tuple[int, Block]]:
        """Read and compute the next block and have it written; return what is to be hashed, by lane."""
        work, start = self.work, self._place
        assert work is not None
        memory, other = self._sets
        self._sets = (other, memory)
        count = min(self._block, work.elements - start)
        memory.wait()
        read = self._finish_reading(memory, start)
        if start + count < work.elements:
            self._begin_to_read(other, start + count, fetchers)
        made = [
            room.block(sink.dtype, count, sink.lead(start))
            for room, sink in zip(memory.outputs, work.outputs, strict=False)
        ]
        written = work.compute(kernels, start, read, made)
        if written:
            memory.writing = writer.submit(_write, work.outputs, start, written)
        self._place += count
        streams = (*read, *written)
        self.passed = sum(len(block.memory) for block in read)
        return [(lane, streams[number]) for lane, number in zip(self.lanes, work.hashed, strict=True)]

    def _begin_to_read(self, memory: "_BlockSet", start: int, fetchers: ThreadPoolExecutor) -> None:
        """Lay out the input blocks at a flat position, and have those fetched that come from a slow place."""
        work = self.work
        assert work is not None
        count = min(self._block, work.elements - start)
        memory.read, memory.fetching = [], []
        for room, source, fetched, length in zip(
            memory.inputs, work.inputs, self._fetched, self._lengths, strict=False
        ):
            lead = fetched.lead(start) if fetched is not None else 0
            block = room.block(source.dtype, max(0, min(count, length - start)), lead)
            memory.read.append(block)
            if fetched is not None and fetched.slow and block.count:
                memory.fetching.append(fetchers.submit(_fetch, memory.writing, fetched, start, block))
            else:
                memory.fetching.append(None)

    def _finish_reading(self, memory: "_BlockSet", start: int) -> list[Block]:
        """Return the input blocks, filled."""
        work = self.work
        assert work is not None
        for block, source, fetched, fetching in zip(
            memory.read, work.inputs, self._fetched, memory.fetching, strict=True
        ):
            if fetching is not None:
                fetching.result()
            elif fetched is not None and block.count:
                fetched.fetch(start, block)
            elif block.count:
                source.read_into(start, block.count, block.memory)
        return memory.read

    def wait_for_writes(self) -> None:
        for memory in self._sets:
            memory.wait()


class _BlockSet:
    """Memory for the blocks of one step."""

    def __init__(self) -> None:
        self.inputs: list[BlockMemory] = []
        self.outputs: list[BlockMemory] = []
        self.read: list[Block] = []
        self.fetching: list[Future[None] | None] = []
        self.writing: Future[None] | None = None

    def extend(self, inputs: int, outputs: int) -> None:
        for memories, count in ((self.inputs, inputs), (self.outputs, outputs)):
            memories.extend(BlockMemory() for _ in range(count - len(memories)))

    def wait(self) -> None:
        """Wait until the blocks are written; raises what writing them raised."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None


def _fetch(writing: "Future[None] | None", source: FetchedSource, start: int, block: Block) -> None:
    """Fill a block whose memory may still be written to a file: blocks are passed through where nothing changes."""
    if writing is not None:
        writing.result()
    source.fetch(start, block)


def _write(sinks: Sequence[TensorSink], start: int, written: Sequence[Block]) -> None:
    for sink, block in zip(sinks, written, strict=True):
        sink.write(start, block)


def _longest_first(works: Sequence[TensorWork], at_once: int) -> list[TensorWork]:
    """Put the works ahead that would still be under way when all others are done; the others stay in order.

    The bytes of one tensor are hashed one after the other, however many processors there are.
    """
    share = sum(work.elements for work in works) / (2 * at_once)
    long = sorted((work for work in works if work.elements > share), key=lambda work: -work.elements)
    return long + [work for work in works if work.elements <= share]


def _slots(streams: int, room: int) -> int:
    """Return how many tensors a thread has under way, so that the lanes of the hash are filled best.

    Args:
        streams: hashed streams of a tensor.
        room: bytes that the blocks of one tensor in every thread take.
    """
    if not streams:
        return 1

    def waste(slots: int) -> float:
        used = slots * streams
        return -(-used // _LANES) * _LANES / used

    most = max(1, min(_MOST_STREAMS // streams, _MOST_ROOM // max(1, room)))
    choices = range(1, most + 1)
    return next((slots for slots in choices if waste(slots) <= _MOST_WASTE), min(choices, key=waste))


def _block_elements(works: Sequence[TensorWork], threads: int) -> int:
    """Return how long blocks are: the usual length, halved until works with very many streams fit into the room."""
    elements = blocks.BLOCK_ELEMENTS
    while (
        elements > _SHORTEST_BLOCK and threads * max((_room(work, elements) for work in works), default=0) > _MOST_ROOM
    ):
        elements //= 2
    return elements


def _room(work: TensorWork, block_elements: int) -> int:
    """Return the bytes of both sets of blocks."""
    count = min(block_elements, work.elements)
    width = sum(source.dtype.size for source in work.inputs) + sum(sink.dtype.size for sink in work.outputs)
    return 2 * count * width


def _bytes(work: TensorWork) -> int:
    return sum(_elements(source.shape) * source.dtype.size for source in work.inputs)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
