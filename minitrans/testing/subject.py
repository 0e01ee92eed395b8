"""What is under test, whatever form it was given in, and what one call of it gives."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.dispatch import attend, load_backend
from minitrans.attention.eager import EagerAttention
from minitrans.attention.mask import AttentionMask
from minitrans.attention.probabilities import attention_probabilities
from minitrans.attention.registry import BACKENDS
from minitrans.attention.rules import AttentionResult, AttentionRules, Backend
from minitrans.attention.specs import VariantSpec, build_variants, check_spec
from minitrans.attention.variant import CallSizes, LayerSizes, Variant
from minitrans.errors import NotSupportedError
from minitrans.testing.cases import Case, Fixed, Inputs, Sizes, draw_inputs

HOOKS = ("project", "restrict", "compute", "finish")
A_VARIANT = (
    "an attention is a minitrans.Variant: a class that is built from LayerSizes, `def __init__(self, sizes, *, option=...)` "
    "with `super().__init__(sizes)`, and has at least one of project(query, key, value, context) -> (query, key, value), "
    "restrict(mask, bias, sizes) -> (mask, bias), compute(query, key, value, rules) -> AttentionResult, with "
    "supports(rules, query) -> str | None, and finish(result, x, context) -> AttentionResult"
)
LONGEST = 64  # tokens that a variant is built for

Compute = Callable[[Tensor, Tensor, Tensor, AttentionRules], AttentionResult]
Lacks = Callable[[AttentionRules, Tensor], str | None]
Outcome = Callable[..., AttentionResult]  # (inputs, **changes of the rules)


class WrongKindError(TypeError):
    """What was given is no attention, or a hook of it takes or returns what it should not."""


@dataclass(frozen=True, eq=False)
class Call:
    """An attention built for some sizes: the hooks `restrict` and `finish` of its variants around what computes.

    Attributes:
        compute: softmax attention on some backend, or a mechanism; refuses what it lacks.
        lacks: what it cannot do.
        variants: in order; none where a backend is under test.
        mechanism: whether one of them computes.
        finishes: whether `finish` runs.
    """

    compute: Compute
    lacks: Lacks
    variants: Sequence[Variant] = ()
    mechanism: bool = False
    finishes: bool = True

    def __call__(self, inputs: Inputs, **changes: Any) -> AttentionResult:
        """The attention of these tensors, under the rules of the inputs with some changed."""
        query, key, value = inputs.query, inputs.key, inputs.value
        rules = replace(inputs.all_rules(), **changes)
        result = self.compute(query, key, value, self.restricted(rules, query, key))
        if not isinstance(result, AttentionResult):
            raise wrong_return("compute", "AttentionResult", result)
        for variant in self.variants if self.finishes else ():
            result = variant.finish(result, inputs.leaves["x"], context_of(rules, query, key))
            if not isinstance(result, AttentionResult):
                raise wrong_return(f"{type(variant).__name__}.finish", "AttentionResult", result)
        return result

    def restricted(self, rules: AttentionRules, query: Tensor, key: Tensor) -> AttentionRules:
        """The rules as the variants hand them on."""
        layout = rules.layout
        lengths = (query.shape[2], key.shape[2]) if layout is None else (layout.max_seqlen,) * 2
        batch = query.shape[0] if layout is None else len(layout.cu_seqlens) - 1
        places = context_of(rules, query, key).positions
        sizes = CallSizes(batch, *lengths, query.shape[1], query.device, layout, rules.x, places)
        for variant in self.variants:
            pair = variant.restrict(rules.mask, rules.bias, sizes)
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], AttentionMask)):
                raise wrong_return(f"{type(variant).__name__}.restrict", "(mask, bias)", pair)
            softcap = rules.softcap if variant.softcap is None else variant.softcap
            needs = rules.need_logsumexp or variant.needs_logsumexp
            rules = replace(rules, mask=pair[0], bias=pair[1], softcap=softcap, need_logsumexp=needs)
        return rules

    def why_not(self, inputs: Inputs, **changes: Any) -> str | None:
        """What of such a call it says it cannot do."""
        rules = replace(inputs.all_rules(), **changes)
        reason = self.lacks(self.restricted(rules, inputs.query, inputs.key), inputs.query)
        if not (reason is None or isinstance(reason, str)):
            raise WrongKindError(f"`supports` must return what it cannot do, a str, or None, it returned {reason!r}")
        return reason

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Of the variants, by name."""
        named = [dict(variant.named_parameters()) for variant in self.variants]
        several = sum(map(bool, named)) > 1
        return {
            f"parameter {index}.{name}" if several else f"parameter {name}": tensor
            for index, tensors in enumerate(named)
            for name, tensor in tensors.items()
        }

    def trains(self, inputs: Inputs) -> bool:
        """Whether it says that there are gradients."""
        return self.why_not(inputs.having(query=inputs.query.detach().requires_grad_())) is None

    def oracle(self, dtype: torch.dtype = torch.float64) -> Call:
        """The same hooks around `eager`."""
        eager = EagerAttention()
        variants = [copy.deepcopy(variant).to(dtype=dtype) for variant in self.variants]
        return replace(self, compute=eager, lacks=eager.supports, variants=variants)


