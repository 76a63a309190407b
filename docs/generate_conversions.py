"""Writes conversions.md from what `benchmarks/conversions.py` and `export_peers.py` wrote: run by `make docs`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"

_HEAD = """\
# Conversions

What converts, by this library's own path, to ONNX and to LiteRT (TFLite), and how the stock paths compare. Both
tables are written by benchmarks; this page is put together from them by `make docs`.

Any torch module may be tried: see [your own](your-own.md#any-model-exported). A network that the table does not
list converts or fails with one line; a file that does not compute what the network does is never written.

"""

_BETWEEN = """
How to read the refusals. float32 never loses anything here. int8 with *random* weights is a stress test, not a
forecast: rounding is amplified by weights that no training has fitted to their data, most in depthwise and in
re-parameterised networks, whose channels differ most in range. `hetero export` measures every int8 file on the golden
images before it writes it, and refuses at 1 - cosine above 0.1; a trained network has to be tried, and may still lose
more than you want: look at the retrieval gates, not only at the cosine.

What the converters do that one should know:

* A network whose last gains are zero, as a fresh timm ResNet's are, loses its residual branches in LiteRT's converter:
  right for these weights, and a file of 2 % of the size. The benchmark draws gains for that reason; before measuring
  the size or speed of an untrained network of yours, do the same.
* ShuffleNetV2's and ResNet's padded max-pooling becomes a PADV2 with -inf that XNNPACK does not take: two parts
  (last column) instead of one.
* RepVGG and MobileOne are exported fused; their size here is that of the fused network.

# The same student by other paths

"""

_TAIL = """
Where the stock paths win, and where ours:

{verdict}
"""


def main() -> None:
    """Head, the first benchmark's page without its title, and the second's."""
    page = _HEAD + _body("conversions") + _BETWEEN + _body("export_peers")
    target = HERE / "conversions.md"
    target.write_text(page.rstrip() + "\n")
    print(target)


def _body(name: str) -> str:
    """A result's Markdown without its title, headings one level lower."""
    _, _, text = (RESULTS / f"{name}.md").read_text().partition("\n\n")
    return text.replace("\n## ", "\n### ").rstrip() + "\n"


if __name__ == "__main__":
    main()
