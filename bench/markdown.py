"""`python -m bench.markdown RESULT.json …`: kept results as tables, as in
docs/benchmark-results.md.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.markdown", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="files that --save wrote")
    options = parser.parse_args()
    for path in options.results:
        print("\n".join(page(json.loads(path.read_text()))))


def page(document: dict[str, Any]) -> Iterator[str]:
    hardware = document["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in hardware["versions"].items())
    kind = "other model servers" if document["bench"] == "peers" else "the baselines"
    yield f"### Beside {kind}, {document['date'][:10]}\n"
    yield (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, "
        f"{hardware['system']}, Python {hardware['python']}, {versions}; {hardware['pinning']}. "
        f"Medians of {document['repeats']} repeats of {document['seconds']:g} s. The load "
        f"generator reached {document['generator_per_s']:,.0f} requests/s.\n"
    )
    for case in dict.fromkeys(cell["case"] for cell in document["cells"]):
        yield from _case(document, case)
    yield from _wishes(document["acceptance"])


def _case(document: dict[str, Any], case: str) -> Iterator[str]:
    cells = [cell for cell in document["cells"] if cell["case"] == case]
    loads = list(dict.fromkeys(cell["load"] for cell in cells))
    yield f"**{case}** (requests/s · p50 ms · p99 ms · CPU µs a request · MiB)\n"
    yield _row(["server", *loads])
    yield _row(["---"] * (len(loads) + 1))
    for server in dict.fromkeys(cell["server"] for cell in cells):
        own = {cell["load"]: cell for cell in cells if cell["server"] == server}
        yield _row([server, *(_figures(own.get(load)) for load in loads)])
    for absent in document["absent"]:
        if absent["case"] == case:
            reason = " ".join(absent["reason"].split())
            yield _row([absent["server"], f"left out: {reason}", *[""] * (len(loads) - 1)])
    yield ""


def _figures(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    shown = [
        f"{cell['per_s']:,.0f}",
        *("–" if cell[name] is None else f"{cell[name]:.2f}" for name in ("p50_ms", "p99_ms")),
        "–" if cell["cpu_us"] is None else f"{cell['cpu_us']:,.0f}",
        f"{cell['pss_mib']:.0f}",
    ]
    errors = sum(sum(counts.values()) for counts in cell["errors"])
    return " · ".join(shown) + (f" · {errors} errors" if errors else "")


def _wishes(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield _row(["wish", "bound", "ratio", ""])
    yield _row(["---"] * 4)
    for line in lines:
        bound = f"{'at most' if line['is_at_most'] else 'at least'} {line['bound']:g}"
        verdict = "met" if line["passed"] else "**missed**"
        ratio = "∞" if line["ratio"] is None else f"{line['ratio']:.2f}"
        yield _row([line["wish"], bound, ratio, verdict])


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


if __name__ == "__main__":
    main()
