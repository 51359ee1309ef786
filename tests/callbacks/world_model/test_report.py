from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensordict import TensorDict
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.mlflow.logger import MLflowLogger
from callbacks.world_model.figures import BLANK, IMAGINED, SEEN, film, panels
from callbacks.world_model.report import WorldModelReport, discounted, known_steps

SMALL = {"sequences": 2, "windows": 4, "context": 2, "length": 6}


class Dreamer(Toy):
    """Sees everything right; imagines pictures that are too bright by 50, states by 1, and half of the rewards."""

    reward_transform = torch.nn.Identity()

    def open_loop(self, batch, context):
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(())  # draws from the global generator
        imagined = (torch.arange(len(batch.reward)) >= context).float()[:, None]
        picture = batch.observation["picture"].float() + 50.0 * imagined[..., None, None, None]
        state = batch.observation["body/state"] + imagined[..., None]
        return SimpleNamespace(
            observation={"picture": picture, "body/state": state},
            reward=batch.reward * (1.0 - 0.5 * imagined),
            discount=torch.ones_like(batch.reward),
        )


class Recorded(ToyData):
    """Windows `[4, 6]`; the second has a reset at step 4, the third at step 1, the fourth as soon as step 2."""

    sequence_length = 6

    def sample_windows(self, count, length, generator):
        assert (count, length) == (4, 6)
        is_first = torch.zeros(4, 6, dtype=torch.bool)
        is_first[1, 4] = is_first[2, 1] = is_first[3, 2] = True
        observation = {
            "picture": torch.full((4, 6, 8, 16, 1), 100, dtype=torch.uint8),
            "body/state": torch.rand(4, 6, 3, generator=generator),
            "unseen": torch.zeros(4, 6),
        }
        fields = {
            "observation": observation,
            "previous_action": torch.zeros(4, 6, 1),
            "reward": torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(4, 6),
            "is_first": is_first,
            "terminated": is_first.roll(-1, 1),
            "truncated": torch.zeros_like(is_first),
        }
        return TensorDict(fields, [4, 6])


def fit(folder, callback, epochs=2, **arguments):
    agent = Dreamer(SPACES)
    torch.manual_seed(0)
    make_trainer(folder, epochs, [callback] if callback else [], **arguments).fit(agent, datamodule=Recorded())
    return agent


def test_errors_and_returns_are_those_of_what_was_imagined(tmp_path):
    metrics = fit(tmp_path, WorldModelReport(every_n_epochs=2, discount=0.5, **SMALL)).latest_metrics
    assert metrics["world_model/error/picture"] == pytest.approx(50.0)
    assert metrics["world_model/error/body/state"] == pytest.approx(1.0)
    # Imagined and known: four steps of windows 0 and 2, two of window 1, none of window 3.
    squares = (4 * 0.5**2 + 2 * 1.0**2 + 4 * 1.5**2) / 10
    assert metrics["world_model/reward_error"] == pytest.approx(squares**0.5)
    assert metrics["world_model/return_correlation"] == pytest.approx(1.0)
    assert "world_model/error/unseen" not in metrics


def test_objects_that_vanish_or_multiply_in_what_was_imagined_are_counted(tmp_path):
    class Balls(Recorded):
        """Two bright pixels in every picture of a grey board, one of them in those of the first window."""

        def sample_windows(self, count, length, generator):
            drawn = super().sample_windows(count, length, generator)
            places = torch.arange(6)
            drawn["observation", "picture"][:, places, places, 0] = 255
            drawn["observation", "picture"][1:, places, places, 9] = 255
            return drawn

    class Forgetful(Dreamer):
        """Leaves the ball on the left out of windows 1 and 2, and sees one more in window 0."""

        def open_loop(self, batch, context):
            found = super().open_loop(batch, context)
            picture = batch.observation["picture"].float()
            picture[:, 1:3, :, 0] = 100.0
            picture[:, 0, 7, 15] = 255.0
            found.observation["picture"] = picture
            return found

    agent = Forgetful(SPACES)
    make_trainer(tmp_path, 1, [WorldModelReport(**SMALL)]).fit(agent, datamodule=Balls())
    # Imagined and known: four steps of windows 0 and 2, two of window 1.
    assert agent.latest_metrics["world_model/vanished/picture"] == pytest.approx(6 / 10)
    assert agent.latest_metrics["world_model/multiplied/picture"] == pytest.approx(4 / 10)
    assert "world_model/vanished/body/state" not in agent.latest_metrics


