"""Packs: what a device learned, as a folder of five plain files that is checked whole before anything in it is used."""

from mmcl_edge.packs.confidence import Confidence, UnknownRule
from mmcl_edge.packs.contents import PackContents, child_of
from mmcl_edge.packs.manifest import Expert, Label, PackManifest, Parent
from mmcl_edge.packs.names import check_name, label_id, nfc
from mmcl_edge.packs.reader import Pack, holds_pack, next_version, read_manifest, read_pack
from mmcl_edge.packs.writer import write_pack

__all__ = [
    "Confidence",
    "Expert",
    "Label",
    "Pack",
    "PackContents",
    "PackManifest",
    "Parent",
    "UnknownRule",
    "check_name",
    "child_of",
    "holds_pack",
    "label_id",
    "next_version",
    "nfc",
    "read_manifest",
    "read_pack",
    "write_pack",
]
