"""Opening the file to send."""

import os

import pytest

import landline
from landline.files.source import Source


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    open_before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(landline.ConfigurationError) as caught:
        Source(path)
    assert str(caught.value) == f"{path} is not a regular file; only regular files can be sent"
    assert set(os.listdir("/proc/self/fd")) == open_before
