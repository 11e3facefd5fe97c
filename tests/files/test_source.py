"""What can be sent, and what is said of what cannot."""

import os

import pytest

import landline
from landline.files.source import Source


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_is_named_and_left_closed(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    open_before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(landline.ConfigurationError) as caught:
        Source(path)
    assert str(caught.value) == f"{path} is not a file that can be sent; name a regular file"
    assert set(os.listdir("/proc/self/fd")) == open_before
