"""Several runs that are open at a time."""

from __future__ import annotations

import subprocess
import sys

DRAWN = """
import sys
from contextlib import ExitStack
from pathlib import Path
import gradio as gr
from demos.pages import one_of_several

run, media = map(Path, sys.argv[1:])
with ExitStack() as stack:
    with gr.Blocks(analytics_enabled=False):
        for _ in range(2):
            one_of_several(run, None, media, stack)()
    for name in ("*report.json", "row-*.png"):
        print(len({path.parent for path in media.glob(f"*/{name}")}))
print(len(list(media.iterdir())))
"""


def test_runs_that_are_open_together_keep_their_files_apart(runs, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRAWN, str(runs("image")), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "2", "0"], done.stderr
