"""`python -m app doctor`: what the service would find and use on this machine."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from app.bundle.operators import check_operators
from app.bundle.store import ModelFolder, open_bundle, scan, verify
from app.engine.cores import available_cores
from app.engine.opener import OpenerOptions
from app.engine.providers.candidates import Candidate
from app.engine.providers.installed import Discovery, discover
from app.engine.providers.ranking import Ranking, Rejection, rank
from app.engine.versions.selection import Policy, Standing, choose
from app.errors import ModelportError
from app.opening import opener_options, unknown_models
from app.settings import Settings

_PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "pydantic", "numpy")


@dataclass(frozen=True)
class Report:
    #: For a person, in sections.
    lines: tuple[str, ...]
    #: False where `serve` would find nothing to serve, or not what is required. True is no promise:
    #: nothing was proved.
    can_serve: bool


def report(settings: Settings) -> Report:
    """Look at everything; load nothing."""
    machine = [
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "  " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        _cores(settings),
    ]
    found, options = discover(), opener_options(settings)
    models, all_there = _models(settings, _Trials(found.candidates, options))
    return Report((*machine, *_providers(found, options), *models), all_there)


def _cores(settings: Settings) -> str:
    cores = available_cores()
    if settings.threads is not None:
        return f"Cores: {settings.threads} (set by MODELPORT_THREADS; else {cores.reason})"
    return f"Cores: {cores.count} ({cores.reason})"


@dataclass(frozen=True)
class _Trials:
    """On which execution providers the models would be tried."""

    candidates: Sequence[Candidate]
    options: OpenerOptions

    def ranking(self, model: str) -> Ranking:
        request = self.options.of(model)
        return rank(self.candidates, request.provider, strict=request.strict)

    def problem(self, model: str) -> str:
        """Why there is none for a model; empty where there is."""
        ranking = self.ranking(model)
        if ranking.order:
            return ""
        reasons = [f"{one.provider} {one.reason}" for one in ranking.rejections]
        reasons.append(self.options.strictness(model))
        return f"there is no execution provider to try: {'; '.join(filter(None, reasons))}"


def _providers(found: Discovery, options: OpenerOptions) -> Sequence[str]:
    request = options.request
    ranking = rank(found.candidates, request.provider, strict=request.strict)
    if request.only:
        asked = f"only {request.only}, by MODELPORT_PROVIDER_STRICT"
    else:
        asked = ", ".join(request.provider)
    lines = [f"Execution providers, in the order they are tried ({asked}):"]
    for choice in ranking.order:
        candidate = choice.candidate
        device = " ".join(part for part in (candidate.device, candidate.device_name) if part)
        lines.append(f"  {candidate.provider} ({candidate.origin}, {device}): {choice.reason}")
    lines += _rejections(ranking.rejections)
    lines += [f"  problem: {problem.reason}" for problem in found.problems]
    if not ranking.order:
        lines.append("  problem: there is none to try")
    return lines


def _rejections(rejections: Sequence[Rejection]) -> list[str]:
    return [f"  not {rejection.provider}: {rejection.reason}" for rejection in rejections]


def _models(settings: Settings, trials: _Trials) -> tuple[Sequence[str], bool]:
    """Lines, and whether everything that must be served could be."""
    lines = [f"Model repository {settings.models}:"]
    try:
        folders = scan(settings.models)
    except ModelportError as error:
        return [*lines, f"  problem: {error}"], False
    if not folders:
        lines.append("  empty: publish a model with `python -m training run digits`")
    served: dict[str, int | None] = {}
    for folder in folders:
        states = {number: _state(folder, number) for number in folder.versions}
        complete = frozenset(number for number, state in states.items() if state.is_complete)
        served[folder.name], why = _choice(folder, complete, trials.problem(folder.name))
        lines.append(f"  {folder.name}: {why}")
        if folder.name in settings.per_model:
            lines += _own_providers(trials.ranking(folder.name))
        lines += [f"    problem: {problem}" for problem in folder.problems]
        lines += [f"    version {number}: {state.text}" for number, state in states.items()]
    lines += [
        f"  warning: MODELPORT_PER_MODEL names {name!r}: it is not in the model repository"
        for name in unknown_models(settings, [folder.name for folder in folders if folder.versions])
    ]
    problems = list(_missing(settings, served))
    return [*lines, *(f"  problem: {problem}" for problem in problems)], not problems


def _own_providers(ranking: Ranking) -> list[str]:
    tried = ", ".join(
        f"{choice.candidate.provider} ({choice.candidate.device})" for choice in ranking.order
    )
    first = f"  by MODELPORT_PER_MODEL it is tried on: {tried or 'nothing'}"
    return [f"  {line}" for line in (first, *_rejections(ranking.rejections))]


@dataclass(frozen=True)
class _State:
    """What verifying a version gave."""

    is_complete: bool
    text: str


def _state(folder: ModelFolder, number: int) -> _State:
    try:
        bundle = open_bundle(folder.path, number)
        verify(bundle)
        check_operators(bundle.model())
    except ModelportError as error:
        return _State(False, f"problem: {error}")
    return _State(True, f"complete, {bundle.manifest.task}, digest {bundle.digest[:12]}")


def _choice(folder: ModelFolder, complete: frozenset[int], no_trial: str) -> tuple[int | None, str]:
    """The version that would be served if every complete one proved, and why it or none.

    Args:
        no_trial: why none can be proved.
    """
    standing = Standing(complete, set(folder.versions) - complete)
    choice = choose(folder, standing, Policy())
    if choice.pin_problem:
        return None, f"not served, problem: {choice.pin_problem}"
    if choice.serve is None:
        return None, "not served, no version is complete"
    if no_trial:
        return None, f"not served, problem: {no_trial}"
    why = "which is pinned" if folder.pin is not None else "the newest that is complete"
    return choice.serve, f"version {choice.serve} would be served, {why}"


def _missing(settings: Settings, served: Mapping[str, int | None]) -> Iterator[str]:
    """What `serve` would not start without."""
    wanted = [("MODELPORT_REQUIRE", name) for name in settings.require]
    if settings.default_model is not None:
        wanted.append(("MODELPORT_DEFAULT_MODEL", settings.default_model))
    for setting, name in wanted:
        if name not in served:
            yield f"{setting} names {name!r}: it is not in the model repository"
        elif served[name] is None:
            yield f"{setting} names {name!r}: no version of it would be served"
    if not any(number is not None for number in served.values()):
        yield "nothing would be served"
