"""Damaged, altered and hostile bundles: an error that names the file, and nothing is run."""

import contextlib
import json
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import landform as lf
from landform.bundle import info, load, save
from landform.bundle.layout import CONTENT, plain
from landform.errors import BundleError, InputError, LandformError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "a.landform"
    return lf.imprint(lf.Pattern.parse("formula:ackley", resolution=4), "digits").save(folder)


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / "a.landform")


def edit(bundle, change, name="imprint.json"):
    file = bundle / name
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def without_hashes(bundle):
    edit(bundle, lambda raw: raw.pop("files"))


def alter(bundle, name, change):
    tensors = load_file(bundle / name)
    change(tensors)
    save_file(tensors, bundle / name)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"lacks {name} \("):
        load(bundle)
    (bundle / name).mkdir()
    with pytest.raises(BundleError, match=f"{name} is no regular file"):
        load(bundle)


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b"", lambda b: b"\x80\x04" + b[2:], lambda b: b[:5]])
def test_a_damaged_file_is_named(bundle, name, verify, damage):
    file = bundle / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BundleError, match=name):
        load(bundle, verify=verify)


@pytest.mark.parametrize("name", sorted(set(CONTENT) - {"imprint.json"}))
def test_an_altered_file_is_named(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} has SHA-256 .* altered|{name} is corrupted"):
        load(bundle)


