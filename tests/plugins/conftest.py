from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Train tiny models on one thread: several would mostly wait for each other when tests run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_documents() -> Iterator[tuple[str, ...]]:
    """Let trainings take a few documents of the package's own text: reading all of it takes seconds each time."""
    from fpvec_audit import toolkit
    from fpvec_audit.training import batches
    from fpvec_audit.training.ordinary import standard_library_documents

    some = standard_library_documents(most=40)
    with pytest.MonkeyPatch.context() as patch:
        for module in (toolkit, batches):
            patch.setattr(module, "standard_library_documents", lambda: some)
        yield some
