"""All forms of the experts' computation against a plain loop over tokens, with gradients."""

import math

import pytest
import torch

from modules.experts.products import FORMS, check_finite, expert_mlp, plain_expert_mlp
from modules.experts.routing import expert_choice, limit_rows, threshold_rows, token_rows
from modules.functional.elementwise import activate, first_width

D, H, OUT, E = 5, 8, 3, 6
ACTIVATIONS = ["relu", "gelu", "swiglu"]


def make_weights(activation, dtype=torch.float64, d=D, h=H, o=OUT, experts=E):
    g = torch.Generator().manual_seed(1)
    f = first_width(h, activation)
    shapes = [(experts, d, f), (experts, f), (experts, h, o), (experts, o)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def ragged(n, k=2):
    """Random choices that leave the last expert unused."""
    g = torch.Generator().manual_seed(n)
    chosen = torch.rand(n, E - 1, generator=g).argsort(1)[:, :k]
    return token_rows(chosen, torch.rand(n, k, generator=g, dtype=torch.float64))


def all_on_one(n):
    return token_rows(torch.full((n, 1), 3), torch.rand(n, 1, dtype=torch.float64))


def experts_choose(n):
    scores = torch.rand(n, E, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return expert_choice(scores, 5)[0]


def with_drops(n):
    return limit_rows(ragged(n), E, 0.7)


def by_threshold(n):
    scores = torch.rand(n, E, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return threshold_rows(scores, torch.full((E,), 0.6))


def nothing_kept(n):
    rows = ragged(n)
    return rows._replace(expert=torch.full_like(rows.expert, E), weight=0 * rows.weight, complete=False)


def same_expert_twice(n):
    """Ties: a token that visits one expert by two rows."""
    return token_rows(torch.full((n, 2), 1), torch.rand(n, 2, dtype=torch.float64))


LOADS = [ragged, all_on_one, experts_choose, with_drops, by_threshold, nothing_kept, same_expert_twice]
CASES = [(backend, "float64", 1e-10) for backend in ("loop", "padded", "dense")]
CASES += [("grouped", "float32", 2e-5)]  # grouped products do not exist in float64


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), CASES)
def test_output_and_gradients_equal_a_plain_loop(backend, dtype, tolerance, activation, load):
    dtype = getattr(torch, dtype)
    d, o = (D, OUT) if backend != "grouped" else (8, 4)  # grouped products need rows of 16 bytes
    rows = load(23)
    x = torch.randn(23, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = make_weights(activation, d=d, o=o)
    rows.weight.requires_grad_()
    out_grad = torch.randn(23, o, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    y = plain_expert_mlp(x, rows, *weights, activation)
    inputs = [x, rows.weight, *weights]
    zero = sum(t.sum() for t in inputs) * 0  # what drops everything has no gradient, which is zero here
    expected = torch.autograd.grad((y * out_grad).sum() + zero, inputs)

    copies = [t.detach().to(dtype).requires_grad_() for t in inputs]
    mine = expert_mlp(copies[0], rows._replace(weight=copies[1]), *copies[2:], activation, backend)
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), y, atol=tolerance, rtol=tolerance)
    gradients = torch.autograd.grad((mine * out_grad.to(dtype)).sum(), copies)
    kept = (rows.expert < E).double()
    for index, (gradient, reference) in enumerate(zip(gradients, expected, strict=True)):
        # Of a dropped row's weight, only forms that compute nothing for it say zero; callers multiply by zero anyway.
        factor = kept if index == 1 else 1.0
        torch.testing.assert_close(gradient.double() * factor, reference * factor, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", ["loop", "padded", "dense", "grouped"])
@pytest.mark.parametrize("n", [0, 1])
def test_no_token_and_one_token(backend, n):
    weights = make_weights("relu", torch.float32, d=8, o=4)
    x = torch.randn(n, 8, requires_grad=True)
    rows = token_rows(torch.full((n, 2), 1), torch.full((n, 2), 0.5))
    if backend == "padded" and n == 0:
        assert expert_mlp(x, rows, *weights, "relu", backend).shape == (0, 4)
        return
    y = expert_mlp(x, rows, *weights, "relu", backend)
    assert y.shape == (n, 4)
    gradients = torch.autograd.grad(y.sum() + 0 * x.sum(), [x, *weights])
    torch.testing.assert_close(y, plain_expert_mlp(x, rows, *weights, "relu"))
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[1][0].abs().sum() == 0  # an expert without tokens gets exactly zero


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loop_passes_gradcheck(activation):
    rows = ragged(7)
    x = torch.randn(7, D, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(4))
    inputs = (x, rows.weight.requires_grad_(), *make_weights(activation))

    def run(x, weight, *weights):
        return expert_mlp(x, rows._replace(weight=weight), *weights, activation, "loop")

    assert torch.autograd.gradcheck(run, inputs)


def test_operator_is_well_formed():
    rows, weights = ragged(9), [w.view_as(w) for w in make_weights("relu")]
    x = torch.randn(9, D, dtype=torch.float64, requires_grad=True)
    arguments = (x, rows.expert, rows.token, rows.weight, rows.offsets, *weights, "relu", "loop", True)
    torch.library.opcheck(torch.ops.reverie.expert_mlp.default, arguments)


def test_frozen_experts_cost_no_gradient(monkeypatch):
    """A loss that only passes through, as an actor's through its critic, computes no gradient of the experts."""
    seen = []
    form = FORMS["loop"]

    def backward(*arguments):
        seen.append(arguments[-1])
        return form.backward(*arguments)

    monkeypatch.setitem(FORMS, "loop", form._replace(backward=backward))
    weights, rows = make_weights("relu"), ragged(9)
    x = torch.randn(9, D, dtype=torch.float64, requires_grad=True)
    y = expert_mlp(x, rows, *weights, "relu", "loop")
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.autograd.grad(y.sum(), [x, *weights])
    assert seen == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    weights = make_weights("relu", torch.float32)
    x, rows = torch.randn(50, D), ragged(50)
    exact = expert_mlp(x, rows, *weights, "relu", "loop")
    half = expert_mlp(x.to(dtype), rows, *[w.to(dtype) for w in weights], "relu", "loop")
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("backend", ["loop", "native", "dense"])
def test_weight_that_is_not_finite_names_its_row(backend):
    rows = ragged(6)
    rows.weight[7] = math.nan
    with pytest.raises(ValueError, match="1 of 6 tokens, the first is row 3"):
        expert_mlp(torch.zeros(6, D).double(), rows, *make_weights("relu"), "relu", backend)
    check_finite(torch.tensor([1.0]), torch.tensor([0]))


def test_activations():
    x = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(activate(x, "swiglu"), torch.tensor([2.0 / (1 + math.exp(-1.0))]))
    assert activate(torch.tensor([-1.0]), "relu") == 0
    torch.testing.assert_close(activate(torch.tensor([1.0]), "gelu"), torch.tensor([0.8413447]))
    assert [first_width(4, a) for a in ACTIVATIONS] == [4, 4, 8]
