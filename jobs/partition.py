"""Show and save the samples of each client: python jobs/partition.py --set partition.alpha=0.1"""

from argparse import Namespace
from pathlib import Path

from promptfleet.atomic_files import replacing
from promptfleet.command_line import ArgumentParser, path_argument, run
from promptfleet.config import FederationConfig
from promptfleet.data.datasets import load_dataset
from promptfleet.data.download import download_dataset
from promptfleet.data.partition import Partition
from promptfleet.data.partition_counts import count_partition
from promptfleet.data.partition_file import check_replaceable, save_partition
from promptfleet.data.samples import Samples
from promptfleet.disks import check_writable, disk_errors
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.settings import all_keys, read_federation_config
from promptfleet.figures.partition import partition_figure
from promptfleet.figures.partition_table import partition_summary, partition_table
from promptfleet.storage.sync import synced_storage


def main() -> None:
    parser = ArgumentParser(
        prog="partition.py", description="Print, draw and save the samples of each client.", keys=all_keys
    )
    parser.add_argument("--config", type=path_argument, metavar="FILE", help="a YAML file with keys of the federation")
    parser.add_set()
    parser.add_trust_code()
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="folder for partition.json and partition.png (default: under storage.path)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another partition in --out")
    parser.add_argument("--download", action="store_true", help="fetch the dataset first, if its folder is not there")
    arguments = parser.parse_args()

    config = read_federation_config(arguments.config, arguments.set, trust_code=arguments.trust_code)
    with synced_storage(config.storage):
        _partition(config, arguments)


def _partition(config: FederationConfig, arguments: Namespace) -> None:
    if arguments.download:
        download_dataset(config.dataset, config.data.root, config.data.folder)
    samples = Samples.of_dataset(load_dataset(config.dataset, config.data.root, config.data.folder))
    partition = partition_for(config, samples)
    out = _output_folder(arguments.out, config, partition)
    if not arguments.overwrite:
        check_replaceable(out / "partition.json", partition)
    counts = count_partition(partition, samples)
    settings = config.partition.model_dump(exclude={"file", "fingerprint"})
    made_with = {"seed": config.seed, "clients": config.clients, "partition": config.partition.file or settings}
    save_partition(out / "partition.json", partition, samples, dataset=config.dataset, made_with=made_with)
    with disk_errors(), replacing(out / "partition.png") as partial:
        partition_figure(counts).savefig(partial, format="png")
    used = sum(map(sum, counts.part_sizes))
    print(partition_table(counts))
    print(partition_summary(counts))
    print(f"{config.dataset}: {used} of {len(samples)} samples, {config.clients} clients")
    if partition.held_out:
        print(f"held out:    {', '.join(f'client {client}' for client in partition.held_out)}")
    print(f"fingerprint: {partition.fingerprint()}")
    print(f"drawn:       {out / 'partition.png'}")
    print(f"saved:       {out / 'partition.json'}, to be used with --set partition.file={out / 'partition.json'}")


def _output_folder(out: str | None, config: FederationConfig, partition: Partition) -> Path:
    """Return the named folder, or one whose name no other partition has."""
    if out:
        check_writable(out, named=f"--out {out}")
        return Path(out)
    kind = "file" if config.partition.file else config.partition.kind
    name = f"{config.dataset}-{kind}-{config.clients}-seed{config.seed}-{partition.fingerprint()[:8]}"
    check_writable(config.storage.folder, named=f"storage.path={config.storage.path}")
    return config.storage.folder / "partitions" / name


if __name__ == "__main__":
    run(main)
