"""One look at the whole repository, for whoever serves from it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.bundle.store import Fingerprint, ModelFolder, fingerprint, manifest_digest, scan

#: Name of a model, and number of a version.
Key = tuple[str, int]


@dataclass(frozen=True)
class Survey:
    """What lies in the repository.

    Attributes:
        folders: by the model's name.
        digests: of the versions that were asked for, as they lie there; empty for a bad manifest.
        fingerprints: of the versions that were asked for.
    """

    folders: Mapping[str, ModelFolder]
    digests: Mapping[Key, str] = field(default_factory=dict)
    fingerprints: Mapping[Key, Fingerprint] = field(default_factory=dict)


def survey(root: Path, loaded: Collection[Key], refused: Collection[Key]) -> Survey:
    """Scan; read the manifests of what is loaded, look at the files of what was refused. Blocks.

    Raises:
        BundleError: the repository is missing or cannot be read.
    """
    folders = {folder.name: folder for folder in scan(root)}

    def there(keys: Collection[Key]) -> list[Key]:
        return [key for key in keys if key[0] in folders and key[1] in folders[key[0]].versions]

    return Survey(
        folders,
        {(name, v): manifest_digest(folders[name].path, v) for name, v in there(loaded)},
        {(name, v): fingerprint(folders[name].path / str(v)) for name, v in there(refused)},
    )
