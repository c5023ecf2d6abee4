"""Look at results in the browser: python jobs/ui.py [FOLDER] [--port 5000]"""

from promptfleet.command_line import ArgumentParser, run
from promptfleet.config import StorageConfig, build
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.ui import serve


def main() -> None:
    parser = ArgumentParser(prog="ui.py", description="Serve the results to a browser on this machine.")
    parser.add_argument("path", nargs="?", default="results", metavar="FOLDER", help="storage.path (default: results)")
    parser.add_argument("--port", type=int, default=5000, help="of this machine (default: 5000)")
    arguments = parser.parse_args()

    def on_start(store: TrackingStore) -> None:
        for name in store.newest_views(5):
            print(f"{name}: {store.ui_address(name, port=arguments.port)}")
        print("(Ctrl-C ends it)", flush=True)

    storage = build(StorageConfig, {"path": arguments.path}, source="FOLDER")
    serve(storage.folder, arguments.port, on_start)


if __name__ == "__main__":
    run(main)
