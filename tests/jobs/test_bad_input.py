"""Mistakes of users: one line on stderr, exit status 2, nothing started."""

import subprocess
import sys

import pytest

from promptfleet.comparison.reading import read_comparison
from promptfleet.config import StorageConfig
from promptfleet.search.folders import COMPARISONS, SWEEPS
from promptfleet.search.spec import parse_sweep
from promptfleet.search.sweep import open_study
from tests.samples import write_dtd

SPACE = "space: {experts: {int: [1, 9]}}\n"


@pytest.fixture
def job(monkeypatch, run_here, tmp_path_factory):
    """``run_here``, where no job may start Ray."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have running
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    return run_here


@pytest.fixture
def space(tmp_path):
    def write(text):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return path

    return write


def refused(outcome, *parts):
    status, out, err = outcome
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("space: {expert: {int: [1, 9]}}", ["unknown key 'expert'", "did you mean 'experts'"]),
        ("space: {experts: {int: [0, 9]}, rounds: {int: [1, 2]}}", ["keeps rounds fixed"]),
        ("space: {experts: {int: [-1, 9]}}", ["experts: got -1, should be greater than or equal to 0"]),
        ("space: {experts: {int: [1, 10]}}", ["experts=10 must be smaller than clients=10"]),
        (SPACE + "budget: {rounds: 3}", ["budget.rounds: 3 allow no trial, which takes 10 rounds"]),
        (SPACE + "constraint: {worst_clint: {min: 0.5}}", ["no quantity 'worst_clint'", "did you mean 'worst_client'"]),
        (SPACE + "sampler: cmaes\nsampler_options: {popsze: 3}", ["unknown option 'popsze'", "did you mean 'popsize'"]),
        (
            SPACE + "objectives: {val/local: max, bytes: min}\npruner: median",
            ["no trial early with several objectives"],
        ),
        (SPACE + "objective: test/local", ["objective: test/local is measured on test samples", "use val/local"]),
        (SPACE + "start_from: [elsewhere]", ["start_from elsewhere: no sweep was begun yet"]),
        ("space: {experts: {int: [1, 9], when: {gate: linear}}}", ["experts.when: gate is not searched"]),
        ("space: {}", ["nothing to search"]),
        ("", ["nothing to search"]),
        ("space: {experts: {int: [1, 9]}\ntrials: 3", ["space.yaml:2: malformed YAML"]),
        ("space:\n  experts: {int: [1, 9]}\n  experts: {int: [1, 3]}", ["space.yaml:3:", "'experts' is a duplicate"]),
        (SPACE + "federation: {partition: {kind: pathological, classes_per_client: 11}}", ["11", "10 classes"]),
        (SPACE + "federation: {clients: 900}", ["clients"]),
        (SPACE + "federation: {dataset: digit}", ["unknown dataset 'digit'; did you mean 'digits'?"]),
        (SPACE + "federation: {method: pfedmaop}", ["unknown method 'pfedmaop'; did you mean 'pfedmoap'?"]),
        (SPACE + "federation: {backbone: {name: ViT-B-17, pretrained: openai}}", ["open_clip has no model 'ViT-B-17'"]),
        (SPACE + "federation: {backbone: ViT-B-16/openai}", ["backbone: {name: ViT-B-16, pretrained: openai}"]),
        ("space: {words_file: {choice: [a, b]}}\nfederation: {method: openprompt}", ["keeps words_file fixed"]),
        (SPACE + "federation: {prompt_length: 80}", ["prompt_length=80 does not fit", "leaves room for 73"]),
        (SPACE + "federation: {gate_width: 256}", ["gate_width=256 exceeds the backbone's feature width 128"]),
        ("federation: &all {runtime: *all}\n" + SPACE, ["an alias within its own value"]),
        (SPACE + "federation: {method: {a: 1}}", ["method: got {'a': 1}, should be a name"]),
        (SPACE + "federation: {1: 2}", ["space.yaml:2: malformed YAML: a key must be a word"]),
        (SPACE + "federation: {clients: 1000000000000}", ["clients"]),
        ("space: {seed: {choice: [0, 1e400]}, experts: {int: [1, 99999999999999999999]}}", ["within -2**53 and 2**53"]),
        ("sampler: grid\nspace: {batch_size: {int: [1, 2000000000]}}", ["a grid of 2000000000 points"]),
        (SPACE + "federation: {resources: {client: {cpu: 64}}}", ["need", "CPUs, there are"]),
        (SPACE + "federation: {resources: {client: {gpu: 0.1}}}", ["there is room for 0 on 0 GPUs"]),
    ],
)
def test_a_search_file_that_cannot_be_run(job, space, text, parts):
    refused(job("tune.py", "--search", space(text)), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--search", "nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        (["--resume", "nothing"], ["--resume nothing: no sweep was begun yet"]),
        ([], ["one of the arguments --search --resume is required"]),
        (["--search", "space.yaml", "--set", "clients"], ["write key=value"]),
        (["--search", "space.yaml", "--set", "clients=x"], ["clients: got 'x', should be a valid integer"]),
        (["--search", "space.yaml", "--set", "clients=9"], ["experts=9 must be smaller than clients=9"]),
        (["--search", "space.yaml", "--trials", "0"], ["--trials"]),
        (["--search", "space.yaml", "--trials", "x"], ["argument --trials: invalid int value: 'x'"]),
        (["--search", "space.yaml", "--name", "a/b"], ["--name a/b: use letters"]),
        (["--search", "space.yaml", "--budget", "rounds"], ["--budget rounds: write key=value"]),
        (["--search", "space.yaml", "--export", "csv"], ["argument --export: goes with --resume"]),
        (["--resume", "nothing", "--export", "xml"], ["argument --export: invalid choice: 'xml'"]),
        (["--resume", "nothing", "--export", "csv"], ["--resume nothing: no sweep was begun yet"]),
        (["--resume", "x", "--name", "y"], ["a resumed sweep keeps its name"]),
        (["--resume", "x", "--config", "y.yaml"], ["argument --config: a resumed sweep keeps its configuration"]),
        (["--search", "space.yaml", "--config", "nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        (["--resume", "x", "--set", "rounds=3"], ["a resumed sweep keeps its configuration"]),
    ],
)
def test_an_option_that_cannot_be_meant(job, space, arguments, parts):
    space(SPACE)
    refused(job("tune.py", *arguments), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config", "nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        (["--resume", "nowhere"], ["--resume nowhere: no federation was begun there"]),
        (["--resume", "x", "--out", "y"], ["argument --resume: its folder has the configuration"]),
        (["--set", "checkpoints.keep=0"], ["checkpoints.keep: got 0, should be greater than or equal to 1"]),
        (["--set", "storage.path=gopher://x/y"], ["storage.path=gopher://x/y: no such kind of address"]),
        (["--set", "storage.path=file:///proc/x"], ["storage.path=file:///proc/x: cannot be used (", "Cannot create"]),
        (["--set", "storage.path=file:///tmp/x", "--out", "/y"], ["--out /y: should be a folder at file:///tmp/x"]),
        (["--set", "storage.path=s3://a:b@x/y"], ["storage.path: got credentials in an address"]),
        (["--set", "a\nb"], ["--set a\\nb: write key=value"]),
        (["--set", "clients=[" + "[" * 99], ["malformed YAML: nested too deeply"]),
        (["--set", "clients=" + "9" * 5000], ["malformed YAML: Exceeds the limit"]),
        (["--set", "template=a", "photo", "of"], ["--set photo: write key=value", "--set 'key=two words'"]),
        (["--set", "method=fedmp"], ["unknown method 'fedmp'; did you mean 'fed_mp'?"]),
        (["--set", "evaluation.transfer=[dtd, ~]"], ["evaluation.transfer[1]: has no value, should be a valid"]),
        (["--set", "evaluation.transfer=[2026-01-01, 1]"], ["transfer[1]: got 1, should be text, which a file has in"]),
        (["--set", "method=os:getcwd"], ["method 'os:getcwd' is not a subclass of"]),
        (["--set", "clints=3"], ["--set: unknown key 'clints'; did you mean 'clients'?"]),
        (["--set", "runtime.backend=rey"], ["runtime.backend: got 'rey', should be 'ray' or 'local'"]),
        (["--set", "experts=3", "--set", "clients=3"], ["experts=3 must be smaller than clients=3"]),
        (["--set", "partition.kind=pathological", "--set", "partition.classes_per_client=11"], ["10 classes"]),
        (["--set", "resources.client.cpu=64"], ["CPUs, there are"]),
        (["--set", "dataset=dtd"], ["data.root data: there is no such folder; put images/ and split_zhou_Desc"]),
        (["--set", "dataset=dtd", "--set", "data.root=.", "--set", "data.folder=mine"], ["mine: there is no such"]),
        (["--set", "dataset=domainnet", "--download"], ["domainnet cannot be downloaded from here; put {clipart"]),
        (["--address", "127.0.0.1:9"], ["--address 127.0.0.1:9: no Ray cluster to join"]),
        (["--set", "partition.val_fraction=0.6", "--set", "partition.test_fraction=0.5"], ["leave nothing to train"]),
    ],
)
def test_a_federation_that_cannot_be_run(job, arguments, parts):
    refused(job("train.py", *arguments), *parts)


@pytest.mark.parametrize(
    ("template", "words", "parts"),
    [
        ("a photo", None, ["--set: template: there is no {class}, the place of"]),
        ("{sofft:2} {class}", None, ["--set: template: character 1: unknown slot {sofft:2}; did you mean 'soft'"]),
        (
            "{soft:70} on a b c {class}.",
            None,
            ["{class}.': has 78 tokens with the longest word", "has 77 positions"],
        ),
        ("{soft} {class}.", "zero: 0\none: 1\nzero: 2", ["words.yaml:3: malformed YAML: key 'zero' is a duplicate"]),
        (
            "{soft} {class}.",
            "zero: 0\nones: 1",
            ["words.yaml: there is nothing for class 'one'; did you mean 'ones' on line 2?"],
        ),
    ],
)
def test_a_template_or_words_that_cannot_be_meant(job, tmp_path, template, words, parts):
    (tmp_path / "words.yaml").write_text(words or "")
    file = ["--set", f"words_file={tmp_path / 'words.yaml'}"] if words else []
    refused(job("train.py", "--set", "method=openprompt", "--set", f"template={template}", *file), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["method=sgpt", "shared_blocks=4"], ["shared_blocks + group_blocks=6 does not fit", "has room for 4 blocks"]),
        (["method=sgpt", "features.views=2"], ["features.views=2: there are no views for methods that see pixels"]),
        (
            ["method=pfedpt", "frame_width=16"],
            ["frame_width=16 does not fit: images of glyph-clip have 32 x 32 pixels"],
        ),
        pytest.param(
            ["method=sgpt", "backbone.name=RN50", "backbone.pretrained=random"],
            ["method=sgpt puts tokens into a vision transformer: backbone 'RN50/random': its image tower is"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_tokens_and_frames_that_an_image_tower_has_no_room_for(job, arguments, parts):
    status, out, err = job("train.py", *(word for one in arguments for word in ("--set", one)))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert all(part in err.splitlines()[-1] for part in parts)


def test_descriptions_of_other_classes(job, tmp_path):
    (tmp_path / "texts.yaml").write_text("cat: a cat.\ndog: a dog.")
    arguments = ["--set", "method=dualpt", "--set", f"descriptions_file={tmp_path / 'texts.yaml'}"]
    refused(
        job("train.py", *arguments), "texts.yaml: there is nothing for class 'zero'; the dataset has zero, one, two"
    )


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["partition.new_classes=0.9"], ["partition.new_classes=0.9: of 10 classes that makes 1 base and 9 new ones"]),
        (["partition.held_out_domain=sketch"], ["held_out_domain=sketch: the dataset has no domains; leave it out"]),
        (["dataset=digits_styles", "partition.held_out_domain=pen"], ["unknown domain 'pen'"]),
        (["partition.held_out_clients=10"], ["held_out_clients=10: no client of clients=10 would train"]),
        (["evaluation.transfer=[digits_styles]"], ["evaluation.transfer: dataset digits_styles has no published test"]),
        (["evaluation.transfer=[dtdd]"], ["evaluation.transfer: unknown dataset 'dtdd'; did you mean 'dtd'?"]),
        (["evaluation.transfer=[dtd]"], ["evaluation.transfer: data.root data: there is no such folder; put images/"]),
        (["evaluation.every=11"], ["evaluation.every=11 should be at most rounds=10"]),
    ],
)
def test_an_evaluation_that_is_impossible(job, settings, parts):
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    refused(job("train.py", "--set", "runtime.backend=local", *arguments), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "partition.kind=disjoint", "--set", "clients=6"], ["do not go round clients=6", "set clients to 5"]),
        (["--set", "partition.kind=domain"], ["the dataset has no domains"]),
        (["--set", "partition.file=no.json"], ["no.json: there is no such file"]),
        (["--set", "dataset=cifar10", "--set", "data.root=nowhere"], ["nowhere"]),
    ],
)
def test_a_partition_that_cannot_be_made(job, arguments, parts, tmp_path):
    refused(job("partition.py", *arguments), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_with_an_image_that_does_not_decode(job, tmp_path):
    image = write_dtd(tmp_path / "data", per_part=4) / "images" / "veined" / "veined_0003.jpg"
    image.write_bytes(image.read_bytes()[:200])
    settings = ["dataset=dtd", "clients=2", "experts=1", "partition.kind=iid"]
    outcome = job("train.py", *(argument for setting in settings for argument in ("--set", setting)))
    refused(outcome, f"{image}: cannot be decoded as an image")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--methods: name at least one method, or all; there are: "]),
        (["--methods", "pfedmoap"], ["--seeds: name at least one seed"]),
        (["--methods", "pfedmaop", "--seeds", "0"], ["unknown method 'pfedmaop'; did you mean 'pfedmoap'?"]),
        (["--methods", "pfedmoap", "--seeds", "0", "--set", "expert=3"], ["--set: unknown key 'expert'"]),
        (["--methods", "pfedmoap", "--seeds", "0", "--tune", "nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        (["--methods", "pfedmoap", "--seeds", "0", "--trials", "3"], ["--trials: belongs to the tuning"]),
        (["--methods", "pfedmoap", "--seeds", "0", "--concurrent", "0"], ["--concurrent: got 0"]),
        (["--methods", "pfedmoap", "--seeds", "0", "--name", "a/b"], ["--name a/b: use letters"]),
        (["--leave-one-domain-out"], ["--leave-one-domain-out: goes with --name"]),
        (
            ["--methods", "coop", "--seeds", "0", "--name", "x", "--leave-one-domain-out"],
            ["dataset=digits should have two domains or more, it has 0"],
        ),
        (
            ["--methods", "coop", "--seeds", "0", "--columns", "globl"],
            ["column 'globl'; did you mean 'global'"],
        ),
        (
            ["--methods", "coop", "--seeds", "0", "--target", "90"],
            ["--target: got 90, should be above 0"],
        ),
        (["--resume", "nothing"], ["--resume nothing: no comparison was begun yet"]),
        (["--resume", "nothing", "--name", "other"], ["--name: a resumed comparison keeps its name"]),
    ],
)
def test_a_comparison_that_cannot_be_run(job, arguments, parts):
    refused(job("compare.py", *arguments), *parts)


def test_a_file_that_is_no_text(job, tmp_path):
    (tmp_path / "space.yaml").write_bytes(b"space: \xff\xfe")
    refused(job("tune.py", "--search", "space.yaml"), "space.yaml: cannot be read as text")


@pytest.mark.parametrize(
    ("tune", "parts"),
    [
        ("methods: {pfedmoap: 3}", ["methods: should be {NAME:"]),
        ("federation: [1]\nmethods: {pfedmoap: {}}", ["federation: got [1], should be a section of keys"]),
    ],
)
def test_a_tuning_that_cannot_be_run(job, tmp_path, tune, parts):
    (tmp_path / "tune.yaml").write_text(tune)
    refused(job("compare.py", "--methods", "pfedmoap", "--seeds", "0", "--tune", "tune.yaml"), *parts)


def test_a_comparison_whose_file_was_damaged(job, tmp_path):
    folder = tmp_path / "results" / "comparisons" / "mine"
    folder.mkdir(parents=True)
    for text in ("seeds: [0]", "seeds: [0]\nmethods: 3\ntuning: {}\nfederation: {}\nconcurrent_trials: 1"):
        (folder / "comparison.yaml").write_text(text)
        refused(job("compare.py", "--resume", "mine"), "comparison.yaml: not as it was written")


@pytest.mark.slow
def test_from_a_shell_too(root, tmp_path):
    command = [sys.executable, str(root / "jobs" / "tune.py"), "--search", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.yaml: there is no such file\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", 10**9], "--workers 1 --batch 1000000000: they take at least 800 TB of memory, this machine has "),
        (["--workers", 10**6], "--workers 1000000 --batch 256: they take at least "),
        (["--threads", 10**6], "--threads=1000000: there are "),
        (["--seed", 2**63], "--seed must be in 0..2**63-1, got 9223372036854775808"),
        (["--steps", 0], "--steps must be positive, got 0"),
    ],
)
def test_a_pretraining_that_no_machine_holds(job, options, message, tmp_path):
    refused(job("pretrain.py", *options), f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_starts_nothing(job, space, tmp_path):
    status, out, err = job("tune.py", "--search", space(SPACE), "--dry-run", "--set", "clients=12", "--trials", "7")
    assert (status, err) == (0, "")
    assert "experts" in out
    assert "12 client actors" in out
    assert "7 trials" in out
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize(
    ("job_and_options", "message"),
    [
        (["tune.py", "--search", "space.yaml", "--set", "backbone.pretrained=mine.pt"], "mine.pt"),
        (["tune.py", "--search", "space.yaml", "--set", "dataset=dtd"], "data.root data: there is no such folder"),
        (["compare.py", "--methods", "coop", "--seeds", "0", "--set", "prompt_length=90"], "prompt_length=90"),
        (["compare.py", "--methods", "coop", "--seeds", "0", "--columns", "globl"], "did you mean 'global'"),
    ],
)
def test_a_dry_run_is_refused_as_its_start_would_be(job, space, tmp_path, job_and_options, message):
    space(SPACE)
    refused(job(*job_and_options, "--dry-run"), message)
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


def begun(shelf, tmp_path, spec):
    storage = StorageConfig(path=str(tmp_path / "results"))
    return shelf.create(spec.to_dict(), storage, name="mine", default_name="x")


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_driver_is_refused_before_anything_is_written(job, tmp_path):
    sweep = parse_sweep({"space": {"experts": {"int": [1, 9]}}, "trials": 4}, source="test")
    with begun(SWEEPS, tmp_path, sweep):
        before = everything(tmp_path)
        refused(job("tune.py", "--resume", "mine", "--trials", "1"), "sweeps/mine: another process is at work there")
        assert everything(tmp_path) == before
        status, out, _ = job("tune.py", "--resume", "mine", "--trials", "1", "--dry-run")
        assert (status, "budget: 1 trials" in out) == (0, True)
        assert everything(tmp_path) == before


def test_a_second_driver_of_a_comparison_is_refused_before_anything_is_written(job, tmp_path):
    comparison = read_comparison(None, [], methods=("promptfl", "coop"), seeds=(0,))
    with begun(COMPARISONS, tmp_path, comparison):
        before = everything(tmp_path)
        outcome = job("compare.py", "--resume", "mine", "--out", "out")
        refused(outcome, "comparisons/mine: another process is at work there")
        assert everything(tmp_path) == before
        assert not (tmp_path / "out").exists()


def test_a_damaged_study_is_refused_before_ray_is_started(job, tmp_path):
    sweep = parse_sweep({"space": {"experts": {"int": [1, 9]}}, "trials": 4}, source="test")
    comparison = read_comparison(None, [], methods=("promptfl", "coop"), seeds=(0,))
    for name, shelf, spec in (("tune.py", SWEEPS, sweep), ("compare.py", COMPARISONS, comparison)):
        with begun(shelf, tmp_path, spec) as folder:
            (folder / "study.db").write_text("this is no database " * 100)
        refused(job(name, "--resume", "mine"), "study.db is damaged (file is not a database)", "--rebuild-study")
    refused(job("tune.py", "--search", "x", "--rebuild-study"), "argument --rebuild-study: goes with --resume")


def test_fewer_trials_than_have_ended_are_refused(job, tmp_path):
    spec = parse_sweep({"space": {"experts": {"int": [1, 9]}}, "trials": 4}, source="test")
    with begun(SWEEPS, tmp_path, spec) as folder:
        study = open_study(spec, folder)
        for _ in range(3):
            study.report(proposal := study.next_proposal().number, 10, 0.5)
            study.fail(proposal, "why")
    before = (folder / "sweep.yaml").read_text()
    refused(
        job("tune.py", "--resume", "mine", "--trials", "2"), "--trials 2: 3 trials of this sweep have ended already"
    )
    refused(job("tune.py", "--resume", "mine", "--budget", "rounds=10"), "rounds=10: this sweep has used 30 already")
    assert (folder / "sweep.yaml").read_text() == before
