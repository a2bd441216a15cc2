"""Lists known packs; downloads, verifies and installs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stash_sense_pipeline.faces.models.model_packs import (
    TATTOO_ROLE,
    ModelPack,
    PackDescription,
    PackFile,
    load_pack,
    read_description,
)
from stash_sense_pipeline.faces.models.pack_checks import PACK_FILE
from stash_sense_pipeline.foundation.errors import ArchiveError, ModelPackError
from stash_sense_pipeline.foundation.files import (
    fsync_file,
    make_directory,
    private_opener,
    replacing,
    sha256_file,
    write_atomically,
)
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.zip_file import ZipLimits, open_zip

if TYPE_CHECKING:
    import httpx

_KNOWN = Path(__file__).with_name("known_packs")
_BLOCK = 1024 * 1024
# An archive may hold more files than needed; no pack is near this size.
_MAX_BYTES = 4 * 1024 * _BLOCK
# Networks hardly compress, and the archive of a pack holds several.
_ZIP_LIMITS = ZipLimits(entries=1_000, size=_MAX_BYTES, ratio=4, nested=True)
_TIMEOUT_SECONDS, _CONNECT_SECONDS = 60.0, 20.0
_OK, _PARTIAL, _BEYOND_END = 200, 206, 416


@dataclass(frozen=True)
class PackStatus:
    """One pack in a list: known to the program, installed in the models directory, or both.

    `problem` says why an installed pack cannot be used. `size` is that of the installed files in bytes.
    """

    name: str
    licence: str
    known: bool
    installed: bool
    demo: bool
    size: int
    problem: str | None


def known_packs() -> Mapping[str, PackDescription]:
    """The packs that `pull_pack` can install, by name."""
    return {path.stem: read_description(path) for path in sorted(_KNOWN.glob("*.yaml"))}


def list_packs(models_dir: Path) -> tuple[PackStatus, ...]:
    """The known packs and those installed in `models_dir`, by name. Verifies digests, which takes some seconds."""
    known = known_packs()
    installed = {path.parent.name for path in models_dir.glob(f"*/{PACK_FILE}")}
    names = sorted({*known, *installed})
    return tuple(_status(name, models_dir, known.get(name), name in installed) for name in names)


def check_pack(name_or_path: str, models_dir: Path) -> ModelPack:
    """Loads a pack and runs each network once. Raises ModelPackError for a missing, altered or unfit file."""
    # Imported here because only this function needs numpy, ONNX Runtime and insightface.
    import numpy as np

    from stash_sense_pipeline.faces.models.detector import Detector
    from stash_sense_pipeline.faces.models.embedder import Embedder
    from stash_sense_pipeline.faces.models.model_packs import CROP_SIZE
    from stash_sense_pipeline.faces.models.tattoo_detector import TattooDetector
    from stash_sense_pipeline.faces.models.tattoo_embedder import CROP_SIDE, TattooEmbedder

    pack = load_pack(name_or_path, models_dir)
    noise = np.random.default_rng(1).integers(0, 256, (CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    Detector(pack.detector).detect(noise)
    for name, spec in pack.embedders.items():
        with Embedder(name, spec) as embedder:
            embedder.embed(noise[None], pack.flip_averaging)
    if pack.tattoo is not None:
        TattooDetector(pack.tattoo.detector).detect(noise)
        with TattooEmbedder(pack.tattoo.embedder) as tattoos:
            tattoos.vectors(np.resize(noise, (1, CROP_SIDE, CROP_SIDE, 3)))
    return pack


def _status(name: str, models_dir: Path, known: PackDescription | None, installed: bool) -> PackStatus:
    licence, demo, size, problem = known.licence if known else "", False, 0, None
    if installed:
        size = sum(path.stat().st_size for path in (models_dir / name).iterdir())
        try:
            pack = load_pack(name, models_dir)
            licence, demo = pack.licence, pack.demo
        except ModelPackError as error:
            problem = str(error)
    return PackStatus(name, licence, known is not None, installed, demo, size, problem)


def pull_pack(
    name: str,
    models_dir: Path,
    *,
    accept_licence: bool,
    progress: Progress | None = None,
    known: Mapping[str, PackDescription] | None = None,
) -> Path:
    """Installs a known pack in `models_dir`/`name` and returns that directory. Present files are not fetched again.

    An interrupted download is resumed. A file gets its name only when its size and SHA-256 match the description.
    pack.yaml is written last, so that a pack is installed completely or not at all. Raises ModelPackError when the name
    is unknown, the licence is not accepted, a server does not deliver, or a file does not match its description.
    """
    packs = known_packs() if known is None else known
    description = packs.get(name)
    if description is None:
        raise ModelPackError(f"no pack named {name!r} can be pulled; known are {', '.join(packs)}")
    if not accept_licence:
        raise ModelPackError(
            f"the pack {name} was not pulled: read its licence, and pass --accept-licence if you may use it"
        )
    directory = models_dir / name
    make_directory(directory)
    files = [entry for entry in description.files if not entry.role.startswith(TATTOO_ROLE)]
    _fetch_missing(files, directory, progress)
    write_atomically(directory / PACK_FILE, description.path.read_bytes())
    load_pack(name, models_dir)
    return directory


def pull_tattoo_networks(
    name: str,
    models_dir: Path,
    *,
    progress: Progress | None = None,
    known: Mapping[str, PackDescription] | None = None,
) -> None:
    """Fetches the networks for tattoos of a pack that `pull_pack` has installed. Raises ModelPackError as it does."""
    description = (known_packs() if known is None else known)[name]
    files = [entry for entry in description.files if entry.role.startswith(TATTOO_ROLE)]
    if not files:
        raise ModelPackError(
            f"the pack {name} describes no networks for tattoos; pull it without --with-tattoos"
        )
    _fetch_missing(files, models_dir / name, progress)
    load_pack(name, models_dir)


def _fetch_missing(files: Sequence[PackFile], directory: Path, progress: Progress | None) -> None:
    # Imported here, and below, because a list of packs needs no HTTP client.
    import httpx

    timeout = httpx.Timeout(_TIMEOUT_SECONDS, connect=_CONNECT_SECONDS)
    with httpx.Client(follow_redirects=True, timeout=timeout, trust_env=False) as client:
        for entries in _by_download(files, directory):
            _fetch(client, entries, directory, progress)


def _is_there(path: Path, entry: PackFile) -> bool:
    return path.is_file() and sha256_file(path) == entry.sha256


def _by_download(files: Sequence[PackFile], directory: Path) -> Sequence[Sequence[PackFile]]:
    """The files that are missing in `directory`. Those of one archive are together, because it is downloaded once."""
    groups: dict[tuple[str, str], list[PackFile]] = {}
    for entry in files:
        if entry.url is not None and not _is_there(directory / entry.file, entry):
            groups.setdefault((entry.url, "" if entry.member else entry.file), []).append(entry)
    return list(groups.values())


def _fetch(
    client: httpx.Client, entries: Sequence[PackFile], directory: Path, progress: Progress | None
) -> None:
    first = entries[0]
    part = directory / f".{first.file}.part"
    whole = None if first.member is not None else first.size
    assert first.url is not None
    _download(client, first.url, part, whole, progress)
    try:
        for entry in entries:
            with replacing(directory / entry.file) as temporary:
                if entry.member is not None:
                    _extract(part, entry.member, temporary)
                else:
                    part.rename(temporary)
                _verify(temporary, entry)
    finally:
        # The part is complete or wrong; it cannot be resumed in either case.
        part.unlink(missing_ok=True)


def _download(
    client: httpx.Client, url: str, part: Path, size: int | None, progress: Progress | None
) -> None:
    """Downloads a URL to `part`, and resumes a partial file. `size` is the size of the whole; None when unknown."""
    import httpx

    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with client.stream("GET", url, headers=headers) as answer:
            if answer.url.scheme != "https" and answer.url.host != "127.0.0.1":
                raise ModelPackError(
                    f"{url} leads to {answer.url.host} without https; nothing was downloaded"
                )
            if answer.status_code == _BEYOND_END:
                return  # the part is complete; the digest is verified later
            if answer.status_code not in (_OK, _PARTIAL):
                raise ModelPackError(f"{url} answered {answer.status_code}; try again later")
            if answer.status_code == _OK:
                have = 0  # the server sends everything again
            length = answer.headers.get("content-length", "")
            total = have + int(length) if length.isdigit() else size
            with open(part, "ab" if have else "wb", opener=private_opener) as stream:
                for block in answer.iter_raw():
                    have += len(block)
                    if have > (size or _MAX_BYTES):
                        raise _too_large(part, url, size)
                    stream.write(block)
                    if progress is not None:
                        progress(part.name[1:].removesuffix(".part"), have, total)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ModelPackError(
            f"the download of {url} broke off after {have} bytes: {reason}; run it again to go on from there"
        ) from error
    fsync_file(part)


def _too_large(part: Path, url: str, size: int | None) -> ModelPackError:
    part.unlink(missing_ok=True)
    return ModelPackError(
        f"{url} delivers more than the {size or _MAX_BYTES} bytes that are expected; nothing was kept"
    )


def _extract(archive: Path, member: str, target: Path) -> None:
    try:
        with open_zip(archive, _ZIP_LIMITS) as content:
            # `replacing` created an empty file, but `extract` writes only to a new one.
            target.unlink(missing_ok=True)
            content.extract(member, target)
    except (ArchiveError, OSError) as error:
        raise ModelPackError(
            f"the archive that was downloaded has no readable {member}: {error}; pull again"
        ) from error


def _verify(path: Path, entry: PackFile) -> None:
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != entry.sha256 or (entry.size is not None and size != entry.size):
        raise ModelPackError(
            f"{entry.url} delivered another file than the pack describes: {size} bytes with the sha256 {digest[:12]}…"
            f" instead of {(entry.sha256 or '')[:12]}…; nothing was installed"
        )
