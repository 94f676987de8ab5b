"""The bundle: what is written is read again, and every kind of damage is named."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_graphs import SEARCH_INPUTS, SEARCH_OUTPUTS, TEMPLATE_INPUTS, TEMPLATE_OUTPUTS, tiny_bundle, tiny_manifest

from trackctl.runtime.bundle import Bundle, GraphEntry, Manifest, frame_key, write_bundle
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.errors import BundleError
from trackctl.runtime.geometry import CropSpec


def entry(file, inputs, outputs):
    return GraphEntry(file=file, sha256="0" * 64, inputs=inputs, outputs=outputs)


GRAPHS = {
    "template": entry("template.onnx", TEMPLATE_INPUTS, TEMPLATE_OUTPUTS),
    "search": entry("search.onnx", SEARCH_INPUTS, SEARCH_OUTPUTS),
}
names = st.text("abcdefgh_", min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40)


@st.composite
def manifests(draw):
    template_size, search_size, channels = draw(st.integers(1, 300)), draw(st.integers(1, 600)), draw(st.integers(1, 16))
    shapes = st.lists(st.integers(1, 2000), max_size=4).map(tuple)
    memory = draw(st.dictionaries(names, st.builds(TensorSpec, st.sampled_from(["float32", "uint8"]), shapes), max_size=4))
    patch = {
        "template": {"template": TensorSpec("float32", (1, channels, template_size, template_size))},
        "search": {"search": TensorSpec("float32", (1, channels, search_size, search_size))},
    }
    graphs = {"template": entry("t.onnx", patch["template"], memory), "search": entry("s.onnx", memory | patch["search"], {})}
    for height, width, layout in draw(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000), st.just("gray16")))):
        for role in ("template", "search"):
            graphs[frame_key(role, (height, width), layout)] = entry(f"{role}.{height}.onnx", {}, {})
    return Manifest(
        system=draw(names),
        precision=draw(st.sampled_from(["fp32", "fp16", "int8"])),
        channels=channels,
        crop=CropSpec(template_size=template_size, search_size=search_size, context=draw(numbers)),
        decode=draw(st.dictionaries(names, numbers | st.lists(numbers, max_size=3), max_size=3)),
        memory=tuple(memory),
        graphs=graphs,
        confidence=draw(st.dictionaries(names, numbers, max_size=3)),
        provenance=draw(st.dictionaries(names, st.text(max_size=10), max_size=3)),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(manifests())
def test_json_keeps_every_manifest(manifest):
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).to_json() == text


def smaller(side):
    return {**GRAPHS, "near": entry("near.onnx", SEARCH_INPUTS | {"search": TensorSpec("float32", (1, 3, side, side))}, {})}


def test_a_near_graph_is_kept(tmp_path):
    manifest = dataclasses.replace(Manifest.from_json(json.dumps(manifest_data())), graphs=smaller(175))
    assert Manifest.from_json(manifest.to_json()).graphs["near"].inputs["search"].shape == (1, 3, 175, 175)


@pytest.mark.parametrize("side", [0, 174, 255, 257])
def test_a_near_graph_takes_a_smaller_patch_of_the_same_middle(side):
    with pytest.raises(BundleError, match=r"near.onnx takes .* expected what search.onnx takes with a smaller patch"):
        dataclasses.replace(Manifest.from_json(json.dumps(manifest_data())), graphs=smaller(side))


def test_a_near_graph_takes_the_same_memory():
    graphs = smaller(175)
    del graphs["near"].inputs["kernel"]
    with pytest.raises(BundleError, match=r"near.onnx takes"):
        dataclasses.replace(Manifest.from_json(json.dumps(manifest_data())), graphs=graphs)


def manifest_data():
    return {
        "format": 1,
        "system": "tiny",
        "precision": "fp32",
        "channels": 3,
        "crop": {"template_size": 127, "search_size": 255, "context": 0.5},
        "decode": {},
        "memory": ["kernel"],
        "graphs": json.loads(json.dumps({key: dataclasses.asdict(graph) for key, graph in GRAPHS.items()})),
        "confidence": {},
        "provenance": {},
    }


def test_the_plain_data_is_a_manifest():
    manifest = Manifest.from_json(json.dumps(manifest_data()))
    assert manifest.graphs["search"].inputs["kernel"] == TensorSpec("float32", (1, 4, 7, 7))
    assert manifest.memory == ("kernel",)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "format 2, this trackctl reads up to 1: update trackctl"),
        (["format"], True, "format True"),
        (["format"], 0, "format 0"),
        (["system"], None, "system is None, expected str"),
        (["precision"], "fp8", "precision 'fp8', expected one of"),
        (["precision"], ["fp16"], r"precision \['fp16'\], expected one of"),
        (["channels"], "3", "channels is '3', expected int"),
        (["channels"], True, "channels is True, expected int"),
        (["channels"], 1, "takes 'template' as"),
        (["colour"], "red", "unknown key colour"),
        (["crop", "search_size"], 287, "takes 'search' as"),
        (["crop", "search_size"], 255.5, "crop.search_size is 255.5"),
        (["crop", "side"], 1, "crop has the unknown key side"),
        (["decode", "lr"], "0.3", "decode.lr is '0.3'"),
        (["decode", "lr"], [0.3, None], "decode.lr is None"),
        (["memory"], "kernel", "memory is 'kernel', expected list"),
        (["memory"], [1], "memory is 1"),
        (["memory"], ["kernels"], "memory 'kernels' leaves the template graph as None"),
        (["graphs"], [], "graphs is"),
        (["graphs", "refine"], {}, "graphs.refine has no file, inputs, outputs, sha256"),
        (["graphs", "search", "file"], "../search.onnx", "expected a plain name ending in .onnx"),
        (["graphs", "search", "file"], "/etc/search.onnx", "expected a plain name ending in .onnx"),
        (["graphs", "search", "size"], 1, "graphs.search has the unknown key size"),
        (["graphs", "search", "inputs", "state"], [1, 6], "graphs.search.inputs.state is"),
        (["graphs", "search", "inputs", "state", "shape"], [1, "B"], "graphs.search.inputs.state.shape is 'B'"),
        (["graphs", "search", "inputs", "kernel", "shape"], [1, 4, 5, 5], "memory 'kernel' leaves the template graph as"),
        (["confidence", "lost"], None, "confidence.lost is None"),
        (["provenance", "weights"], 7, "provenance.weights is 7"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(path, value, message):
    data = manifest_data()
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.from_json(json.dumps(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(manifest_data()))
def test_a_missing_key_is_named(key):
    data = manifest_data()
    del data[key]
    with pytest.raises(BundleError, match=key):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_what_is_no_object_is_refused(text):
    with pytest.raises(BundleError, match="the manifest"):
        Manifest.from_json(text)


def test_frame_graphs_come_in_pairs_and_under_known_keys():
    assert frame_key("search", (512, 640), "gray8") == "search.frame.640x512.gray8"
    lone = GRAPHS | {"search.frame.640x512.gray8": entry("f.onnx", {}, {})}
    base = Manifest.from_json(json.dumps(manifest_data()))
    with pytest.raises(BundleError, match=r"no 'template.frame.640x512.gray8'"):
        dataclasses.replace(base, graphs=lone)
    both = lone | {"template.frame.640x512.gray8": entry("g.onnx", {}, {})}
    assert dataclasses.replace(base, graphs=both).frame_cuts() == (((512, 640), "gray8"),)
    for key in ("refine", "search.frame.640x512.rgb", "search.frame.0x512.gray8", "search.frame.640x512"):
        with pytest.raises(BundleError, match=f"graph '{key}'"):
            dataclasses.replace(base, graphs=GRAPHS | {key: entry("f.onnx", {}, {})})


def test_written_and_opened(tmp_path):
    written = tiny_bundle(tmp_path)
    opened = Bundle.open(str(tmp_path / "tiny.trk"))
    assert opened.manifest == written.manifest
    assert opened.graph_path("search").read_bytes() == (tmp_path / "made/search.onnx").read_bytes()
    assert opened.frame_graphs() == ()
    assert opened.report() == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny.trk"]
    assert (tmp_path / "tiny.trk").stat().st_mode & 0o777 == (tmp_path / "made").stat().st_mode & 0o777
    with pytest.raises(BundleError, match="no graph 'refine'"):
        opened.graph_path("refine")


def test_the_same_bundle_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tiny_bundle(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a/tiny.trk").iterdir())
    assert files == ["manifest.json", "search.onnx", "template.onnx"]
    for file in files:
        assert (tmp_path / "a/tiny.trk" / file).read_bytes() == (tmp_path / "b/tiny.trk" / file).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "tampered", "empty", "gone", "folder"])
def test_a_damaged_graph_is_named(tmp_path, damage):
    graph = tiny_bundle(tmp_path).graph_path("search")
    content = bytearray(graph.read_bytes())
    graph.unlink()
    if damage == "truncated":
        graph.write_bytes(content[:-1])
    elif damage == "tampered":
        content[len(content) // 2] ^= 1
        graph.write_bytes(content)
    elif damage == "empty":
        graph.write_bytes(b"")
    elif damage == "folder":
        graph.mkdir()
    with pytest.raises(BundleError, match=r"search\.onnx.*export the bundle again"):
        Bundle.open(tmp_path / "tiny.trk")


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="trackctl export"):
        Bundle.open(tmp_path / "nothing.trk")
    (tmp_path / "file.trk").write_bytes(b"x")
    with pytest.raises(BundleError, match="is no folder"):
        Bundle.open(tmp_path / "file.trk")
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=f"{tmp_path.name}.*format None"):
        Bundle.open(tmp_path)


def test_an_existing_bundle_is_replaced_whole(tmp_path):
    first = tiny_bundle(tmp_path)
    first.engine_cache("search", "tensorrt").parent.mkdir()
    first.engine_cache("search", "tensorrt").write_bytes(b"engine")
    manifest = tiny_manifest(tmp_path / "made", system="other", precision="int8")
    second = write_bundle(tmp_path / "tiny.trk", manifest, tmp_path / "made", {"drift": 0.5})
    assert Bundle.open(tmp_path / "tiny.trk").manifest.system == "other"
    assert second.report() == {"drift": 0.5}
    assert not (tmp_path / "tiny.trk/engines").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny.trk"]


def test_a_failed_write_leaves_the_old_bundle(tmp_path):
    tiny_bundle(tmp_path)
    manifest = tiny_manifest(tmp_path / "made", system="other")
    (tmp_path / "made/search.onnx").write_bytes(b"changed since")
    with pytest.raises(BundleError, match="checksum"):
        write_bundle(tmp_path / "tiny.trk", manifest, tmp_path / "made")
    assert Bundle.open(tmp_path / "tiny.trk").manifest.system == "tiny"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny.trk"]


def test_nothing_but_a_bundle_is_ever_replaced(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    manifest = tiny_manifest(made)
    photos = tmp_path / "photos"
    photos.mkdir()
    write_bundle(photos, manifest, made)  # an empty folder is free to take
    (photos / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(BundleError, match=r"holiday\.jpg"):
        write_bundle(photos, manifest, made)
    web = tmp_path / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "app"}')
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for place in (web, file):
        with pytest.raises(BundleError, match="is no bundle"):
            write_bundle(place, manifest, made)
    assert (photos / "holiday.jpg").exists()
    assert (web / "manifest.json").exists()
    assert file.exists()
    with pytest.raises(BundleError, match="cannot write the bundle"):
        write_bundle(file / "below.trk", manifest, made)


def test_a_damaged_report_is_named(tmp_path):
    bundle = tiny_bundle(tmp_path)
    (bundle.path / "report.json").write_text("{")
    with pytest.raises(BundleError, match=r"report\.json"):
        bundle.report()


def test_the_engine_cache_changes_with_all_that_matters(tmp_path):
    bundle = tiny_bundle(tmp_path)
    base = {"version": "10.3.0", "gpu": "Orin", "driver": "540"}
    paths = [
        bundle.engine_cache("search", "tensorrt", **base),
        bundle.engine_cache("template", "tensorrt", **base),
        bundle.engine_cache("search", "tensorrt_rtx", **base),
        *(bundle.engine_cache("search", "tensorrt", **(base | {key: "other"})) for key in base),
    ]
    assert len(set(paths)) == len(paths)
    assert paths[0] == bundle.engine_cache("search", "tensorrt", **dict(reversed(base.items())))
    assert paths[0].parent == bundle.path / "engines"
