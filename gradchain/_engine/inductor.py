"""The compiler: from a traced graph to a function, with the options that optimizers want."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pkgutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._engine.building import not_waited_for, wait_for
from gradchain._engine.isa import widest_vectors
from gradchain._engine.numbers_once import numbers_once
from gradchain._engine.once import traced_once
from gradchain._engine.outermost import outermost_loops
from gradchain._engine.shelf import Compiled, keep
from gradchain._engine.vectors import whole_vectors

SERIAL_ELEMENTS = 1 << 18
"""Below this many elements in all, use one thread."""

READS = 8
"""What is made of so many inputs is computed again where it is used again, and not written to memory in between."""

STEPS = 64
"""The same of so many operations: an arctangent is needed by the loop that writes, while others wait for norms."""

NOISE = 6
"""Where there is noise, whose keys are integers, the least that is written to memory if it is used again, in small tensors:
they run no slower, and compile sooner (sixteen vectors with moments in bfloat16: 22 s; with 1000, 31 s)."""

DECODED = 1000
"""As many for codes of 8 bits: all is computed twice, once for the scales of blocks and once to write, and no more memory is
taken. What is written to memory in between is memory that a CPU's allocator gets from the system anew at each step: twelve
matrices of 1024 x 1024 take 16 ms a step, and with 30 instead of 1000 take 84 ms."""

OPERATIONS = 10_000
"""On a GPU, the same goes for what takes up to so many operations. Noise takes hundreds, and inductor (2.13) writes what
takes more than 30 to memory: moments in bfloat16 came in four kernels with two more tensors of the parameter's size, not
in one."""

CODES = (torch.int8, torch.uint8)
"""The dtypes of codes of 8 bits."""

EAGER = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
}
"""On a GPU: no contracted products and sums, quotients rounded to the nearest, and subnormal numbers. So an arctangent has
the bits of a CPU's. What memory limits takes no longer for it: kernels of AdamW 1.24 ms on an H100, 1.21 ms without."""


def options_for(examples: Sequence[torch.Tensor], *, inline: bool) -> list[dict[str, Any]]:
    """What to tell the compiler; where it does not go through, the next."""
    options: dict[str, Any] = {
        "size_asserts": False,
        "alignment_asserts": False,
    }  # layouts are checked by `cached_layout`
    if any(x.device.type != "cpu" for x in examples):
        options |= EAGER
        several = options | {"combo_kernels": True}  # tensors in one launch
        whole = {"realize_reads_threshold": READS, "realize_opcount_threshold": OPERATIONS}
        return [several | whole, several, options]
    elements = sum(x.numel() for x in examples)
    if elements < SERIAL_ELEMENTS:
        options["cpp.threads"] = 1
    again: dict[str, Any] = {"realize_reads_threshold": READS}
    if all(x.is_floating_point() for x in examples):
        if elements >= SERIAL_ELEMENTS:
            again["realize_opcount_threshold"] = STEPS
    elif elements < SERIAL_ELEMENTS:
        inline, options["realize_opcount_threshold"] = False, NOISE
    elif any(x.dtype in CODES for x in examples):
        again["realize_opcount_threshold"] = DECODED
    unfused = options | {"max_fusion_size": 1}  # torch (2.13) fails to fuse some loops over columns and rows in turn
    return [*([options | again] if inline else []), options, unfused]


