import inspect

from fpvec_audit import errors


def test_every_error_stands_in_the_tree_of_the_module_docstring():
    classes = [
        name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.FpvecError)
    ]
    assert [name for name in classes if name not in (errors.__doc__ or "")] == []


def test_unknown_name_suggests_the_nearest_and_the_listing():
    error = errors.UnknownNameError("attack", "finetune", ["fine_tune", "guessing"], listing="fpvec attack list")
    assert error.exit_code == 2
    assert "did you mean fine_tune" in str(error)
    assert "fpvec attack list" in str(error)


def test_unknown_name_without_near_one_lists_what_is_known():
    assert "known: a, b" in str(errors.UnknownNameError("vector", "zzz", ["b", "a"]))
    assert "there is no vector yet" in str(errors.UnknownNameError("vector", "zzz", []))
