"""The C++ form of the experts' computation against the dense one, whatever the loads, threads and activation."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from modules.experts import native
from modules.experts.products import expert_mlp, loop_forward
from modules.experts.routing import Rows, token_rows
from modules.functional.elementwise import first_width

compiled = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler on this machine"
)
D, H, OUT, E, N = 5, 9, 4, 7, 150
ACTIVATIONS = ["relu", "gelu", "swiglu"]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def make_weights(activation, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    f = first_width(H, activation)
    shapes = [(E, D, f), (E, f), (E, H, OUT), (E, OUT)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def skewed(n):
    """First experts busiest, the last one idle."""
    return (torch.rand(n, 2, generator=torch.Generator().manual_seed(2)) ** 3 * (E - 1)).long()


def on_one(n):
    return torch.full((n, 2), E // 2)


def at_both_ends(n):
    return torch.arange(2 * n).view(n, 2).remainder(2) * (E - 1)


def dropped(n):
    return torch.randint(0, E + 1, (n, 2), generator=torch.Generator().manual_seed(3))


def nowhere(n):
    return torch.full((n, 2), E)


def make_rows(load, n, dtype=torch.float64):
    weights = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).to(dtype)
    return token_rows(load(n), weights.requires_grad_())


def compute(backend, x, rows, weights, activation, out_grad):
    y = expert_mlp(x, rows, *weights, activation, backend)
    return y, *torch.autograd.grad(y, [x, rows.weight, *weights], out_grad)


@compiled
@pytest.mark.parametrize("load", [skewed, on_one, at_both_ends, dropped, nowhere])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_output_and_gradients_equal_the_dense_form(activation, load, threads):
    """Runs of equal length cut experts anywhere: 150 tokens are 300 rows, on 3 threads 100 each."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(N, D, dtype=torch.float64, generator=g, requires_grad=True)
    out_grad = torch.randn(N, OUT, dtype=torch.float64, generator=g)
    rows, weights = make_rows(load, N), make_weights(activation)
    mine = compute("native", x, rows, weights, activation, out_grad)
    reference = compute("dense", x, rows, weights, activation, out_grad)
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@compiled
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_sizes_in_float32(n, threads):
    """No token, one, and more rows per expert than one block holds."""
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(5), requires_grad=True)
    rows, weights = make_rows(skewed, n, torch.float32), make_weights("gelu", torch.float32)
    mine = compute("native", x, rows, weights, "gelu", torch.ones(n, OUT))
    for a, b in zip(mine, compute("loop", x, rows, weights, "gelu", torch.ones(n, OUT)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not mine[3][-1].any()  # exactly zero for the idle expert


@compiled
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation):
    rows, inputs = make_rows(skewed, 4), make_weights(activation)
    x = torch.randn(4, D, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(6))

    def run(x, weight, *weights):
        return expert_mlp(x, rows._replace(weight=weight), *weights, activation, "native")

    assert torch.autograd.gradcheck(run, (x, rows.weight, *inputs))


@compiled
@pytest.mark.parametrize("save", [True, False])
def test_keeps_what_the_loop_keeps(save):
    """The two forms' backwards are interchangeable."""
    x, rows = torch.randn(N, D, dtype=torch.float64), make_rows(dropped, N)
    arguments = (x, rows.expert, rows.token, rows.weight, rows.offsets, *make_weights("swiglu"), "swiglu", save)
    with torch.no_grad():
        mine, reference = native.forward(*arguments), loop_forward(*arguments)
    kept = int((rows.expert < E).sum())
    torch.testing.assert_close(mine[0], reference[0])
    torch.testing.assert_close(mine[1][:kept], reference[1][:kept])
    assert mine[1].numel() == reference[1].numel() == (2 * N * 2 * H if save else 0)
    assert torch.equal(mine[2], reference[2])
    assert torch.equal(mine[3], reference[3])


@compiled
def test_frozen_experts_get_no_gradient():
    x, rows = torch.randn(N, D, dtype=torch.float64, requires_grad=True), make_rows(skewed, N)
    weights = make_weights("relu")
    expected = torch.autograd.grad(expert_mlp(x, rows, *weights, "relu", "dense").sum(), x)
    frozen = [w.detach() for w in weights]
    (gradient,) = torch.autograd.grad(expert_mlp(x, rows, *frozen, "relu", "native").sum(), x)
    torch.testing.assert_close(gradient, expected[0])
    arguments = (x.detach(), rows.expert, rows.token, rows.weight.detach(), rows.offsets, *frozen)
    _, *kept = native.forward(*arguments, "relu", True)
    grads = native.backward(torch.ones(N, OUT).double(), *arguments, *kept, "relu", False)
    assert [g.numel() for g in grads[2:]] == [0, 0, 0, 0]


@compiled
def test_views_are_taken_as_they_are():
    x, rows, weights = torch.randn(N, 2 * D).double()[:, ::2], make_rows(skewed, N), make_weights("relu")
    weights[0] = weights[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    y = expert_mlp(x, rows, *weights, "relu", "native")
    torch.testing.assert_close(y, expert_mlp(x, rows, *weights, "relu", "dense"))


@compiled
def test_no_number_of_an_expert_is_out_of_reach():
    rows = Rows(torch.tensor([0]), torch.tensor([E + 1]), torch.ones(1).double(), torch.tensor([0]))
    with pytest.raises(IndexError, match=f"no expert {E + 1}"):
        expert_mlp(torch.zeros(1, D).double(), rows, *make_weights("relu"), "relu", "native")


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler", "use backend: loop (there is no no-such-compiler; install it, or name another"),
        ("false", "use backend: loop (false fails with: no message)"),
    ],
)
def test_machine_without_a_working_compiler(tmp_path, compiler, message):
    """In a process of its own, as the compiled form stays loaded."""
    code = "from modules.experts import native\ntry: native.load()\nexcept ValueError as error: print(error)"
    environment = {**os.environ, "CXX": compiler, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert message in done.stdout
    assert done.stdout.count("\n") == 1
