"""Damaged files of a real build, all hashes made to fit: is each refused, or judged by what it computes?

Digits, built for ``tflite-int8``. Each file of the build is damaged in ``--count`` seeded ways
(``benchmarks.mutants``), no two with the same bytes; after each, the hashes in the manifest and in the
certificate (subjects, sets, policy, digest) are computed anew, so that parsers and runtimes see the damage,
not a changed hash. Then commands read it: `verify`, `report`, `inspect`, `package`, `flash --dry-run`; of
``sgsc.toml``, what `build` loads::

    python -m benchmarks.hostile [--count 2000] [--seed 0] [--workers 2]

A command must refuse it (exit code 2 and an error that says where), fail the gate (1), not measure (3), or,
where it passes, have computed the outputs of the undamaged file, on every runtime. A crash, a hang, exit code
5, or much memory of our own process is a fault. What is done is kept: started again, it goes on where it was.

To be fast, runtimes are forked from a process that has loaded them, in place of a new Python each, and what
the undamaged model computes of undamaged samples is computed once. All else is the command as users run it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.mutants import MUTATORS, draws, means_the_same, mutant
from benchmarks.record import WORK, Row, finish
from sgsc_edge.artifacts import (
    canonical_json,
    package_hash,
    read_json,
    read_npz,
    sha256_bytes,
    sha256_file,
    write_json,
)
from sgsc_edge.certification.records import Policy
from sgsc_edge.certification.samples import GATED_PARTS, read_samples
from sgsc_edge.errors import SgscError
from sgsc_edge.runtimes import RunResult, RuntimeSpec, _execute, _worker

TIME_LIMIT_S = 120.0
MEMORY_LIMIT = 1 << 30
"""Bytes that a command may take beside what the process holds anyway."""
ADDRESS_LIMIT = 8 << 30
"""Bytes of data of a process that does not stop there: it ends with an error, and the machine goes on."""

TOML = "sgsc.toml"
CERTIFICATE, MANIFEST = "certificate.json", "manifest.json"


@dataclass(frozen=True)
class Found:
    """What one command did with one damaged file.

    ``end``: "refused", "gate failed", "not measured", "same outputs", "done" (for what judges nothing), or a
    fault: "other outputs", "no reason", "our bug", "crash", "hang", "memory".
    ``same``: it says what the original says, in other bytes.
    ``megabytes``: of our process, beside what it held before.
    """

    file: str
    index: int
    how: str
    same: bool
    command: str
    end: str
    detail: str
    seconds: float
    megabytes: float


_SHOWN = {"flash": "flash --dry-run", "load": "build"}
GOOD = ("refused", "gate failed", "not measured", "same outputs", "done")


def main() -> int:
    """Damage, run, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--file", choices=list(MUTATORS), action="append", help="these files alone")
    parser.add_argument("--folder", type=Path, help="a build folder in place of the digits'")
    parser.add_argument("--donor", type=Path, help="another one, for splices; needed with --folder")
    parser.add_argument("--project", type=Path, help="the sgsc.toml to damage; needed with --folder")
    options = parser.parse_args()
    base = _given(options) if options.folder else built(options.seed)
    wanted = [
        (name, index)
        for name in options.file or MUTATORS
        for index in draws(name, *base.original(name), options.seed, options.count)
    ]
    log = WORK / "hostile" / f"found.{base.key}.{options.seed}.jsonl"
    started = time.perf_counter()
    found = list(_all(base, wanted, options.seed, options.workers, log))
    seconds = time.perf_counter() - started
    detail = {"faults": [asdict(one) for one in found if one.end not in GOOD][:200]}
    return finish("hostile", rows(found, seconds), detail)


# --- what is damaged ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """An undamaged build, another one of the same network, and the project file."""

    folder: Path
    donor: Path
    project: Path

    @property
    def key(self) -> str:
        """Changes with the build and with the code that is tried."""
        modules = (sys.modules[__name__], sys.modules[mutant.__module__])
        code = [sha256_file(Path(str(module.__file__))) for module in modules]
        return sha256_bytes(canonical_json([package_hash(), code, sha256_file(self.folder / MANIFEST)]))[:16]

    def original(self, name: str) -> tuple[bytes, bytes]:
        """A file's bytes, and the donor's."""
        if name == TOML:
            return self.project.read_bytes(), self.project.with_name("data.py").read_bytes()
        return (self.folder / name).read_bytes(), (self.donor / name).read_bytes()


def _given(options: argparse.Namespace) -> Base:
    return Base(options.folder, options.donor, options.project)


def built(seed: int) -> Base:
    """Digits, built twice; made where they are not current."""
    project = record.trained("digits", seed)
    folder = record.build(project, WORK / "hostile" / "build")
    donor = record.build(project, WORK / "hostile" / "donor", "--method", "ptq")
    return Base(folder, donor, project / TOML)


