"""Put the tables of two benchmarks into docs/conversions.md, as their results have them.

python docs/generate_conversions.py
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent / "conversions.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def main() -> None:
    text = PAGE.read_text()
    for name in ("conversions", "export_peers"):
        text = replaced(text, name)
    PAGE.write_text(text)


def replaced(text: str, name: str) -> str:
    """The page with one benchmark's result as it is now."""
    begin, end = f"<!-- {name}: written by docs/generate_conversions.py -->\n", f"<!-- /{name} -->\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + "\n" + _body(name) + "\n" + end + after


def _body(name: str) -> str:
    """A result's Markdown without its title, headings one level lower."""
    _, _, text = (RESULTS / f"{name}.md").read_text().partition("\n\n")
    return text.replace("\n## ", "\n### ").strip() + "\n"


if __name__ == "__main__":
    main()
