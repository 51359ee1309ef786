"""Logs in CSV files: arrays known by hand, ends of episodes of both kinds, and mistakes with line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import mistake
from hypothesis import given
from hypothesis import strategies as st

import reverie
from datamodules.recorded.csv_logs import Columns, read_csv, write_npz
from datamodules.recorded.readers.npz import read_npz

COLUMNS = Columns(["x", "v"], ["u"], "r", episode="trip", terminated="crash", truncated="late")
GOOD = """\
trip,time,x,v,u,r,crash,late
1,9:00,0.0,1.0,0.5,1,0,0
1,9:01,0.1,1.1,-0.5,2,1,
2,9:00,5.0,2.0,0.25,3,false,False

2,9:01,5.5,2.5,0.75,4,0,1
3,9:05,7.0,3.0,0.5,5,,
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "logs.csv"
    path.write_text(text)
    return path


def test_arrays_are_those_of_the_rows(tmp_path: Path) -> None:
    arrays = read_csv(written(tmp_path, GOOD), COLUMNS)
    expected: dict[str, Any] = {
        "observations": [[0, 1], [0.1, 1.1], [5, 2], [5.5, 2.5], [7, 3]],
        "actions": [[0.5], [-0.5], [0.25], [0.75], [0.5]],
        "rewards": [1, 2, 3, 4, 5],
        "terminals": [False, True, False, False, False],
        "timeouts": [False, False, False, True, True],  # the last trip simply stops: it was cut
    }
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-6)
    assert arrays["observations"].dtype == arrays["rewards"].dtype == np.float32


@pytest.mark.parametrize("by", ["episode", "flags"])
def test_observations_that_episodes_ended_with(tmp_path: Path, by: str) -> None:
    text = "n,x,u,r,end\n1,0,1,1,0\n1,1,0,1,1\n1,2,,,\n2,5,1,1,0\n2,6,,,\n"
    columns = Columns(["x"], ["u"], "r", "n" if by == "episode" else None, terminated="end")
    arrays = read_csv(written(tmp_path, text), columns)
    assert arrays["final_observations"].tolist() == [[2.0], [6.0]]
    assert arrays["actions"].tolist() == [1, 0, 1]  # one column of whole numbers is discrete actions
    assert arrays["actions"].dtype == np.int64
    assert arrays["terminals"].tolist() == [False, True, False]
    assert arrays["timeouts"].tolist() == [False, False, True]


def test_flags_alone_end_episodes(tmp_path: Path) -> None:
    text = "x;u;r;stop\n0;.5;1;0\n1;.5;1;1\n2;.5;1;0\n"
    arrays = read_csv(written(tmp_path, text), Columns(["x"], ["u"], "r", truncated="stop"), ";")
    assert arrays["timeouts"].tolist() == [False, True, True]
    assert not arrays["terminals"].any()


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5), ends=st.data())
def test_ids_and_flags_tell_the_same_episodes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], ends: st.DataObject
) -> None:
    dead = ends.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    rows = [
        f"{episode},{step},0.5,{episode - step},{int(last and dead[episode])},{int(last and not dead[episode])}"
        for episode, n in enumerate(lengths)
        for step, last in enumerate([False] * (n - 1) + [True])
    ]
    path = written(tmp_path_factory.mktemp("csv"), "\n".join(["n,x,u,r,dead,cut", *rows]))
    by_id = read_csv(path, Columns(["x"], ["u"], "r", "n", "dead", "cut"))
    by_flags = read_csv(path, Columns(["x"], ["u"], "r", None, "dead", "cut"))
    by_id_alone = read_csv(path, Columns(["x"], ["u"], "r", "n"))
    assert all(np.array_equal(by_id[name], by_flags[name]) for name in by_id)
    assert np.array_equal(by_id["terminals"] | by_id["timeouts"], by_id_alone["timeouts"])
    assert by_id["terminals"].sum() == sum(dead)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",0.25,", ",fast,", ["line 4", "column u", "fast", "no number"]),
        (",0.25,", ",,", ["line 4", "column u", "is empty"]),
        (",0.25,", ",nan,", ["line 4", "column u", "not finite"]),
        ("4,0,1", "4,0,maybe", ["line 6", "column late", "maybe", "0 or 1"]),
        ("4,0,1", "4,0", ["line 6", "7 cells", "8 columns"]),
        ("2,9:01", "1,9:01", ["line 6", "column trip", "comes back"]),
        ("1,0,0\n", "1,1,0\n", ["line 3", "column crash", "goes on"]),
        ("time,x,v", "time,x,w", ["no column v", "it has"]),
        ("time,x,v", "v,x,v", ["column v", "more than once"]),
        ("1,9:00,0.0,1.0,0.5,1,0,0", "1,9:00,0.0,1.0,,,,", ["line 2", "none has begun"]),
        ("2,1,\n", "2,1,\n1,9:02,9,9,,,,\n", ["ends at line 7", "as others have"]),
        (GOOD, "", ["no column x", "it has"]),
        (GOOD, "trip,x,v,u,r,crash,late\n", ["no step"]),
        ("9:00", '"9:00', ["no CSV file"]),
    ],
)
def test_mistakes_name_line_and_column(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"logs\.csv") as caught:
        read_csv(path, COLUMNS)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert [word for word in words if word not in message] == [], message


def test_text_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_bytes(GOOD.replace("9:00", "é").encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_csv(path, COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"episode": None, "terminated": None, "truncated": None}, "where episodes end"),
        ({"observations": []}, "at least one column"),
        ({"reward": "x"}, "named twice"),
    ],
)
def test_columns_that_make_no_dataset(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Columns(**{"observations": ["x"], "actions": ["u"], "reward": "r", "episode": "n"} | arguments)


def test_the_file_that_is_written_is_a_dataset(tmp_path: Path) -> None:
    write_npz(read_csv(written(tmp_path, GOOD), COLUMNS), tmp_path / "a/logs.npz", "trips", "Pendulum-v1")
    found = read_npz(tmp_path / "a/logs.npz")
    assert (found.name, found.steps) == ("trips", 5)
    assert found.environment is not None
    (chunk,) = found.chunks()
    assert chunk.terminated.tolist() == [False, True, False, False, False]
    assert chunk.usable.tolist() == [True, True, True, False, False]  # what came after a cut is not known
    with pytest.raises(ValueError, match="exists already"):
        write_npz({}, tmp_path / "a/logs.npz", "trips", None)
    with pytest.raises(ValueError, match=r"\.npz"):
        write_npz({}, tmp_path / "a/logs.h5", "trips", None)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, GOOD)
    columns = ["--observations", "[x, v]", "--actions", "[u]", "--reward", "r", "--episode", "trip"]
    command = ["datasets", "csv", "logs.csv", "logs.npz", *columns]
    reverie.main([*command, "--terminated", "crash", "--truncated", "late"])
    assert "5 steps in 3 episodes, 1 to a terminal state and 2 cut" in capsys.readouterr().out
    assert "exists already" in mistake(command, capsys)
    Path("logs.npz").unlink()
    assert "did you mean crash" in mistake([*command, "--terminated", "crashed"], capsys)
    assert "no file at" in mistake(["datasets", "csv", "gone.csv", "logs.npz", *columns], capsys)