def test_there_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="there is no bundle at"):
        load(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        info(tmp_path / "file")
    with pytest.raises(BundleError, match=r"lacks imprint.json"):
        load(tmp_path)
    assert isinstance(BundleError("x"), OSError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format_version=2), r"format version 2, this landform reads version 1; install"),
        (lambda raw: raw.update(format_version=True), r"format version True"),
        (lambda raw: raw.update(format="zip"), r"format is 'zip', wanted 'landform-bundle'"),
        (lambda raw: raw.pop("range"), r"imprint.json is corrupted: range: Field required"),
        (lambda raw: raw.update(range=[2, 1]), r"range is \[2.0, 1.0\], wanted lo < hi"),
        (lambda raw: raw.update(range=["nan", 1]), r"range.0: Input should be a finite number"),
        (
            lambda raw: raw.update(method="magic"),
            r"method: Input should be 'constant', 'offset' or 'per-sample', got 'magic'",
        ),
        (lambda raw: raw.update(spline_stage=77), r"spline_stage is 77, the network has"),
        (lambda raw: raw.update(z=3), r"directions.safetensors has no tensor for coordinate 2"),
        (lambda raw: raw.update(z=1), r"directions.safetensors has a tensor '1/1.bias'; wanted"),
        (lambda raw: raw["responses"].update(heads=[1]), r"responses.heads names response 1, which is absent"),
        (lambda raw: raw["responses"].update(heads=[0, 0]), r"heads of \[10\] outputs .* \[10, 10\]"),
        (
            lambda raw: raw["responses"]["distinct"][0].update(name="mse"),
            r"targets.npy .* do not make a response of mse",
        ),
        (lambda raw: raw["responses"]["distinct"][0].update(name="os.system"), r"unknown loss 'os.system'"),
        (
            lambda raw: raw["responses"]["distinct"][0].update(shape=[1, 9]),
            r"targets.npy holds float64 of shape \(10,\)",
        ),
        (lambda raw: raw["pattern"].update(resolution=[4, 5]), r"pattern.npy holds float64 of shape \(5, 5\)"),
        (lambda raw: raw["pattern"].update(resolution=[24]), r"the pattern has 1 axes and the subspace 2"),
        (lambda raw: raw["pattern"].update(channels=2), r"pattern.npy holds"),
        (
            lambda raw: raw["tensors"]["1.bias"].update(shape=[5]),
            r"origin.safetensors does not fit imprint.json: '1.bias'",
        ),
        (lambda raw: raw["tensors"]["1.bias"].update(dtype="float64"), r"'1.bias' has dtype F32, wanted torch.float64"),
        (lambda raw: raw["tensors"]["1.bias"].update(dtype="object"), r"unknown dtype 'object'"),
        (lambda raw: raw["tensors"].pop("1.bias"), r"it has '1.bias' \(2,\), which was not saved"),
        (lambda raw: raw["architecture"].update(type="Conv2d"), r"architecture: .*got"),
        (lambda raw: raw["architecture"]["layers"][1].update(in_features=10**15), r"in_features"),
        (lambda raw: raw["architecture"]["layers"][1].update(in_features=2**31 - 1), r"does not fit its own tensors"),
        (lambda raw: raw["architecture"]["layers"][1].update(device="cuda"), r"device: Extra inputs are not permitted"),
        (lambda raw: raw["architecture"]["layers"][1].update(name="0"), r"two layers have the same name"),
        (lambda raw: raw["architecture"]["layers"][1].update(name="forward"), r"cannot be built: .*forward"),
        (lambda raw: raw["architecture"]["layers"][1].update(name="../x"), r"name"),
        (
            lambda raw: raw["architecture"]["layers"].pop(),
            r"does not fit its own tensors: it has no '9.weight'|it has no",
        ),
        (lambda raw: raw["files"].update({"origin.safetensors": {"sha256": "no"}}), r"sha256"),
    ],
)
def test_a_wrong_document_says_what_is_wrong(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        load(bundle)


def test_documents_have_limits(bundle):
    file = bundle / "imprint.json"
    for text, message in [
        ("[" * 100_000, "imprint.json is corrupted: wanted JSON"),
        ('{"format": NaN}', "the constant NaN, which is not JSON"),
        ("[]", "format is 'list'"),
        ('{"format_version": ' + "1" * 5000 + "}", "imprint.json is corrupted"),
        (" " * ((1 << 24) + 1), "more than the limit"),
    ]:
        file.write_text(text)
        with pytest.raises(BundleError, match=message):
            info(bundle)
    nested: dict = {"name": "0", "type": "Identity"}
    for _ in range(400):
        nested = {"name": "0", "type": "Sequential", "layers": [nested]}
    shutil.copy(bundle / "certificate.json", file)
    with pytest.raises(BundleError, match="format is None"):
        info(bundle)


def test_nested_too_deeply(bundle):
    nested: dict = {"name": "0", "type": "Identity"}
    for _ in range(150):
        nested = {"name": "0", "type": "Sequential", "layers": [nested]}
    edit(bundle, lambda raw: raw.update(architecture=nested))
    with pytest.raises(BundleError, match=r"imprint.json"):
        load(bundle)


def test_a_wrong_certificate_is_named(bundle):
    edit(bundle, lambda raw: raw.update(kind="divine"), "certificate.json")
    with pytest.raises(BundleError, match=r"certificate.json has|certificate.json is corrupted: kind"):
        load(bundle, verify=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bundle, value):
    shutil.copytree(bundle, bundle.with_name("b"))
    alter(bundle, "origin.safetensors", lambda t: t["3.weight"].fill_(value))
    with pytest.raises(
        BundleError, match=r"origin.safetensors is corrupted: '3.weight' has values that are NaN or inf"
    ):
        load(bundle, verify=False)
    bundle = bundle.with_name("b")
    np.save(bundle / "pattern.npy", np.full((5, 5), value))
    with pytest.raises(BundleError, match=r"pattern.npy is corrupted: it has values that are NaN or inf"):
        load(bundle, verify=False)


def test_headers_are_checked_before_data(bundle):
    file = bundle / "pattern.npy"
    np.save(file, np.zeros((5, 5), dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"pattern.npy holds object of shape \(5, 5\); imprint.json promises float64"):
        load(bundle, verify=False)
    np.save(file, np.zeros((5, 5), dtype=np.float32))
    with pytest.raises(BundleError, match=r"holds float32 of shape \(5, 5\)"):
        load(bundle, verify=False)
    np.save(file, np.full((5, 5), 2.0))
    with pytest.raises(BundleError, match=r"pattern.npy holds no pattern: pattern values lie in \[2.0, 2.0\]"):
        load(bundle, verify=False)
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (bundle / "origin.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BundleError, match=r"origin.safetensors is corrupted: wanted safetensors"):
        load(bundle, verify=False)
    (bundle / "origin.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(BundleError, match=r"origin.safetensors is corrupted: wanted safetensors"):
        load(bundle, verify=False)


@pytest.mark.parametrize("key", ["0/../1.bias", "x/1.bias", "0", "-1/1.bias", "9/1.bias", "00/1.bias", "0/none"])
def test_directions_are_named_as_documented(bundle, key):
    alter(bundle, "directions.safetensors", lambda t: t.update({key: torch.ones(2)}))
    with pytest.raises(BundleError, match=r"directions.safetensors has a tensor .*wanted '<coordinate>/<parameter>'"):
        load(bundle, verify=False)


def test_directions_have_the_shape_of_what_they_move(bundle):
    alter(bundle, "directions.safetensors", lambda t: t.update({"0/1.bias": torch.ones(3)}))
    with pytest.raises(BundleError, match=r"'0/1.bias' is torch.float32 \(3,\), the parameter torch.float32 \(2,\)"):
        load(bundle, verify=False)


@pytest.mark.parametrize("skip", [lambda b: {"verify": False}, lambda b: without_hashes(b) or {}])
def test_altered_weights_reach_the_proof(bundle, skip):
    alter(bundle, "origin.safetensors", lambda t: t["9.bias"].add_(torch.eye(10)[3] * 0.3))
    options = skip(bundle)
    assert not lf.certify(load(bundle, **options)).holds


def test_nothing_is_imported_or_run(bundle, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(bundle, lambda raw: raw.update(architecture={"type": "class", "class": "trap.Net"}))
    with pytest.raises(LandformError, match=r"trap.Net, a class of yours"):
        load(bundle)


def test_a_pipe_does_not_block(bundle):
    (bundle / "certificate.json").unlink()
    os.mkfifo(bundle / "certificate.json")
    with pytest.raises(BundleError, match=r"certificate.json is no regular file"):
        info(bundle)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.sampled_from(sorted(CONTENT)), st.integers(0, 10**6), st.binary(min_size=1, max_size=9), st.booleans())
def test_any_damage_is_a_landform_error_or_harmless(original, tmp_path_factory, name, place, junk, cut):
    folder = shutil.copytree(original, tmp_path_factory.mktemp("fuzz") / "a")
    content = bytearray((folder / name).read_bytes())
    place %= len(content)
    content[place : place + len(junk)] = junk
    (folder / name).write_bytes(content[: place + len(junk)] if cut else content)
    with contextlib.suppress(LandformError):
        load(folder, verify=False)
    shutil.rmtree(folder)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(InputError, match=r"meta.f\[1\] is a function, which JSON cannot hold"):
        plain({"f": [1, plain]}, "meta")


def test_what_is_not_finite_is_not_saved(original, tmp_path):
    imprint = load(original)
    with torch.no_grad():
        imprint.model[3].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"'3.weight' has values that are NaN or infinite"):
        save(imprint, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
