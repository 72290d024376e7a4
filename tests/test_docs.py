"""The pages in docs/ do not speak of what is not there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from robustmq.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "perf/README.md"]
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
SOURCE = re.compile(r"`((?:[a-z_]+/)*[a-z_*]+\.py)((?: [\w.]+(?:, )?)*)`")
SETTING = re.compile(r"`([a-z]+(?:\.tiering)?)\.([a-z_]+)(?: = [^`]*)?`")
OTHER_ENDS = frozenset({"py", "qos", "retain"})
"""Of files and headers that look like settings."""
METRIC = re.compile(r"`(robustmq_[a-z0-9_]+)[`{]")
COMMAND = re.compile(r"`?(?:\.venv/bin/)?robustmq ([a-z]+)\b")


def found(pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    return [
        (str(page.relative_to(ROOT)), match)
        for page in PAGES
        for match in pattern.finditer(page.read_text(encoding="utf-8"))
    ]


def test_links_lead_somewhere() -> None:
    broken = [
        (page, match[1])
        for page, match in found(LINK)
        if "://" not in match[1] and not (ROOT / page).parent.joinpath(match[1]).exists()
    ]
    assert broken == []


def test_modules_and_functions_that_are_named_exist() -> None:
    missing = []
    for page, match in found(SOURCE):
        files = [*(ROOT / "robustmq").glob(match[1]), *ROOT.glob(match[1])]
        code = "".join(file.read_text(encoding="utf-8") for file in files)
        for name in re.split(r"[ .,]+", match[2].strip()):
            if not files or (name and not re.search(rf"(def|class) {name}\b", code)):
                missing.append((page, match[0]))
    assert missing == []


def test_settings_that_are_named_exist() -> None:
    config = (ROOT / "config.toml").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^\[([a-z.]+)\]\n((?:(?!^\[).*\n)*)", config, re.MULTILINE))
    missing = [
        (page, match[0])
        for page, match in found(SETTING)
        if match[1] in sections
        and match[2] not in OTHER_ENDS
        and f"\n{match[2]} = " not in "\n" + sections[match[1]]
    ]
    assert missing == []


def test_commands_that_are_named_exist() -> None:
    missing = [(page, match[0]) for page, match in found(COMMAND) if match[1] not in COMMANDS]
    assert missing == []


def test_metrics_that_are_named_exist() -> None:
    known = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    code = (ROOT / "robustmq/observability/prometheus.py").read_text(encoding="utf-8")
    missing = [
        (page, match[1])
        for page, match in found(METRIC)
        if f"| {match[1]} |" not in known and f'"{match[1].removesuffix("_total")}"' not in code
    ]
    assert missing == []


def test_every_dependency_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    names = [re.split(r"[<>=]", requirement)[0] for requirement in wanted]
    assert [name for name in names if name not in page] == []
