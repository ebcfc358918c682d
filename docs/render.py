"""Render what the documents take from other files: measured numbers, and the drawing of the packages.

    python docs/render.py           write README.md, docs/findings.md and docs/explanation/numbers.md (between their markers),
                                    docs/performance.md, docs/images/packages.svg
    python docs/render.py --check   fail if one of them is out of date

Numbers come from `benchmarks/results/*.json` and `docs/findings.json`, what each means from the docstring of the benchmark,
the packages from `[tool.importlinter]` in `pyproject.toml`, and what each package is for from its docstring.
"""

import ast
import html
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from findings import read_tables, render_findings
from rates import render_rates

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
COSTS = re.compile(r"(<!-- costs: rendered by docs/render.py -->\n).*?(<!-- /costs -->)", re.DOTALL)
NOT_MEASURED = "No measurements are recorded yet; `make bench` makes them."
Result = Mapping[str, Any]


def read_results(folder: Path = RESULTS) -> dict[str, Result]:
    """Return the result files by the name of their benchmark, sorted."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def format_number(value: float | str) -> str:
    """Return a number with three significant digits, without an exponent.

    >>> format_number(5612.3), format_number(1.1), format_number(0.0004), format_number("decode")
    ('5,610', '1.1', '0.0004', 'decode')
    """
    if isinstance(value, str):
        return value
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 or rounded == int(rounded) else f"{rounded:.6f}".rstrip("0")


def read_docstring(path: Path) -> str:
    """Return a module's docstring, empty if there is no such module."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") if path.is_file() else ""


def read_meanings(docstring: str) -> dict[str, str]:
    """Return what each ratio means: lines `name  meaning`, continued by indented lines.

    >>> read_meanings("Title.\\n\\nspeed_vs_x  ours :\\n            theirs\\n\\nEnd.")
    {'speed_vs_x': 'ours : theirs'}
    """
    meanings: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        entry = re.match(r"([a-z]\w*\*?) {2,}(\S.*)", line)
        if entry:
            name = entry[1]
            meanings[name] = entry[2]
        elif name and line.startswith("          "):
            meanings[name] += " " + line.strip()
        else:
            name = ""
    return meanings


def matches(key: str, name: str) -> bool:
    """Return whether a ratio is meant by a name or by a pattern such as `batch_variance_N` or `simulated_gpu_*`.

    >>> matches("batch_variance_N", "batch_variance_4"), matches("report_1", "report_15")
    (True, False)
    """
    return re.fullmatch(re.sub(r"(\*|[A-Z]+)$", r"\\w+", key), name) is not None


def find_meaning(name: str, meanings: Mapping[str, str]) -> str:
    """Return the meaning of a ratio, empty if the docstring has none."""
    for key in (name, *meanings):
        if key in meanings and matches(key, name):
            return meanings[key].rstrip(",").replace("|", r"\|")
    return ""


def render_result(name: str, result: Result) -> str:
    """Return the section of one benchmark: title, explanation, machine, and a table of its ratios and figures."""
    script = name.partition("-")[0]  # gpu-cuda-nvidia-h100 is what gpu.py wrote on that machine
    docstring = read_docstring(ROOT / "benchmarks" / f"{script}.py")
    title, _, body = docstring.partition("\n")
    meanings = read_meanings(docstring)
    prose = [
        " ".join(paragraph.split())
        for paragraph in body.split("\n\n")
        if paragraph.strip() and not read_meanings(paragraph) and not paragraph.startswith(" ") and "[--json]" not in paragraph
    ]
    machine = result["machine"]
    measured = f"Measured on {result['date']}: {machine.get('cores', '?')} cores of {machine.get('cpu', 'a CPU')}."
    if "device" in result["figures"]:
        measured = f"{measured[:-1]}, {result['figures']['device']}."
    lines = [
        f"## {title.strip().rstrip('.') or name}",
        "",
        *(re.sub(r"(?<=[.?]) (?=[A-Z])", "\n", text) + "\n" for text in prose),
    ]
    others = [key for key in meanings if not any(matches(key, name) for name in result["ratios"])]
    lines += [*(f"- `{key}`: {meanings[key]}" for key in others if meanings[key]), ""] if others else []
    lines += [measured, f"Run it again with `make bench NAME={script}`.", "", "| ratio | value | meaning |", "|---|---|---|"]
    for key, value in result["ratios"].items():
        lines.append(f"| `{key}` | {format_number(value)} | {find_meaning(key, meanings)} |")
    if result["figures"]:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {key} | {format_number(value)} |" for key, value in result["figures"].items()]
    return "\n".join(lines) + "\n"


def fill_ratios(text: str, results: Mapping[str, Result]) -> str:
    """Replace `{{ NAME }}` by that ratio; a line with one that was not measured is left out.

    >>> fill_ratios("It is {{ speed_vs_x }} times as fast.\\n{{ size }}\\n", {"x": {"ratios": {"speed_vs_x": 1.25}}})
    'It is **1.25** times as fast.\\n'
    """
    ratios = {key: value for result in results.values() for key, value in result["ratios"].items()}
    lines = [line for line in text.splitlines(keepends=True) if set(re.findall(r"{{ (\w+) }}", line)) <= {*ratios, "results"}]
    return re.sub(r"{{ (?!results)(\w+) }}", lambda match: f"**{format_number(ratios[match[1]])}**", "".join(lines))


