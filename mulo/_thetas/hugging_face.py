"""Thetas on the Hugging Face Hub: ``hf://owner/name``, with the extra ``hub``."""

from collections.abc import Sequence
from pathlib import Path

_PREFIX = "hf://"


def is_address(name: str) -> bool:
    """Whether a name is one of the Hub's."""
    return name.startswith(_PREFIX)


def download(address: str, revision: str | None, file_names: Sequence[str]) -> Path:
    """Download a repository's files, unless they are there.

    Args:
      address: ``hf://owner/name``.
      revision: Branch, tag or commit; None for the default branch.
      file_names: Those to download, if the repository has them.

    Returns:
      The directory that holds them.

    Raises:
      ValueError: If the address is of another form.
      ImportError: Without ``huggingface_hub``.
    """
    repository = address.removeprefix(_PREFIX)
    if len([part for part in repository.split("/") if part]) != 2:
        raise ValueError(f"A Hub name is hf://owner/name, got {address!r}.")
    try:
        import huggingface_hub  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            f'{address} needs huggingface_hub: pip install "mulo[hub]".'
        ) from error
    directory = huggingface_hub.snapshot_download(
        repository, revision=revision, allow_patterns=list(file_names)
    )
    return Path(directory)