def reason_of(error: Exception) -> str:
    """Why a graph could not be compiled, in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def trace(function: Callable[..., Any], examples: Sequence[torch.Tensor], lined: int = 0) -> Any:
    """The graph of what a function does to tensors like these, and to the first `lined` of them in any number of lines."""
    from torch.fx.experimental.proxy_tensor import make_fx

    if not lined:
        return make_fx(function, tracing_mode="fake")(*examples)
    with _of_any_size(examples, lined) as (mode, fakes), mode:
        return make_fx(function)(*fakes)


def many_lines(examples: Sequence[torch.Tensor], lined: int) -> list[torch.Tensor]:
    """The same examples whichever tensor comes first, of a size for which loops are spread over threads."""
    if not lined:
        return list(examples)
    width = examples[0].shape[-1]
    rows = max(4 * SERIAL_ELEMENTS // width, 2)
    return [*(x.new_empty((rows, *x.shape[1:])) for x in examples[:lined]), *examples[lined:]]


class Seen(list[torch.Tensor]):
    """The inputs of a compiled function, in the shapes in which it takes them."""


def as_matrices(tensors: Sequence[torch.Tensor], shapes: Mapping[int, tuple[int, int]]) -> Seen:
    """The tensors, those at some places in other shapes."""
    viewed = Seen(tensors)
    for place, shape in shapes.items():
        viewed[place] = viewed[place].view(shape)
    return viewed


@dataclass(frozen=True)
class Building:
    """A graph whose compilers of C++ may still be running."""

    code: Any
    others: Sequence[dict[str, Any]]
    """The options to go on with if they fail."""
    graph: Any
    examples: Sequence[torch.Tensor]
    lined: int
    name: str | None
    """What it is kept under."""

    def finished(self) -> Compiled:
        """The function; waits for it."""
        code = self.code
        try:
            wait_for(code)
        except Exception:
            if not self.others:
                raise
            return _started(self.graph, self.examples, self.others, self.lined, self.name).finished()
        if self.name:
            keep(self.name, code)
        # Around this, it looks after caches and graphs of a GPU.
        function = code.current_callable if all(x.device.type == "cpu" for x in self.examples) else code
        return lambda *inputs: function(list(inputs))  # it empties its list


def compile_graph(
    graph: Any, examples: Sequence[torch.Tensor], *, inline: bool = True, lined: int = 0, name: str | None = None
) -> Compiled:
    """A function that computes what a traced graph does.

    `inline`: rather compute anew than write to memory; `name`: what it is kept under (shelf.py).
    """
    return start_compiling(graph, examples, inline=inline, lined=lined, name=name)()


def start_compiling(
    graph: Any, examples: Sequence[torch.Tensor], *, inline: bool = True, lined: int = 0, name: str | None = None
) -> Callable[[], Compiled]:
    """Begin to `compile_graph`. Returns: what waits for the function."""
    return _started(graph, examples, options_for(examples, inline=inline), lined, name).finished


def _started(
    graph: Any, examples: Sequence[torch.Tensor], options: Sequence[dict[str, Any]], lined: int, name: str | None
) -> Building:
    """What is made of a graph by the first options that it goes through with."""
    first, *others = options
    try:
        return Building(_compile(graph, examples, first, lined), others, graph, examples, lined, name)
    except Exception:  # a fusion that fails is no reason to do without a compiler
        if not others:
            raise
        return _started(graph, examples, others, lined, name)


def _compile(graph: Any, examples: Sequence[torch.Tensor], options: dict[str, Any], lined: int = 0) -> Any:
    """Lower a graph to what the back of inductor takes, and compile it there.

    `torch._inductor.compile` goes through AOTAutograd, which does the same and returns the function in wrappers for
    gradients, aliases and subclasses. An optimizer's step has none of these, and the wrappers took longer than the kernel
    of a bucket of small tensors.
    """
    import torch._inductor.config as settings  # here, since the compiler takes a second to import
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes import joint_graph
    from torch._inductor.virtualized import V
    from torch.compiler import config
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = torch.func.functionalize(graph, remove="mutations_and_views")  # what is written comes last, as copies
    with contextlib.ExitStack() as stack:
        mode, fakes = stack.enter_context(_of_any_size(examples, lined))
        inside = (torch.no_grad(), settings.patch(options), mode, tracing(TracingContext(mode)), V.set_fake_mode(mode))
        caches: Any = config
        tagged = caches.patch(cache_key_tag=f"{caches.cache_key_tag} {_changes()}")
        for manager in (
            *inside,
            tagged,
            widest_vectors(),
            whole_vectors(),
            traced_once(),
            numbers_once(),
            outermost_loops(),
            not_waited_for(),
        ):
            stack.enter_context(manager)
        if all(x.device.type == "cpu" for x in examples):
            stack.enter_context(_no_patterns(joint_graph))
        lowered = make_fx(pure, decomposition_table=select_decomp_table())(*fakes)
        _without_copies(lowered.graph)
        lowered.graph.eliminate_dead_code()
        joint_graph.joint_graph_passes(lowered)
        return compile_fx_inner(lowered, fakes, is_inference=True)


CHANGES = ("isa", "numbers_once", "once", "outermost", "vectors")
"""The modules here that change what inductor writes, of which the keys of its cache know nothing."""


@functools.cache
def _changes() -> str:
    """A name for what they do."""
    digest = hashlib.sha256()
    for name in CHANGES:
        digest.update(pkgutil.get_data("gradchain._engine", f"{name}.py") or b"")
    return f"gradchain {digest.hexdigest()}"


@contextlib.contextmanager
def _no_patterns(module: Any) -> Generator[None, None, None]:
    """Do without inductor's patterns of attention, and of products to be padded: to trace them all takes half a second."""
    known = getattr(module, "lazy_init", None)
    if known is not None:
        module.lazy_init = _nothing
    try:
        yield
    finally:
        if known is not None:
            module.lazy_init = known


