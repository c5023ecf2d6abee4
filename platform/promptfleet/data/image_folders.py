"""Images in a tree of folders: each file once, in an order that does not depend on the disk."""

import logging
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from promptfleet.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"),
)  # of the formats that Pillow decodes by itself
_SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_BACK, _NOWHERE, _NO_FILE = "leading back", "leading nowhere", "that are no files"
_MOST_REASONS = 6  # reasons to name; the others are added up


class LeftOut(NamedTuple):
    """Excluded file or folder, and the reason: ``hidden``, ``ending in .txt``, ``leading back``."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageTree:
    """Folders and image files below ``root``. All paths count from there, with slashes, and are sorted."""

    root: Path
    folders: tuple[str, ...]
    images: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def subfolders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in ``folder``, sorted."""
        prefix = f"{folder}/" if folder else ""
        below = (path.removeprefix(prefix) for path in self.folders if path.startswith(prefix))
        return sorted(name for name in below if "/" not in name)

    def by_folder(self, depth: int) -> tuple[dict[str, list[str]], list[str]]:
        """Sort the images into the folders that are ``depth`` levels below the root.

        Returns images by folder, counted from that folder and sorted, and the images that are in no such folder.
        """
        found, outside = defaultdict(list), []
        for image in self.images:
            *parents, name = image.split("/", depth)
            if len(parents) == depth:
                found["/".join(parents)].append(name)
            else:
                outside.append(image)
        return {folder: sorted(names) for folder, names in found.items()}, outside

    def describe_left_out(self, *folders: str) -> str:
        """Return the numbers of excluded files in these folders, or anywhere, by reason with an example."""
        below = tuple(f"{folder}/" for folder in folders)
        entries = [entry for entry in self.left_out if not below or entry.path.startswith(below)]
        examples = {entry.reason: entry.path for entry in reversed(entries)}
        counts = Counter(entry.reason for entry in entries).most_common()
        described = [f"{count} {reason} (such as {examples[reason]})" for reason, count in counts[:_MOST_REASONS]]
        others = sum(count for _, count in counts[_MOST_REASONS:])
        return ", ".join([*described, *([f"{others} others"] if others else [])])

    def log_left_out(self) -> None:
        """Log one line if anything is left out."""
        if self.left_out:
            logger.warning("%s: left out of the images: %s", self.root, self.describe_left_out())


def scan_images(root: Path) -> ImageTree:
    """Scan all folders below ``root``; links are followed, and no folder is entered twice.

    Hidden files and folders, files whose ending is none of ``SUFFIXES``, files that are not regular, and links to
    something in the tree, such as a link that leads back, are left out and counted. A broken link with an image's
    ending counts as an image, so that its absence is noticed.

    Raises:
        DataError: if a folder cannot be read, or two links, or two mounts, lead to one folder that is nowhere else: the
            images in it could belong to either place.
    """
    return _Scan(root).tree()


class _Folder(NamedTuple):
    path: str
    linked: bool


class _Scan:
    """One pass over a tree: real folders first, so that a link never takes the place of the folder it leads to."""

    def __init__(self, root: Path):
        self._root = root
        self._folders: list[str] = []
        self._images: list[str] = []
        self._left_out: list[LeftOut] = []
        self._folder_links: list[str] = []  # not followed yet
        self._image_links: list[str] = []
        self._entered: dict[tuple[int, int], _Folder] = {}  # by device and inode

    def tree(self) -> ImageTree:
        self._enter("", linked=False)
        while self._folder_links:
            links, self._folder_links = sorted(self._folder_links), []
            for link in links:
                self._follow(link)
        self._add_image_links()
        found = (self._folders[1:], self._images, self._left_out)
        return ImageTree(self._root, *(tuple(sorted(paths)) for paths in found))

    def _enter(self, start: str, *, linked: bool) -> None:
        """Scan a folder and all real folders below it; ``linked`` if a link led to it."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            path = self._root / folder
            try:
                if self._is_new(folder, os.stat(path), linked=linked):
                    self._folders.append(folder)
                    with os.scandir(path) as entries:
                        waiting += [below for entry in entries if (below := self._real_folder(folder, entry))]
            except OSError as error:
                raise DataError(
                    f"{path}: should be a readable folder of images ({error.strerror}); mend it, or move it elsewhere"
                ) from None

    def _is_new(self, folder: str, status: os.stat_result, *, linked: bool) -> bool:
        """Return True if a folder was not entered before. Raises DataError if an equally good path leads to it."""
        first = self._entered.setdefault((status.st_dev, status.st_ino), _Folder(folder, linked))
        if first.path == folder or not status.st_ino:
            return True
        leads_back = f"{folder}/".startswith(f"{first.path}/" if first.path else "")
        if leads_back or (linked and not first.linked):
            self._leave_out(folder, _BACK if leads_back else "linking to a folder that is in the tree anyway")
            return False
        raise DataError(
            f"{self._root}: {first.path} and {folder} are one and the same folder, so each image in it would be a "
            f"duplicate; remove one of them"
        )

    def _real_folder(self, folder: str, entry: os.DirEntry) -> str | None:
        """Record an entry of ``folder``; return its path if it is a folder and no link."""
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            self._leave_out(path, "hidden")
        elif entry.is_dir(follow_symlinks=False):
            return path
        elif entry.is_symlink() and os.path.isdir(entry.path):
            self._folder_links.append(path)
        elif not path.lower().endswith(SUFFIXES):
            self._leave_out(path, _NOWHERE if not os.path.exists(entry.path) else _ending(entry.name))
        elif entry.is_symlink():
            self._image_links.append(path)
        elif entry.is_file(follow_symlinks=False):
            self._images.append(path)
        else:
            self._leave_out(path, _NO_FILE)
        return None

    def _follow(self, link: str) -> None:
        """Enter the folder that a link leads to, unless that is one in which the link itself is."""
        path = self._root / link
        target, here = os.path.realpath(path), os.path.realpath(path.parent)
        if os.path.commonpath([target, here]) == target:
            self._leave_out(link, _BACK)
        else:
            self._enter(link, linked=True)

    def _add_image_links(self) -> None:
        """Keep links to images, unless the image itself is in the tree."""
        root = os.path.realpath(self._root)
        real = {f"{root}/{image}" for image in self._images} if self._image_links else ()
        for link in self._image_links:
            path = self._root / link
            if os.path.realpath(path) in real:
                self._leave_out(link, "linking to an image that is in the tree anyway")
            elif os.path.exists(path) and not os.path.isfile(path):
                self._leave_out(link, _NO_FILE)
            else:
                self._images.append(link)

    def _leave_out(self, path: str, reason: str) -> None:
        self._left_out.append(LeftOut(path, reason))


def _ending(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    return f"ending in {ending}" if ending else "without an ending"
