"""The page's modules that need no browser, run by Node.js and compared with Python."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.devices import Stopping
from hetero_devices.devices.browser import packages
from hetero_devices.devices.measure import summarise
from tests.device_tools import need_tool

PAGE = Path(packages.__file__).parent / "page"


def node(script: str) -> Any:
    """What a module script, run beside the page's modules, prints as JSON."""
    argv = [need_tool("node", "nodejs"), "--input-type=module", "-e", script]
    done = subprocess.run(argv, cwd=PAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_hashes_without_a_secure_context() -> None:
    lengths = [*range(130), 1000, 1 << 20]
    script = f"""
        import {{ sha256Here, sha256 }} from {json.dumps((PAGE / "sha256.mjs").as_uri())};
        const made = {lengths}.map((n) => Uint8Array.from({{ length: n }}, (_, i) => i * 7 + n));
        const subtle = await Promise.all(made.map(sha256));
        console.log(JSON.stringify([made.map(sha256Here), subtle]));"""
    made = [bytes((i * 7 + n) % 256 for i in range(n)) for n in lengths]
    assert node(script) == [[hashlib.sha256(content).hexdigest() for content in made]] * 2


def test_the_page_reads_and_writes_npy(tmp_path: Path, net: Any) -> None:
    np.save(tmp_path / "images.npy", images := net.images(3))
    script = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ readImages, writeMatrix }} from {json.dumps((PAGE / "npy.mjs").as_uri())};
        const read = readImages(readFileSync({json.dumps(str(tmp_path / "images.npy"))}));
        const out = {json.dumps(str(tmp_path / "out.npy"))};
        writeFileSync(out, writeMatrix(new Float32Array([1, 2, 3, 4, 5, 6]), 2));
        let refused = "";
        try {{ readImages(readFileSync(out)); }} catch (error) {{ refused = error.message; }}
        console.log(JSON.stringify([read.count, read.height, read.width, [...read.pixels], refused]));"""
    count, height, width, pixels, refused = node(script)
    assert [count, height, width, pixels] == [3, 8, 8, images.ravel().tolist()]
    assert "expected uint8 [N, H, W, 3]" in refused
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [[1, 2, 3], [4, 5, 6]])


def test_the_page_measures_by_the_rule_of_the_runner() -> None:
    samples = np.random.default_rng(0).exponential(size=201).tolist()
    stopping = [
        Stopping(warm_up=4, min_samples=5, min_seconds=0.0, max_seconds=100.0),
        Stopping(warm_up=4, min_samples=5, min_seconds=30.0, max_seconds=100.0),
        Stopping(warm_up=0, min_samples=500, min_seconds=30.0, max_seconds=60.0),
        Stopping(warm_up=4, min_samples=500, min_seconds=0.0, max_seconds=0.0),
    ]
    script = f"""
        import {{ measureLatency, summarise }} from {json.dumps((PAGE / "measure.mjs").as_uri())};
        const pixels = new Uint8Array([0, 0, 0, 1, 1, 1, 2, 2, 2]);
        const images = {{ count: 3, height: 1, width: 1, pixels }};
        const runs = [];
        for (const rule of {json.dumps([rule.__dict__ for rule in stopping])}) {{
          const seen = [];
          let now = 0;
          const session = {{ run: async (pixels) => seen.push(pixels[0]) }};
          const found = await measureLatency(session, images, rule, 7, () => {{}}, () => 1000 * now++);
          const {{ samples, p50_ms, first_ms, load_ms }} = found;
          runs.push([samples, p50_ms, first_ms, load_ms, seen.length, seen.slice(0, 4)]);
        }}
        console.log(JSON.stringify([runs, summarise({samples}, 9, 1, 4)]));"""
    runs, summary = node(script)
    # A sample takes one tick of 1 s; three pass from sample to sample, as in the runner's own test.
    assert [run[0] for run in runs] == [5, 10, 20, 1]
    assert all(run[1:4] == [1000, 1000, 7] for run in runs)
    for rule, run in zip(stopping, runs, strict=True):
        assert run[4] == 1 + rule.warm_up + run[0]
        assert run[5] == [0, 1, 2, 0][: run[4]]
    expected = summarise(samples, first_ms=9.0, load_ms=1.0, warm_up=4)
    assert summary == pytest.approx(expected.__dict__)