# What a damaged document raises where it is not what it should be.
_OTHER_FORMS = (KeyError, TypeError, ValueError, AttributeError, RecursionError, SgscError)


def reseal(folder: Path) -> None:
    """Make every hash fit that binds the files of a build folder, as far as they can be read."""
    manifest: Any = read_json(folder / MANIFEST)
    for name in manifest["files"]:
        manifest["files"][name] = sha256_file(folder / name)
    write_json(folder / MANIFEST, manifest)
    path = folder / CERTIFICATE
    try:
        document: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(*_OTHER_FORMS):
        for subject in document["subject"]:
            subject["digest"]["sha256"] = manifest["files"][subject["name"]]
    with contextlib.suppress(*_OTHER_FORMS):
        sets = read_samples(read_npz(folder / "preservation.npz"), where="")
        for part, samples in sets.items():
            document["predicate"]["sets"][part].update(sha256=samples.sha256, samples=len(samples))
    with contextlib.suppress(*_OTHER_FORMS):
        policy = Policy.model_validate_json(json.dumps(document["predicate"]["policy"]))
        document["predicate"]["policy_sha256"] = policy.sha256
    with contextlib.suppress(*_OTHER_FORMS):
        document["predicate"].pop("digest")
        document["predicate"]["digest"] = sha256_bytes(canonical_json(document))
    if document != json.loads(path.read_bytes()):
        path.write_bytes(json.dumps(document, indent=2, sort_keys=True).encode())


# --- one damaged file, in a worker ----------------------------------------------------------------


