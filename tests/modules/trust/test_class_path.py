"""Networks by class path: what a constructor gets in Python and what a checkpoint says make the same network."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from modules.experts.layer import SparseMoE
from modules.experts.residual_stack import ResidualStack
from modules.networks.blocks import MLP
from modules.trust.class_path import describe, resolve


class Learner:
    """Stands for an agent."""

    def __init__(self, trunk: Callable[[int, int], nn.Module] | None = None, rate: float | list[float] = 1.0) -> None:
        self.trunk = trunk


NESTED = functools.partial(ResidualStack, depth=2, experts=functools.partial(SparseMoE, num_experts=4, k=1))
PLAIN = {
    "class_path": "modules.experts.residual_stack.ResidualStack",
    "init_args": {
        "depth": 2,
        "experts": {"class_path": "modules.experts.layer.SparseMoE", "init_args": {"num_experts": 4, "k": 1}},
    },
}


def test_nested_partials_become_plain_and_make_the_same_network_again() -> None:
    assert describe({"trunk": NESTED, "rate": [0.5]}, "Learner") == {"trunk": PLAIN, "rate": [0.5]}
    arguments = resolve(Learner, {"trunk": PLAIN, "rate": [0.5]}, "x.ckpt")
    assert arguments["rate"] == [0.5]
    made = []
    for trunk in (NESTED, arguments["trunk"]):
        torch.manual_seed(0)
        made.append(trunk(3, 5))
    assert isinstance(made[1].blocks[1], SparseMoE)
    assert made[1].blocks[1].k == 1
    for (name, p), q in zip(made[0].state_dict().items(), made[1].state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def test_plain_values_and_classes() -> None:
    plain = {"trunk": None, "rate": (1.0, 2.0)}
    assert describe({**plain, "deep": {"a": [1, "b", None]}}, "x") == {**plain, "deep": {"a": [1, "b", None]}}
    assert resolve(Learner, plain, "x.ckpt") == plain
    assert describe(MLP, "trunk") == {"class_path": "modules.networks.blocks.MLP"}
    assert resolve(Learner, {"trunk": describe(MLP, "trunk")}, "x.ckpt")["trunk"](3, 5).second.out_features == 5


@dataclasses.dataclass(frozen=True)
class Rates:
    """A group of arguments."""

    slow: float = 0.1
    trunk: Callable[[int, int], nn.Module] | None = None

    def __post_init__(self) -> None:
        if self.slow < 0:
            raise ValueError("rates.slow is negative")


class Grouped:
    """Stands for an agent with a group."""

    def __init__(self, rates: Rates = Rates()) -> None:
        self.rates = rates


def test_a_group_of_arguments_is_a_mapping_of_its_fields() -> None:
    plain = describe({"rates": Rates(slow=0.2, trunk=MLP)}, "Grouped")
    assert plain == {"rates": {"slow": 0.2, "trunk": {"class_path": "modules.networks.blocks.MLP"}}}
    assert resolve(Grouped, plain, "x.ckpt") == {"rates": Rates(slow=0.2, trunk=MLP)}
    assert resolve(Grouped, {"rates": {}}, "x.ckpt") == {"rates": Rates()}
    for wrong, said in (
        ({"slo": 1.0}, "x.ckpt: Rates has no argument slo"),
        ({"slow": "fast"}, "x.ckpt: slow of Rates should be float"),
        ({"slow": -1.0}, "x.ckpt: rates of Grouped: rates.slow is negative"),
        ({"trunk": {"class_path": "os.system"}}, "x.ckpt: trunk of Rates names os.system"),
        ({"class_path": "os.system"}, "x.ckpt: rates of Grouped takes no class"),
        ("fast", "x.ckpt: rates of Grouped should be"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            resolve(Grouped, {"rates": wrong}, "x.ckpt")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Another group."""

    low: float = 0.0
    high: float = 1.0


class EitherGroup:
    """Stands for an agent with a group of one kind or another."""

    def __init__(self, how: Rates | Limits = Rates()) -> None:
        self.how = how


@pytest.mark.parametrize("how", [Rates(slow=0.2), Limits(high=3.0)])
def test_of_several_groups_the_one_with_these_fields_is_meant(how: Rates | Limits) -> None:
    assert resolve(EitherGroup, describe({"how": how}, "EitherGroup"), "x.ckpt") == {"how": how}
    with pytest.raises(ValueError, match=re.escape("x.ckpt: Rates has no argument low")):
        resolve(EitherGroup, {"how": {"slow": 1.0, "low": 1.0}}, "x.ckpt")


class Outer:
    class Inner(nn.Linear):
        """A class within a class can be named."""


@pytest.mark.parametrize(
    "trunk",
    [
        lambda d_in, d_out: nn.Linear(d_in, d_out),
        functools.partial(nn.Linear, 3),
        type("Local", (nn.Linear,), {"__qualname__": "f.<locals>.Local"}),
        nn.Linear(2, 2),
        functools.partial(SparseMoE, expert=lambda d_in, d_out: nn.Linear(d_in, d_out)),
    ],
)
def test_what_has_no_class_path_is_refused_by_name(trunk) -> None:
    with pytest.raises(ValueError, match=r"^Learner\.trunk\S* must be a class that can be imported[^\n]*$"):
        describe({"trunk": trunk}, "Learner")


def test_a_class_path_that_leads_nowhere_is_named() -> None:
    assert describe(Outer.Inner, "x") == {"class_path": f"{__name__}.Outer.Inner"}
    for wrong, said in (
        ({"class_path": "modules.networks.nothing.Such"}, "modules.networks.nothing"),
        ({"class_path": PLAIN["class_path"], "init_args": {"depht": 2}}, "depht"),
        ({"class_path": PLAIN["class_path"], "init_args": {"depth": "two"}}, "depth"),
    ):
        with pytest.raises(ValueError, match=said):
            resolve(Learner, {"trunk": wrong}, "x.ckpt")
