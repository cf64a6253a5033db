import functools
import hashlib
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy

import mulo
from mulo import fetch
from mulo._thetas import downloads, fetched, pylo

PUBLIC = Path(__file__).parent / "golden" / "mulo_public_format"
RULE = mulo.VeLO(lstm_hidden_size=4, param_inits=3)


def content(rule=RULE):
    """A file like the public one: flax msgpack inside a checkpoint's wrapper."""
    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def array(leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        packed = msgpack.packb((list(leaf.shape), "float32", values.tobytes()))
        return msgpack.ExtType(1, packed)

    theta = jax.tree.map(array, shapes)
    return msgpack.packb({"params": theta, "gen_id": "x", "step": 3})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "params").write_bytes(content())
    (folder / "config.gin").write_text(
        "HyperV2.lstm_hidden_size = 4\nHyperV2.param_inits = 3\n"
    )
    return folder


@pytest.fixture
def served(there):
    """The folder behind a local http server: (address, addresses asked for)."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(there))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_velo_is_fetched_once_recorded_and_loaded_by_its_name(cache, served, capsys):
    address, asked = served
    assert fetch.main(["velo", f"--url={address}/params"]) == 0
    assert sorted(asked) == ["/config.gin", "/params"]
    said = capsys.readouterr().out
    record = json.loads((cache / "velo" / "record.json").read_text())
    described = record["files"]["params"]
    assert described["url"] == f"{address}/params"
    assert described["size"] == len(content())
    assert described["sha256"] in said
    assert fetch.main(["velo", f"--url={address}/params"]) == 0
    assert len(asked) == 2  # Not again.
    loaded = mulo.load("velo")
    assert loaded.rule.lstm_hidden_size == 4
    assert loaded.rule.use_bugged_loss_features  # The class's default, by config.gin.
    assert loaded.card["sha256"] == described["sha256"]


def test_a_local_file_without_a_config_gets_the_published_settings(cache, there):
    (there / "config.gin").unlink()
    path = downloads.fetch("velo", url=(there / "params").as_uri())
    assert path == cache / "velo" / "params"
    assert mulo.load("velo").rule == RULE


def test_a_file_that_changed_since_is_refused(cache, there):
    path = downloads.fetch("velo", url=(there / "params").as_uri())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for read in (lambda: mulo.load("velo"), lambda: downloads.fetch("velo")):
        with pytest.raises(ValueError, match="params is not what was fetched"):
            read()
    path.unlink()
    with pytest.raises(ValueError, match="params is missing"):
        mulo.load("velo")


def test_what_is_no_theta_is_not_kept(cache, there):
    (there / "params").write_bytes(b"<html>Sign in</html>")
    with pytest.raises(ValueError, match="not a whole flax msgpack file"):
        downloads.fetch("velo", url=(there / "params").as_uri())
    assert not cache.exists()


def test_without_a_network_the_message_says_what_to_do(cache, there, capsys):
    with pytest.raises(ValueError, match=r"'velo' was not fetched.*mulo\.fetch velo"):
        mulo.load("velo")
    # Nobody listens on port 1 of this machine.
    assert fetch.main(["velo", "--url=http://127.0.0.1:1/params"]) == 1
    said = capsys.readouterr().err
    assert "Could not read http://127.0.0.1:1/params" in said
    assert "copy the file from elsewhere" in said
    assert fetch.main(["velo", f"--url={there.as_uri()}/nothing"]) == 1
    assert "Could not read file://" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.parametrize(
    "url", ["gs://bucket/params", "http://example.org/params", "params", "http:///x"]
)
def test_addresses_on_whose_way_a_file_can_be_changed_are_refused(cache, url):
    with pytest.raises(ValueError, match=r"start with https:// or file:// .*got '"):
        downloads.fetch("velo", url=url)
    assert not cache.exists()


def test_a_redirection_to_such_an_address_is_refused(cache, monkeypatch):
    class Response(io.BytesIO):
        url = "http://example.org/params"

    monkeypatch.setattr(
        downloads.urllib.request, "urlopen", lambda url, timeout: Response(content())
    )
    with pytest.raises(ValueError, match=r"got 'http://example\.org/params'"):
        downloads.fetch("velo", url="https://example.org/params")
    assert not cache.exists()


def test_the_public_addresses_are_https_and_velos_is_that_of_the_bucket():
    assert all(s.url.startswith("https://") for s in fetched.SOURCES.values())
    assert fetched.SOURCES["velo"].url == (
        "https://storage.googleapis.com/gresearch/learned_optimization/pretrained_lopts/"
        "aug12_continue_on_bigger_2xbs_200kstep_bigproblem_v2_5620/params"
    )
    hub = "https://huggingface.co"
    assert (
        fetched.SOURCES["celo2"].url == f"{hub}/amoudgl/celo2/resolve/main/theta.state"
    )
    public = f"{hub}/btherien/mulo/resolve/main/model.safetensors"
    assert fetched.SOURCES["mulo_public"].url == public
    for name in ("nope", ["velo"], None):
        with pytest.raises(ValueError, match="No public theta called"):
            fetched.folder(name)


def test_a_config_that_is_no_text_is_refused_by_its_address(cache, there):
    (there / "config.gin").write_bytes(b"# caf\xe9\n")
    url = (there / "params").as_uri()
    with pytest.raises(ValueError, match=f"config.gin of {url} is no UTF-8 text"):
        downloads.fetch("velo", url=url)
    assert not cache.exists()


def test_a_download_that_breaks_off_is_refused(cache, there):
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\x81")

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(OSError, match=r"broke off .*1 bytes read, 999 more"):
            downloads.fetch("velo", url=f"http://127.0.0.1:{server.server_port}/params")
        server.shutdown()
        thread.join()
    assert not cache.exists()


def test_a_folder_with_another_theta_or_source_is_refused(cache, there, capsys):
    address = (there / "params").as_uri()
    assert fetch.main(["velo", f"--url={address}"]) == 0
    folder = str(cache / "velo")
    assert fetch.main(["celo", f"--directory={folder}"]) == 1
    assert "holds 'velo', not 'celo'" in capsys.readouterr().err
    assert fetch.main(["velo", "--url=file:///elsewhere/params"]) == 1
    assert f"holds what came from {address}, not from" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://localhost:9/a b", "https://localhost:abc/x"])
def test_an_address_that_cannot_be_asked_for_is_one_line(cache, url, capsys):
    assert fetch.main(["velo", f"--url={url}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mulo.fetch: ")
    assert said.count("\n") == 1
    assert url in said


def test_an_unknown_name_is_refused_before_anything_is_read(tmp_path, capsys):
    with pytest.raises(ValueError, match="No public theta called 'typo'"):
        downloads.fetch("typo", tmp_path, url="file:///nonexistent")
    assert fetch.main(["mulo_publik"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mulo.fetch: ")
    assert said.count("\n") == 1
    assert "did you mean 'mulo_public'? Known: velo, celo, celo_adam, celo2" in said
    with pytest.raises(
        ValueError, match=r"did you mean 'celo2'\? .* mulo\.fetch NAME: v"
    ):
        mulo.load("celo2x")


def test_public_names_are_no_released_ones():
    released = {
        p.name for p in (Path(mulo.__file__).parents[1] / "checkpoints").iterdir()
    }
    assert released.isdisjoint(fetched.SOURCES)


@pytest.mark.parametrize(("name", "orthogonalize"), [("celo2", 1), ("celo2_base", 0)])
def test_the_two_of_celo2_are_loaded_as_their_names_say(
    cache, there, name, orthogonalize, capsys
):
    rule = mulo.Celo2()
    (there / "theta.state").write_bytes(content(rule))
    url = (there / "theta.state").as_uri()
    assert fetch.main([name, f"--url={url}"]) == 0
    loaded = mulo.load(name)
    assert loaded.rule == mulo.Celo2(orthogonalize=bool(orthogonalize))
    assert sum(x.size for x in jax.tree.leaves(loaded.theta)) == 347
    other = mulo.Celo2(orthogonalize=not orthogonalize)
    assert mulo.load(name, rule=other).rule == other
    capsys.readouterr()
    assert fetch.main([name, f"--url={url}", f"--directory={cache / 'x'}"]) == 0
    setting = "" if orthogonalize else "orthogonalize=False"
    said = capsys.readouterr().out
    assert f"theta.state', rule=mulo.Celo2({setting}))." in said
    (there / "theta.state").write_bytes(content(mulo.Celo2(hidden_size=4)))
    with pytest.raises(ValueError, match=r"b0' must have shape \(8,\) .* got \(4,\)"):
        downloads.fetch(name, there / "other", url=url)
    assert not (there / "other").exists()


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A folder laid out as btherien/mulo, its hash the known one."""
    folder = tmp_path / "public"
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(PUBLIC / name, folder)
    model = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(model).hexdigest()
    known = pylo.PUBLIC_MULO_SHA256
    monkeypatch.setitem(known, "model.safetensors", digest)
    return folder


