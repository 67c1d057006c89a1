import json

from benchmarks.reproduction import BEGIN, DOCS, END, RESULTS, published, section


def test_the_docs_hold_what_was_measured():
    _, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    written, end, _ = rest.partition(END)
    assert end
    assert written.strip() == section().strip()


def test_what_is_published_names_no_directory():
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert published(document) == document
    paths = [text for text in _texts(document["stages"]) if text.startswith("/")]
    assert not paths


def _texts(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
