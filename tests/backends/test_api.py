"""The endpoint backend against a real HTTP server that fails as it is told to."""

import copy
import logging
import threading
import traceback
from decimal import Decimal

import pytest

from fpvec_audit.backends import api
from fpvec_audit.backends.api import PROBE, ApiBackend
from fpvec_audit.backends.api_estimate import estimate
from fpvec_audit.domain.ports import Completion, Sampling, StreamingBackend
from fpvec_audit.errors import BackendError, SettingsError, UsageError
from tests.backends.fake_endpoint import (
    MODEL,
    changed,
    cut,
    endless,
    fake_endpoint,
    hang_up,
    nonsense,
    raw,
    self_signed,
    status,
    trickle,
    until,
)

KEY = "sk-a-key-nobody-may-see"
PROMPTS = [f"prompt {number}" for number in range(12)]
GREEDY = Sampling(max_new_tokens=4)
ANSWERS = [Completion(prompt.upper()) for prompt in PROMPTS]


@pytest.fixture
def endpoint():
    with fake_endpoint() as served:
        yield served


@pytest.fixture
def connect():
    """Open backends that neither wait between attempts nor outlive the test."""
    opened = []

    def open_one(url, **settings):
        waits = []
        defaults = {"model": MODEL, "endpoint": "completions", "timeout": 10, "sleep": waits.append}
        backend = ApiBackend(url, **(defaults | {"jitter": lambda: 1.0} | settings))
        opened.append(backend)
        return backend, waits

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


def failing(backend, prompts=("a prompt",), sampling=GREEDY):
    with pytest.raises(BackendError) as raised:
        backend.complete(prompts, sampling)
    assert raised.value.advice
    assert raised.value.exit_code == 4
    return str(raised.value)


