"""Write the table of terms into docs/objectives.md, from what the terms say of themselves.

python docs/generate_objectives.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from hetero.objectives.task import Term
from hetero.objectives.terms import TERMS, Need, name_of

PAGE = Path(__file__).parent / "objectives.md"
BEGIN, END = "<!-- terms: written by docs/generate_objectives.py -->\n", "<!-- /terms -->\n"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))


def page(text: str) -> str:
    """The page with its table as the terms have it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def table() -> str:
    """One row a term, in the order of `TERMS`."""
    head = "| term | what it asks of the student | label-free | black box | needs | constants | source |\n"
    return "\n" + head + "|---|---|---|---|---|---|---|\n" + "".join(map(_row, TERMS)) + "\n"


def _row(term: type[Term]) -> str:
    what = (inspect.getdoc(term) or "").partition("\n")[0].rstrip(".")
    cells = (
        f"`{name_of(term)}`",
        f"{'control: ' if term.control else ''}{what}",
        "no" if Need.LABELS in term.needs else "yes",
        "no" if {Need.HEAD, Need.MAPS} & term.needs else "yes",
        ", ".join(need for need in Need if need in term.needs),
        _constants(term),
        term.source,
    )
    return "| " + " | ".join(cells) + " |\n"


def _constants(term: type[Term]) -> str:
    """The defaults of its own fields; the weight only where it is not one."""
    fields = {k: f.default for k, f in term.model_fields.items() if k != "term"}
    return ", ".join(f"{k} {_plain(v)}" for k, v in fields.items() if (k, v) != ("weight", 1.0) and v != ())


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
