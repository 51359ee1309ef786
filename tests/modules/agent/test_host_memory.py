import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from modules.agent.host_memory import keep_freed_memory

def update():
    tensors = [torch.zeros(1 << 18) for _ in range(20)]

keep_freed_memory()
for _ in range(3):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the rule is that of glibc")
def test_updates_that_allocate_as_much_again_cause_no_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # 5,120 pages per update, of which half came from the system every time.
    assert int(done.stdout) < 5_120
