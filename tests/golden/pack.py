"""Make the files of this folder from full ones: python tests/golden/pack.py SOURCE

SOURCE has folders of ``.safetensors`` files. Of a CLIP's token table only the rows that are not zero are kept, with
their ids; ``tests/parity.py`` rebuilds the table. Every other tensor, and the metadata, is copied as it is.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TABLE, ROWS, IDS = "token_embedding.weight", "token_embedding.rows", "token_embedding.ids"


def main() -> None:
    source, target = Path(sys.argv[1]), Path(__file__).parent
    for path in sorted(source.glob("*/*.safetensors")):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if TABLE in tensors:
            table = tensors.pop(TABLE)
            used = table.ne(0).any(dim=1).nonzero().squeeze(1)
            tensors |= {ROWS: table[used].clone(), IDS: used.to(torch.int32)}
            metadata["vocabulary"] = str(len(table))
        packed = target / path.parent.name / path.name
        packed.parent.mkdir(exist_ok=True)
        save_file(tensors, packed, metadata)


if __name__ == "__main__":
    main()