def _nothing(*given: object) -> None:
    pass


@contextlib.contextmanager
def _of_any_size(examples: Sequence[torch.Tensor], lined: int) -> Generator[tuple[Any, list[torch.Tensor]], None, None]:
    """Stand-ins for tensors like these, and their mode; the first `lined` for any number of lines.

    Raises: RuntimeError: what has been done with them holds for some numbers of lines only.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    sizes = ShapeEnv()
    mode = FakeTensorMode(shape_env=sizes)  # without one, inductor does not look into its cache of graphs
    fakes = [_of_any_number(mode, x) for x in examples[:lined]]
    yield mode, [*fakes, *(mode.from_tensor(x, static_shapes=True) for x in examples[lined:])]
    if sizes.guards or sizes.replacements:
        raise RuntimeError("what is computed depends on how many elements there are")


def _of_any_number(mode: Any, example: torch.Tensor) -> torch.Tensor:
    """A stand-in for any number of lines, two at least; all of them have as many."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    sizes = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (example.ndim - 1)]
    return mode.from_tensor(example, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


VIEWS = ("permute", "unsqueeze")
"""Views of all elements."""

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


def _without_copies(graph: Any) -> None:
    """Take out the copies that `functionalize` makes of all of a tensor, as only the last nodes write.

    Inductor (2.13) calls aten for some of these, outside of its loops, and makes others in memory where they are factors of
    a product of matrices: each takes the memory of a tensor. Copies of parts stay: as views, inductor read beyond their
    ends.
    """
    for node in list(graph.nodes):
        packet = _name(node)
        factor = packet == "clone" and _name(node.args[0]) in VIEWS and _is_factor(node)
        if factor or packet in ("detach_copy", "alias_copy") or (packet == "slice_copy" and _is_whole(node)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _name(node: Any) -> str:
    """An operation of aten without its overload; nothing for other nodes."""
    name: str = node.target.name() if hasattr(node.target, "overloadpacket") else ""
    return name.removeprefix("aten::").partition(".")[0]


def _is_factor(node: Any) -> bool:
    """Whether it goes into products of matrices, and nowhere else; elsewhere a copy is a part of a loop."""
    return all(_name(user) in PRODUCTS for user in node.users)


def _is_whole(node: Any) -> bool:
    """Whether a slice is all that it is of."""
    return node.meta["val"].shape == node.args[0].meta["val"].shape and (*node.args, 1)[:5][-1] == 1
