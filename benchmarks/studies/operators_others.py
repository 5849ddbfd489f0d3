"""Remakes `docs/results/operators-others.md`: what rewrites of graphs gain on speech and on pictures, what they cost in answers on texts, and what
fixed lengths, lengths and widths of products do.

    python -m benchmarks.studies.operators_others --speech MODEL --recordings FOLDER --pictures MODEL --images FOLDER --texts FOLDER --work FOLDER

`MODEL` of speech is the encoder of `benchmarks.studies.speech`, with its recordings; of pictures a folder of DINOv2-small without a head, with
Fashion-MNIST as `train.parquet` and `test.parquet`; texts are the folder of `benchmarks.studies.qat_text`, where 20 Newsgroups was fine-tuned, and
the quickstart's student, which is trained unless the store has it. What is measured is kept in `--work` part by part: after a cut it goes on.
`--scores` makes and scores all files and times none, which needs no still machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.studies import newsgroups, operator_pictures, operator_sizes
from benchmarks.studies import operator_forms as forms
from benchmarks.studies import operators as text
from benchmarks.studies.operator_groups import GROUPS, LEFT_OUT, RUNTIMES, TEXTS
from benchmarks.studies.operators import BEFORE, NOW, Found, Shop
from benchmarks.studies.pages import controls, machine_lines
from benchmarks.studies.qat_cells import common
from benchmarks.studies.qat_texts import Rows, text_case
from benchmarks.studies.speech_lab import Cell, prepared
from benchmarks.studies.speech_lab import plan as speech_plan
from compressor.contracts.records import LatencyRecord, ProfileRecord, Report
from compressor.contracts.statistics import paired
from compressor.plan.bound import load_plan
from compressor.report.markdown import table
from compressor.run.ground import Ground
from compressor.store.place import open_store
from compressor.store.store import FILES, StoredResult

OUT = Path("docs/results/operators-others.md")
SECONDS = 60.0
ROWS = 1_600
"""Test rows of 20 Newsgroups, beside the 425 of BBC News."""
WANTED = 1.3
CLIPS = 450
"""Test rows of speech."""
WHY = (
    "Integers differ where scales were folded into weights, and in ONNX Runtime convolutions are int8 products now and were float before; of float\n"
    "graphs outputs are the same to the last bits."
)
NAMES = {"speech": "Speech: Whisper-tiny.en's encoder, 1 s", "pictures": "Pictures: DINOv2-small, 112 pixels"}
WHAT = {
    "speech": "Real weights. Scores are the mean accuracy of linear probes for digits and speakers on the Free Spoken Digit Dataset.",
    "pictures": "Real weights; the head was fitted by logistic regression on 600 pictures of Fashion-MNIST; scores are accuracies on test rows.",
}


@dataclass(frozen=True)
class Study:
    """What was asked for, and the models that are measured."""

    asked: argparse.Namespace

    @cached_property
    def work(self) -> Path:
        """Where everything is kept."""
        found: Path = self.asked.work.absolute()
        return found

    def shop(self, part: str) -> Shop:
        """What files of a part are made from."""
        if part not in self._shops:
            self._shops[part] = self._shop(part)
        return self._shops[part]

    @cached_property
    def _shops(self) -> dict[str, Shop]:
        return {}

    def _shop(self, part: str) -> Shop:
        folder = self.work / part
        if part == "bbc":
            bound = load_plan(text.PLAN)
            store = open_store(self.asked.store, plan=bound.name)
            stage = text.trained(bound, folder, store)[1]
            student = StoredResult(stage.key, stage.digest, store.entry(stage.key) / FILES, {}, 0.0, found=True)
            return Shop(Ground(bound, store, text.told), student, folder, batches=(1,))
        ground = self.ground(part, {"speech": self.speech, "pictures": self.pictures, "newsgroups": self.newsgroups}[part]())
        length = {"speech": 16_000, "pictures": None, "newsgroups": 64}[part]
        return Shop(ground, ground.load(ground.bound.model), folder, batches=(1,), length=length)

    def ground(self, part: str, plan: Mapping[str, Any]) -> Ground:
        """Of a plan whose own steps are not run."""
        path = self.work / part / "plan.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**plan, "probes": [], "passes": [{"quantize-static": None}]}, sort_keys=False))
        bound = load_plan(path)
        return Ground(bound, open_store(self.asked.store, plan=bound.name), text.told)

    def speech(self) -> dict[str, Any]:
        """The encoder as it is, probed for digits and speakers."""
        found = speech_plan(Cell("teacher", 0, 1e-3), self.asked.speech, prepared(self.asked.recordings, self.work / "clips"))
        probes = {"digit": {"label": "digit", "groups": "speaker"}, "speaker": {"label": "speaker"}}
        found["task"]["audio-features"]["linear_probes"] = probes
        found["data"]["limit"] = {"test": CLIPS}
        return {**found, "targets": list(RUNTIMES)}

    def pictures(self) -> dict[str, Any]:
        """With a head that is fitted once."""
        plan = operator_pictures.plan(self.work / "pictures" / "model", self.asked.images)
        operator_pictures.fitted(self.asked.pictures, self.work / "pictures" / "model", lambda: self.ground("pictures", plan))
        return plan

    def newsgroups(self) -> dict[str, Any]:
        """The model that `qat_text` fine-tuned, on rows of its test split."""
        plan = common(text_case("newsgroups", Rows()), self.asked.texts, "operators-newsgroups", 0)
        whole = newsgroups.fetch(self.asked.texts / "20-newsgroups")
        plan["data"]["files"]["test"] = str((whole / "test.jsonl").resolve())
        plan["data"]["limit"] = {"test": ROWS}
        model = self.asked.texts / "newsgroups-reference" / "run" / "artifacts" / "final@pytorch"
        return {**plan, "model": {"folder": str(model.resolve())}, "targets": list(RUNTIMES)}

    # -------------------------------------------------------- what is kept

    def kept(self, name: str, made: Callable[[], Any]) -> Any:
        """What was measured, from the folder or now."""
        path = self.work / f"{name}.json"
        if not path.is_file():
            found = made()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(path)
        return json.loads(path.read_text(encoding="utf-8"))

    def times(self, part: str, runtime: str) -> Found:
        """Of all forms of a part on a runtime."""

        def made() -> dict[str, Any]:
            watched = (NOW, BEFORE) if part in NAMES else ()
            found = text.measured(self.shop(part), runtime, GROUPS[part][runtime], self.asked.seconds, watched)
            records = {name: getattr(found, name).model_dump(mode="json") for name in ("latency", "profiles")}
            return {**records, "failed": found.failed}

        kept = self.kept(f"times-{part}-{runtime}", made)
        latency, profiles = LatencyRecord.model_validate(kept["latency"]), ProfileRecord.model_validate(kept["profiles"])
        return Found(runtime, latency, profiles, kept["failed"])

    def answers(self, part: str, runtime: str) -> list[str]:
        """Scores before and now."""
        return list(
            self.kept(f"answers-{part}-{runtime}", lambda: text.compared(self.shop(part), runtime, GROUPS[part][runtime]))
        )

    def rows(self, part: str, runtime: str) -> dict[str, list[float]]:
        """By row of a text, whether before and now are right, and give the same answer."""

        def made() -> dict[str, list[float]]:
            shop, names = self.shop(part), (BEFORE, NOW)
            kinds = dict(zip(names, TEXTS[runtime], strict=True))
            before, now = (shop.scored(shop.candidate(name, runtime, kinds[name])) for name in names)
            told = [np.asarray(shop.ground.bound.task.predictions(each.outputs)) for each in (before, now)]
            right = {name: each.gains["accuracy"].tolist() for name, each in zip(names, (before, now), strict=True)}
            return {**right, "same": (told[0] == told[1]).astype(float).tolist()}

        return dict(self.kept(f"rows-{part}-{runtime}", made))

    def floats(self, part: str) -> dict[str, list[float]]:
        """Milliseconds of rounds of the float file in ONNX Runtime, with products of windows and with convolutions."""
        shop, calls = self.shop(part), dict[str, Callable[[], object]]()
        feed = shop.feeds(1)[0]
        for name, kind in ((NOW, forms.Now), ("NoWindows", forms.NoWindows)):
            target = kind()
            made = shop.ground.builder.lower(shop.student, "torch", target.dialect.format, target)
            out = self.work / "floats" / f"{part}-{name}"
            session = target.open(
                shop.ground.builder.build(made, stage=name, name="onnxruntime", target=target, out=out)[0].built
            )
            calls[name] = partial(session.run, feed)
        return operator_sizes.interleaved(calls)

    def converted(self, part: str) -> list[int]:
        """Of the deployed file in ONNX Runtime: tensors that are made bytes and those that are more than once, and the same of casts."""

        def made() -> list[int]:
            import onnx

            shop = self.shop(part)
            nodes = onnx.load(shop.candidate(NOW, "onnxruntime", forms.Now).built / "model.onnx").graph.node
            read = [[each.input[0] for each in nodes if each.op_type == kind] for kind in ("QuantizeLinear", "Cast")]
            return [count for each in read for count in (len(set(each)), len(each) - len(set(each)))]

        return list(self.kept(f"converted-{part}", made))

    def builds(self, part: str) -> None:
        """Make all files of a part, so that timing waits for none."""
        for kinds in GROUPS[part].values():
            for kind in kinds.values():
                self.shop(part).quantised(kind())


# ------------------------------------------------------------------ the page


def document(study: Study, report: Report) -> str:
    """All tables."""
    found = {part: [study.times(part, runtime) for runtime in RUNTIMES] for part in GROUPS}
    lines = [
        "# Operators: speech, pictures, more texts, fixed lengths, widths",
        "",
        "`python -m benchmarks.studies.operators_others` remakes this page; what it wants is said there. It goes on where",
        "[operators](operators.md) ends. int8 files, batch 1, one thread; forms of a runtime run interleaved, each in a process of its own, with",
        "95 % intervals. `before` goes without the rewrites of graphs that a dialect may leave out; `now` is what is deployed.",
        "",
        *machine_lines(report),
        f"- {text.peaks(found['speech'][0])}",
        f"- {controls([each.latency for group in found.values() for each in group])}",
        "",
    ]
    for part, title in NAMES.items():
        lines += [f"## {title}", "", WHAT[part], "", *of_model(study, part, found[part])]
    lines += ["## Texts: BBC News and 20 Newsgroups", "", *texts(study)]
    lines += ["## Each tensor is converted once", "", *conversions(study)]
    lines += ["## Fixed sizes", "", *fixed(found)]
    sizes = study.kept("lengths", partial(lengths, study))
    lines += ["## Lengths that kernels like", "", *operator_sizes.lengths_of(sizes)]
    widths = study.kept("widths", lambda: operator_sizes.by_width(study.work / "widths"))
    lines += ["## Widths that kernels like", "", *operator_sizes.widths_of(widths)]
    return "\n".join(lines).rstrip() + "\n"


def of_model(study: Study, part: str, found: Sequence[Found]) -> Iterator[str]:
    """Before and after, answers, each rewrite left out, what was tried, what is left."""
    yield from text.before_and_after(found)
    yield from text.quality([study.answers(part, each.runtime) for each in found], WHY)
    yield from floats(study, part)
    yield "Each rewrite left out, in ONNX Runtime: the speed-up over what is deployed."
    yield ""
    yield from left_out(found[0])
    yield "Tried, and not deployed: the speed-up over what is deployed."
    yield ""
    yield from text.tried(found, GROUPS[part])
    yield goal(found)
    yield ""
    yield "What is left:"
    yield ""
    yield from text.left(found)


def goal(found: Sequence[Found]) -> str:
    """What was wanted in the better runtime, and how near to the least that would be."""
    best = min(found, key=lambda each: float(each.ms(NOW, 1)))
    value = 1 / best.over_now(BEFORE, 1)[0]
    wanted, least = float(best.ms(BEFORE, 1)) / WANTED, best.profile(NOW, 1).bound.ms
    met = "is met" if value >= WANTED else "is missed"
    return (
        f"The goal, {WANTED}x in the better runtime ({best.runtime}, {value:.2f}x), {met}: it would be {wanted:.2f} ms, of which the least that the "
        f"call could take, {least:.2f} ms for its products at the machine's peak, is {least / wanted:.0%}."
    )


def floats(study: Study, part: str) -> Iterator[str]:
    """What the float file takes with convolutions and with products of windows."""
    found = study.kept(f"floats-{part}", partial(study.floats, part))
    told = {name: operator_sizes.spread(rounds) for name, rounds in found.items()}
    yield f"The float file in ONNX Runtime takes {told['NoWindows']} ms with convolutions and {told[NOW]} ms with products of windows: medians of"
    yield "15 rounds in turn in one process, and their middle half."
    yield ""


def left_out(found: Found) -> Iterator[str]:
    """Of the rewrites that change such a graph."""
    rows = [
        (what, "{:.2f}x [{:.2f}, {:.2f}]".format(*found.over_now(name, 1)), found.ms(name, 1))
        for name, what in LEFT_OUT.items()
        if name in GROUPS["pictures"]["onnxruntime"]
        and any(each.candidate == f"{name}@{found.runtime}" for each in found.latency.rows)
    ]
    yield from table(("without", "over now", "ms"), rows, numbers=(1, 2))


def texts(study: Study) -> Iterator[str]:
    """Paired differences of both sets of rows together."""
    rows = []
    for runtime in RUNTIMES:
        parts = {"BBC News": study.rows("bbc", runtime), "20 Newsgroups": study.rows("newsgroups", runtime)}
        together = {name: [value for part in parts.values() for value in part[name]] for name in (BEFORE, NOW, "same")}
        for name, each in {**parts, "together": together}.items():
            before, now = (np.asarray(each[which]) for which in (BEFORE, NOW))
            mean, low, high, _ = paired(now - before, None, 0, binary=True)
            change = f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
            rows.append(
                (runtime, name, len(now), f"{before.mean():.4f}", f"{now.mean():.4f}", change, f"{np.mean(each['same']):.2%}")
            )
    yield "The quickstart's student (3 layers, 128 tokens) on BBC News; MiniLM with all 6 layers, fine-tuned on 3,000 rows of 20 Newsgroups by"
    yield f"`benchmarks.studies.qat_text` (64 tokens), on the first {ROWS:,} rows of its test split. Differences are paired, in points."
    yield ""
    columns = ("runtime", "rows", "how many", "before", "now", "difference", "same answer")
    yield from table(columns, rows, numbers=range(2, 7))


def conversions(study: Study) -> Iterator[str]:
    """How many tensors ONNX Runtime's files make bytes of, and how often."""
    rows = [(part, *study.converted(part)) for part in GROUPS]
    yield "`QuantizeLinear` and `Cast` in the deployed files of ONNX Runtime: products that read one tensor share its bytes, and all layers the mask."
    yield ""
    columns = ("model", "made bytes", "again", "cast", "again")
    yield from table(columns, rows, numbers=range(1, 5))


