"""Pages of the site that are made from other files: the README, the command line, the API, experiments, the store format."""

import html
import re
import tomllib
from os.path import relpath
from pathlib import Path, PurePath
from types import ModuleType

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import posenet_store
from posenet_store.cli import main

ROOT = Path(__file__).parents[1]
PROGRAM = "posenet-store"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "stores/README.md": "reference/store-format.md",
    "pipeline/README.md": "reference/sweep-files.md",
}
"""Files of the checkout that are pages of the site."""
CITATION = "CITATION.cff"


def read_page(name: str) -> str:
    """Return the Markdown of a file of the checkout, its links changed to those of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    up = "../" * PAGES[name].count("/")
    for path, page in PAGES.items():
        text = text.replace(f"]({path})", f"]({up}{page})")
    return re.sub(r"\]\((?:\.\./)?docs/", f"]({up}", text).replace(f", [how to cite]({CITATION})", "")


def describe_option(option: click.Option, context: click.Context) -> str:
    """Return one row of a command's table of options."""
    names, text = option.get_help_record(context) or ("", "")
    cells = (html.escape(cell).replace("|", "&#124;") for cell in (names, text))
    return "| <code>{}</code> | {} |".format(*cells)


def describe_command(name: str, command: click.Command) -> str:
    """Return the section of one command: usage, help and options."""
    context = click.Context(command, info_name=f"{PROGRAM} {name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    rows = [describe_option(option, context) for option in command.params if isinstance(option, click.Option)]
    help_text = "\n".join(line.strip() for line in (command.help or "").splitlines())
    table = ["| option | meaning |", "|---|---|", *rows]
    return "\n".join([f"## {name}", "", "```", usage, "```", "", help_text, "", *table, ""])


def describe_cli() -> str:
    """Return the reference of the command line."""
    commands: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        children = command.commands if isinstance(command, click.Group) else {}
        commands |= {name: command} | {f"{name} {child}": below for child, below in children.items()}
    sections = [describe_command(name, commands[name]) for name in sorted(commands)]
    return "\n".join(["# Command line", "", main.help or "", "", *sections])


def describe_api() -> str:
    """Return the page of the public names, each rendered by mkdocstrings from where it is defined."""
    lines = ["# Python API", "", "All names are imported from `posenet_store`.", ""]
    for name in sorted(posenet_store.__all__, key=str.lower):
        value = getattr(posenet_store, name)
        if not isinstance(value, str | ModuleType):
            lines += [f"::: {value.__module__}.{value.__qualname__}", ""]
    return "\n".join(lines)


def describe_experiments() -> str:
    """Return the list of the experiments: title, and the comment on top of each file."""
    lines = ["# Experiments", "", "`posenet-store sweep NAME` runs one; each is a file in `pipeline/experiments/`.", ""]
    for path in sorted((ROOT / "pipeline/experiments").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        comment = re.match(r"(?:#.*\n)*", text)
        words = re.sub(r"(?m)^# ?", "", comment[0]) if comment else ""
        words = re.sub(r"(?m)^ +(\S.*)$", r"\n    \1\n", words)  # a command
        parts = re.sub(r"\n(?=(Question|Published|Expected|Measured|Needs|Build)\b)", "\n\n", words)
        lines += [f"## {path.stem}", "", f"*{tomllib.loads(text)['title']}*", "", parts, ""]
    return "\n".join(lines)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with links to pages of the site in place of those to files of the checkout."""
    folder = PurePath(page.file.src_uri).parent
    for path, target in PAGES.items():
        markdown = markdown.replace(f"]({relpath(path, 'docs' / folder)}", f"]({relpath(target, folder)}")
    return markdown


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    pages = {page: read_page(name) for name, page in PAGES.items()}
    pages |= {"reference/cli.md": describe_cli(), "reference/python.md": describe_api()}
    pages |= {"reference/experiments.md": describe_experiments()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
