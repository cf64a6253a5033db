import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import prepared_data

import tasks
from tasks.data import text_dataset, tfds_sets, tfds_text, tokenizers


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="module")
def tfds():
    return prepared_data.tensorflow_datasets()


@pytest.fixture
def shakespeare_dir():
    return prepared_data.folder_with("tiny_shakespeare")


@pytest.fixture
def store(tfds, tmp_path):
    """Prepare a made-up set in tfds's own format; returns its folder."""
    import tensorflow as tf

    def prepare(name, *, texts=("text",), **splits):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path / "data",
            features=tfds.features.FeaturesDict(
                {k: tfds.features.Text() for k in texts} | {"number": np.int64}
            ),
            split_datasets={
                split: tf.data.Dataset.from_tensor_slices(
                    {k: list(documents) for k in texts}
                    | {"number": np.arange(len(documents))}
                )
                for split, documents in splits.items()
            },
            disable_shuffling=True,
        )
        return tmp_path / "data"

    return prepare


def load(name, folder, **options):
    return tasks.data.load(name, folder, modality="text", **options)


def joined(dataset, split):
    return dataset.arrays(split)["tokens"].tobytes()


WORDS = [f"Document {i} of many.\n" * (i % 3) + f"end {i}" for i in range(40)]


def as_tokens(documents):
    return "".join(d + "\0" for d in documents).encode()


def test_tiny_shakespeare_is_read_from_tfds_and_then_from_the_cache_alone(
    tfds, shakespeare_dir, tmp_path
):
    dataset = load("tiny_shakespeare", shakespeare_dir)
    assert dataset.num_classes == 256
    builder = tfds.builder("tiny_shakespeare", data_dir=shakespeare_dir)
    for ours, theirs in [("train", "train"), ("valid", "validation"), ("test", "test")]:
        (plain,) = tfds.as_numpy(builder.as_dataset(split=theirs))
        assert joined(dataset, ours) == plain["text"] + b"\0"
    assert joined(dataset, "train").startswith(b"First Citizen:\nBefore we proceed")
    assert dataset.arrays("train")["tokens"].shape == (1_003_855,)
    # A new process that cannot import TensorFlow reads the cache, and draws from it.
    code = (
        "import sys; sys.modules['tensorflow'] = None; "
        "sys.modules['tensorflow_datasets'] = None\n"
        "import tasks, jax\n"
        "dataset = tasks.data.load('tiny_shakespeare', modality='text').windows(99)\n"
        "arrays = dataset.arrays('valid')\n"
        "batch = dataset.sample(arrays, jax.random.key(0), 1)\n"
        "print(bytes(batch['inputs'][0].tolist()).hex())"
    )
    env = os.environ | {
        "TFDS_DATA_DIR": str(shakespeare_dir),
        "JAX_PLATFORMS": "cpu",
        "MULO_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=prepared_data.ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    window = bytes.fromhex(done.stdout)
    assert len(window) == 99
    assert window in joined(dataset, "valid")


def test_documents_are_joined_in_order_with_a_nul_after_each(tfds, store):
    folder = store("notes", train=WORDS, validation=["v 1", ""], test=["t"])
    dataset = load("notes", folder)
    assert joined(dataset, "train") == as_tokens(WORDS)
    assert joined(dataset, "valid") == b"v 1\0\0"
    assert joined(dataset, "test") == b"t\0"
    assert dataset.window == 1  # The shortest split has two tokens.


def test_documents_come_in_the_same_order_however_many_are_read_at_a_time(
    tfds, store, monkeypatch
):
    monkeypatch.setattr(tfds_text, "_CHUNK_DOCUMENTS", 7)
    dataset = load("notes", store("notes", train=WORDS, test=WORDS[:3]))
    assert joined(dataset, "train") + joined(dataset, "valid") == as_tokens(WORDS)


def test_without_a_validation_split_the_last_tenth_of_the_documents_is_one(tfds, store):
    dataset = load("notes", store("notes", train=WORDS))
    assert joined(dataset, "train") == as_tokens(WORDS[:36])
    assert joined(dataset, "valid") == as_tokens(WORDS[36:])
    assert dataset.splits["test"] is dataset.splits["valid"]


def test_of_a_single_document_the_last_tenth_of_its_tokens_is_for_validation(
    tfds, store
):
    dataset = load("novel", store("novel", train=["x" * 899 + "y" * 100]))
    assert joined(dataset, "train") == b"x" * 899 + b"y"
    assert joined(dataset, "valid") == b"y" * 99 + b"\0"


def test_pieces_and_bytes_of_a_set_are_cached_apart(tfds, store, tmp_path):
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="needs pip install 'mulo[text]'"
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            pathlib.Path(tokenizers.__file__).read_text().split("\n")
        ),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=1000,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        minloglevel=2,
    )
    folder = store("notes", train=WORDS)
    name = f"notes:sp1k={tmp_path / 'm.model'}"
    in_bytes, in_pieces = load("notes", folder), load(name, folder)
    assert in_pieces.name == name
    assert in_pieces.num_classes == 1000
    tokens = in_pieces.arrays("valid")["tokens"]
    assert tokens.dtype == np.uint16
    tokenizer = tokenizers.get(tasks.data.names.parse(name))
    assert tokenizer.decode(tokens) == "".join(d + "\n" for d in WORDS[36:])
    assert joined(in_bytes, "valid") == as_tokens(WORDS[36:])
    assert len(os.listdir(tmp_path / "cache")) == 2