def test_the_public_mulo_is_fetched_with_its_config_and_needs_no_warning(cache, public):
    url = (public / "model.safetensors").as_uri()
    path = downloads.fetch("mulo_public", url=url)
    assert path == cache / "mulo_public" / "model.safetensors"
    loaded = mulo.load("mulo_public")  # Warnings are errors here.
    assert loaded.rule == mulo.SmallFC(step_mult=0.01)
    (public / "model.safetensors").write_bytes(resaved(public))
    with pytest.warns(UserWarning, match="holds no decays"):
        same = mulo.load(public)
    jax.tree.map(np.testing.assert_array_equal, loaded.theta, same.theta)
    with pytest.raises(ValueError, match="mulo_public is none"):
        mulo.load("mulo_public", rule=mulo.ELO())
    # Under a name of another's choosing it is kept as what it is.
    shutil.copy(path, public / "blob")
    again = downloads.fetch("mulo_public", public / "x", url=(public / "blob").as_uri())
    assert again == public / "x" / "model.safetensors"


def resaved(folder):
    """The same tensors in other bytes."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    return safetensors.numpy.save(tensors, metadata={"a": "b"})


@pytest.mark.parametrize("damage", ["truncated", "other", "config", "no config"])
def test_files_other_than_the_known_ones_are_refused(cache, public, damage, capsys):
    model, config = public / "model.safetensors", public / "config.json"
    want = hashlib.sha256(model.read_bytes()).hexdigest()
    damaged = model
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "other":
        model.write_bytes(resaved(public))
    elif damage == "config":
        damaged, want = config, hashlib.sha256(config.read_bytes()).hexdigest()
        config.write_text(config.read_text() + " ")
    else:
        config.unlink()
    assert fetch.main(["mulo_public", f"--url={model.as_uri()}"]) == 1
    said = capsys.readouterr().err
    if damage == "no config":
        assert f"Could not read {config.as_uri()}" in said
    else:
        got = hashlib.sha256(damaged.read_bytes()).hexdigest()
        pattern = rf"{damaged.as_uri()} has sha256 {got} .* to have {want}: .*nothing"
        assert re.search(pattern, said)
    assert not cache.exists()


def test_the_public_mulo_is_refused_as_another_optimizer(cache, public):
    url = (public / "model.safetensors").as_uri()
    with pytest.raises(ValueError, match="not a whole flax msgpack file"):
        downloads.fetch("celo2", url=url)
    assert not cache.exists()