@dataclass(frozen=True, eq=False)
class Subject:
    """One attention under test, for any sizes.

    Attributes:
        name: for messages.
        device: where it runs.
        fixed: the sizes that it is made for.
        exact: it is softmax attention, and compared with the oracle.
        spec: of the variants, where these are under test.
        backend: what they run on, or what is under test.
        dtype: what it is tried in.
    """

    name: str
    device: torch.device
    fixed: Fixed
    exact: bool
    spec: VariantSpec | None = None
    backend: str | Backend = "auto"
    dtype: torch.dtype = torch.float64

    def build(self, sizes: Sizes) -> Call:
        """The attention for these sizes; its parameters are moved from where they begin: an identity would hide mistakes.

        Raises:
            NotSupportedError: where a variant refuses the sizes.
        """
        variants = [] if self.spec is None else built(self.spec, self.fixed.of(sizes))
        generator = torch.Generator().manual_seed(5)
        for variant in variants:
            variant.eval().requires_grad_(False).to(self.device, self.dtype)
            for parameter in variant.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += (0.2 * noise).to(parameter)
        mechanism = next((variant for variant in variants if variant.is_mechanism), None)
        if mechanism is not None:
            return Call(partial(guarded, mechanism.compute, mechanism.supports), mechanism.supports, variants, True)
        if isinstance(self.backend, str):
            return Call(partial(attend, backend=self.backend), load_backend(self.backend).supports, variants)
        return Call(partial(_attend, self.backend), self.backend.supports, variants)

    def draw(self, case: Case) -> tuple[Call, Inputs]:
        """The attention for a case, and the inputs."""
        return self.build(case.sizes), draw_inputs(case, self.device, self.dtype, fixed=self.fixed)

    def in_widest(self) -> Subject:
        """The same in float64, or in float32 where that is refused."""
        call, inputs = self.draw(Case("widest", Sizes()))
        return replace(self, dtype=torch.float32) if call.lacks(AttentionRules(), inputs.query) else self

    @property
    def tolerance(self) -> float:
        """Of what must be the same, relative to the largest number."""
        return 1e-10 if self.dtype == torch.float64 else 1e-5

    def same(self, found: Tensor, expected: Tensor, what: str) -> None:
        """AssertionError unless they are equal but for rounding."""
        error = relative_error(found, expected)
        expect(error <= self.tolerance, f"{what} (off by {error:.1e})")


