"""Names of arguments in messages: those of the command line, and those of Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest

from modules.networks.action_spaces import action_width
from modules.trust.options import called_from_python, option


def test_an_argument_is_an_option_and_a_keyword_within_a_call_from_python() -> None:
    with called_from_python():
        assert option("data.resize", "64", "64") == "resize=64"
        assert option("member") == "member=..."
    assert option("data.resize", "64", "64") == "--data.resize 64"
    assert option("member") == "--member"


def test_a_call_in_one_thread_changes_no_message_of_another() -> None:
    with ThreadPoolExecutor(1) as pool, called_from_python():
        assert pool.submit(option, "member").result() == "--member"


def test_advice_on_spaces_names_the_argument_of_the_data() -> None:
    space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ValueError, match=r"this sets some: --data\.wrappers '\[\{class_path: .*LimitActions"):
        action_width(space)
    with called_from_python(), pytest.raises(ValueError, match=r"some: wrappers=\[functools\.partial\(.*LimitActions"):
        action_width(space)
