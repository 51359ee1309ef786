"""Files that are whole or absent, and what a run makes of those that are damaged all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.evaluation.report import FINAL, Score, read_final, write_final
from callbacks.files.written_aside import written_aside
from callbacks.mlflow.logger import MLflowLogger


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made/it.txt"
    with written_aside(path) as aside:
        aside.write_text("old")
        assert not path.exists()

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("ne")
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ['{"updates": 3, "sco', "[]", "{}", '{"updates": 3, "scores": [{"mean": 1}]}', "\xff"])
def test_a_damaged_final_evaluation_is_played_again(text: str, tmp_path: Path) -> None:
    score = Score(3, "last", "last", "", 2, 1.0, 0.5, 1.5, None, None, None)
    write_final([score], 3, tmp_path)
    assert read_final(tmp_path, 3) == [score]
    assert read_final(tmp_path, 4) is None
    (tmp_path / FINAL).write_bytes(text.encode("latin1"))
    with pytest.warns(UserWarning, match=rf"{FINAL} cannot be read .* and is written anew"):
        assert read_final(tmp_path, 3) is None


def test_a_damaged_mlflow_run_is_named_and_can_be_moved_away(tmp_path: Path) -> None:
    place = tmp_path / "mlflow_run.json"
    for content in (b'{"run_id": "a', b"[1]", b"{}", b'{"run_id": 1, "tracking_uri": "", "children": {}}', b"\xff"):
        place.write_bytes(content)
        logger = MLflowLogger("toys", f"sqlite:///{tmp_path / 'mlflow.db'}", run_directory=str(tmp_path))
        with pytest.raises(ValueError, match=r"mlflow_run\.json is damaged: move it away"):
            _ = logger.experiment
    place.rename(tmp_path / "away.json")
    assert logger.run_id is not None
    assert place.is_file()
