"""`blip-bootstrap export`: what a round kept, in the formats of those who train elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from blip_bootstrap.cli.asked_run import Root, RoundNumber, run_folder
from blip_bootstrap.cli.options import GOES_ON, RayAddress
from blip_bootstrap.config import RayConfig
from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import root_text, run_argument
from blip_bootstrap.query.alike import schema_of
from blip_bootstrap.query.verdicts import cut_of, rule_of
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.run_folder import (
    MANIFEST,
    read_json,
    read_pointers,
    resolve_round,
    round_name,
    round_of,
    used_folder,
)
from blip_bootstrap.stores.store import fetched
from blip_pipelines.export.export import Wanted, export_round
from blip_pipelines.export.place import Place
from blip_pipelines.export.source import Ledger, Source
from blip_training.feed.left_out import read_left_out

commands = typer.Typer(rich_markup_mode="markdown")


class Format(StrEnum):
    """What an export is written as."""

    webdataset = "webdataset"
    hf = "hf"
    blip_json = "blip-json"
    coco_json = "coco-json"
    uid_npy = "uid-npy"
    parquet = "parquet"


@commands.command(epilog="Example: `blip-bootstrap export --round 1 --format webdataset --out shards --root runs/demo`")
def export(
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="webdataset: tar shards, as open_clip trains on; hf: a Hugging Face folder with a card; blip-json: "
            "BLIP's lists; coco-json: COCO's captions; uid-npy: DataComp's list of uids; parquet: img2dataset's.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", parser=run_argument, metavar="PATH", help="A new folder, or s3:// or gs://.")
    ],
    root: Root = None,
    number: RoundNumber = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every text that was judged, with its verdict. Default: the kept ones.")
    ] = False,
    rows_per_shard: Annotated[
        int | None, typer.Option("--rows-per-shard", min=1, help="Pictures in a shard. Default: as in the images.")
    ] = None,
    ray: RayAddress = None,
) -> None:
    """Write what a round kept as webdataset, for Hugging Face, as BLIP's or COCO's JSON, uids or Parquet."""
    with ended_early(GOES_ON):
        folder = run_folder(root)
        number = resolve_round(folder, number)
        source, ledger = _source(folder, number), _ledger(folder, number)
        place, wanted = Place.of(out), Wanted(form.value, every, rows_per_shard)
        _check_apart(place)
        counts = export_round(source, ledger, place, wanted, RayConfig(address=ray or "local"))
    typer.echo(f"exported {counts['pictures']:,} pictures with {counts['texts']:,} texts to {place.told}")


def _check_apart(place: Place) -> None:
    """Raise InputError where the export would lie in what a step has made."""
    out = place.local.resolve()
    if place.is_here and any((folder / MANIFEST).is_file() for folder in (out, *out.parents)):
        raise InputError(f"{place.told}: a step of a run has made what lies there; give --out a folder of its own")


def _artifact(root: Path, number: int, name: str) -> Path:
    """Where an artifact of a round lies, by the record of the round; `name` as in the run."""
    if round_of(name) is None:
        return used_folder(root, number, name)
    pointer = read_pointers(root, number).get(name)
    return root / pointer["folder"] if pointer and (root / pointer["folder"]).is_dir() else root / name


def _ledger(root: Path, number: int) -> Ledger:
    """The manifests of the images, of the pairs, and of all of this round that they were made from."""
    found: dict[str, Any] = {}
    todo = ["images", *(f"{round_name(number)}/{one}" for one in ("pairs", "captions"))]
    todo += ["same_pictures"] if _same_pictures(root, number) else []
    for name in todo:
        if manifest := read_json(_artifact(root, number, name) / MANIFEST):
            found[name] = {key: value for key, value in manifest.items() if key != "files"}
            made_from = manifest.get("recipe", {}).get("inputs", {})
            todo += [one for one in made_from if one not in todo and round_of(one) in (None, number)]
    _check_agree(root, number, found)
    return Ledger(_name_of(root), number, found)


def _check_agree(root: Path, number: int, found: dict[str, Any]) -> None:
    """Raise InputError where the pairs are not finished, or were made from other captions than the round has."""
    name = round_name(number)
    if f"{name}/pairs" not in found:
        raise InputError(f"{root}: the pairs of round {number} are not finished; run --round {number} first")
    made_from = found[f"{name}/pairs"].get("recipe", {}).get("inputs", {})
    for one in (f"{name}/captions",):
        if one in found and made_from.get(one, found[one].get("content")) != found[one].get("content"):
            raise InputError(f"{root}: round {number} has other {one} than its pairs judge; run --round {number} first")


def _source(root: Path, number: int) -> Source:
    name = round_name(number)
    pairs, captions = _artifact(root, number, f"{name}/pairs"), _artifact(root, number, f"{name}/captions")
    files = parquet_files(pairs)
    rule = rule_of(schema_of(fetched(files[0]))) or {} if files else {}
    cut = cut_of(rule)
    has_captions = number > 0 and captions.is_dir()
    judged_by = (cut[0] if cut else "itm_score") if has_captions else None
    return Source(
        _artifact(root, number, "images"),
        pairs,
        captions if has_captions else None,
        judged_by,
        rule.get("weights") == "rule",
        read_left_out(_same_pictures(root, number)).web,
    )


def _same_pictures(root: Path, number: int) -> Path | None:
    """The folder of the pictures that are in two sets, where the round has looked for them."""
    return _artifact(root, number, "same_pictures") if "same_pictures" in read_pointers(root, number) else None


def _name_of(root: Path) -> str:
    return root_text(root.resolve()).rstrip("/").rpartition("/")[2]