class _Forked:
    """A worker of ``runtimes._execute``, forked from this process, which has the runtimes loaded already."""

    def __init__(self, command: Sequence[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                os.dup2(stdout.fileno(), 1)
                os.dup2(stdout.fileno(), 2)
                os.environ.update(env)
                sys.argv = list(command)
                _worker.main()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As ``subprocess.Popen.wait``."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("runtime", timeout or 0.0)
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _load_runtimes() -> None:
    """Import what forked workers would import, each once."""
    import ai_edge_litert.interpreter
    import onnx
    import onnxruntime
    from tflite_micro import runtime

    import sgsc_edge.graph.reference
    import sgsc_edge.lowering

    assert all((ai_edge_litert, onnx, onnxruntime, runtime, sgsc_edge))


class Worker:
    """Damages files in a folder of its own and runs the commands there."""

    def __init__(self, base: Base, seed: int, scratch: Path) -> None:
        self.base = base
        self.seed = seed
        self.scratch = Path(tempfile.mkdtemp(dir=scratch))
        self.folder = self.scratch / "build"
        self.known: dict[str, RunResult] = {}
        self.ready = False
        self.outputs = self._outputs(self._verify_original())

    def _verify_original(self) -> dict[str, Any]:
        self._restore()
        self._keep_known()
        code, document, error = self._command("verify", str(self.folder), "--json")
        self.ready = True
        if code or document is None:
            raise SystemExit(f"the undamaged build does not verify: {error}")
        return document

    def _keep_known(self) -> None:
        """Compute what the undamaged file gives for the undamaged samples once."""
        run = _execute.execute
        originals = {sha256_file(self.folder / name) for name in ("model.tflite", "model.qdq.onnx")}

        def remembered(
            spec: RuntimeSpec,
            artifact: bytes,
            inputs: NDArray[np.int8],
            *,
            timeout_s: float,
            workers: int = 2,
        ) -> RunResult:
            model = sha256_bytes(artifact)
            key = f"{spec.name} {model} {inputs.shape} {sha256_bytes(np.ascontiguousarray(inputs).tobytes())}"
            if key in self.known:
                return self.known[key]
            # Seconds for what takes milliseconds: a hang of a runtime is judged as one, and sooner.
            result = run(spec, artifact, inputs, timeout_s=min(timeout_s, 20.0), workers=1)
            if model in originals and not self.ready:
                self.known[key] = result
            return result

        _execute.execute = remembered
        from sgsc_edge.certification import belonging

        belonging.execute = remembered

    def _restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        manifest: Any = read_json(self.base.folder / MANIFEST)
        for name in (MANIFEST, CERTIFICATE, *manifest["files"]):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.base.folder / name, self.folder / name)

    def damaged(self, name: str, index: int) -> tuple[str, bool, list[tuple[str, ...]]]:
        """Lay the damaged file down; how, whether it says the same, and the commands that read it."""
        original, donor = self.base.original(name)
        data, how = mutant(name, original, donor, self.seed, index)
        if name == TOML:
            project = self.scratch / "project"
            project.mkdir(exist_ok=True)
            (project / TOML).write_bytes(data)
            return how, means_the_same(name, data, original), [("load", str(project))]
        self._restore()
        (self.folder / name).write_bytes(data)
        reseal(self.folder)
        folder, out = str(self.folder), str(self.scratch / "package")
        commands = [("verify", folder, "--json"), ("report", folder, "--json")]
        if name in ("model.tflite", "model.qdq.onnx"):
            commands.append(("inspect", str(self.folder / name), "--json"))
        if name in ("model.tflite", "preservation.npz"):
            commands.append(("package", folder, "--format", "c-code", "--out", out, "--json"))
        if name in ("certificate.json", "preservation.npz"):
            commands.append(("flash", folder, "--board", "virtual-cortex-m4", "--dry-run", "--json"))
        # The certificate's hashes were made to fit: one that was damaged in a hash alone may be whole again.
        return how, means_the_same(name, (self.folder / name).read_bytes(), original), commands

    def run(self, name: str, index: int) -> list[Found]:
        """All commands on one damaged file."""
        how, same, commands = self.damaged(name, index)
        return [Found(name, index, how, same, *self._tried(command)) for command in commands]

    def _tried(self, command: tuple[str, ...]) -> tuple[str, str, str, float, float]:
        """Of one command: its name, end, detail, seconds and megabytes."""
        _reset_peak()
        before, started = _peak(), time.perf_counter()
        try:
            if command[0] == "load":
                code, document, error = _load_project(Path(command[1])), None, None
            else:
                code, document, error = self._command(*command)
            end, detail = self._judged(command[0], code, document, error)
        except SgscError as refusal:
            end, detail = _refused(refusal.exit_code, refusal.where, str(refusal))
        except Exception:
            end, detail = "our bug", traceback.format_exc()
        seconds, megabytes = time.perf_counter() - started, (_peak() - before) / 1e6
        if end in GOOD and megabytes > MEMORY_LIMIT / 1e6:
            end, detail = "memory", f"{megabytes:.0f} MB; {end}: {detail}"
        return command[0], end, detail[-2000:], round(seconds, 3), round(megabytes, 1)

    def _judged(
        self, command: str, code: int, document: dict[str, Any] | None, error: dict[str, Any] | None
    ) -> tuple[str, str]:
        if error is not None:
            return _refused(code, error["where"], f"{error['where']}: {error['message']}")
        if command == "load":
            return "done", ""
        if document is None:
            return "no reason", f"exit code {code} without a document"
        if command != "verify":
            return ("done", "") if code == 0 else ("no reason", f"exit code {code}")
        if code == 0:
            now = self._outputs(document)
            other = [key for key in self.outputs if now.get(key) != self.outputs[key]]
            return ("same outputs", "") if not other else ("other outputs", f"{other}")
        gates = document["certificate"]["predicate"]["gates"]
        detail = "; ".join(
            f"{gate['name']} {gate['subject']}: {gate['status']} {gate['reason']}" for gate in gates
        )
        return {1: "gate failed", 3: "not measured"}.get(code, "no reason"), detail

    @staticmethod
    def _outputs(document: dict[str, Any]) -> dict[str, str]:
        """SHA-256 of the outputs on the sets that gate, by runtime and set."""
        return {
            f"{row['name']} {part}": measured["outputs_sha256"]
            for row in document["certificate"]["predicate"]["runtimes"]
            for part, measured in row["sets"].items()
            if part in GATED_PARTS
        }

    def _command(self, *arguments: str) -> tuple[int, dict[str, Any] | None, dict[str, Any] | None]:
        """Exit code, the document of a result, the error; one of the two is None."""
        from sgsc_edge.cli.main import main as command

        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            code = command(arguments)
        document = json.loads(shown.getvalue()) if shown.getvalue() else None
        error = document.get("error") if isinstance(document, dict) else None
        return code, None if error else document, error


def _refused(code: int, where: str | None, detail: str) -> tuple[str, str]:
    if code == 5:
        return "our bug", detail
    if code == 3:
        return "not measured", detail
    return ("refused", detail) if code == 2 and where else ("no reason", f"exit code {code}: {detail}")


def _load_project(folder: Path) -> int:
    """What `build` makes of a project file, up to the user's own code."""
    from sgsc_edge import api

    for project, _ in api.prepare(folder, ["tflite-int8"]):
        project.config_hash()
        project.source_hash()
    return 0


def _peak() -> int:
    """Bytes of our process at most since :func:`_reset_peak`."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _serve(base: Base, seed: int, scratch: Path, pipe: multiprocessing.connection.Connection) -> None:
    """A worker process: answers ``(file, index)`` with what was found."""
    resource.setrlimit(resource.RLIMIT_DATA, (ADDRESS_LIMIT, resource.RLIM_INFINITY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    _load_runtimes()
    _execute.subprocess = _with_forks()
    worker = Worker(base, seed, scratch)
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        pipe.send(worker.run(*job))


def _with_forks() -> Any:
    """The module ``subprocess`` as ``_execute`` sees it, with forks for new processes."""
    module = types.SimpleNamespace(**vars(subprocess))
    module.Popen = _Forked
    return module


# --- all of them ----------------------------------------------------------------------------------


class _Process:
    """A worker process and what it works on."""

    def __init__(self, base: Base, seed: int, scratch: Path) -> None:
        self.base, self.seed, self.scratch = base, seed, scratch
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.base, self.seed, self.scratch, theirs))
        self.process.start()
        theirs.close()
        if not self.pipe.poll(TIME_LIMIT_S) or self.pipe.recv() != "ready":
            raise SystemExit("a worker did not start")
        self.job: tuple[str, int] | None = None
        self.until = 0.0

    def give(self, job: tuple[str, int] | None) -> None:
        self.job, self.until = job, time.monotonic() + TIME_LIMIT_S
        self.pipe.send(job)

    def lost(self, end: str) -> list[Found]:
        """It died, or does not answer: a fault. Another one takes its place."""
        assert self.job is not None
        self.process.kill()
        self.process.join()
        found = Found(*self.job, "", False, "", end, f"exit code {self.process.exitcode}", TIME_LIMIT_S, 0.0)
        self.start()
        return [found]


def _all(
    base: Base, wanted: Sequence[tuple[str, int]], seed: int, workers: int, log: Path
) -> Iterable[Found]:
    """What was found in each wanted case; those that the log has are not run again."""
    log.parent.mkdir(parents=True, exist_ok=True)
    known: dict[tuple[str, int], list[Found]] = collections.defaultdict(list)
    if log.exists():
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last one, cut short by a kill
                cases = [Found(**case) for case in json.loads(line)]
                known[cases[0].file, cases[0].index] = cases
    left = [case for case in wanted if case not in known]
    with log.open("a") as file:
        for cases in _run(base, left, seed, min(workers, len(left))):
            file.write(json.dumps([asdict(case) for case in cases]) + "\n")
            file.flush()
            known[cases[0].file, cases[0].index] = cases
    for case in wanted:
        yield from known[case]


def _run(base: Base, left: Sequence[tuple[str, int]], seed: int, workers: int) -> Iterable[list[Found]]:
    queue = collections.deque(left)
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        processes = [_Process(base, seed, Path(scratch)) for _ in range(workers)]
        yield from _work(processes, queue)
        for process in processes:
            process.process.join()


def _work(processes: Sequence[_Process], queue: collections.deque[tuple[str, int]]) -> Iterable[list[Found]]:
    total = len(queue)
    done = 0
    for process in processes:
        process.give(queue.popleft() if queue else None)
    while busy := [process for process in processes if process.job is not None]:
        ready = multiprocessing.connection.wait([process.pipe for process in busy], timeout=1.0)
        for process in busy:
            if process.pipe in ready:
                try:
                    found = process.pipe.recv()
                except EOFError:
                    found = process.lost("crash")
            elif time.monotonic() > process.until:
                found = process.lost("hang")
            else:
                continue
            done += 1
            if done % 100 == 0:
                print(f"{done} of {total}", file=sys.stderr)
            yield found
            process.give(queue.popleft() if queue else None)


# --- counts ---------------------------------------------------------------------------------------


def rows(found: Sequence[Found], seconds: float) -> list[Row]:
    """A row for each file and command, and what all of them took."""
    table = []
    for name in dict.fromkeys(one.file for one in found):
        here = [one for one in found if one.file == name]
        count = len({one.index for one in here})
        same = len({one.index for one in here if one.same})
        table.append(Row(f"{count:,} x {name}, all different: say what the original says", f"{same:,}"))
        for command in dict.fromkeys(one.command for one in here if one.command):
            ends = collections.Counter(one.end for one in here if one.command in (command, ""))
            bad = sum(number for end, number in ends.items() if end not in GOOD)
            text = ", ".join(f"{number:,} {end}" for end, number in ends.most_common())
            shown = _SHOWN.get(command, command)
            table.append(Row(f"{count:,} x {name}, `{shown}`", text, "0 faults", bad == 0))
    slowest, largest = max(one.seconds for one in found), max(one.megabytes for one in found)
    return [
        *table,
        Row("slowest command", f"{slowest:.1f} s", f"≤ {TIME_LIMIT_S:g} s", slowest < TIME_LIMIT_S),
        Row(
            "most memory of our process, beside what it held before",
            f"{largest:.0f} MB",
            f"≤ {MEMORY_LIMIT / 1e6:.0f} MB",
            largest < MEMORY_LIMIT / 1e6,
        ),
        Row("time of the run, or of its last part", f"{seconds / 60:.0f} min"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