def fixed(found: Mapping[str, Sequence[Found]]) -> Iterator[str]:
    """Each model with its sizes fixed: in ONNX Runtime's graph, and by the option of OpenVINO."""
    rows = []
    for part, group in found.items():
        for each in group:
            name, kind = next((name, kind) for name, kind in GROUPS[part][each.runtime].items() if kind in forms.FIXED)
            value, low, high = each.over_now(name, 1)
            before = f"{float(each.ms(BEFORE, 1)) / float(each.ms(name, 1)):.2f}x"
            what = (kind.__doc__ or "").rstrip(".") if each.runtime == "openvino" else "in the graph"
            rows.append(
                (part, each.runtime, what, each.ms(NOW, 1), each.ms(name, 1), f"{value:.2f}x [{low:.2f}, {high:.2f}]", before)
            )
    yield "Batch and length are dynamic in what is deployed. `bbc` is the quickstart's student at 128 tokens. OpenVINO takes `sizes` as an option of"
    yield "the target; ONNX Runtime was tried with the sizes in the graph. Over `before`: of medians."
    yield ""
    columns = ("model", "runtime", "fixed", "dynamic, ms", "fixed, ms", "speed-up", "over before")
    yield from table(columns, rows, numbers=range(3, 7))


def lengths(study: Study) -> dict[str, dict[str, list[float]]]:
    """The quickstart's student at each length."""
    shop = study.shop("bbc")
    return operator_sizes.by_length({runtime: shop.candidate(NOW, runtime, GROUPS["bbc"][runtime][NOW]) for runtime in RUNTIMES})


def scores(study: Study) -> None:
    """All that needs no still machine."""
    for part in GROUPS:
        study.builds(part)
    for runtime in RUNTIMES:
        for part in NAMES:
            study.answers(part, runtime)
        for part in ("bbc", "newsgroups"):
            study.rows(part, runtime)
    for part in GROUPS:
        study.converted(part)


def main() -> None:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("speech", "recordings", "pictures", "images", "texts", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="where trained models are looked for; the user's own store unless given")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each model and runtime")
    parser.add_argument("--scores", action="store_true", help="make and score all files, and time none")
    parser.add_argument("--out", type=Path, default=OUT, help="the page")
    study = Study(parser.parse_args())
    with study.shop("bbc").ground.store.running():
        scores(study)
        if study.asked.scores:
            return
        report = text.trained(load_plan(text.PLAN), study.work / "bbc", study.shop("bbc").ground.store)[0]
        study.asked.out.write_text(document(study, report), encoding="utf-8")
    sys.stdout.write(f"{study.asked.out}\n")


if __name__ == "__main__":
    main()
