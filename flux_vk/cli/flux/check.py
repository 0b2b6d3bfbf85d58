"""`check`: what the verifier says of programs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from flux_vk.cli.common import EXIT_INPUT

from ._programs import PROGRAM_HELP, find_program

if TYPE_CHECKING:
    from flux_vk.flux import Report

NAME = "check"
HELP = "verify programs: what keeps them from being loaded, with offsets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROGRAMs and their target."""
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help=PROGRAM_HELP)
    parser.add_argument("--target", choices=("gpu", "host"), default="gpu", help="what it is to run on; default gpu")
    parser.add_argument("--json", action="store_true", help="one JSON array")


def run(args: argparse.Namespace) -> int:
    """Print a report for each; 2 where one has findings."""
    from flux_vk.flux import verify

    reports = [(text, verify(find_program(text), args.target)) for text in args.programs]
    if args.json:
        print(json.dumps([{"program": text, "ok": report.ok, **asdict(report)} for text, report in reports]))
    else:
        for text, report in reports:
            print("\n".join(_lines(text, report)))
    return 0 if all(report.ok for _, report in reports) else EXIT_INPUT


def _lines(text: str, report: Report) -> list[str]:
    size = f"{report.bytes} bytes, {report.instructions} instructions"
    size += f", {report.tail} bytes of data" if report.tail else ""
    verdict = "legal" if report.ok else f"{len(report.findings)} finding{'s' * (len(report.findings) != 1)}"
    return [f"{text}: {verdict} for the {report.target} ({size})", *(f"  {finding}" for finding in report.findings)]
