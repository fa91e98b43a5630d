"""Download recordings that a table names by URL, once, into the cache."""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from datasets.utils import tqdm
from huggingface_hub.utils import get_session

from ..files import write_atomically
from .tables import CorpusError

LIMIT_BYTES = 64 * 2**20
"""Of one recording."""

LIMIT_S = 120.0
"""For one recording."""

_SILENT_S = 30.0
_AT_ONCE = 8


def download_all(urls: Iterable[str], folder: str | os.PathLike) -> dict[str, Path | str]:
    """Return the file in `folder` for each URL, or in its place what is wrong with the URL."""
    urls = list(dict.fromkeys(urls))
    if not urls:
        return {}

    def download(url: str) -> Path | str:
        try:
            return _download(url, Path(folder))
        except CorpusError as error:
            return str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        files = tqdm(pool.map(download, urls), total=len(urls), desc="Downloading", unit="file")
        return dict(zip(urls, files, strict=True))


def _download(url: str, folder: Path) -> Path:
    parts = urlsplit(url)
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}{PurePosixPath(parts.path).suffix[:8]}"
    if target.is_file():
        return target

    if parts.scheme != "https":
        raise CorpusError(f"{url} is not downloaded: only https is allowed. Download it yourself and give its path.")

    until = time.monotonic() + LIMIT_S
    content = bytearray()

    try:
        with get_session().stream("GET", url, timeout=_SILENT_S, follow_redirects=True) as response:
            response.raise_for_status()
            if response.url.scheme != "https":
                raise CorpusError(f"{url} is not downloaded: it leads to {response.url}, and only https is allowed.")

            for part in response.iter_bytes():
                content += part
                if len(content) > LIMIT_BYTES:
                    raise CorpusError(f"{url} has more than {LIMIT_BYTES >> 20} MiB. Download it and give its path.")
                if time.monotonic() > until:
                    raise CorpusError(f"{url} takes more than {LIMIT_S:g} seconds. Download it and give its path.")
    except CorpusError:
        raise
    except Exception as error:  # HTTP errors have no common base class across versions of huggingface_hub
        reason = str(error).partition("\n")[0]
        raise CorpusError(f"{url} cannot be downloaded ({type(error).__name__}: {reason}).") from error

    write_atomically(target, lambda new: new.write_bytes(content))

    return target
