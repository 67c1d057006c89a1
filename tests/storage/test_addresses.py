"""Addresses: what is one, what is refused, and that no message holds a secret."""

import sys

import pytest

from fpvec_audit.errors import StorageError, UsageError
from fpvec_audit.storage.addresses import explained, is_url, open_store, read_address


@pytest.mark.parametrize("text", ["s3://bucket/models/a", "gs://bucket/a/", "file:///models/a", "memory://models/a"])
def test_a_url_is_told_from_a_path(text):
    assert is_url(text)
    assert read_address(text).name == "a"
    assert not is_url("models/a")
    assert not is_url("/models/s3:/a")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://bucket", "whole store"),
        ("file:///", "whole store"),
        ("s3://bucket/../other", "has . or .."),
        ("simplecache::s3://bucket/a", "no URL"),
        ("s3://bucket/a::zip://b", "no single place"),
        ("s3://bucket/a*", "no single place"),
        ("/plain/path", "no URL"),
        ("s3://bucket/a\nb", "no URL"),
    ],
)
def test_what_names_no_directory_is_refused(url, problem):
    with pytest.raises(UsageError, match=problem):
        read_address(url)


@pytest.mark.parametrize("url", ["s3://KEY:hush@bucket/a", "s3://bucket/a?X-Amz-Signature=hush", "s3://:hush@bucket/a"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(UsageError, match="password or a query") as caught:
        read_address(url)
    assert "hush" not in str(caught.value)


def test_a_user_in_an_address_is_not_shown():
    address = read_address("sftp://token@host/models/a")
    assert "token" not in f"{address.shown} {address}"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match="pip install gcsfs"):
        open_store(read_address("gs://bucket/a"))


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match="no package knows s4://"):
        open_store(read_address("s4://bucket/a"))


def test_what_a_store_says_is_passed_on_without_secrets():
    address = read_address("s3://bucket/a")
    with pytest.raises(StorageError, match="could not be reached") as caught, explained(address):
        raise OSError("Could not connect to https://bucket.example/a?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)
    with pytest.raises(StorageError, match="access was refused"), explained(address):
        raise PermissionError("Forbidden")
    with pytest.raises(KeyError), explained(address):  # a fault of ours stays one
        raise KeyError("a")
