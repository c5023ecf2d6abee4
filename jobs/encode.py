"""Encode a dataset's images ahead of the federations that need them: python jobs/encode.py --set dataset=cifar100"""

from collections.abc import Iterator
from contextlib import contextmanager

from promptfleet.cluster.session import ray_session
from promptfleet.command_line import ArgumentParser, path_argument, run
from promptfleet.config import FederationConfig
from promptfleet.data.download import download_dataset
from promptfleet.data.feature_store import open_features
from promptfleet.devices import choose_device
from promptfleet.disks import check_writable
from promptfleet.features.encoding import Wanted, encode_missing, features_folder, wanted_files
from promptfleet.features.image_encoder import load_inputs
from promptfleet.federation.settings import all_keys, read_federation_config
from promptfleet.methods import load_method
from promptfleet.storage.sync import synced_storage


def main() -> None:
    parser = ArgumentParser(
        prog="encode.py", description="Encode a dataset's images for the federations that follow.", keys=all_keys
    )
    parser.add_argument("--config", type=path_argument, metavar="FILE", help="a YAML file with keys of the federation")
    parser.add_set()
    parser.add_trust_code()
    parser.add_argument("--address", help="a running Ray cluster, or 'auto' (default: start Ray on this machine)")
    parser.add_argument("--download", action="store_true", help="fetch the dataset first, if its folder is not there")
    arguments = parser.parse_args()

    config = read_federation_config(arguments.config, arguments.set, trust_code=arguments.trust_code)
    if config.runtime.backend == "local" or arguments.address is None:
        choose_device(config.runtime.device)
    check_writable(config.storage.folder, named=f"storage.path={config.storage.path}")
    if arguments.download:
        download_dataset(config.dataset, config.data.root, config.data.folder)
    dataset, backbone = load_inputs(config)
    needs = load_method(config.method).needs_of(config)
    files = wanted_files(backbone, dataset, config.features, needs, features_folder(config))
    with synced_storage(config.storage), _ray(config, arguments.address):
        speed = encode_missing(config, backbone, dataset, files)
    for file in files:
        print(_line(file))
    how = f"{speed:.3g} images/s" if speed else "all of it was there"
    print(f"{len(dataset)} images of {dataset.name} with {backbone.name}: {how}")


@contextmanager
def _ray(config: FederationConfig, address: str | None) -> Iterator[None]:
    if config.runtime.backend == "local":
        yield
    else:
        with ray_session(address, fork_server="off"):
            yield


def _line(file: Wanted) -> str:
    features = open_features(file.path, verify=False).features
    shape = " x ".join(map(str, features.shape))
    return f"{file.kind:<9} {file.path}  {shape} {features.dtype}  {file.path.stat().st_size / 2**20:.1f} MiB"


if __name__ == "__main__":
    run(main)