class TestAsking:
    def test_answers_come_in_the_order_of_the_prompts(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        assert isinstance(backend, StreamingBackend)
        assert backend.complete(PROMPTS, GREEDY) == ANSWERS
        assert sorted(endpoint.asked) == sorted(PROMPTS)

    def test_every_prompt_gets_the_same_request_but_for_its_text(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        backend.complete(PROMPTS, GREEDY)
        bodies = {str({**seen.body, "prompt": ""}) for seen in endpoint.questions}
        assert bodies == {str({"model": MODEL, "prompt": "", "max_tokens": 4, "temperature": 0.0})}
        headers = {
            str({name: value for name, value in seen.headers.items() if name != "content-length"})
            for seen in endpoint.questions
        }
        assert len(headers) == 1

    def test_chat_sends_the_prompt_as_a_message_after_the_system_prompt(self, endpoint, connect):
        backend, _ = connect(endpoint.url, endpoint="chat", system_prompt="Be brief.")
        assert backend.complete(["a"], GREEDY) == [Completion("A")]
        (seen,) = endpoint.questions
        assert seen.path == "/v1/chat/completions"
        assert seen.body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
        ]

    def test_chat_without_a_system_prompt_sends_none(self, endpoint, connect):
        backend, _ = connect(endpoint.url, endpoint="chat")
        backend.complete(["a"], GREEDY)
        assert endpoint.questions[0].body["messages"] == [{"role": "user", "content": "a"}]

    def test_sampled_answers_carry_the_nucleus_and_a_seed_of_their_place(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        backend.complete(["a", "b"], Sampling(temperature=0.7, top_p=0.9, seed=40))
        bodies = sorted((seen.body for seen in endpoint.questions), key=lambda body: body["prompt"])
        assert [(body["temperature"], body["top_p"], body["seed"]) for body in bodies] == [
            (0.7, 0.9, 40),
            (0.7, 0.9, 41),
        ]

    def test_no_more_requests_than_allowed_are_under_way(self, endpoint, connect):
        endpoint.meet = threading.Barrier(4)
        backend, _ = connect(endpoint.url, concurrency=4)
        assert backend.complete(PROMPTS, GREEDY) == ANSWERS
        assert endpoint.most_at_once == 4

    def test_one_at_a_time_asks_in_order(self, endpoint, connect):
        backend, _ = connect(endpoint.url, concurrency=1)
        backend.complete(PROMPTS, GREEDY)
        assert endpoint.asked == PROMPTS
        assert endpoint.most_at_once == 1

    def test_no_prompts_need_no_request(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        before = backend.requests_sent
        assert backend.complete([], GREEDY) == []
        assert backend.requests_sent == before

    def test_closed_backend_says_so(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.complete(["a"], GREEDY)

    def test_counts_what_was_sent_and_what_the_endpoint_counted(self, endpoint, connect):
        endpoint.faults.append(status(503))
        backend, _ = connect(endpoint.url)
        backend.complete(["a", "b"], GREEDY)
        assert backend.requests_sent == 1 + 1 + 2 + 1  # models, probe, prompts, one retry
        assert (backend.prompt_tokens, backend.completion_tokens) == (3 * 7, 3 * 2)

    @pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many", "completion_tokens": -1}])
    def test_strange_usage_counts_as_nothing(self, endpoint, connect, usage):
        endpoint.probe_faults.append(changed(usage=usage))
        endpoint.faults.append(changed(usage=usage))
        backend, _ = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert (backend.prompt_tokens, backend.completion_tokens) == (0, 0)


class TestResume:
    def test_what_was_yielded_and_what_is_asked_again_are_all_prompts_once(self, endpoint, connect):
        endpoint.faults.extend([lambda handler: handler.answer()] * 5 + [status(400)])
        backend, _ = connect(endpoint.url, concurrency=3)
        kept = {}
        answers = backend.complete_as_they_come(PROMPTS, GREEDY)
        with pytest.raises(BackendError):
            kept.update(answers)
        assert len(endpoint.asked) == len(set(endpoint.asked))
        assert len(kept) == len(endpoint.asked) - 1  # all but the one that was refused
        rest = [place for place in range(len(PROMPTS)) if place not in kept]
        again, _ = connect(endpoint.url)
        kept |= {
            rest[place]: answer for place, answer in again.complete_as_they_come([PROMPTS[p] for p in rest], GREEDY)
        }
        assert [kept[place] for place in range(len(PROMPTS))] == ANSWERS
        assert len(endpoint.asked) == len(PROMPTS) + 1

    def test_answers_under_way_are_handed_over_before_the_failure_is_raised(self, endpoint, connect):
        failed = threading.Event()

        def fail(handler):
            handler.reply({}, status=400)
            failed.set()

        endpoint.meet = threading.Barrier(3)  # all three are under way before one fails
        endpoint.faults.extend([fail, until(failed), until(failed)])
        backend, _ = connect(endpoint.url, concurrency=3)
        kept = []
        with pytest.raises(BackendError):
            kept.extend(backend.complete_as_they_come(PROMPTS[:3], GREEDY))
        assert len(kept) == 2
        assert len(endpoint.asked) == 3

    def test_iterator_that_is_closed_hands_over_what_was_under_way(self, endpoint, connect):
        endpoint.meet = threading.Barrier(3)
        told = {}
        backend, _ = connect(endpoint.url, concurrency=3, on_answer=told.__setitem__)
        answers = backend.complete_as_they_come(PROMPTS[:3], GREEDY)
        next(answers)
        answers.close()
        assert [told[place] for place in range(3)] == ANSWERS[:3]
        assert sorted(endpoint.asked) == PROMPTS[:3]

    @pytest.fixture
    def interrupt(self, monkeypatch):
        """Interrupt the next waits for answers."""
        real, errors = api.wait, []

        def interrupted(*arguments, **settings):
            if errors:
                raise errors.pop()
            return real(*arguments, **settings)

        monkeypatch.setattr(api, "wait", interrupted)
        return lambda times: errors.extend(KeyboardInterrupt() for _ in range(times))

    def test_interrupted_run_yields_what_was_under_way(self, endpoint, connect, interrupt):
        kept = {}
        backend, _ = connect(endpoint.url, concurrency=3)
        interrupt(1)
        with pytest.raises(KeyboardInterrupt):
            kept.update(backend.complete_as_they_come(PROMPTS, GREEDY))
        assert kept == dict(enumerate(ANSWERS[:3]))
        assert sorted(endpoint.asked) == PROMPTS[:3]

    def test_second_interruption_ends_at_once(self, endpoint, connect, interrupt):
        kept = {}
        backend, _ = connect(endpoint.url, concurrency=3)
        interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            kept.update(backend.complete_as_they_come(PROMPTS, GREEDY))
        assert kept == {}

    def test_nothing_is_tried_again_once_called_off(self, endpoint, connect):
        endpoint.meet = threading.Barrier(2)
        released = threading.Event()
        endpoint.faults.extend([lambda handler: handler.answer(), until(released, status(503))])
        told = []
        backend, waits = connect(endpoint.url, concurrency=2, on_answer=lambda place, _: told.append(place), sleep=None)
        answers = backend.complete_as_they_come(PROMPTS[:2], GREEDY)
        next(answers)
        threading.Timer(0.05, released.set).start()
        answers.close()
        assert len(told) == 1
        assert len(endpoint.asked) == 2
        assert waits == []

    def test_places_are_told_before_they_are_sent(self, endpoint, connect):
        told = []

        def note(place):
            assert PROMPTS[place] not in endpoint.asked
            told.append(place)

        backend, _ = connect(endpoint.url, concurrency=3, on_question=note)
        backend.complete(PROMPTS, GREEDY)
        assert told == list(range(len(PROMPTS)))

    def test_answers_are_told_as_they_arrive(self, endpoint, connect):
        told = {}
        backend, _ = connect(endpoint.url, on_answer=told.__setitem__)
        backend.complete(PROMPTS, GREEDY)
        assert told == dict(enumerate(ANSWERS))


class TestRetries:
    @pytest.mark.parametrize("fault", [*map(status, (429, 500, 502, 503, 504)), hang_up, cut, nonsense])
    def test_what_may_pass_is_tried_again(self, endpoint, connect, fault):
        endpoint.faults.extend([fault, fault])
        backend, waits = connect(endpoint.url)
        assert backend.complete(["a"], GREEDY) == [Completion("A")]
        assert waits == [1.0, 2.0]

    def test_waits_grow_spread_and_end(self, endpoint, connect):
        endpoint.always = status(503)
        backend, waits = connect(endpoint.url, retries=8, jitter=lambda: 0.0)
        said = failing(backend)
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert "HTTP 503" in said
        assert "after 9 attempts" in said
        assert "--resume" in said
        assert len(endpoint.asked) == 9

    def test_retry_after_in_seconds_is_honoured(self, endpoint, connect):
        endpoint.faults.append(status(429, Retry_After="17"))
        backend, waits = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert waits == [17.0]

    def test_retry_after_as_a_date_is_honoured_by_the_endpoint_s_own_clock(self, endpoint, connect):
        def limit(handler):
            handler.date_time_string = lambda timestamp=None: "Wed, 21 Oct 2026 07:28:00 GMT"
            handler.reply({}, status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:40 GMT"})
            del handler.date_time_string

        endpoint.faults.append(limit)
        backend, waits = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert waits == [40.0]

    @pytest.mark.parametrize("value", ["soon", "-5", "", "Wed, 21 Oct 2026"])
    def test_retry_after_that_says_nothing_changes_nothing(self, endpoint, connect, value):
        endpoint.faults.append(status(429, Retry_After=value))
        backend, waits = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert waits == [1.0]

    def test_endpoint_that_asks_to_wait_for_hours_is_given_up(self, endpoint, connect):
        endpoint.faults.append(status(429, Retry_After="7200"))
        backend, waits = connect(endpoint.url)
        assert "asks to wait 7200 s" in failing(backend)
        assert waits == []

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (400, "refused the request (HTTP 400): status 400"),
            (401, "wants an API key (HTTP 401)"),
            (403, "HTTP 403"),
            (404, "--model"),
            (422, "context window"),
            (501, "HTTP 501"),
        ],
    )
    def test_what_will_not_pass_is_not_tried_again(self, endpoint, connect, number, words):
        endpoint.always = status(number)
        backend, waits = connect(endpoint.url)
        assert words in failing(backend)
        assert waits == []
        assert len(endpoint.asked) == 1

    def test_slow_endpoint_is_given_up(self, endpoint, connect):
        released = threading.Event()
        endpoint.always = until(released)
        backend, waits = connect(endpoint.url, timeout=0.1, retries=1)
        said = failing(backend)
        released.set()
        assert "no whole reply within 0.1 s (after 2 attempts)" in said
        assert len(waits) == 1

    def test_endpoint_that_trickles_is_slow_too(self, endpoint, connect):
        released = threading.Event()
        endpoint.always = trickle(released)
        backend, _ = connect(endpoint.url, timeout=0.2, retries=0)
        said = failing(backend)
        released.set()
        assert "no whole reply within 0.2 s" in said

    def test_budget_of_requests_is_never_exceeded(self, endpoint, connect):
        endpoint.faults.extend([status(503)] * 3)
        backend, _ = connect(endpoint.url, max_requests=8)
        said = failing(backend, PROMPTS)
        assert "budget of 8 requests is used up" in said
        assert len(endpoint.seen) == backend.requests_sent == 8


class TestWrongThings:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (raw(b"<html><body>Welcome</body></html>", "text/html"), "web page instead of JSON"),
            (raw(b"  <!DOCTYPE html>"), "web page instead of JSON"),
            (raw(b'{"model": "suspect-1", "choices": [{"te'), "no whole JSON document"),
            (raw(b""), "an empty reply"),
            (raw(b"\xff\xfe\x00"), "no whole JSON document"),
            (raw(b"[" * 100_000), "no whole JSON document"),
            (raw(b'{"n": ' + b"9" * 5_000 + b"}"), "no whole JSON document"),
            (raw(b"[1, 2]"), "JSON, but no answer"),
            (raw(b"null"), "JSON, but no answer"),
            (raw(b'"text"'), "JSON, but no answer"),
            (changed(choices=[]), "one prompt was asked, and 0 choices came back"),
            (changed(choices=None), "0 choices"),
            (changed(choices={"text": "A"}), "0 choices"),
            (changed(choices=[{"text": "A"}, {"text": "B"}]), "2 choices"),
            (changed(choices=["A"]), "no JSON object"),
            (changed(model="another-2"), "model suspect-1 was asked, and another-2 answered"),
            (raw(b"\x1f\x8b", Content_Encoding="gzip"), "compressed"),
            (endless, "larger than 8 MiB"),
        ],
    )
    def test_reply_that_is_no_answer_is_an_error_and_not_tried_again(self, endpoint, connect, fault, words):
        endpoint.always = fault
        backend, waits = connect(endpoint.url)
        assert words in failing(backend)
        assert waits == []

    def test_redirect_is_not_followed(self, endpoint, connect):
        with fake_endpoint() as elsewhere:
            endpoint.always = status(307, Location=f"{elsewhere.url}/completions?token=1")
            backend, _ = connect(endpoint.url, api_key=KEY)
            said = failing(backend)
            assert elsewhere.seen == []
        assert f"HTTP 307, {elsewhere.url}/completions)" in said

    def test_endpoint_that_is_down_is_told_soon(self, endpoint, connect):
        with fake_endpoint() as gone:
            url = gone.url
        waits = []
        with pytest.raises(BackendError, match=r"cannot be reached: .*check the URL and that the server runs"):
            connect(url, sleep=waits.append)
        assert len(waits) == 1

    def test_endpoint_that_goes_down_midway_keeps_what_came(self, connect):
        kept = []
        with fake_endpoint() as endpoint:
            backend, _ = connect(endpoint.url, concurrency=1, retries=1)
            answers = backend.complete_as_they_come(PROMPTS, GREEDY)
            kept.append(next(answers))
            endpoint.always = hang_up
            with pytest.raises(BackendError, match="the connection broke"):
                kept.extend(answers)
        assert kept == [(0, ANSWERS[0])]

    def test_plain_http_where_tls_was_expected_is_told(self, endpoint, connect):
        with pytest.raises(BackendError, match="no TLS connection"):
            connect(endpoint.url.replace("http:", "https:"))

    def test_message_is_one_short_line_without_the_prompt(self, endpoint, connect):
        prompt = 'a "secret" 漢\nprompt'
        endpoint.always = lambda handler: handler.reply(
            {"error": {"message": f"\x1b[31mbad {prompt} and {prompt!r}\n" + "x" * 1000}}, status=400
        )
        backend, _ = connect(endpoint.url)
        said = failing(backend, [prompt])
        assert "bad [prompt] and '[prompt]' xxx" in said
        assert "secret" not in said
        assert said.isprintable()
        assert len(said) < 600

    @pytest.mark.parametrize(
        "document",
        [
            {"error": "said"},
            {"message": "said", "object": "error"},
            {"detail": [{"msg": "said", "input": "a prompt"}]},
            {"error": {"message": "said"}},
        ],
    )
    def test_error_is_found_wherever_servers_put_it(self, endpoint, connect, document):
        endpoint.always = status(400, document)
        backend, _ = connect(endpoint.url)
        assert "(HTTP 400): said –" in failing(backend)


class TestAnswers:
    @pytest.mark.parametrize(
        ("endpoint_kind", "choice", "expected"),
        [
            ("completions", {"text": " a", "finish_reason": "length"}, Completion(" a", "length")),
            ("completions", {"text": "", "finish_reason": None}, Completion("", "stop")),
            ("completions", {"text": None}, Completion("", "error", "the answer has no text")),
            ("completions", {}, Completion("", "error", "the answer has no text")),
            ("completions", {"text": "\ud800"}, Completion("?", "stop")),
            ("chat", {"message": {"content": None}}, Completion("", "error", "the answer has no text")),
            ("chat", {"message": {"content": [{"type": "image"}]}}, Completion("", "error", "the answer has no text")),
            ("chat", {"message": "hello"}, Completion("", "error", "the answer has no text")),
            (
                "chat",
                {"message": {"content": None, "refusal": "I will not."}},
                Completion("", "error", "the endpoint refused: I will not."),
            ),
            (
                "chat",
                {"message": {"content": "So"}, "finish_reason": "content_filter"},
                Completion("So", "error", "the endpoint filtered the answer for its content"),
            ),
        ],
    )
    def test_answer_without_text_is_an_answer_with_an_error(self, endpoint, connect, endpoint_kind, choice, expected):
        endpoint.always = changed(choices=[choice])
        backend, _ = connect(endpoint.url, endpoint=endpoint_kind)
        assert backend.complete(["a"], GREEDY) == [expected]

    def test_prompt_refused_for_its_content_is_an_answer_with_an_error(self, endpoint, connect):
        endpoint.faults.append(status(400, {"error": {"code": "content_filter", "message": "no"}}))
        backend, _ = connect(endpoint.url, concurrency=1)
        first, second = backend.complete(["a", "b"], GREEDY)
        assert first == Completion("", "error", "the endpoint refused the prompt for its content")
        assert second == Completion("B")


class TestModels:
    def test_only_model_is_taken(self, endpoint, connect):
        backend, _ = connect(endpoint.url, model=None)
        assert backend.model == MODEL

    def test_several_models_want_a_choice(self, endpoint, connect):
        endpoint.models = ["b", "a"]
        with pytest.raises(UsageError, match=r"several models are served: a, b – name the suspect with --model"):
            connect(endpoint.url, model=None)

    def test_no_model_is_an_error(self, endpoint, connect):
        endpoint.models = []
        with pytest.raises(BackendError, match="no model is served"):
            connect(endpoint.url, model=None)

    def test_model_that_is_not_served_is_an_error_naming_those_that_are(self, endpoint, connect):
        endpoint.models = [f"m{number}" for number in range(20)]
        with pytest.raises(BackendError, match=r"model suspect-1 is not served; served are: m0, m1, .*, …"):
            connect(endpoint.url)

    def test_endpoint_that_lists_no_models_is_asked_for_the_one_named(self, endpoint, connect):
        endpoint.listing_faults.append(status(404))
        backend, _ = connect(endpoint.url)
        assert backend.complete(["a"], GREEDY) == [Completion("A")]

    def test_endpoint_that_lists_no_models_wants_a_name(self, endpoint, connect):
        endpoint.listing_faults.append(status(404))
        with pytest.raises(BackendError, match="HTTP 404"):
            connect(endpoint.url, model=None)

    @pytest.mark.parametrize("content", [b"{}", b'{"data": 1}', b"[]", b"<html>", b'{"data": [{"name": 1}, 2]}'])
    def test_listing_that_is_none_is_an_error(self, endpoint, connect, content):
        endpoint.listing_faults.append(raw(content))
        with pytest.raises(BackendError):
            connect(endpoint.url, model=None)

    def test_model_is_asked_for_by_its_name(self, endpoint, connect):
        endpoint.models = ["b", "a"]
        backend, _ = connect(endpoint.url, model="b")
        backend.complete(["x"], GREEDY)
        assert endpoint.questions[0].body["model"] == "b"


class TestFirstTokens:
    SAMPLING = Sampling(max_new_tokens=1, first_tokens=3)

    @pytest.mark.parametrize("kind", ["completions", "chat"])
    def test_likeliest_first_tokens_are_told(self, endpoint, connect, kind):
        backend, _ = connect(endpoint.url, endpoint=kind)
        (answer,) = backend.complete(["a"], self.SAMPLING)
        assert answer.first_tokens == {"t0": -1.0, "t1": -2.0, "t2": -3.0}
        assert backend.description.settings["first_tokens"] == "3"

    def test_they_are_not_asked_for_unless_wanted(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert all("logprobs" not in seen.body for seen in endpoint.seen if seen.body)
        assert "first_tokens" not in backend.description.settings

    @pytest.mark.parametrize("kind", ["completions", "chat"])
    def test_endpoint_that_refuses_them_is_asked_without_for_all_prompts(self, endpoint, connect, kind):
        endpoint.probe_faults.append(status(400, {"error": {"message": "logprobs are not supported"}}))
        backend, _ = connect(endpoint.url, endpoint=kind)
        answers = backend.complete(PROMPTS, self.SAMPLING)
        assert [answer.text for answer in answers] == [answer.text for answer in ANSWERS]
        assert all("logprobs" not in seen.body for seen in endpoint.questions)
        assert backend.description.settings["first_tokens"] == "no"

    def test_endpoint_that_ignores_the_wish_is_asked_without(self, endpoint, connect):
        endpoint.probe_faults.append(changed(choices=[{"text": "x", "logprobs": None}]))
        backend, _ = connect(endpoint.url)
        backend.complete(["a"], self.SAMPLING)
        assert "logprobs" not in endpoint.questions[0].body
        assert backend.description.settings["first_tokens"] == "no"

    def test_endpoint_that_tells_fewer_is_asked_for_fewer(self, endpoint, connect):
        endpoint.probe_faults.extend([status(400, {"message": "at most 5 logprobs"})] * 2)
        backend, _ = connect(endpoint.url)
        (answer,) = backend.complete(["a"], Sampling(first_tokens=50))
        assert len(answer.first_tokens) == 5
        assert backend.description.settings["first_tokens"] == "5"

    def test_probe_holds_no_prompt_and_comes_once(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        backend.complete(PROMPTS, self.SAMPLING)
        backend.complete(PROMPTS, self.SAMPLING)
        posts = [seen for seen in endpoint.seen if seen.method == "POST"]
        assert posts[0].prompt == PROBE
        assert [seen.prompt for seen in posts].count(PROBE) == 1

    def test_probe_that_fails_keeps_every_prompt_at_home(self, endpoint, connect):
        endpoint.probe_faults.append(status(400))
        backend, _ = connect(endpoint.url)
        failing(backend, PROMPTS)
        assert endpoint.asked == []

    def test_whoever_asked_what_is_told_needs_no_further_probe(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        assert backend.tells_first_tokens(5)
        backend.complete(["a"], GREEDY)
        backend.complete(["b"], self.SAMPLING)
        assert [seen.prompt for seen in endpoint.seen if seen.body].count(PROBE) == 1
        assert [seen.body.get("logprobs") for seen in endpoint.questions] == [None, 3]

    def test_endpoint_that_tells_none_says_so(self, endpoint, connect):
        endpoint.probe_faults.extend([status(400, {"message": "no logprobs here"})] * 2)
        backend, _ = connect(endpoint.url)
        assert not backend.tells_first_tokens(20)

    def test_new_name_of_the_length_is_learnt(self, endpoint, connect):
        endpoint.probe_faults.append(status(400, {"error": {"message": "use 'max_completion_tokens' instead"}}))
        backend, _ = connect(endpoint.url, endpoint="chat")
        backend.complete(["a"], GREEDY)
        assert endpoint.questions[0].body["max_completion_tokens"] == 4
        assert "max_tokens" not in endpoint.questions[0].body

    def test_strange_probabilities_are_left_out(self, endpoint, connect):
        strange = b'{"a": -1, "b": NaN, "c": "x", "d": true, "e": null, "f": -1e999, "g": -' + b"9" * 400 + b"}"
        content = b'{"choices": [{"text": "x", "logprobs": {"top_logprobs": [' + strange + b"]}}]}"
        endpoint.always = raw(content)
        backend, _ = connect(endpoint.url)
        (answer,) = backend.complete(["a"], self.SAMPLING)
        assert answer.first_tokens == {"a": -1.0}

    @pytest.mark.parametrize("logprobs", [1, [], {}, {"top_logprobs": []}, {"top_logprobs": [None]}, {"content": [1]}])
    @pytest.mark.parametrize("kind", ["completions", "chat"])
    def test_answer_without_probabilities_has_none(self, endpoint, connect, logprobs, kind):
        choice = {"text": "x", "message": {"content": "x"}, "logprobs": logprobs}
        endpoint.always = changed(choices=[choice])
        backend, _ = connect(endpoint.url, endpoint=kind)
        assert backend.complete(["a"], self.SAMPLING) == [Completion("x")]


class TestKey:
    def test_key_travels_as_a_bearer_token(self, endpoint, connect):
        backend, _ = connect(endpoint.url, api_key=KEY)
        backend.complete(["a"], GREEDY)
        assert {seen.headers["authorization"] for seen in endpoint.seen} == {f"Bearer {KEY}"}

    def test_no_key_sends_no_header(self, endpoint, connect, monkeypatch, tmp_path):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password something\n")
        monkeypatch.setenv("NETRC", str(netrc))
        backend, _ = connect(endpoint.url)
        backend.complete(["a"], GREEDY)
        assert all("authorization" not in seen.headers for seen in endpoint.seen)

    def test_proxy_of_the_environment_is_ignored(self, endpoint, connect, monkeypatch):
        with fake_endpoint() as proxy:
            for name in ("http_proxy", "all_proxy"):
                monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
            monkeypatch.setenv("no_proxy", "")
            backend, _ = connect(endpoint.url, api_key=KEY)
            assert backend.complete(["a"], GREEDY) == [Completion("A")]
            assert proxy.seen == []

    @pytest.mark.parametrize(
        "fault",
        [
            lambda handler: handler.reply({"error": {"message": handler.headers["authorization"]}}, status=401),
            lambda handler: handler.reply({"error": handler.headers["authorization"]}, status=400),
            lambda handler: handler.reply({}, status=302, headers={"Location": f"http://x/{KEY}"}),
            lambda handler: handler.reply({}, status=503, headers={"Server": KEY, "Via": f"1.1 {KEY}"}),
            lambda handler: handler.answer(model=handler.headers["authorization"]),
            lambda handler: handler.reply({"detail": [{"msg": KEY}], KEY: KEY}, status=422),
            nonsense,
            hang_up,
            cut,
            raw(KEY.encode(), "text/html"),
        ],
    )
    def test_key_is_in_no_error_log_or_description(self, endpoint, connect, caplog, fault):
        caplog.set_level(logging.DEBUG)
        endpoint.always = fault
        backend, _ = connect(endpoint.url, api_key=KEY, retries=1)
        with pytest.raises(BackendError) as raised:
            backend.complete(["a"], GREEDY)
        seen = [repr(backend), str(backend.description), str(backend.headers_seen), caplog.text]
        error, errors = raised.value, []
        while error is not None:
            errors.append(error)
            seen += [str(error), repr(error), str(vars(error))]
            error = error.__cause__ or error.__context__
        assert all(isinstance(error, BackendError) for error in errors)
        seen += traceback.format_exception(raised.value)
        frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
        seen += [repr(frame.f_locals) for frame in frames if "fpvec_audit" in frame.f_code.co_filename]
        assert KEY not in "\n".join(seen)

    def test_key_in_an_answer_is_taken_out(self, endpoint, connect):
        endpoint.answer = lambda prompt: f"your key is {KEY}"
        backend, _ = connect(endpoint.url, api_key=KEY)
        assert backend.complete(["a"], GREEDY) == [Completion("your key is [API key]")]

    def test_placeholder_for_a_key_is_left_in_answers(self, endpoint, connect):
        backend, _ = connect(endpoint.url, api_key="EMPTY")
        assert backend.complete(["empty"], GREEDY) == [Completion("EMPTY")]

    @pytest.mark.parametrize(
        "url", ["http://example.org/v1", "http://10.0.0.1:8000/v1", "http://localhost.example.org"]
    )
    def test_key_is_not_sent_in_the_clear(self, url):
        with pytest.raises(UsageError, match=r"plain http.*use https") as raised:
            ApiBackend(url, model="m", endpoint="chat", api_key=KEY)
        assert KEY not in str(raised.value)

    @pytest.mark.parametrize("key", ["with space", "with\nline", "schlüssel", "tab\there"])
    def test_key_that_no_header_can_carry_is_refused_unseen(self, key):
        with pytest.raises(SettingsError) as raised:
            ApiBackend("https://example.org/v1", model="m", endpoint="chat", api_key=key)
        assert key not in str(raised.value)

    def test_filters_on_logs_end_with_the_backend(self, endpoint, connect):
        before = copy.copy(logging.getLogger("httpx").filters)
        backend, _ = connect(endpoint.url, api_key=KEY)
        assert logging.getLogger("httpx").filters != before
        backend.close()
        assert logging.getLogger("httpx").filters == before


class TestSettings:
    @pytest.mark.parametrize(
        "url",
        ["", "example.org/v1", "ftp://example.org", "http://", "http://[::1", "http://h:port/v1", "https://a\nb/v1"],
    )
    def test_url_that_is_none_is_refused(self, url):
        with pytest.raises(UsageError, match="cannot be read"):
            ApiBackend(url, model="m", endpoint="chat")

    @pytest.mark.parametrize("url", ["https://me:hidden@h/v1", "https://h/v1?key=hidden", "https://h/v1#hidden"])
    def test_url_that_may_hold_a_secret_is_refused_unseen(self, url):
        with pytest.raises(UsageError, match="user, a query or a fragment") as raised:
            ApiBackend(url, model="m", endpoint="chat")
        assert "hidden" not in str(raised.value)

    def test_last_slash_makes_no_difference(self, endpoint, connect):
        backend, _ = connect(endpoint.url + "/")
        assert backend.description.model == endpoint.url

    def test_unknown_endpoint_is_refused(self):
        with pytest.raises(UsageError, match="choose completions or chat"):
            ApiBackend("https://h/v1", model="m", endpoint="responses")

    def test_system_prompt_has_no_place_in_a_completion(self):
        with pytest.raises(UsageError, match="--endpoint chat"):
            ApiBackend("https://h/v1", model="m", endpoint="completions", system_prompt="Be brief.")

    @pytest.mark.parametrize("setting", [{"concurrency": 0}, {"timeout": 0}, {"timeout": -1}, {"retries": -1}])
    def test_numbers_that_cannot_be_meant_are_refused(self, setting):
        with pytest.raises(UsageError, match="cannot be meant"):
            ApiBackend("https://h/v1", model="m", endpoint="chat", **setting)

    def test_description_names_endpoint_model_and_what_it_said_of_itself(self, endpoint, connect):
        endpoint.headers = {
            "Via": "1.1 gate",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "Set-Cookie": "session=1",
            "Authorization": "no",
        }
        backend, _ = connect(endpoint.url, endpoint="chat")
        told = backend.description
        assert (told.kind, told.model, told.engine, told.deterministic) == ("api", endpoint.url, "chat endpoint", False)
        assert told.version.startswith("BaseHTTP")
        settings = dict(told.settings)
        assert settings.pop("header server") == told.version
        assert settings == {
            "url": endpoint.url,
            "model": MODEL,
            "endpoint": "chat",
            "tls": "none",
            "certificate_sha256": "none",
            "header via": "1.1 gate",
            "header openai-version": "2020-10-01",
            "header x-ratelimit-limit-requests": "60",
        }

    def test_headers_are_updated_over_the_run(self, endpoint, connect):
        backend, _ = connect(endpoint.url)
        assert "via" not in backend.headers_seen
        endpoint.headers = {"Via": "1.1 gate"}
        backend.complete(["a"], GREEDY)
        assert backend.headers_seen["via"] == "1.1 gate"


class TestTls:
    def test_certificate_that_does_not_verify_is_an_error_with_advice(self, connect, certificate):
        context, _, _ = certificate
        waits = []
        with fake_endpoint(context) as endpoint, pytest.raises(BackendError, match=r"does not verify.*--ca-file"):
            connect(endpoint.url, api_key=KEY, sleep=waits.append)
        assert endpoint.seen == []
        assert waits == []

    def test_certificate_of_another_host_does_not_verify(self, connect, certificate):
        context, file, _ = certificate
        with fake_endpoint(context) as endpoint, pytest.raises(BackendError, match="does not verify"):
            connect(endpoint.url.replace("127.0.0.1", "localhost"), ca_file=file)

    def test_protocol_and_certificate_are_recorded(self, connect, certificate):
        context, file, digest = certificate
        with fake_endpoint(context) as endpoint:
            backend, _ = connect(endpoint.url, ca_file=file, api_key=KEY)
            assert backend.complete(["a"], GREEDY) == [Completion("A")]
            backend.close()
        assert backend.description.settings["tls"] == "TLSv1.3"
        assert backend.description.settings["certificate_sha256"] == digest

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_file_of_authorities_that_is_none_is_refused(self, tmp_path, content):
        file = tmp_path / "ca.pem"
        if content:
            file.write_text(content)
        with pytest.raises(UsageError, match="cannot be read as certificates"):
            ApiBackend("https://h/v1", model="m", endpoint="chat", ca_file=file)


class TestEstimate:
    def test_counts_requests_tokens_and_cost(self):
        told = estimate(["abcdef"] * 99, 16, Decimal(3), Decimal(15))
        assert (told.requests, told.completion_tokens) == (101, 1600)
        assert told.prompt_tokens == 99 * 2 + 2 + 100 * 16
        assert told.cost == Decimal("0.0294")

    def test_rare_scripts_count_by_their_bytes(self):
        assert estimate(["漢字"], 1).prompt_tokens - estimate([""], 1).prompt_tokens == 6

    def test_no_price_is_no_cost(self):
        assert estimate(["a"], 1).to_json()["cost"] is None

    def test_system_prompt_goes_with_every_request(self):
        told, plain = estimate(["a", "b"], 1, system_prompt="abc"), estimate(["a", "b"], 1)
        assert told.prompt_tokens - plain.prompt_tokens == 3 * (1 + 16)