def subjects(attention: Any, device: torch.device, fixed: Fixed) -> list[Subject]:
    """A backend, a mechanism, or a variant without `compute` on each of the backends.

    Raises:
        TypeError: for what is none of these; it says what a variant has. ValueError: for sizes that it cannot be built for.
    """
    if isinstance(attention, str) and attention in BACKENDS:
        return [Subject(attention, device, fixed, True, backend=attention)]
    if not isinstance(attention, Variant | type) and callable(getattr(attention, "supports", None)):
        name = getattr(attention, "name", type(attention).__name__)
        return [Subject(name, device, fixed, True, backend=attention)]
    if isinstance(attention, Mapping) and "layers" in attention:
        layers = attention["layers"]
        layers = layers.values() if isinstance(layers, Mapping) else layers
        return [subject for spec in layers for subject in subjects(spec, device, fixed)]
    if isinstance(attention, Variant) and hasattr(attention, "sizes"):
        own = attention.sizes
        fixed = Fixed(own.heads, own.kv_heads, own.head_width, own.width)
    try:
        check_spec(attention)
        variants = built(attention, fixed.of(Sizes()))
    except NotSupportedError as error:
        raise ValueError(f"{error}; heads=, kv_heads= and head_width= choose other sizes") from None
    except TypeError as error:
        raise WrongKindError(f"{error}. {A_VARIANT}" if "attention must be" in str(error) else str(error)) from None
    for variant in variants:
        _expect_hooks(variant)
    name = " + ".join(variant.name or type(variant).__name__ for variant in variants) or "full"
    mechanism = next((variant for variant in variants if variant.is_mechanism), None)
    if mechanism is not None:
        return [Subject(name, device, fixed, bool(getattr(mechanism, "exact", False)), attention)]
    return [Subject(f"{name} on {backend}", device, fixed, True, attention, backend) for backend in BACKENDS]


def built(spec: VariantSpec, sizes: Sizes) -> list[Variant]:
    """The variants for these sizes, the same each time. Raises NotSupportedError where one refuses them."""
    layer = LayerSizes(sizes.model_width, sizes.heads, sizes.groups, sizes.width, layer=1, longest=LONGEST)
    try:
        with seeded(3, torch.device("cpu")):
            return build_variants(spec, layer)
    except ValueError as error:
        raise NotSupportedError(f"{error} (built for H={sizes.heads}, G={sizes.groups}, K={sizes.width})") from error


def context_of(rules: AttentionRules, query: Tensor, key: Tensor) -> Context:
    """What the hooks see of a call."""
    if rules.layout is None:
        offset, length = key.shape[2] - query.shape[2], query.shape[2]
        positions = torch.arange(length, device=query.device).add(offset).clamp(min=0).expand(query.shape[0], -1)
    else:
        positions = rules.layout.positions()
    return Context(rules.mask, rules.bias, rules.layout, positions, need_weights=rules.need_weights)