def test_a_ball_that_vanishes_on_the_way_is_counted_step_by_step(tmp_path):
    class Balls(Recorded):
        """A bright pixel that moves over a grey board."""

        def sample_windows(self, count, length, generator):
            drawn = super().sample_windows(count, length, generator)
            places = torch.arange(6)
            drawn["observation", "picture"][:, places, places, 3] = 255
            return drawn

    class Losing(Dreamer):
        """Loses the ball of window 0 from the third imagined step on, and paints another one into window 2 at first."""

        def open_loop(self, batch, context):
            found = super().open_loop(batch, context)
            picture = batch.observation["picture"].float()
            picture[context + 2 :, 0] = 100.0
            picture[context, 2, 7, 15] = 255.0
            found.observation["picture"] = picture
            return found

    agent = Losing(SPACES)
    make_trainer(tmp_path, 1, [WorldModelReport(**SMALL)]).fit(agent, datamodule=Balls())
    found = {k.removeprefix("world_model/"): v for k, v in agent.latest_metrics.items()}
    # Known are four imagined steps of windows 0 and 2, and the first two of window 1.
    assert found["vanished/picture"] == pytest.approx(2 / 10)
    assert found["vanished/picture/first_step"] == 0.0
    assert found["vanished/picture/last_step"] == pytest.approx(1 / 2)
    assert found["multiplied/picture/first_step"] == pytest.approx(1 / 3)
    assert found["multiplied/picture/last_step"] == 0.0
    with Image.open(tmp_path / "world_model/objects_picture_00000010.png") as png:
        assert min(png.size) > 150


def test_imagined_rewards_are_compared_with_those_that_the_model_learns(tmp_path):
    agent = Dreamer(SPACES)
    agent.reward_transform = torch.zeros_like
    make_trainer(tmp_path, 1, [WorldModelReport(**SMALL)]).fit(agent, datamodule=Recorded())
    squares = (4 * 0.5**2 + 2 * 1.0**2 + 4 * 1.5**2) / 10
    assert agent.latest_metrics["world_model/reward_error"] == pytest.approx(squares**0.5)  # halves of 1, 2 and 3
    assert "world_model/return_correlation" not in agent.latest_metrics


def test_every_report_leaves_films_strips_lines_and_a_scatter(tmp_path):
    fit(tmp_path, WorldModelReport(every_n_epochs=2, **SMALL), epochs=3)
    names = sorted(path.name for path in (tmp_path / "world_model").iterdir())
    endings = ("body_state_{}.png", "objects_picture_{}.png", "picture_{}.gif", "picture_{}.png", "returns_{}.png")
    assert names == sorted(e.format(at) for e in endings for at in ("00000020", "00000030"))  # the last at the end
    with Image.open(tmp_path / "world_model/picture_00000020.gif") as gif:
        frames = []
        for index in range(gif.n_frames):
            gif.seek(index)
            steps = gif.info["duration"] // 100  # equal pictures that follow each other are stored once
            frames += [np.asarray(gif.convert("RGB")).astype(int)] * steps
    assert len(frames) == 6
    # Two sequences of 8 x 16 pixels, eight times as large: truth, model and error from top to bottom.
    assert frames[0].shape == (3 * 64 + 8, 2 * (128 + 2) + 6, 3)
    centre = 4 + 64
    for index, (model, error) in enumerate([(100, 127.5)] * 2 + [(150, 152.5)] * 4):
        column = frames[index][:, centre]
        np.testing.assert_allclose(column[36], 100, atol=3)
        np.testing.assert_allclose(column[100], model, atol=3)
        np.testing.assert_allclose(column[164], error, atol=3)
        np.testing.assert_allclose(frames[index][0, 0], SEEN if index < 2 else IMAGINED, atol=6)
    # The reset of the second sequence at step 4 could not be foreseen: nothing is claimed from there on.
    assert [abs(frame[100, centre + 130, 0] - BLANK) < 4 for frame in frames] == [False] * 4 + [True] * 2
    for path in (tmp_path / "world_model").glob("*.png"):
        with Image.open(path) as png:
            assert min(png.size) > 150


