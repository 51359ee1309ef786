"""The private parts of Minari that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
from minari.dataset.minari_storage import MinariStorage

from datamodules.recorded.readers.minari_private import storage_kind


def test_the_class_of_a_format_is_made_of_a_folder_and_spaces_alone(tmp_path: Path) -> None:
    space = gym.spaces.Box(-1.0, 1.0, (2,))
    kind = storage_kind("hdf5")
    assert issubclass(kind, MinariStorage)
    (tmp_path / "main_data.hdf5").touch()
    (tmp_path / "metadata.json").write_text('{"data_format": "hdf5"}')  # without spaces and environment
    storage = kind(tmp_path, space, space, jpeg_encoding=True)
    assert storage.observation_space is space
    with pytest.raises(KeyError):
        storage_kind("os.system")
