"""Everything private of Minari that this project uses, with the reason; no other file names any of it.

tests/datamodules/recorded/readers/test_minari_private.py fails where an upgrade of Minari changes what it relies on.
"""

from __future__ import annotations

from typing import Any

from minari.dataset._storages import get_minari_storage


def storage_kind(data_format: Any) -> Any:
    """The class that reads episodes of this format, made of a folder and two spaces.

    `minari.load_dataset` and `MinariStorage.read` read the spaces from the file too, and make the environment that it
    names, before anything of it could be checked.

    Raises:
        KeyError: Minari knows no such format.
    """
    return get_minari_storage(data_format)
