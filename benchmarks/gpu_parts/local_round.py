"""One local round of pFedMoAP against the published way of computing it, to the same prompt (see ``round.py``)."""

from collections.abc import Iterator

from gpu_parts.part import Row, Setting, run_part

SMALL = ["--backbone", "glyph-clip", "--classes", "10", "--images", "4", "--epochs", "1", "--experts", "2"]


def rows(setting: Setting) -> Iterator[Row]:
    from round import compare, model_of, options_of

    options = options_of(["--device", setting.device.type, *(SMALL if setting.small else [])])
    model = model_of(options)
    for classes in options.classes:
        yield {"backbone": options.backbone, **compare(model, classes, options)}


if __name__ == "__main__":
    run_part("local_round", rows)