def _attend(backend: Backend, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
    """As `attend` does it with a row of the table."""
    result = guarded(backend, backend.supports, query, key, value, rules)
    if rules.need_weights and isinstance(result, AttentionResult) and result.weights is None:
        return replace(result, weights=attention_probabilities(query, key, rules, result.logsumexp))
    return result


def guarded(
    compute: Compute, lacks: Lacks, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules
) -> AttentionResult:
    """What it lacks is refused."""
    reason = lacks(rules, query)
    if reason is not None:
        raise NotSupportedError(f"does not support {reason}")
    return compute(query, key, value, rules)


def wrong_return(where: str, expected: str, found: object) -> WrongKindError:
    """What is said of a hook that returns something else."""
    return WrongKindError(f"{where} must return {expected}, it returned {type(found).__name__}. {A_VARIANT}")


def _expect_hooks(variant: Variant) -> None:
    """That it has hooks, and that they take what they will be given."""
    kind, name = type(variant), type(variant).__name__
    if not hasattr(variant, "sizes"):
        raise WrongKindError(f"{name} does not call super().__init__(sizes). {A_VARIANT}")
    for hook in (*HOOKS, "supports"):
        wanted = list(inspect.signature(getattr(Variant, hook)).parameters)[1:]
        try:
            inspect.signature(getattr(variant, hook)).bind(*wanted)
        except TypeError as error:
            raise WrongKindError(f"{name}.{hook} must take ({', '.join(wanted)}): {error}. {A_VARIANT}") from None
    has_one = any(getattr(kind, hook) is not getattr(Variant, hook) for hook in HOOKS) or variant.softcap is not None
    if not has_one:
        stray = ", it has `forward`, which nobody calls" if "forward" in vars(kind) else ""
        raise WrongKindError(f"{name} has none of the hooks {', '.join(HOOKS)}{stray}. {A_VARIANT}")


@dataclass
class Log:
    """The checks that were run."""

    passed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def run(self, where: str, check: Callable[..., None], *arguments: Any) -> None:
        """Runs a check and keeps what became of it. Raises AssertionError, with the name of the check, where it fails."""
        try:
            check(*arguments)
        except NotSupportedError as error:
            self.refused.append(f"{where}: {error}")
        except WrongKindError:
            raise
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        except Exception as error:
            raise AssertionError(
                f"{where}: {type(error).__name__}: {error} (what an attention cannot do it refuses in `supports` or with a "
                "NotSupportedError; heads=, kv_heads= and head_width= choose the sizes)"
            ) from error
        else:
            self.passed.append(where)


def expect(holds: object, message: str) -> None:
    """AssertionError with this message unless it holds."""
    if not holds:
        raise AssertionError(message)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random numbers under this seed; afterwards as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def untouched(inputs: Inputs) -> Iterator[None]:
    """AssertionError where what runs inside changes the inputs, or draws from the global random numbers."""
    device = inputs.query.device

    def state() -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    drawn, before = state(), [(name, tensor, tensor.detach().clone()) for name, tensor in _tensors(inputs)]
    yield
    for name, tensor, copied in before:
        expect(torch.equal(tensor, copied), f"the call changed its input {name}")
    expect(all(map(torch.equal, state(), drawn)), "the call drew from the global random numbers without dropout")


def _tensors(thing: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Those in a dataclass, and in what it holds, by name."""
    if isinstance(thing, Tensor):
        yield name, thing
    elif is_dataclass(thing) or isinstance(thing, dict):
        for part, value in (thing if isinstance(thing, dict) else vars(thing)).items():
            yield from _tensors(value, part)


def outcome(
    call: Outcome,
    inputs: Inputs,
    parameters: Mapping[str, Tensor],
    *,
    gradient: bool = True,
    through: frozenset[str] | None = None,
    **changes: Any,
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Everything a call gives, gradients included.

    Args:
        call: of the inputs.
        inputs: the tensors; made to require gradients, or not.
        parameters: further leaves.
        gradient: take gradients.
        through: of "logsumexp" and "weights", what besides the output the loss is made of; None = all that can be.
        changes: of the rules.

    Returns:
        Tensors by name, and what the loss was made of.
    """
    leaves = {**inputs.leaves, **parameters}
    for leaf in leaves.values():
        leaf.requires_grad_(gradient)
    result = call(inputs, **changes)
    found = {"output": result.output}
    loss = (result.output * inputs.gradients["output"]).sum()
    loss = loss + 0.0 * sum(leaf.sum() for leaf in leaves.values())  # a graph even where nothing was computed
    used = set()
    for name, tensor in (("logsumexp", result.logsumexp), ("weights", result.weights)):
        if tensor is None:
            continue
        found[name] = tensor
        if gradient and tensor.requires_grad and (through is None or name in through):
            loss = loss + (tensor.masked_fill(tensor == -torch.inf, 0.0) * inputs.gradients[name]).sum()
            used.add(name)
    if gradient:
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        found |= {f"gradient of the {name}": part for name, part in zip(leaves, gradients, strict=True)}
        for leaf in leaves.values():
            leaf.requires_grad_(False)
    return {name: tensor.detach() for name, tensor in found.items()}, frozenset(used)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected number; infinite where NaN or an infinity is out of place."""
    expect(found.shape == expected.shape, f"has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    found, expected = found.to(torch.float64), expected.to(torch.float64)
    finite = expected.isfinite()
    if not torch.equal(found[~finite], expected[~finite]) or not bool(found[finite].isfinite().all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    difference = (found[finite] - expected[finite]).abs().max().item()
    largest = expected[finite].abs().max().item()
    return difference / largest if largest > 0 else difference


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], allowed: Callable[[str], float]) -> None:
    """AssertionError naming the first tensor of `found` that is further from `expected` than `allowed` for its name."""
    for name, tensor in found.items():
        try:
            error = relative_error(tensor, expected[name])
        except AssertionError as shape:
            raise AssertionError(f"{name} {shape}") from None
        expect(error <= allowed(name), f"{name} is off by {error:.1e}, allowed {allowed(name):.1e} (relative)")
