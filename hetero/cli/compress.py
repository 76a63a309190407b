"""`hetero compress`."""

from __future__ import annotations

from pathlib import Path

import click

from hetero.cli.options import json_option, need_training_stack, print_json


@click.command("compress")
@click.argument("gallery", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--codec", "name", required=True, help="float16, int8, binary, pqBYTES or opqBYTES.")
@click.option(
    "--fit",
    type=click.Path(path_type=Path),
    help="Embeddings a product quantiser learns from, never queries  [default: the gallery]",
)
@json_option
def command(gallery: Path, output: Path, name: str, fit: Path | None, as_json: bool) -> None:
    """Compress a gallery of embeddings: fewer bytes a vector, searched as it is by the same students.

    The result stands on the gallery side of `hetero matrix` and `hetero verify`: float queries are compared
    with decoded vectors, a block at a time. pq16 is product quantisation to 16 bytes, opq16 with a learnt
    rotation; both need faiss to learn, not to search.

    \b
    Example:
      hetero compress cloud/test --codec int8 -o cloud-int8
    """
    need_training_stack()
    from hetero.retrieval.codecs import check_name, codec, compress
    from hetero_devices.space import Embeddings, check_same, check_target

    check_target(output)
    embeddings = Embeddings.load(gallery)
    check_name(name, embeddings.space.dim)  # a misspelt name is refused before the vectors are read
    embeddings.check()
    training = Embeddings.load(fit) if fit else embeddings
    check_same(training.space, embeddings.space, "what the codec learns from", "the gallery")
    training.check()
    compressed = compress(embeddings, codec(name, embeddings.space.dim, lambda: training.vectors))
    compressed.save(output)
    size, before = compressed.bytes_per_vector, 4 * embeddings.space.dim
    if as_json:
        fields = {"codec": name, "vectors": len(compressed), "bytes_per_vector": size}
        print_json(fields | {"space": embeddings.space.to_json()})
        return
    click.echo(f"{len(compressed):7} vectors, {size} bytes each instead of {before} -> {output}")
