"""The result of a run as markdown."""

from __future__ import annotations

# Dense bfloat16 multiply-adds of a card, two operations each, a second, by NVIDIA's
# data sheets; the first name that is part of the device's counts.
BFLOAT16_PEAKS = {
    "H100 80GB HBM3": 989.4e12,
    "H100 PCIe": 756e12,
    "H200": 989.4e12,
    "A100": 312e12,
}


def bfloat16_peak(device: str) -> float | None:
    """The card's dense rate in bfloat16, operations a second; None if not known."""
    for name, peak in BFLOAT16_PEAKS.items():
        if name in device:
            return peak
    return None


def report(result: dict) -> str:
    """The tables of a result file, and a line for every row that failed."""
    rows = result["rows"]
    checks = {name: row for name, row in rows.items() if _kind(row) == "check"}
    timed = {
        name: row for name, row in rows.items() if _kind(row) in ("training", "forward")
    }
    device = result.get("device", "a device that is not known")
    head = (
        f"{device}, JAX {result.get('jax', 'not run')}, "
        f"PyTorch {result.get('torch', 'not run')}; programs compiled at a time: "
        f"{result.get('compiled_together', 1)}"
    )
    failed = [
        f"- {name}: {row['error'] if isinstance(row, dict) else row}"
        for name, row in rows.items()
        if name not in checks and name not in timed
    ]
    parts = [head, checks_table(checks), speed_table(timed, bfloat16_peak(device))]
    if failed:
        parts.append("\n".join(["Failed:", *failed]))
    return "\n\n".join(part for part in parts if part)


def _kind(row) -> str | None:
    return row.get("kind") if isinstance(row, dict) else None


def checks_table(checks: dict) -> str:
    """Relative differences from TensorFlow on a CPU, in brackets its own to 1e-6."""
    if not checks:
        return ""
    columns = ("loss", "logits", "statistics", "norms", "gradients")
    lines = []
    for name, row in checks.items():
        found, own = row["differences"], row["sensitivities"]
        shown = [
            f"{found[column]:.1e} ({own[column]:.1e})" if column in found else "-"
            for column in columns
        ]
        layer, worst = row["worst_gradient"]
        passes = "yes" if row["passes"] else "NO"
        lines.append(
            (name, str(row["numbers"]), *shown, f"{worst:.1e} {layer}", passes)
        )
    head = ("check", "numbers", *columns, "worst single gradient", "same")
    return _table(head, lines)


def speed_table(timed: dict, peak: float | None) -> str:
    """Times, memory and the share of the card's bfloat16 rate."""
    if not timed:
        return ""
    lines = []
    for name, row in timed.items():
        memory = row["memory_bytes"]
        share = row["flops"] / row["seconds"] / peak if peak else None
        lines.append(
            (
                name,
                f"{row['batch']} of {'x'.join(map(str, row['size']))}",
                f"{row['seconds'] * 1e3:.1f}",
                f"{row['images_per_second']:.1f}",
                f"{row['compile_seconds']:.1f}",
                f"{memory / 1e9:.1f}" if memory else "-",
                f"{share:.1%}" if share else "not known",
            )
        )
    head = (
        "row",
        "images",
        "step, ms",
        "images a second",
        "compiling, s",
        "memory, GB",
        "of the bfloat16 rate",
    )
    return _table(head, lines)


def _table(head, lines) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
