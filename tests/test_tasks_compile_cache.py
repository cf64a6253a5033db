import jax
import pytest

from tasks import compile_cache


@pytest.fixture
def folder(monkeypatch):
    """The folder in use; as it was, afterwards."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv(compile_cache.VARIABLE, "")
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_by_kind_of_cpu_also_for_processes_started(
    tmp_path, folder, monkeypatch
):
    compile_cache.use(str(tmp_path))
    (own,) = tmp_path.iterdir()
    assert folder() == str(own)
    assert compile_cache.os.environ[compile_cache.VARIABLE] == str(own)
    compile_cache.use(str(tmp_path / "other"))  # The variable goes before.
    assert folder() == str(own)


def test_an_empty_folder_keeps_none(folder):
    before = folder()
    compile_cache.use("")
    assert folder() == before


def test_a_folder_that_cannot_be_written_is_said_and_is_no_error(
    tmp_path, folder, capsys
):
    before = folder()
    (tmp_path / "file").touch()
    compile_cache.use(str(tmp_path / "file" / "cache"))
    assert folder() == before
    told = capsys.readouterr().err
    assert told.startswith("Compiled programs are not kept: ")
    assert str(tmp_path) in told


def test_the_default_is_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert compile_cache.default() == "/x/mulo/jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compile_cache.default() == "~/.cache/mulo/jax"
