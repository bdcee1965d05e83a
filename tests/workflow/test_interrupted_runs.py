import os
import signal
import subprocess
import time

import pytest

from dfpc_plugin.cli import main
from workflow_runs import TUNED, changed, command, environment, run_process, same_weights, write_recipe


def prune(*arguments):
    return main(["prune", *map(str, arguments), "--quiet"])


@pytest.fixture
def recipe(weights, tmp_path):
    return write_recipe(tmp_path / "r.yaml", TUNED, model__weights=str(weights))


@pytest.fixture(scope="module")
def undisturbed(weights, tmp_path_factory):
    """What the recipe ends in if nothing happens."""
    place = tmp_path_factory.mktemp("undisturbed")
    assert prune(write_recipe(place / "r.yaml", TUNED, model__weights=str(weights)), "--output", place / "out") == 0
    return place / "out"


def kill_when(arguments, cwd, reached):
    """Start a run, and kill it by SIGKILL as soon as `reached()`."""
    process = subprocess.Popen(command(*arguments), env=environment(), cwd=cwd, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.stderr.close()


def test_a_run_that_was_killed_goes_on_to_the_same_weights(recipe, tmp_path, capsys):
    """Killed while tuning, after the cut; then started again without and with --resume, and with another recipe."""
    output, place = tmp_path / "out", tmp_path / "out.run"
    steps = ("--finetune.steps", "120")
    kill_when(
        ["prune", recipe, "--output", output, *steps], tmp_path,
        lambda: (place / "checkpoints").is_dir() and any((place / "checkpoints").glob("checkpoint-*")),
    )  # fmt: skip
    assert (place / "cut" / "manifest.json").is_file()
    assert not output.exists()

    assert prune(recipe, "--output", output, *steps) == 1
    assert capsys.readouterr().err == (
        f"'{place}' holds the beginnings of a run that was interrupted; go on with it by --resume, or remove it.\n"
    )
    assert prune(recipe, "--output", output, *steps, "--finetune.lr", "0.01", "--resume") == 1
    assert capsys.readouterr().err == (
        f"'{place}' holds a run of another recipe: finetune.lr is not the same. Go on with that one (its 'recipe.yaml'), or remove the "
        f"directory.\n"
    )

    assert (
        prune(recipe, "--output", output, *steps, "--finetune.checkpoint_every", "7", "--resume") == 0
    )  # changes no result
    assert not place.exists()
    assert prune(recipe, "--output", tmp_path / "undisturbed", *steps) == 0
    assert same_weights(output, tmp_path / "undisturbed")
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml", "out", "undisturbed"}


class Interruption:
    """Progress that is interrupted once, as by Control-C, when it comes to a share of some work."""

    def __init__(self, name, share):
        self.name, self.share, self.happened = name, share, False

    def __call__(self, name, share):
        if not self.happened and name == self.name and share >= self.share:
            self.happened = True
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "share", "kept"),
    [("saliency", 0.0, False), ("fine-tuning", 0.0, True), ("fine-tuning", 0.5, True), ("fine-tuning", 1.0, True)],
)
def test_an_interruption_anywhere(recipe, undisturbed, tmp_path, monkeypatch, capsys, name, share, kept):
    from dfpc_plugin.cli import prune as module

    whole = module.follow_recipe
    interruption = Interruption(name, share)
    monkeypatch.setattr(
        module, "follow_recipe", lambda *args, **options: whole(*args, **(options | {"progress": interruption}))
    )
    assert prune(recipe, "--output", tmp_path / "out") == 130
    assert interruption.happened
    said = f"Interrupted. What is done is kept in '{tmp_path / 'out.run'}'; go on with it by the same command and --resume.\n"
    assert capsys.readouterr().err == (said if kept else "")
    assert (tmp_path / "out.run").exists() == kept  # what nothing can go on with is thrown away
    assert not (tmp_path / "out").exists()
    assert prune(recipe, "--output", tmp_path / "out", "--resume") == 0
    assert same_weights(tmp_path / "out", undisturbed)
    assert not (tmp_path / "out.run").exists()


