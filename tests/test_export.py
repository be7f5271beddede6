"""ONNX files: what they compute, what they say of themselves, and when there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import MISSING, NAMES, small_network

import sruplift
from sruplift import export
from sruplift.errors import ExportError, SrupliftError, UsageError
from sruplift.export import (
    CHECKED,
    describe,
    export_onnx,
    largest_difference,
    make_graph,
    start_onnxruntime,
)
from sruplift.manifest import read_manifest, sha256_of
from sruplift.models import create_model
from sruplift.weights import LICENCE_UNKNOWN, find_weights, save_weights


@pytest.fixture
def onnx() -> Any:
    """The extra's packages."""
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=MISSING)
    return pytest.importorskip("onnx", reason=MISSING)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.usefixtures("onnx")
def test_a_graph_computes_what_pytorch_does(name: str, scale: int) -> None:
    net = small_network(name, scale)
    run = start_onnxruntime(make_graph(net, {}))
    assert len(set(CHECKED)) == 3
    assert largest_difference(run, net) < 1e-5
    least = net.needs.min_size
    image = torch.rand(1, 3, least, least + 1)
    if net.needs.window is not None:
        net.window = net.needs.window  # type: ignore[assignment]
    with torch.no_grad():
        expected = net(image).numpy()
    np.testing.assert_allclose(run({"lr": image.numpy()}), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("onnx")
def test_a_graph_of_tiles() -> None:
    net = small_network("maffsrn", 2)
    run = start_onnxruntime(make_graph(net, {}, framed=True))
    assert largest_difference(run, net, framed=True) < 1e-5


def test_a_file(onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "load_model", lambda *_: small_network("pan", 2))
    path = tmp_path / "pan.onnx"
    made = export_onnx(path, "pan", 2, opset=20)
    assert list(tmp_path.iterdir()) == [path]
    assert (made.path, made.model, made.scale, made.opset) == (path, "pan", 2, 20)
    assert (made.size, made.sha256) == (path.stat().st_size, sha256_of(path))
    assert 0 < made.difference < 1e-4
    content = path.read_bytes()
    for word in ("stack_trace", "site-packages", str(Path(sruplift.__file__).parent)):
        assert word.encode() not in content
    proto = onnx.load(path)
    assert [each.version for each in proto.opset_import] == [20]
    facts = {each.key: each.value for each in proto.metadata_props}
    assert facts["model"] == "pan"
    assert facts["scale"] == "2"
    assert facts["licence"] == made.licence == "Apache-2.0"
    assert facts["weights_sha256"] == read_manifest().find("pan", 2).sha256
    assert facts["generator"] == f"sruplift {sruplift.__version__}"
    assert "RGB in [0, 1]" in facts["input"]
    assert "2 * height" in facts["output"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [
        ["batch", 3, "height", "width"],
        ["batch", 3, "2*height", "2*width"],
    ]


def test_a_file_says_how_its_network_pools_and_whose_the_weights_are(tmp_path: Path) -> None:
    net = create_model("a2n", 2)
    path = tmp_path / "a2n.safetensors"
    save_weights(path, net.state_dict(), model="a2n", scale=2, metadata={})
    facts = describe(net, find_weights("a2n", 2, path))
    assert facts["pooling_window"] == "40"
    assert facts["licence"] == LICENCE_UNKNOWN
    save_weights(path, net.state_dict(), model="a2n", scale=2, metadata={"licence": "MIT"})
    assert describe(net, find_weights("a2n", 2, path))["licence"] == "MIT"


@pytest.mark.usefixtures("onnx")
def test_what_computes_something_else_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export.start_onnxruntime

    def wrong(graph: bytes) -> Any:
        run = real(graph)
        return lambda inputs: run(inputs) + 0.001

    monkeypatch.setattr(export, "start_onnxruntime", wrong)
    monkeypatch.setattr(export, "load_model", lambda *_: small_network("pan", 2))
    with pytest.raises(ExportError, match=r"differs from PyTorch's by 1\.0e-03 at 47x33 pixels"):
        export_onnx(tmp_path / "pan.onnx", "pan", 2)
    assert not list(tmp_path.iterdir())


def test_another_size_is_a_difference() -> None:
    net = small_network("pan")
    with pytest.raises(ExportError, match=r"makes \(1, 3, 33, 47\) of \(1, 3, 33, 47\)"):
        largest_difference(lambda inputs: inputs["lr"], net)


def test_nan_is_a_difference() -> None:
    net = small_network("pan")
    with torch.no_grad(), pytest.raises(ExportError, match="differs from PyTorch's by nan"):
        largest_difference(lambda inputs: net(torch.from_numpy(inputs["lr"])).numpy() * np.nan, net)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "it is a folder"),
        ("absent/pan.onnx", "there is no folder"),
        ("there.onnx", "exists"),
    ],
)
def test_places_that_are_refused(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "there.onnx").write_bytes(b"mine")
    with pytest.raises(ExportError, match=words):
        export_onnx(tmp_path / path, "pan", 2)
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("opset", [17, 24])
def test_opsets_that_are_refused(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset must be from 18 to 23, not {opset}"):
        export_onnx(tmp_path / "pan.onnx", "pan", 2, opset=opset)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'sruplift\[onnx\]'"):
        export_onnx(tmp_path / "pan.onnx", "pan", 2)
    assert not list(tmp_path.iterdir())


def test_hpinet_is_refused_before_its_weights_are_sought(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HPINet cannot be exported"):
        export_onnx(tmp_path / "h.onnx", "hpinet-s", 2)


@pytest.mark.usefixtures("onnx")
def test_networks_that_pytorch_cannot_export() -> None:
    class Changing(torch.nn.Module):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            return lr if float(lr.sum()) > 0 else -lr

    with pytest.raises(ExportError, match="PyTorch cannot export Changing to ONNX") as caught:
        make_graph(Changing(), {})
    assert isinstance(caught.value, SrupliftError)
    assert "\n" not in str(caught.value)
