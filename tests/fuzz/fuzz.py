"""Changes good files at random and reads them: configs, checkpoints, datasets, and metadata of Minari.

    python tests/fuzz/fuzz.py [--checks config_text checkpoint_tree ...] [--seconds 600] [--corpus runs/fuzz]

Each check has so many seconds. A changed file is read or refused within ten seconds, without running code, within the
memory of three times the file, and what is said is one line. What broke that is made small, shown, and kept below
`--corpus`, with the examples that come first the next time. The status is 1 if anything broke it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers"), str(Path(__file__).parent)]
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402 - beside this file
from hypothesis import strategies as st  # noqa: E402
from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: E402
from readers import CHECKS, Check, empty_folder  # noqa: E402

EXAMPLES = 50
"""Of a round; then the next one begins, with another seed."""


def fuzz(check: Check, examples: int, number: int, corpus: Path | None) -> None:
    """One round of a check.

    Args:
        check: one of `CHECKS`.
        examples: how many changed files are read.
        number: seed of the round.
        corpus: folder that keeps what broke; none without it.

    Raises:
        BaseException: whatever broke, of the smallest example that was found.
    """

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=corpus is not None,
        database=None if corpus is None else DirectoryBasedExampleDatabase(corpus / "examples"),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(st.data())
    def one(data: st.DataObject) -> None:
        with empty_folder() as folder:
            try:
                check(data, folder)
            except BaseException:
                if corpus is not None:  # the smallest comes last
                    kept = corpus / check.__name__
                    shutil.rmtree(kept, ignore_errors=True)
                    shutil.copytree(folder, kept, symlinks=True)
                raise

    # Hypothesis tells examples of functions by their names and places.
    one.hypothesis.inner_test.__qualname__ = check.__name__  # type: ignore[attr-defined]
    one()


def main() -> int:
    """Fuzz; the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--corpus", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    broken = 0
    for name in options.checks:
        end, rounds = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            try:
                fuzz(CHECKS[name], EXAMPLES, time.time_ns(), options.corpus)
            except BaseException as error:
                traceback.print_exc()
                if isinstance(error, KeyboardInterrupt):
                    return 130
                print(f"{name}: broken, the file is in {options.corpus / name}", flush=True)
                broken += 1
                break
            rounds += 1
        else:
            print(f"{name}: {rounds * EXAMPLES:,} files, nothing broke", flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