def render_performance(results: Mapping[str, Result]) -> str:
    """Return docs/performance.md; how often tests err stands in docs/explanation/numbers.md."""
    sections = [render_result(name, result) for name, result in results.items() if name != "inference"] or [f"{NOT_MEASURED}\n"]
    template = fill_ratios((ROOT / "docs/performance.template.md").read_text(encoding="utf-8"), results)
    return template.replace("{{ results }}\n", "\n".join(sections))


def render_costs(results: Mapping[str, Result]) -> str:
    """Return the README's lines on cost; a line whose benchmark has not run is left out."""
    ratios = {key: value for result in results.values() for key, value in result["ratios"].items()}
    sentences = (
        "Running the network for every head and epoch takes {recompute_vs_first_sweep} times as long as building a store and"
        " training from it, and {recompute_vs_later_sweep} times as long as training later heads from sums that are kept,"
        " without the start of the program (five heads, 15 epochs, VGG-16).",
        "A `sweep` with nothing left to train takes {command_nothing} times as long as `import torch`; one of sixty heads"
        " whose sums are kept takes {sixty_to_tables} times as long to its tables, and {sixty_to_page} times to its page.",
        "A head costs {report_15} times less than in the report's own training loop on the same features"
        " (fifteen heads at once, 5,019 images).",
    )
    values = {key: f"**{format_number(value)}**" for key, value in ratios.items()}
    lines = [text.format(**values) for text in sentences if set(re.findall(r"{(\w+)}", text)) <= set(values)]
    return "".join(f"{line}\n" for line in lines or [NOT_MEASURED])


def render_readme(text: str, results: Mapping[str, Result]) -> str:
    """Return the README with the lines between its markers replaced."""
    return COSTS.sub(lambda match: match[1] + render_costs(results) + match[2], text)


def read_layers() -> list[list[str]]:
    """Return the packages and modules of each level, top first, from import-linter's contract."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (contract for contract in settings["tool"]["importlinter"]["contracts"] if contract["type"] == "layers")
    return [[name.strip().removeprefix("posenet_store.") for name in layer.split("|")] for layer in contract["layers"]]


def wrap_words(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw_box(x: float, y: float, width: float, height: float, name: str, question: str) -> list[str]:
    """Return the SVG of one package: a box, its name and its question."""
    middle = x + width / 2
    parts = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6" fill="#e8eef7" stroke="#5b7bb0"/>'
    ]
    parts.append(f'<text x="{middle:.0f}" y="{y + 24:.0f}" font-weight="bold" font-size="16">{name}</text>')
    for number, line in enumerate(wrap_words(question, int(width / 7.2))):
        parts.append(f'<text x="{middle:.0f}" y="{y + 44 + 16 * number:.0f}" font-size="13">{html.escape(line)}</text>')
    return parts


def draw_packages(layers: Sequence[Sequence[str]]) -> str:
    """Return the drawing of the packages by level as SVG: who is above may import who is below."""
    source = ROOT / "src/posenet_store"
    packages = [layer for layer in layers if all((source / name).is_dir() for name in layer)]
    modules = [name for layer in layers[len(packages) :] for name in layer]
    width, gap = 1000, 12
    parts: list[str] = []
    top = gap
    for layer in packages:
        box, height = (width - gap * (len(layer) + 1)) / len(layer), 60 if len(layer) < 3 else 94
        for number, name in enumerate(layer):
            question = re.split(r"(?<=[.?]) ", read_docstring(source / name / "__init__.py"))[0]
            parts += draw_box(gap + number * (box + gap), top, box, height, name, question)
        top += height + gap
    parts += draw_box(gap, top, width - 2 * gap, 60, "modules that all may use", ", ".join(modules))
    total = top + 60 + gap
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="sans-serif" text-anchor="middle">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{total}" fill="white"/>', *parts, "</svg>"]) + "\n"


def render_all() -> dict[Path, str]:
    """Return the text of every rendered file."""
    results, readme, findings = read_results(), ROOT / "README.md", ROOT / "docs/findings.md"
    numbers = ROOT / "docs/explanation/numbers.md"
    return {
        readme: render_readme(readme.read_text(encoding="utf-8"), results),
        findings: render_findings(findings.read_text(encoding="utf-8"), read_tables()),
        numbers: render_rates(numbers.read_text(encoding="utf-8"), results),
        ROOT / "docs/performance.md": render_performance(results),
        ROOT / "docs/images/packages.svg": draw_packages(read_layers()),
    }


def main() -> None:
    """Write the rendered files, or with --check exit with 1 if one differs from what would be written."""
    stale = [path for path, text in render_all().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            sys.exit(f"out of date: {names}; run `python docs/render.py`")
        return
    texts = render_all()
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")


if __name__ == "__main__":
    main()
