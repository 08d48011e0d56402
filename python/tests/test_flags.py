"""The functions have the options of the command line, word for word."""

from __future__ import annotations

import inspect
import re
import subprocess

import pytest

import flowgauge
from flowgauge._binary import environment, find_program

VERBS = [
    "gate",
    "inspect",
    "likelihood",
    "metrics",
    "plan",
    "report",
    "reweight",
    "run",
    "sample",
    "verify",
]


def help_of(verb):
    return subprocess.run(
        [find_program(), verb, "--help"], check=True, capture_output=True, text=True
    ).stdout


def options_of(text):
    """The long options and the positional arguments of a help text, as Python names."""
    options = re.findall(r"^ +(?:-\w, )?--([a-z0-9-]+)", text, re.MULTILINE)
    arguments = re.findall(r"^ {2}\[?<([A-Z]+)>", text, re.MULTILINE)
    names = {name.replace("-", "_") for name in options} | {name.lower() for name in arguments}
    return names - {"help"}


@pytest.mark.parametrize("verb", VERBS)
def test_keywords_are_the_options_of_the_verb(verb):
    keywords = set(inspect.signature(getattr(flowgauge, verb)).parameters)
    assert keywords == options_of(help_of(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_verb_needs_is_what_the_function_needs(verb):
    usage = re.search(r"^Usage: .*?\n\n", help_of(verb), re.MULTILINE | re.DOTALL)[0]
    found = re.findall(r"--([a-z-]+) <\S+>|<([A-Z]+)>", usage)
    needed = {(option or argument.lower()).replace("-", "_") for option, argument in found}
    parameters = inspect.signature(getattr(flowgauge, verb)).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty}
    # A result without a place goes to a temporary folder.
    assert required == needed - {"out"}


def test_a_help_text_is_read():
    text = "Arguments:\n  <DIRS>...  Folders\n\nOptions:\n      --ort-lib <FILE>\n  -h, --help\n"
    assert options_of(text) == {"dirs", "ort_lib"}


def test_every_verb_is_a_function_or_left_out_on_purpose():
    listed = re.search(r"Commands:\n(.*?)\n\n", help_of_program(), re.DOTALL)[1]
    verbs = set(re.findall(r"^ {2}([a-z]+) ", listed, re.MULTILINE))
    # These print or write one thing and take no arrays: `python -m flowgauge` runs them.
    others = {"card", "completions", "differentiate", "doctor", "help", "init", "list", "man"}
    others |= {"schema"}
    assert verbs == set(VERBS) | others


def help_of_program():
    return subprocess.run(
        [find_program(), "--help"], check=True, capture_output=True, text=True, env=environment()
    ).stdout
