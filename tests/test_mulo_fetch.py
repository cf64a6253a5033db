import functools
import http.server
import io
import json
import threading

import jax
import msgpack
import numpy as np
import pytest

import mulo
from mulo import fetch

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
    path = fetch.fetch("velo", url=(there / "params").as_uri())
    assert path == cache / "velo" / "params"
    assert mulo.load("velo").rule == RULE


def test_a_file_that_changed_since_is_refused(cache, there):
    path = fetch.fetch("velo", url=(there / "params").as_uri())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for read in (lambda: mulo.load("velo"), lambda: fetch.fetch("velo")):
        with pytest.raises(ValueError, match="params is not what was fetched"):
            read()
    path.unlink()
    with pytest.raises(ValueError, match="params is missing"):
        mulo.load("velo")


def test_what_is_no_theta_is_not_kept(cache, there):
    (there / "params").write_bytes(b"<html>Sign in</html>")
    with pytest.raises(ValueError, match="not a whole flax msgpack file"):
        fetch.fetch("velo", url=(there / "params").as_uri())
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
        fetch.fetch("velo", url=url)
    assert not cache.exists()


def test_a_redirection_to_such_an_address_is_refused(cache, monkeypatch):
    class Response(io.BytesIO):
        url = "http://example.org/params"

    monkeypatch.setattr(
        fetch.urllib.request, "urlopen", lambda url, timeout: Response(content())
    )
    with pytest.raises(ValueError, match=r"got 'http://example\.org/params'"):
        fetch.fetch("velo", url="https://example.org/params")
    assert not cache.exists()


def test_the_public_addresses_are_https_and_velos_is_that_of_the_bucket():
    assert all(s.url.startswith("https://") for s in fetch.SOURCES.values())
    assert fetch.SOURCES["velo"].url == (
        "https://storage.googleapis.com/gresearch/learned_optimization/pretrained_lopts/"
        "aug12_continue_on_bigger_2xbs_200kstep_bigproblem_v2_5620/params"
    )
    for name in ("nope", ["velo"], None):
        with pytest.raises(ValueError, match="No public theta called"):
            fetch.folder(name)


def test_a_config_that_is_no_text_is_refused_by_its_address(cache, there):
    (there / "config.gin").write_bytes(b"# caf\xe9\n")
    url = (there / "params").as_uri()
    with pytest.raises(ValueError, match=f"config.gin of {url} is no UTF-8 text"):
        fetch.fetch("velo", url=url)
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
            fetch.fetch("velo", url=f"http://127.0.0.1:{server.server_port}/params")
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


def test_an_unknown_name_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="No public theta called 'typo'"):
        fetch.fetch("typo", tmp_path, url="file:///nonexistent")