@pytest.mark.slow
def test_a_schedule_that_was_interrupted(weights, tmp_path, monkeypatch):
    from dfpc_plugin.cli import prune as module

    course = {"steps": 4, "batch_size": 32, "checkpoint_every": 2}
    schedule = {"share": 0.15, "step_sizes": [0.02], "tuning": course, "final": course}
    recipe = write_recipe(
        tmp_path / "s.yaml", changed(TUNED, finetune=None, schedule=schedule), model__weights=str(weights)
    )
    whole, seen = module.follow_recipe, []

    def stop(name, share):
        seen.append(name)
        if seen.count("tuning") == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "follow_recipe", lambda *args, **options: whole(*args, **(options | {"progress": stop})))
        assert prune(recipe, "--output", tmp_path / "out") == 130
    assert (tmp_path / "out.run").is_dir()
    assert prune(recipe, "--output", tmp_path / "out", "--resume") == 0
    assert prune(recipe, "--output", tmp_path / "undisturbed") == 0
    assert same_weights(tmp_path / "out", tmp_path / "undisturbed")


def test_something_else_in_the_place_of_the_run(recipe, tmp_path, capsys):
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / "thesis.txt").write_text("mine")
    assert prune(recipe, "--output", tmp_path / "out", "--resume") == 1
    assert "is no run of this library" in capsys.readouterr().err
    assert (tmp_path / "out.run" / "thesis.txt").read_text() == "mine"


def test_a_second_run_on_one_output_is_told_at_once(recipe, tmp_path, capsys, monkeypatch):
    from dfpc_plugin.workflow.run_directory import RunDirectory

    place = RunDirectory(tmp_path / "out", "seed: 0\n", resume=False)
    with place.begun():
        kept = {path.name for path in place.directory.iterdir()}
        for option in ((), ("--resume",)):
            assert prune(recipe, "--output", tmp_path / "out", *option) == 1
            assert f"is in use: process {os.getpid()} on" in capsys.readouterr().err
        assert {path.name for path in place.directory.iterdir()} == kept
    place.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml"}


def test_a_run_that_is_killed_while_it_begins_or_ends_leaves_nothing_to_stumble_over(tmp_path, monkeypatch):
    from dfpc_plugin.workflow import run_directory as module

    def killed(*arguments, **options):
        raise SystemExit

    place = module.RunDirectory(tmp_path / "out", "seed: 0\n", resume=False)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(module, "write_text", killed)
        patch.setattr(module.shutil, "rmtree", lambda *arguments, **options: None)
        with place.begun():
            pass
    assert not place.directory.exists()
    with place.begun():
        pass
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *arguments, **options: None)
        place.remove()
    assert not place.directory.exists()
    with module.RunDirectory(tmp_path / "out", "seed: 0\n", resume=True).begun():
        pass


def test_resume_where_nothing_was_begun_is_a_run(recipe, tmp_path):
    assert prune(recipe, "--output", tmp_path / "out", "--resume") == 0
    assert not (tmp_path / "out.run").exists()


@pytest.mark.slow
def test_two_processes_write_one_artifact(recipe, tmp_path):
    """`accelerate launch --cpu` with two processes through `-m dfpc_plugin`."""
    arguments = command("prune", recipe, "--output", tmp_path / "out", "--json")
    launch = [arguments[0], "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
        "--main_process_port",
        "0",
    ]
    done = subprocess.run(
        [*launch, *arguments[1:]], env=environment(), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"format": 1') == 1  # one process prints
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml", "out"}
    found = run_process("evaluate", tmp_path / "out", "--data", "digits", "--factory", TUNED["model"]["name"], "--json")
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("length", [252, 260])
def test_an_output_with_too_long_a_name(recipe, tmp_path, capsys, length):
    """The run's own directory has a longer one."""
    assert prune(recipe, "--output", tmp_path / ("x" * length)) == 1
    assert capsys.readouterr().err.endswith("File name too long.\n")