@pytest.mark.parametrize("texts", [("text", "title"), ("body",)])
def test_the_text_is_the_one_named_so_or_the_only_one(tfds, store, texts):
    dataset = load("notes", store("notes", texts=texts, train=WORDS))
    assert joined(dataset, "train") == as_tokens(WORDS[:36])


def test_a_set_of_several_texts_says_which_features_it_has(tfds, store):
    folder = store("pairs", texts=("de", "en"), train=WORDS)
    with pytest.raises(
        ValueError, match=r"or only one and no images, got .*'de': 'Text'"
    ):
        load("pairs", folder)


def test_a_set_of_images_is_no_text(tfds, tmp_path, shakespeare_dir):
    if not (shakespeare_dir / "cifar10").is_dir():
        pytest.skip(f"no cifar10 in {shakespeare_dir}")
    with pytest.raises(ValueError, match=r"must have a text.*'image': 'Image'"):
        load("cifar10", shakespeare_dir)
    with pytest.raises(ValueError, match=r"class label, got .*'text': 'Text'"):
        tasks.get("mlp-w8-d2-tiny_shakespeare", data_dir=shakespeare_dir)
    assert not (tmp_path / "cache").exists()


def damaged_array(folder):
    (array,) = folder.glob("**/train.tokens.npy")
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)


def damaged_description(folder):
    (meta,) = folder.glob("**/meta.json")
    meta.write_text("{")


@pytest.mark.parametrize("damage", [damaged_array, damaged_description])
def test_a_damaged_cache_is_rebuilt_once_with_a_message(
    tfds, store, tmp_path, caplog, damage
):
    folder = store("notes", train=WORDS)
    caplog.set_level(logging.INFO, logger="tasks")
    load("notes", folder)
    damage(tmp_path / "cache")
    caplog.clear()
    assert joined(load("notes", folder), "train") == as_tokens(WORDS[:36])
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("tasks")]
    assert len(messages) == 2
    assert "damaged" in messages[0]
    assert messages[1].startswith("Tokenizing notes:bytes")
    caplog.clear()
    load("notes", folder)
    assert not [r for r in caplog.records if r.name.startswith("tasks")]


