"""The suspect behind an OpenAI-compatible endpoint, asked over the network.

Two invariants. Every prompt is asked in the same way: one request each, the same body but for the prompt, the same
retries; what the endpoint understands is found out with a harmless question before the first prompt leaves. And no
answer that was paid for is lost: each is handed over as it arrives, those still under way included when the run fails
or is interrupted, so that a resumed audit asks nothing twice.
"""

import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

from fpvec_audit.backends.api_messages import (
    CHAT,
    NEW_LENGTH,
    OLD_LENGTH,
    PATHS,
    Dialect,
    Usage,
    completion_of,
    error_text,
    is_refusal_for_content,
    question,
    served_models,
    shown,
)
from fpvec_audit.backends.api_transport import Reply, Transport
from fpvec_audit.domain.ports import BackendDescription, Completion, Sampling
from fpvec_audit.errors import BackendError, UsageError

PROBE = "Hello"
"""What is asked before the first prompt: no candidate of any key set."""
FEWER_FIRST_TOKENS = (20, 5)
"""How many likeliest first tokens are asked for where more are refused: known limits of servers."""

_random = SystemRandom().random
_Answer = tuple[Completion, Usage]


class ApiBackend:
    """An endpoint that answers like a suspect; open it, ask it, close it.

    Args:
        url: base URL (``https://host/v1``), without user, query or fragment.
        model: as the endpoint calls it; None for the only one served.
        endpoint: ``completions`` for rendered text, ``chat`` for the user's text under the server's own template.
        system_prompt: put first in a chat.
        api_key: sent as a bearer token and shown nowhere; empty for none.
        concurrency: most requests under way at a time.
        timeout: seconds for one attempt.
        retries: further attempts after a limit, a failure of the server or a broken connection; for every prompt alike.
        max_requests: requests that may be sent in all, retries included; None for no limit.
        ca_file: PEM file of the authorities to trust instead of the usual ones.
        trust_environment: whether proxies and certificate files named by the environment are used.
        on_question: told the place of a prompt right before it is sent, in the caller's thread.
        on_answer: told each answer with its place as it arrives, in the caller's thread.
        sleep: waits for some seconds; None for a wait that an interruption ends.
        clock: seconds that never run backwards.
        jitter: a random number in [0, 1), for waits between attempts.

    Raises:
        UsageError: a setting that cannot be meant, or no model is named and several are served.
        SettingsError: an API key that no header can carry.
        BackendError: the endpoint cannot be asked, or does not serve the model.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        endpoint: str,
        system_prompt: str = "",
        api_key: str = "",
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
        max_requests: int | None = None,
        ca_file: Path | None = None,
        trust_environment: bool = False,
        on_question: Callable[[int], None] | None = None,
        on_answer: Callable[[int, Completion], None] | None = None,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = _random,
    ) -> None:
        _check(endpoint, system_prompt, concurrency=concurrency, timeout=timeout, retries=retries)
        self._endpoint, self._system_prompt = endpoint, system_prompt
        self._concurrency, self._retries = concurrency, retries
        self._on_question, self._on_answer = on_question, on_answer
        self._dialect: Dialect | None = None
        self._probed_for = 0
        self._prompt_tokens = self._completion_tokens = 0
        self._closed = False
        self._transport = Transport(
            url,
            api_key=api_key,
            connections=concurrency,
            timeout=timeout,
            retries=retries,
            max_requests=max_requests,
            ca_file=ca_file,
            trust_environment=trust_environment,
            clock=clock,
            sleep=sleep,
            jitter=jitter,
        )
        self._has_key = bool(api_key)
        try:
            self._model = self._settle_model(model)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ApiBackend({self._transport.url!r}, model={getattr(self, '_model', None)!r})"

    @property
    def model(self) -> str:
        """The model that is asked, as the endpoint calls it."""
        return self._model

    @property
    def description(self) -> BackendDescription:
        """Which endpoint answers, and what its replies so far told of it and of the connection."""
        headers = self.headers_seen
        settings = {"url": self._transport.url, "model": self._model, "endpoint": self._endpoint}
        settings |= self._transport.tls
        if self._dialect is not None and self._probed_for:
            settings["first_tokens"] = str(self._dialect.first_tokens or "no")
        return BackendDescription(
            kind="api",
            model=self._transport.url,
            engine=f"{self._endpoint} endpoint",
            version=headers.get("server", ""),
            deterministic=False,
            settings=settings | {f"header {name}": value for name, value in headers.items()},
        )

    @property
    def headers_seen(self) -> dict[str, str]:
        """Headers by which the endpoint describes itself, as last seen: lower-case name → value."""
        return dict(self._transport.headers_seen)

    @property
    def requests_sent(self) -> int:
        """Requests sent so far, retries and the question for models included."""
        return self._transport.requests_sent

    @property
    def prompt_tokens(self) -> int:
        """Tokens sent, as the endpoint counted them in its answers; 0 where it does not."""
        return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens generated, as the endpoint counted them in its answers; 0 where it does not."""
        return self._completion_tokens

    def tells_first_tokens(self, count: int) -> bool:
        """Return whether the endpoint tells the likeliest first tokens, after asking it something harmless.

        Raises:
            BackendError: it cannot be asked.
        """
        return self._settle_dialect(Sampling(first_tokens=count)).first_tokens > 0

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt, in order and in the same number.

        Raises:
            BackendError: the backend is closed, or the endpoint cannot be asked or answers nonsense.
        """
        answers = dict(self.complete_as_they_come(prompts, sampling))
        return [answers[place] for place in range(len(prompts))]

    def complete_as_they_come(
        self, prompts: Sequence[str], sampling: Sampling
    ) -> Generator[tuple[int, Completion], None, None]:
        """Yield (place of the prompt, answer) as each arrives.

        Prompts leave in their order, each once. When one cannot be answered, or Ctrl-C is pressed while answers are
        awaited, no further ones leave; those under way are still awaited and yielded, and then the error is raised.
        When the generator is closed, those under way are awaited too and go to ``on_answer``.

        Raises:
            BackendError: the backend is closed, or the endpoint cannot be asked or answers nonsense.
        """
        if self._closed:
            raise BackendError(f"{self._transport.url}: the connection is closed")
        if not prompts:
            return
        dialect = self._settle_dialect(sampling)
        called_off = threading.Event()
        running: dict[Future[_Answer], int] = {}
        waiting = iter(range(len(prompts)))
        failure: BackendError | KeyboardInterrupt | None = None
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                while failure is None and len(running) < self._concurrency:
                    place = next(waiting, None)
                    if place is None:
                        break
                    if self._on_question is not None:
                        self._on_question(place)
                    running[pool.submit(self._ask, prompts[place], sampling, place, dialect, called_off)] = place
                if not running:
                    break
                try:
                    done = wait(running, return_when=FIRST_COMPLETED).done
                except KeyboardInterrupt as interruption:
                    if isinstance(failure, KeyboardInterrupt):
                        raise  # twice is meant
                    failure = interruption
                    called_off.set()
                    continue
                for future in done:
                    place = running.pop(future)
                    try:
                        completion = self._received(place, future.result())
                    except BackendError as error:
                        failure = failure or error
                        continue
                    yield place, completion
        except GeneratorExit:
            called_off.set()
            self._hand_over(running)
            raise
        finally:
            called_off.set()
            pool.shutdown()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Hang up; further questions are an error."""
        self._closed = True
        self._transport.close()

    def _received(self, place: int, answer: _Answer) -> Completion:
        completion, usage = answer
        self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens
        if self._on_answer is not None:
            self._on_answer(place, completion)
        return completion

    def _hand_over(self, running: dict[Future[_Answer], int]) -> None:
        """Await what is under way, as long as one attempt takes at most, and tell ``on_answer``."""
        for future in wait(running).done:
            if future.exception() is None:
                self._received(running[future], future.result())

    def _ask(
        self, prompt: str, sampling: Sampling, place: int, dialect: Dialect, called_off: threading.Event
    ) -> _Answer:
        reply = self._post(prompt, sampling, place, dialect, called_off)
        return self._answer(reply, prompt)

    def _post(
        self,
        prompt: str,
        sampling: Sampling,
        place: int,
        dialect: Dialect,
        called_off: threading.Event | None = None,
    ) -> Reply:
        body = question(
            self._endpoint,
            self._model,
            prompt,
            system_prompt=self._system_prompt,
            sampling=sampling,
            place=place,
            dialect=dialect,
        )
        return self._transport.ask("POST", PATHS[self._endpoint], body, called_off=called_off)

    def _answer(self, reply: Reply, prompt: str) -> _Answer:
        if reply.status == 400 and is_refusal_for_content(reply.document):
            return Completion("", "error", "the endpoint refused the prompt for its content"), Usage()
        self._require_document(reply, prompt)
        try:
            return completion_of(reply.document, endpoint=self._endpoint, model=self._model)
        except BackendError as error:
            raise self._located(error) from None

    def _settle_model(self, model: str | None) -> str:
        """Return the model to ask, after a look at those that are served."""
        # Nothing was asked yet, so little is lost: an endpoint that is down is told so soon.
        reply = self._transport.ask("GET", "models", retries=min(1, self._retries))
        if model is not None and reply.status in (404, 405):
            return model  # an endpoint need not list its models; the first question shows whether it has this one
        self._require_document(reply)
        try:
            served = served_models(reply.document)
        except BackendError as error:
            raise self._located(error) from None
        if model is not None:
            if model not in served:
                raise BackendError(
                    f"{self._transport.url}: model {shown([model])} is not served; served are: "
                    f"{shown(sorted(served)) or 'none'}",
                    advice="name one of them with --model",
                )
            return model
        if not served:
            raise BackendError(f"{self._transport.url}: no model is served", advice="load one, or name it with --model")
        if len(served) > 1:
            raise UsageError(
                f"{self._transport.url}: several models are served: {shown(sorted(served))}",
                advice="name the suspect with --model",
            )
        return served[0]

    def _settle_dialect(self, sampling: Sampling) -> Dialect:
        """Find out, with a question that holds no key, what the endpoint understands; once for all prompts."""
        wanted = sampling.first_tokens
        if self._dialect is None or wanted > self._probed_for:
            self._dialect, self._probed_for = self._probed(sampling), wanted
        return replace(self._dialect, first_tokens=min(wanted, self._dialect.first_tokens))

    def _probed(self, sampling: Sampling) -> Dialect:
        length_field = OLD_LENGTH
        counts = [sampling.first_tokens, *(count for count in FEWER_FIRST_TOKENS if count < sampling.first_tokens), 0]
        while True:
            dialect = Dialect(length_field, counts[0])
            reply = self._post(PROBE, sampling, 0, dialect)
            said = error_text(reply.document).lower() if reply.status in (400, 422) else ""
            if NEW_LENGTH in said and length_field == OLD_LENGTH:
                length_field = NEW_LENGTH
            elif "logprob" in said and counts[0]:
                counts.pop(0)
            else:
                break
        completion, usage = self._answer(reply, PROBE)
        self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens
        return dialect if completion.first_tokens else Dialect(length_field, 0)

    def _require_document(self, reply: Reply, prompt: str = "") -> None:
        """Raise for a reply that is a refusal, or no JSON."""
        url, status = self._transport.url, reply.status
        said = self._transport.line(error_text(reply.document), hidden=[prompt])
        because = f": {said}" if said else ""
        if 300 <= status < 400:
            elsewhere = reply.headers.get("location", "").split("?")[0]
            raise BackendError(
                f"{url}: the endpoint points elsewhere (HTTP {status}, {elsewhere or 'without saying where'})",
                advice="redirects are not followed, for the key and the prompts would go along: give the final URL",
            )
        if status in (401, 403):
            raise BackendError(
                f"{url}: the endpoint {'refused the API key' if self._has_key else 'wants an API key'} "
                f"(HTTP {status}){because}",
                advice="set FPVEC_API_KEY to a key that may use this model",
            )
        if status == 404:
            raise BackendError(
                f"{url}: there is no such address or model (HTTP 404){because}",
                advice="check the URL (a base URL often ends in /v1), --model, and --endpoint completions or chat",
            )
        if not 200 <= status < 300:
            raise BackendError(
                f"{url}: the endpoint refused the request (HTTP {status}){because}",
                advice="check --endpoint, and that prompt and answer fit the model's context window",
            )
        if reply.problem:
            raise BackendError(
                f"{url}: {reply.problem} came back", advice="check the URL: a base URL often ends in /v1"
            )

    def _located(self, error: BackendError) -> BackendError:
        return BackendError(f"{self._transport.url}: {error.problem}", advice=error.advice)


def _check(endpoint: str, system_prompt: str, *, concurrency: int, timeout: float, retries: int) -> None:
    if endpoint not in PATHS:
        raise UsageError(f"unknown endpoint {endpoint!r}", advice=f"choose {' or '.join(PATHS)}")
    if system_prompt and endpoint != CHAT:
        raise UsageError("a system prompt has no place in a raw completion", advice="use --endpoint chat")
    if concurrency < 1 or retries < 0 or not timeout > 0:
        raise UsageError(
            f"concurrency {concurrency}, timeout {timeout:g} s, retries {retries} cannot be meant",
            advice="ask at least one prompt at a time, wait longer than no time, retry 0 times or more",
        )
