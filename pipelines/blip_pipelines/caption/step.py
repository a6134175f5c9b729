"""The captioning step: every image captioned, every text scored, one file of captions for each file of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.notes import values
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.parts import Spans, borrow, of_rows, read_left_out, write_left_out
from blip_bootstrap.stores.store import gone, is_there
from blip_pipelines.caption.again import Again, reasons_of
from blip_pipelines.caption.blocks import (
    BLOCKS,
    Block,
    CaptionBlocks,
    counts_in,
    merge_if_whole,
    num_threads,
)
from blip_pipelines.caption.careful import CarefulBlocks
from blip_pipelines.caption.todo import Tasks, Todo
from blip_pipelines.captioners.registry import KINDS as CAPTIONERS
from blip_pipelines.cluster.items import HERE, RETRIES, Pool, Work, run_items
from blip_pipelines.cluster.resources import NO_RAY, check_cpus, num_workers, takes_gpu, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.endpoints.ledger import Account, noted_in
from blip_pipelines.failures import tries
from blip_pipelines.failures.limits import Limits
from blip_pipelines.judges.registry import KINDS as JUDGES
from blip_pipelines.scoring.references import Reference, pick_carefully, pick_references
from blip_pipelines.scoring.sources import absolute, judges_bytes, with_absolute_models, worker_bytes

ACCOUNT = ".account-"
"""What begins the name of a folder beside the blocks where a captioner keeps account of what it asks."""

JUDGES_ACCOUNT = ".account-judge-"
"""The same of a judge."""

BLOCKS_PER_TASK = 8
"""The most blocks that an actor with a GPU takes one after the other. Each is written when it is done."""


def caption_and_score(
    out: Path, images: Path, captioner: Path | str | None, filter: Path | str, config: CaptionConfig, ray: RayConfig,
    kin: Sequence[Path] = (), retry: str | None = None, writers: Path | str | None = None,
    judges: Path | str | None = None, scored: Mapping[str, Path] | None = None,
) -> dict[str, int | float | str]:  # fmt: skip
    """Caption the images and score web and synthetic texts, in this process or with Ray's actors (section 3.3).

    `images` is a folder of the table `images`; `captioner` and `filter` are what `load_med` reads. Writes
    `out/part-NNNNN.parquet` (table `captions`) for each file of images; files and blocks that are in `out` are kept.
    Rows that a later list left out are captioned as others are; which of these have texts is noted in `out`, too.
    `captioner` is None where `config.own_writer` is false. With `retry` (`captions`, or `captions:REASON`) the texts
    that captioners of `config.writers` did not write are asked for again; all else is as in the newest of `kin`.
    `writers` and `judges` are the digests of what these captioners, and `config.judges`, say of themselves, as the
    recipe has them. `scored` has files of captions that lack nothing but what judges say who have not been asked, by
    the names of the files of images: of these, such judges alone are asked, and the scores of others go on.
    A picture that kills or hangs its worker keeps its web text alone, flagged with what the worker died of. Returns the
    number of images, of rows by source, of images that could not be decoded, of flags, of texts that were not drawn
    (`spared`), and of work that was done again after a worker's death (`retries`).
    Raises CheckpointError for a model that cannot be used, RunFailed where Ray has too few CPUs, AccountingError
    where an image got lost.
    """
    parts = parquet_files(images)
    if not parts:
        raise InputError(f"{images}: no part-*.parquet in it; run the download first")
    known = KnownParts()
    successes = {part.name: _num_successes(part, known) for part in parts}
    again = _borrow_answered(out, kin, retry, known) if retry else None
    lacking = [part for part in parts if not is_there(out / part.name)]
    texts = Todo.of([part for part in lacking if part.name in (scored or {})], out, known, scored=scored)
    todo = Todo.of([part for part in lacking if part.name not in texts.names], out, known, again)
    with Progress("caption", sum(successes.values()), unit="images") as progress:
        done = _done(out, parts, todo.made, known)
        progress.begin(done["images"])
        retries = 0
        config = _with_accounts(config, out) if len(todo) or len(texts) else config
        if len(texts):
            retries += _rejudge(texts, config, ray, progress, done)
            done = _done(out, parts, todo.made, known)
        if len(todo):
            references = _references(out, images, config, ray, len(todo))
            models = absolute(captioner) if captioner else None, absolute(filter)
            retries += _run(todo, *models, config, ray, references, progress, done)
    for some in (texts, todo):
        for name in some.names:  # of which the last worker was killed, or saw a folder of a while ago
            merge_if_whole(some.first_of(name))
    sent = _sent(config, out)
    gone(out / BLOCKS)
    write_left_out(out, {name: _of_texts(out / name, spans) for name, spans in read_left_out(images).items()})
    return _check(out, successes) | sent | ({RETRIES: retries} if retries else {})


def _done(out: Path, parts: Iterable[Path], blocks: Iterable[str], known: KnownParts) -> Counter[str]:
    """Rows of what is made: of files of images, and of blocks of others."""
    files = [out / part.name for part in parts] + [out.absolute() / BLOCKS / name for name in sorted(blocks)]
    return _count(filter(is_there, files), known)


def _with_accounts(config: CaptionConfig, out: Path) -> CaptionConfig:
    """The settings, in which whoever is paid for keeps account beside the blocks, for all workers together."""
    at = out.absolute() / BLOCKS
    writers = tuple(CAPTIONERS.with_account(one, at / f"{ACCOUNT}{one.name}") for one in config.writers)
    judges = tuple(JUDGES.with_account(one, at / f"{JUDGES_ACCOUNT}{one.name}") for one in config.judges)
    return config.model_copy(update={"writers": writers, "judges": judges}) if writers or judges else config


def _sent(config: CaptionConfig, out: Path) -> dict[str, int]:
    """What captioners and judges were sent, also for what a kill has lost; nothing where none of them counts."""
    names = [f"{ACCOUNT}{one.name}" for one in config.writers]
    names += [f"{JUDGES_ACCOUNT}{one.name}" for one in config.judges]
    accounts = [each for name in names for each in noted_in(out / BLOCKS / name).values()]
    total = sum(accounts, Account())
    return {"requests_sent": total.requests, "tokens_billed": total.tokens} if accounts else {}


def _borrow_answered(out: Path, kin: Sequence[Path], retry: str, known: KnownParts) -> Again:
    """Have the parts of before in which no text lacks; and what is to be asked for again of the others."""
    if not kin:
        raise InputError(f"{out}: there are no captions of before, of which texts could be asked for again")
    again = Again(str(kin[0].absolute()), reasons_of(retry))
    out.mkdir(parents=True, exist_ok=True)
    for part in parquet_files(kin[0]):
        counts = _count([part], known)
        if not any(counts[reason] for reason in again.reasons):
            borrow(out, part)
    return again


def _of_texts(captions: Path, spans: Spans) -> Spans:
    """The rows of a part that are left out and have texts: those of pictures that were fetched."""
    return of_rows(spans, read_parquet(captions, ["key"])["key"])


def _references(out: Path, images: Path, config: CaptionConfig, ray: RayConfig, num_blocks: int) -> list[Reference]:
    """The reference pictures; picked in a child process where no picture may kill this one, or where one has."""
    note = out / BLOCKS / "references"
    if not works_here(ray, num_blocks) or tries.is_suspect(note):
        references = pick_carefully(images, config.references, Limits.of(ray))
        tries.end(note)
        return references
    tries.begin(note)
    try:
        return pick_references(images, config.references)
    finally:
        tries.end(note)


def _run(
    blocks: Sequence[Block],
    captioner: str | None,
    filter: str,
    config: CaptionConfig,
    ray: RayConfig,
    references: Sequence[Reference],
    progress: Progress,
    before: Mapping[str, int],
) -> int:
    """Have the blocks captioned; who does the last one of a file of images merges them. Returns retries."""
    pool = _pool(config, ray, len(blocks), worker_bytes(captioner, filter, config))
    config = config if pool == HERE else with_absolute_models(config)
    known = captioner, filter, config, idle_lanes(config, ray, pool.num_workers or 1), references, Limits.of(ray)
    return _do(blocks, pool, partial(CaptionBlocks, *known), partial(CarefulBlocks, *known), progress, before)


def _rejudge(
    blocks: Sequence[Block], config: CaptionConfig, ray: RayConfig, progress: Progress, before: Mapping[str, int]
) -> int:
    """Have the texts of blocks scored by judges that have not scored them. Returns retries."""
    from blip_pipelines.caption.rejudge import RejudgedBlocks  # torch, where judges are asked

    pool = _pool(config, ray, len(blocks), judges_bytes(config))
    known = config if pool == HERE else with_absolute_models(config), Limits.of(ray)
    carefully = partial(RejudgedBlocks, *known, carefully=True)
    return _do(blocks, pool, partial(RejudgedBlocks, *known), carefully, progress, before)


def _do(
    blocks: Sequence[Block],
    pool: Pool,
    work: Callable[..., Callable[[Sequence[Block]], Iterable[Block]]],
    carefully: Work[Sequence[Block], Block],
    progress: Progress,
    before: Mapping[str, int],
) -> int:
    """Have `work` do the blocks, and `carefully` those that workers have died of. Returns retries."""

    def take(block: Block) -> None:
        """Nothing is read here of what a worker has made."""

    def run(tasks: Sequence[Sequence[Block]], work: Work[Sequence[Block], Block]) -> int:
        return run_items("caption", tasks, work, pool, take, progress, dict(before), carefully)

    if pool != HERE:
        return run(Tasks(blocks, blocks_per_task(len(blocks), pool.num_workers, pool.gpus)), work)
    # All in one task: the first pictures of a block are then decoded while the one before is captioned.
    suspects = [block for block in blocks if block.is_suspect]
    retries = run([[block for block in blocks if block not in suspects]], partial(work, noted=True))
    return retries + (run([suspects], carefully) if suspects else 0)


def _pool(config: CaptionConfig, ray: RayConfig, num_blocks: int, memory_bytes: int) -> Pool:
    """Where so many blocks are done, by workers that need so much memory.

    Raises RunFailed where the cluster has too few CPUs for the actors.
    """
    if works_here(ray, num_blocks):
        return HERE
    connect(ray)
    gpus = gpus_of_actor(config)
    num_actors = num_workers(ray, config.num_actors, config.cpus_per_actor, gpus, at_most=num_blocks)
    check_cpus(num_actors * config.cpus_per_actor, "captioning")
    return Pool(num_actors, config.cpus_per_actor, gpus).with_memory(ray, memory_bytes)


def blocks_per_task(num_blocks: int, num_actors: int, gpus: float) -> int:
    """How many blocks an actor gets at a time: one on a CPU, with a GPU a quarter of its share at most.

    The models wait for pictures once in them, for those of the first batch: on an H200 a sixth of a block's time.
    """
    return min(BLOCKS_PER_TASK, max(1, num_blocks // (4 * num_actors))) if gpus else 1


def gpus_of_actor(config: CaptionConfig) -> float:
    """How much of a GPU an actor takes of the connected cluster."""
    return (config.gpus_per_actor or 1.0) if takes_gpu(config.device) else 0.0


def idle_lanes(config: CaptionConfig, ray: RayConfig, num_actors: int) -> int:
    """How many parts of its batch an actor may compute at a time, where the cores are this run's own.

    A few images make one block, for one actor: the other cores would be idle. On a cluster other jobs may want them.
    """
    if ray.address not in (NO_RAY, "local"):
        return 1
    return max(1, num_cores() // (num_actors * num_threads(config)))


def _count(files: Iterable[Path], known: KnownParts) -> Counter[str]:
    """Rows of captions in files, by counter; those that nobody has noted are read."""
    counts: Counter[str] = Counter()
    for file in files:
        note = known(file)
        counts.update(note.counts if note else counts_in(file))
    return counts


def _num_successes(part: Path, known: KnownParts) -> int:
    note = known(part)
    counts = note.counts if note else values(read_parquet(part, ["status"])["status"])
    return counts.get("success", 0)


def _check(out: Path, successes: Mapping[str, int]) -> dict[str, int | float | str]:
    """The counts of all captions. Raises AccountingError where a file lacks an image."""
    totals, known = Counter[str](), KnownParts()
    for name, expected in successes.items():
        counts = _count([out / name], known)
        if (found := counts["images"]) != expected:
            raise AccountingError(f"{out / name}: {found} images for {expected} downloaded; delete it and run again")
        totals += counts
    return dict(totals)
