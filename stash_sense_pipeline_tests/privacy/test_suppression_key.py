import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppression_key import KEY_BYTES, load_or_create_key


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "data" / "suppression.key"
    old = os.umask(0)
    try:
        key = load_or_create_key(path)
    finally:
        os.umask(old)
    assert len(key) == KEY_BYTES
    assert mode(path) == 0o600
    assert load_or_create_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["suppression.key"]
    assert load_or_create_key(tmp_path / "other.key") != key


@pytest.mark.slow
def test_several_threads_at_once_get_the_same_key(tmp_path):
    for attempt in range(20):
        path = tmp_path / str(attempt) / "suppression.key"
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(load_or_create_key, [path] * 8))
        assert len(keys) == 1
        assert [entry.name for entry in path.parent.iterdir()] == ["suppression.key"]


def test_a_key_file_that_others_can_read_is_made_private(tmp_path):
    path = tmp_path / "suppression.key"
    key = load_or_create_key(path)
    path.chmod(0o644)
    assert load_or_create_key(path) == key
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xfe", b"0" * 63, b"g" * 64, b"0" * 64 + b"\n\n"])
def test_a_file_without_a_valid_key_is_refused_and_left_unchanged(tmp_path, content):
    path = tmp_path / "suppression.key"
    path.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"suppression\.key: this is not a suppression key; restore it"
    ):
        load_or_create_key(path)
    assert path.read_bytes() == content


def test_a_directory_in_place_of_the_key_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load_or_create_key(tmp_path)