def test_training_is_what_it_would_be_without(tmp_path):
    with_report = fit(tmp_path / "a", WorldModelReport(every_n_epochs=1, **SMALL))
    without = fit(tmp_path / "b", None)
    assert with_report.training
    assert torch.equal(with_report.weight, without.weight)


def test_files_are_sent_to_mlflow(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(MLflowLogger, "put", lambda self, kind, run_id=None, **fields: sent.append((kind, fields)))
    monkeypatch.setattr(MLflowLogger, "experiment", None)
    monkeypatch.setattr(MLflowLogger, "finalize", lambda self, status="success": None)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLflowLogger(tracking_uri=uri, run_directory=str(tmp_path))
    fit(tmp_path, WorldModelReport(every_n_epochs=2, **SMALL), logger=logger)
    files = [fields for kind, fields in sent if kind == "file"]
    assert {f["source"] for f in files} == {str(p) for p in (tmp_path / "world_model").iterdir()}
    assert {f["folder"] for f in files} == {"world_model"}


def test_panels_of_colours_and_of_stacks():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (2, 1, 4, 4, 3)).astype(np.uint8)
    known = np.ones((2, 1), bool)
    found = panels(colours, colours + 300.0, known)  # what is out of range is cut
    np.testing.assert_array_equal(found[:, :, :4], colours)
    assert (found[:, :, 4:8] == 255).all()
    stack = rng.integers(0, 256, (2, 1, 4, 4, 4)).astype(np.uint8)
    found = panels(stack, stack.astype(float), known)
    np.testing.assert_array_equal(found[:, :, :4, :, 1], stack[..., 3])
    assert film(found, 1).shape == (2, 3 * 64 + 8, 2 + 64 + 6, 3)


def test_nothing_is_known_from_the_first_reset_after_the_context():
    is_first = np.zeros((6, 4), bool)
    is_first[0] = is_first[1, 1] = is_first[3, 2] = is_first[5, 2] = is_first[2, 3] = True
    known = known_steps(is_first, 2)
    assert known.sum(0).tolist() == [6, 6, 3, 2]
    assert known[:2].all()


def test_discounted_sums_over_the_known_steps_of_windows_that_have_any():
    reward = np.array([[1.0, 2.0, 5.0], [4.0, 8.0, 5.0], [16.0, 32.0, 5.0]])
    known = np.array([[True, True, False], [True, False, False], [True, False, False]])
    np.testing.assert_allclose(discounted(reward, known, 0.5), [1 + 2 + 4, 2])


def test_windows_without_anything_imagined_give_no_numbers(tmp_path):
    class Ending(Recorded):
        def sample_windows(self, *arguments):
            windows = super().sample_windows(*arguments)
            windows["is_first"][:, 2] = True
            return windows

    agent = Dreamer(SPACES)
    make_trainer(tmp_path, 1, [WorldModelReport(**SMALL)]).fit(agent, datamodule=Ending())
    assert not any(name.startswith("world_model") for name in agent.latest_metrics)
    assert not list((tmp_path / "world_model").glob("returns*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1"),
        ({"context": 0}, "context must be at least 1"),
        ({"sequences": 9, "windows": 8}, "windows: 8"),
        ({"discount": 1.5}, r"discount must lie in \[0, 1\]"),
    ],
)
def test_mistakes_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        WorldModelReport(**arguments)


def test_agents_and_data_without_what_it_needs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Toy has no open_loop and reward_transform"):
        make_trainer(tmp_path, 1, [WorldModelReport()]).fit(Toy(SPACES), datamodule=Recorded())
    with pytest.raises(ValueError, match="ToyData has no sample_windows"):
        make_trainer(tmp_path, 1, [WorldModelReport()]).fit(Dreamer(SPACES), datamodule=ToyData())
    with pytest.raises(ValueError, match="the length is 5, the context 5"):
        make_trainer(tmp_path, 1, [WorldModelReport(length=5)]).fit(Dreamer(SPACES), datamodule=Recorded())


def test_windows_are_as_long_as_the_training_sequences(tmp_path):
    data = Recorded()
    data.sequence_length = 6
    report = WorldModelReport(sequences=2, windows=4, context=2)
    make_trainer(tmp_path, 1, [report]).fit(Dreamer(SPACES), datamodule=data)
    assert report.length == 6
