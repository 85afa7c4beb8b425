"""The documents speak of what exists: links resolve, names in links are defined there, commands and targets are real."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("attestation", "cvm_build", "deploy", "docs", "examples", "fl_runtime", "policies", "provisioning", "tests")
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|[`(\s])cloister (?P<words>[a-z][a-z-]*(?: [a-z][a-z-]*)?)")
TARGET = re.compile(r"`make (?P<target>[a-z-]+)")


def documents() -> list[Path]:
    nested = (path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.md"))
    return sorted([*REPOSITORY.glob("*.md"), *nested])


DOCUMENTS = documents()
NAMES = [path.relative_to(REPOSITORY).as_posix() for path in DOCUMENTS]


def links(document: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield text, file and anchor of every link that stays within the repository."""
    for match in LINK.finditer(FENCE.sub("", document.read_text())):
        file, _, anchor = match["target"].partition("#")
        if "://" not in match["target"]:
            yield match["text"], (document.parent / file).resolve() if file else document, anchor


def defined_in(source: Path) -> set[str]:
    """Names of the functions, classes, methods and module constants of a Python file; of the calls of a .proto file."""
    if source.suffix == ".proto":
        return set(re.findall(r"^\s*rpc (\w+)\(", source.read_text(), re.MULTILINE))
    names = set()
    for node in ast.parse(source.read_text()).body:
        names |= names_of(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in names_of(inner)}
    return names


def names_of(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()


def headings(document: Path) -> set[str]:
    """Anchors as they are made from headings: lower case, spaces to hyphens, punctuation dropped."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files_that_exist(document):
    for text, file, anchor in links(document):
        assert file.exists(), f"[{text}] leads to {file}"
        assert not anchor or anchor in headings(file), f"[{text}] leads to #{anchor} of {file.name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_code_that_a_link_names_is_defined_in_the_file_it_leads_to(document):
    for text, file, _ in links(document):
        if (
            file.suffix in {".py", ".proto"}
            and text.startswith("`")
            and "/" not in text
            and not text.endswith((".py`", ".proto`"))
        ):
            assert text.strip("`") in defined_in(file), f"{text} is not defined in {file.relative_to(REPOSITORY)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_commands_that_are_named_exist(document):
    groups = {point.name: point for point in entry_points(group="cloister.commands")}
    for match in COMMAND.finditer(document.read_text()):
        name, _, verb = match["words"].partition(" ")
        assert name in groups, match[0]
        command = groups[name].load()
        if isinstance(command, click.Group) and verb:
            assert verb in command.commands, match[0]


def test_targets_that_are_named_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for match in TARGET.finditer(document.read_text()):
            assert match["target"] in targets, f"{document.name}: {match[0]}"


def test_walkthrough_has_the_twelve_steps_in_order():
    steps = re.findall(r"^## (\d+) ", (REPOSITORY / "docs" / "walkthrough.md").read_text(), re.MULTILINE)
    assert steps == [str(number) for number in range(1, 13)]


def test_every_decision_is_in_the_index():
    folder = REPOSITORY / "docs" / "adr"
    pages = {path.name for path in folder.glob("[0-9]*.md")}
    assert pages == {file.name for _, file, _ in links(folder / "README.md") if file.parent == folder}
