"""`evaluate --foreseen.video`: windows of real play, the films of what a model foresees of them, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import save, write_checkpoint
from command_line import mistake
from dreamer_agents import make_agent as make_dreamer
from PIL import Image
from simple_agents import Counting, make
from torch import Tensor

from callbacks.world_model.figures import IMAGINED, SEEN
from commands.asked_episodes import Asked
from commands.evaluate import evaluate
from commands.foreseen import Foreseen, check_foreseen, played_windows, starts
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from modules.agent.agent import Agent
from modules.batch import SequenceBatch
from modules.networks.video_model import Foreseen as Step
from modules.trust.names import trusting

SMALL: dict[str, Any] = {"rows": 5, "columns": 3}
CATCH: dict[str, Any] = {"environment": "reverie/Catch-v0", "environment_arguments": SMALL, "episodes": 1}


class Grey(Counting):
    """Foresees a picture of one brightness, whatever is done."""

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> Step:
        return super().step(state, action, noise)._replace(frame=torch.full_like(state[-1], 200))


def played(agent: Agent, seed: int = 0, **settings: Any) -> SequenceBatch:
    asked = Asked(EnvironmentSpec("reverie/Catch-v0", SMALL), 1, seed, 100, Protection(same_episodes=True))
    return played_windows(agent.eval(), asked, Foreseen("films", **settings))


def test_windows_are_real_play_of_the_deterministic_policy_from_random_moments() -> None:
    agent = make()
    batch = played(agent, context=2, steps=6, windows=40)
    frames, first = batch.observation["observation"], batch.is_first
    assert frames.shape == (8, 40, 5, 3, 1)
    assert not first[1:3].any()  # the context and what follows it are of one episode
    ball = frames[:, :, :4, :, 0].flatten(2).argmax(-1)  # above the paddle's row
    for t in range(1, 8):
        action, _ = agent.act({"observation": frames[t - 1]}, None, explore=False)
        falls = ~first[t] & ~batch.terminated[t]
        assert torch.equal(batch.previous_action[t][~first[t]], action[~first[t]])
        assert torch.equal(ball[t][falls], ball[t - 1][falls] + 3)
        assert torch.equal(first[t], batch.terminated[t - 1])
    begun = {int(row) for row in ball[0] // 3}
    assert begun == {0, 1, 2}, "an episode has five frames, of which three are needed"


def test_the_same_seed_draws_the_same_windows_and_another_one_others() -> None:
    agent = make()
    drawn = [played(agent, seed, context=2, windows=8) for seed in (0, 0, 1)]
    one, same, other = (batch.observation["observation"] for batch in drawn)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_starts_are_rows_whose_context_and_next_frame_are_one_episode() -> None:
    first = torch.zeros(8, 2, dtype=torch.bool)
    first[[0, 3], 0] = first[7, 1] = True
    assert starts(first, 2, 4).tolist() == [[True, True], [False, True], [False, True], [True, True], [True, True]]
    assert starts(first, 1, 4)[:, 0].tolist() == [True, True, False, True, True]
    assert starts(first, 3, 4)[:, 0].tolist() == [False, False, False, True, True]
    assert starts(first, 3, 4)[:, 1].tolist() == [True, True, True, True, False]


def test_a_film_holds_the_real_frames_the_models_and_their_difference(tmp_path: Path) -> None:
    from moviepy import VideoFileClip

    save(make(video=Grey), tmp_path / "grey.ckpt")
    settings = Foreseen(str(tmp_path / "films"), context=2, steps=2, windows=1)
    with trusting(["simple_agents", "test_foreseen"]):
        evaluate(str(tmp_path / "grey.ckpt"), foreseen=settings, seed=3, **CATCH)
    assert sorted(p.name for p in (tmp_path / "films").iterdir()) == [
        "foreseen_observation.mp4", "foreseen_observation.png"
    ]  # fmt: skip
    film = VideoFileClip(str(tmp_path / "films/foreseen_observation.mp4"))
    shown = [frame.astype(float) for frame in film.iter_frames()]
    film.close()
    assert len(shown) == 4
    # Three pictures of 5 x 3 pixels below each other, each 22 times as large, in an edge of 4; all of that enlarged.
    scale = shown[0].shape[1] // (4 + 3 * 22 + 4)
    truth = played(make(video=Grey), 3, context=2, steps=2, windows=1).observation["observation"][:, 0, ..., 0]
    for t, frame in enumerate(shown):
        edge = SEEN if t < 2 else IMAGINED
        np.testing.assert_allclose(frame[scale, frame.shape[1] // 2], edge, atol=30)  # colours of films are coarse
        cells = [
            [frame[round(scale * (4 + 22 * (row + 0.5))), round(scale * (4 + 22 * (column + 0.5)))].mean()
             for column in range(3)] for row in range(15)
        ]  # fmt: skip
        real, model, error = np.split(np.array(cells), 3)
        expected = truth[t].numpy().astype(float)
        foreseen = expected if t < 2 else np.full((5, 3), 200.0)
        np.testing.assert_allclose(real, expected, atol=8)
        np.testing.assert_allclose(model, foreseen, atol=8)
        np.testing.assert_allclose(error, (foreseen - expected + 255) / 2, atol=8)
    with Image.open(tmp_path / "films/foreseen_observation.png") as picture:
        assert min(picture.size) > 150


def test_of_a_dict_the_images_are_filmed_and_dreamers_are_too(tmp_path: Path, capsys: Any) -> None:
    spec = EnvironmentSpec("reverie/TwoCatch-v0", SMALL)
    env = spec.make()
    save(make_dreamer(env.observation_space, env.action_space), tmp_path / "two.ckpt")
    folder = tmp_path / "films"
    evaluate(
        str(tmp_path / "two.ckpt"), environment=spec.id, environment_arguments=SMALL, episodes=1,
        foreseen=Foreseen(str(folder), context=2, steps=3, windows=2),
    )  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == ["foreseen_image.mp4", "foreseen_image.png"]
    assert str(folder / "foreseen_image.mp4") in capsys.readouterr().out


def test_what_cannot_be_filmed_is_refused_in_one_line_before_anything_is_played(tmp_path: Path, capsys: Any) -> None:
    write_checkpoint(tmp_path / "atac.ckpt")
    save(make_dreamer(), tmp_path / "vectors.ckpt")
    file = tmp_path / "file"
    file.write_text("")

    def told(checkpoint: str, *arguments: str) -> str:
        begin = ["evaluate", "--ckpt_path", str(tmp_path / checkpoint), "--environment", "Pendulum-v1"]
        return mistake([*begin, *arguments], capsys)

    here = ("--foreseen.video", str(tmp_path / "films"))
    assert "holds a ATAC, which has no world model; --video films how it plays" in told("atac.ckpt", *here)
    assert "--foreseen.steps is for films: say where by --foreseen.video FOLDER" in told(
        "atac.ckpt", "--foreseen.steps", "9"
    )
    assert "foreseen.windows must lie in [1, 100]" in told("atac.ckpt", *here, "--foreseen.windows", "0")
    assert "is no folder; name another one" in told("atac.ckpt", "--foreseen.video", str(file))
    with pytest.raises(ValueError, match=r"foresees no images, but Box.*; --video films how its agent plays"):
        check_foreseen(make_dreamer(), "some.ckpt", Foreseen(str(tmp_path)))
    with pytest.raises(ValueError, match=r"have no more than 9 frames; give fewer"):
        played(make(), context=9)
    assert not (tmp_path / "films").exists()
