import io
import pathlib
import sys
import sysconfig

import numpy as np
import pytest

from tasks import data
from tasks.data import names, text, tokenizers


def train(size=1000, **options):
    """Return the content of a SentencePiece model trained on synthetic source code."""
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="needs pip install 'mulo[text]'"
    )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SOURCE.split("\n")),
        model_writer=model,
        vocab_size=size,
        minloglevel=2,
        **{
            "model_type": "bpe",
            # Nothing of the text is changed, and every byte has a piece.
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "byte_fallback": True,
        }
        | options,
    )
    return model.getvalue()


SOURCE = "".join(pathlib.Path(m.__file__).read_text() for m in (tokenizers, data))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.model"
    path.write_bytes(train())
    return path


def pieces(path, thousands=1):
    return tokenizers.get(names.parse(f"pystdlib:sp{thousands}k={path}"))


def test_bytes_are_the_documents_with_a_nul_after_each():
    tokens = tokenizers.Bytes().encode([b"ab", b"", "é".encode()])
    assert tokens.dtype == np.uint8
    assert tokens.tolist() == [97, 98, 0, 0, 0xC3, 0xA9, 0]
    assert tokenizers.get(names.parse("pystdlib")) == tokenizers.Bytes()


def test_a_nul_in_a_document_becomes_a_space_so_that_separators_stay_unique():
    assert tokenizers.Bytes().encode([b"a\0b"]).tolist() == [97, 32, 98, 0]


def test_bytes_decode_to_the_text_with_line_breaks_for_separators():
    tokens = tokenizers.Bytes().encode(["naïve\n".encode(), b"\xff!"])
    assert tokenizers.Bytes().decode(tokens) == "naïve\n\n\ufffd!\n"


def test_pieces_decode_to_the_text_they_were_made_of(model):
    tokenizer = pieces(model)
    documents = [SOURCE, "", "ünseen Ωords\t\n  and  </s> spaces "]
    tokens = tokenizer.encode([d.encode() for d in documents])
    assert tokenizer.vocabulary == 1000
    assert tokens.dtype == np.uint16
    assert tokens.max() < 1000
    assert tokens.size < 0.6 * len(SOURCE)
    assert tokenizer.decode(tokens) == "".join(d + "\n" for d in documents)


def test_each_document_ends_in_the_models_eos_which_is_nowhere_else(model):
    sentencepiece = pytest.importorskip("sentencepiece")
    eos = sentencepiece.SentencePieceProcessor(model_file=str(model)).eos_id()
    tokens = pieces(model).encode([b"one", b"</s> two </s>", b""])
    assert np.count_nonzero(tokens == eos) == 3
    assert tokens[-2:].tolist() == [eos, eos]


def test_bytes_that_are_no_utf_8_become_the_replacement_character(model):
    tokenizer = pieces(model)
    assert tokenizer.decode(tokenizer.encode([b"a\xffb"])) == "a\ufffdb\n"


def test_the_identity_is_of_the_files_content_and_not_of_its_path(model, tmp_path):
    copy, other = tmp_path / "copy.model", tmp_path / "small.model"
    copy.write_bytes(model.read_bytes())
    other.write_bytes(train(split_digits=True))
    assert pieces(copy) == pieces(model)
    assert pieces(copy).identity == pieces(model).identity
    assert pieces(other).identity != pieces(model).identity
    assert pieces(model).identity != tokenizers.Bytes().identity


def test_k_stands_for_1000_or_1024_pieces(model, tmp_path):
    path = tmp_path / "power.model"
    path.write_bytes(train(1024))
    assert pieces(path).vocabulary == 1024
    assert pieces(model).vocabulary == 1000


def test_a_model_of_another_vocabulary_is_refused_with_the_sizes_and_the_fix(model):
    with pytest.raises(ValueError, match=r"32000 or 32768 pieces.* has 1000") as error:
        pieces(model, thousands=32)
    assert "Write ':sp1k='" in str(error.value)


def test_a_vocabulary_that_no_option_names_is_refused_without_one(tmp_path):
    path = tmp_path / "odd.model"
    path.write_bytes(train(900))
    with pytest.raises(ValueError, match=r"has 900\.$"):
        pieces(path)


def test_a_missing_model_file_is_an_error_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="No such file or directory") as error:
        data.load("pystdlib:sp1k=models/none.model", modality="text")
    assert str(tmp_path / "models" / "none.model") in str(error.value)
    with pytest.raises(ValueError, match="Is a directory"):
        pieces(tmp_path)


def test_a_relative_path_is_one_of_the_current_folder(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert pieces("small.model") == pieces(model)


@pytest.mark.parametrize("content", [b"", b"pieces", b"\x0a" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    pytest.importorskip("sentencepiece", reason="needs pip install 'mulo[text]'")
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.model must be a SentencePiece model"):
        pieces(tmp_path / "x.model")


def test_a_model_without_eos_is_refused(tmp_path):
    (tmp_path / "x.model").write_bytes(train(eos_id=-1))
    with pytest.raises(ValueError, match=r"must have the piece '</s>'.*--eos_id=2"):
        pieces(tmp_path / "x.model")


def test_without_sentencepiece_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.model").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"pip install 'mulo\[text\]'"):
        pieces(tmp_path / "x.model")


def test_pystdlib_in_pieces_is_the_text_of_its_bytes(model, tmp_path, monkeypatch):
    # One file per split: the whole library takes ten seconds.
    for name in ("abc.py", "doctest.py", "operator.py"):
        (tmp_path / name).write_text(f"{name}\n{SOURCE}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    text.pystdlib.cache_clear()
    dataset = data.load(f"pystdlib:sp1k={model}", modality="text")
    text.pystdlib.cache_clear()
    assert dataset.num_classes == 1000
    for split, name in [("train", "abc"), ("valid", "doctest"), ("test", "operator")]:
        tokens = dataset.arrays(split)["tokens"]
        assert tokens.dtype == np.uint16
        assert pieces(model).decode(tokens) == f"{name}.py\n{SOURCE}\n"