def test_first_keeps_the_first_tokens_of_train_and_reads_the_same_cache(
    tfds, store, tmp_path, monkeypatch
):
    folder = store("notes", train=WORDS)
    load("notes", folder)
    monkeypatch.setattr(tfds_sets, "builder", None)
    dataset = load("notes:first=50", folder)
    assert dataset.name == "notes:first=50"
    assert joined(dataset, "train") == as_tokens(WORDS)[:50]
    assert joined(dataset, "valid") == as_tokens(WORDS[36:])
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_a_set_beyond_the_budget_says_what_it_needs_and_reads_on_when_cut(tfds, store):
    folder = store("notes", train=WORDS)
    needed = len(as_tokens(WORDS))
    with pytest.raises(ValueError, match=f"needs {needed} bytes") as error:
        load("notes", folder, data_budget_bytes=needed - 10)
    kept = len(as_tokens(WORDS[:36])) - 10
    assert f"':first={kept}'" in str(error.value)
    cut = load(f"notes:first={kept}", folder, data_budget_bytes=needed - 10)
    assert cut.arrays("train")["tokens"].size == kept
    with pytest.raises(ValueError, match="set data_budget_bytes to"):
        tasks.get("transformer-w8-d1-k8-s4-notes", data_dir=folder, data_budget_bytes=9)


def test_no_more_is_written_than_can_be_indexed_and_first_reads_it(
    tfds, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(text_dataset, "MAX_TOKENS", 300)
    monkeypatch.setattr(tfds_text, "_CHUNK_DOCUMENTS", 4)
    folder = store("notes", train=WORDS, validation=WORDS[:5])
    with pytest.raises(ValueError, match=r"at most 300 tokens, got 301.*':first=300'"):
        load("notes", folder)
    (array,) = (tmp_path / "cache").glob("**/train.tokens.npy")
    assert np.load(array).tobytes() == as_tokens(WORDS)[:301]
    assert joined(load("notes:first=300", folder), "train") == as_tokens(WORDS)[:300]


def test_damaged_prepared_data_are_an_error_and_leave_no_cache(tfds, store, tmp_path):
    folder = store("notes", train=WORDS, test=["t"] * 10)
    (record,) = folder.glob("**/*test.tfrecord*")
    record.write_bytes(record.read_bytes()[:-5])
    with pytest.raises(ValueError, match="prepare it again") as error:
        load("notes", folder)
    assert f"Remove {folder / 'notes' / '1.0.0'}" in str(error.value)
    left = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert left == ["train.tokens.npy"]  # Whole, but no meta.json declares it sound.
    record.unlink()
    with pytest.raises(ValueError, match="prepare it again"):
        load("notes", folder)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_a_damaged_description_of_the_prepared_data_is_an_error_that_names_the_folder(
    tfds, store, file
):
    folder = store("notes", train=WORDS)
    (folder / "notes" / "1.0.0" / file).write_text("{")
    with pytest.raises(ValueError, match=f"'notes' .*{folder}"):
        load("notes", folder)


def test_an_unprepared_set_says_where_it_was_sought_and_how_to_prepare_it(
    tfds, tmp_path
):
    folder = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=r"python -c .*tfds.load\('lm1b'") as error:
        load("lm1b", folder)
    assert f"found none in {folder}, which does not exist" in str(error.value)
    assert not folder.exists()


def test_a_file_for_a_folder_is_an_error(tfds, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"folder, got the file {tmp_path / 'file'}"):
        load("lm1b", tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "near"), [("lm1", "lm1b"), ("pystdlb", "pystdlib"), ("imdb", None)]
)
def test_an_unknown_set_gets_the_embedded_ones_of_text_and_the_nearest(
    tfds, tmp_path, name, near
):
    with pytest.raises(ValueError, match="'pystdlib', 'synthetic_text:vocab") as error:
        load(name, tmp_path)
    assert near is None or f"Did you mean '{near}'?" in str(error.value)


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow_datasets"])
def test_without_tfds_the_error_says_what_to_install(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"pip install 'mulo\[data\]'") as error:
        load("pystdlb", tmp_path)
    assert "Did you mean 'pystdlib'?" in str(error.value)


def test_windows_of_a_cached_set_are_drawn_on_the_device(tfds, store):
    dataset = load("notes", store("notes", train=WORDS)).windows(8)
    arrays = jax.device_put(dataset.arrays("train"))
    batch = jax.jit(dataset.sample, static_argnums=2)(arrays, jax.random.key(0), 32)
    text = as_tokens(WORDS[:36])
    for inputs, labels in zip(batch["inputs"], batch["labels"], strict=True):
        assert bytes(inputs.tolist()) in text
        assert bytes([*inputs.tolist(), int(labels[-1])]) in text
